"""What clients may say, and are told: the part of OpenAI's chat completions that this server does, and its own /v1/score.

What is not known here is refused by name, and so is a known field with a value that would ask for something else than what is done; only what changes no
answer (who asks, and what for) is taken and left unread.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from promedical_jax.rubric import Polarity, Tier, Verdict
from promedical_jax.rubric.faults import sentence

Request = TypeVar("Request", bound=BaseModel)
Zero = Annotated[float, Field(ge=0, le=0)]
Empty = Annotated[dict[str, float], Field(max_length=0)]
Nothing = Annotated[list[Any], Field(max_length=0)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
TokenCount = Annotated[int, Field(ge=1)]


class Fault(Exception):
    """What a client is told instead of an answer: a status, a sentence, and OpenAI's names for what it is."""

    def __init__(self, status: int, message: str, code: str | None = None, kind: str = "invalid_request_error"):
        super().__init__(message)
        self.status, self.message, self.code, self.kind = status, message, code, kind

    def json(self) -> str:
        return json.dumps({"error": {"message": self.message, "type": self.kind, "param": None, "code": self.code}})


class Asked(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Part(Asked):
    type: Literal["text"]
    text: str


class ChatMessage(Asked):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(min_length=1)]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """As the chat template takes it; a developer is the system by another name."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class StreamOptions(Asked):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class JsonSchema(Asked):
    """`strict` or not, an answer is kept to the schema."""

    name: str
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Asked):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _schema_where_it_belongs(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is given with the type json_schema, and with no other; change type, or the field json_schema")
        return self


class ChatRequest(Asked):
    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = 0
    n: Annotated[int, Field(ge=1, le=128)] | None = 1
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    # No penalties, tools or other media are known here: only what asks for none passes.
    frequency_penalty: Zero | None = 0.0
    presence_penalty: Zero | None = 0.0
    logit_bias: Empty | None = None
    tools: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None
    # What changes no answer, and is not read.
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is given and logprobs is not true; set logprobs to true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is given and stream is not true; set stream to true")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens are the same thing; give one of them")
        return self

    @property
    def limit(self) -> int | None:
        return self.max_tokens or self.max_completion_tokens

    @property
    def stops(self) -> Sequence[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class ScoreCriterion(Asked):
    text: str
    tier: Annotated[Tier, Field(strict=False)]
    polarity: Annotated[Polarity, Field(strict=False)] = Polarity.REQUIRED
    weight: float | None = None


class ScoreRequest(Asked):
    """An instruction, as messages or as what a user says; answers to it; and sentences that may hold of them."""

    model: str | None = None
    instruction: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1)
    answers: list[str] = Field(min_length=1, max_length=64)
    criteria: list[ScoreCriterion] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _one_instruction(self) -> Self:
        if (self.instruction is None) == (self.messages is None):
            raise ValueError("instruction and messages are two ways to say the same; give one of them")
        return self

    @property
    def said(self) -> list[dict[str, str]]:
        return [message.plain() for message in self.messages or [ChatMessage(role="user", content=str(self.instruction))]]


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopToken(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenShown(TopToken):
    top_logprobs: list[TopToken]


class LogProbs(BaseModel):
    content: list[TokenShown]
    refusal: None = None


class Message(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: int
    message: Message
    logprobs: LogProbs | None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: LogProbs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class Chunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class CriterionSaid(BaseModel):
    """`probability`: that the criterion's text holds of the answer."""

    probability: float
    verdict: Verdict


class AnswerSaid(BaseModel):
    """What the reward model says of an answer, by the order of the criteria. S1 is null without a judged proficiency criterion."""

    criteria: list[CriterionSaid]
    s1: float | None
    s2: float
    s3: float


class Scored(BaseModel):
    object: Literal["score"] = "score"
    model: str
    answers: list[AnswerSaid]
    usage: Usage


def parse(form: type[Request], body: bytes) -> Request:
    """Raises Fault for what is no JSON, or not of the form."""
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        raise Fault(400, sentence(error, form)) from None
