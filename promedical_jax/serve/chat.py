"""A chat completion, whole or as a stream of server-sent events. Both are made of the same pieces, so that their texts are equal."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from time import monotonic, time
from typing import Any, Literal

from promedical_jax.serve.engine import Drawing, End, Full, Question, Token
from promedical_jax.serve.protocol import ChatRequest, Choice, Chunk, ChunkChoice, Completion, Delta, Fault, LogProbs, Message, TokenShown, TopToken, Usage
from promedical_jax.serve.service import Service
from promedical_jax.serve.text import HALF, Letters, Stops

Item = tuple[int, Sequence[Token], End | None]


@dataclass(frozen=True)
class Piece:
    """What came of one choice: its text, its tokens, how it ended if it did, and how many tokens were drawn for it, the one that ends a turn included."""

    choice: int
    text: str
    tokens: Sequence[Token]
    end: Literal["stop", "length"] | None
    drawn: int


class Voice:
    """One choice's tokens as text."""

    def __init__(self, tokenizer: Any, stops: Sequence[str]):
        self._letters, self._stops = Letters(tokenizer), Stops(stops)

    def hear(self, choice: int, tokens: Sequence[Token], end: Literal["stop", "length"] | None) -> Piece:
        text = ""
        for number, token in enumerate(tokens, 1):
            text += self._stops.add(self._letters.add(token.number))
            if self._stops.met:
                return Piece(choice, text, tokens[:number], "stop", number)
        if end:
            text += self._stops.add(self._letters.end())
            text += "" if self._stops.met else self._stops.end()
        return Piece(choice, text, tokens, "stop" if self._stops.met else end, len(tokens) + (end == "stop"))


@dataclass(frozen=True)
class Chat:
    """A request that the engine has taken."""

    service: Service
    request: ChatRequest
    question: Question
    heard: "asyncio.Queue[Item]"
    until: float  # by monotonic()
    id: str
    created: int

    async def pieces(self) -> AsyncIterator[Piece]:
        """Until every choice has ended; whoever stops listening frees the slots. Raises Fault when the time is over, or the device failed."""
        voices = {choice: Voice(self.service.tokenizer, self.request.stops) for choice in range(self.question.choices)}
        asked, first, counts = monotonic(), True, self.service.counts
        try:
            while voices:
                try:
                    choice, tokens, end = await asyncio.wait_for(self.heard.get(), max(self.until - monotonic(), 0))
                except TimeoutError:
                    said = f"the answer was not done in {self.service.config.timeout:g} seconds; ask for fewer tokens, or again when less is asked"
                    raise Fault(504, said, "timeout", "server_error") from None
                if end == "error":
                    raise Fault(500, "the answer was lost, for the server failed or ends; ask again", "server_error", "server_error")
                if end == "stuck":
                    said = "an answer came to a place from which it cannot be kept to its schema: it is too large there, or has no end"
                    raise Fault(400, f"response_format: {said}; make the schema smaller, or let what is nested in itself be left out", "invalid_schema")
                if choice not in voices:
                    continue
                if first:
                    counts["first_token_seconds_sum", ""] += monotonic() - asked
                    counts["first_token_seconds_count", ""] += 1
                    first = False
                piece = voices[choice].hear(choice, tokens, end)
                counts["tokens_total", '{kind="answer"}'] += piece.drawn
                if piece.end:
                    del voices[choice]
                    self.service.engine.drop(self.question, [choice])
                yield piece
        finally:
            counts["dropped_total", ""] += len(voices)
            self.service.engine.drop(self.question, [*voices])

    async def whole(self) -> Completion:
        found: list[list[Piece]] = [[] for _ in range(self.question.choices)]
        async for piece in self.pieces():
            found[piece.choice].append(piece)
        choices = [
            Choice(index=index, message=Message(content="".join(piece.text for piece in pieces)), finish_reason=pieces[-1].end or "stop",
                   logprobs=self._log_probs([token for piece in pieces for token in piece.tokens]))
            for index, pieces in enumerate(found)
        ]  # fmt: skip
        return Completion(id=self.id, created=self.created, model=self.service.name, choices=choices,
                          usage=self._usage(sum(piece.drawn for pieces in found for piece in pieces)))  # fmt: skip

    async def events(self) -> AsyncIterator[str]:
        """The same as server-sent events; a fault on the way is the last of them."""
        drawn = 0
        for index in range(self.question.choices):
            yield self._event(ChunkChoice(index=index, delta=Delta(role="assistant", content="")))
        pieces = self.pieces()
        try:
            async for piece in pieces:
                drawn += piece.drawn
                if piece.text or (piece.tokens and self.request.logprobs):
                    yield self._event(ChunkChoice(index=piece.choice, delta=Delta(content=piece.text), logprobs=self._log_probs(piece.tokens)))
                if piece.end:
                    yield self._event(ChunkChoice(index=piece.choice, delta=Delta(), finish_reason=piece.end))
        except Fault as fault:
            yield f"data: {fault.json()}\n\n"
            return
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]
        if self.request.stream_options and self.request.stream_options.include_usage:
            yield self._event(usage=self._usage(drawn))
        yield "data: [DONE]\n\n"

    def _event(self, *choices: ChunkChoice, usage: Usage | None = None) -> str:
        chunk = Chunk(id=self.id, created=self.created, model=self.service.name, choices=list(choices), usage=usage)
        return f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"

    def _usage(self, drawn: int) -> Usage:
        prompt = len(self.question.prompt)
        return Usage(prompt_tokens=prompt, completion_tokens=drawn, total_tokens=prompt + drawn)

    def _log_probs(self, tokens: Sequence[Token]) -> LogProbs | None:
        if not self.request.logprobs:
            return None
        shown = [(self._shown(token.number, token.log_prob), token.tops[: self.request.top_logprobs or 0]) for token in tokens]
        return LogProbs(content=[TokenShown(**top.model_dump(), top_logprobs=[self._shown(*each) for each in tops]) for top, tops in shown])

    def _shown(self, number: int, log_prob: float) -> TopToken:
        text = self.service.tokenizer.decode([number], clean_up_tokenization_spaces=False)
        return TopToken(token=text, logprob=log_prob, bytes=None if HALF in text else list(text.encode()))


async def take(service: Service, request: ChatRequest, until: float) -> Chat:
    """Hands a request to the engine. Raises Fault for one that cannot be answered, or not now."""
    service.check_model(request.model)
    prompt, choices, longest = await service.encode(request.messages), request.n or 1, service.config.longest
    limit = request.limit or longest - len(prompt)
    if len(prompt) + limit > longest:
        said = f"the instruction has {len(prompt)} tokens and the answer may have {limit}; together there is room for {longest}, lower max_tokens"
        raise Fault(400, said, "context_length_exceeded")
    if choices > service.engine.count + service.config.queue:
        raise Fault(400, f"n is {choices}, and this server holds {service.engine.count + service.config.queue} answers at most; lower n")
    seed = secrets.randbits(64) if request.seed is None else request.seed
    drawing = Drawing(seed, _or(request.temperature, 1.0), request.top_k or 0, _or(request.top_p, 1.0), bool(request.logprobs))
    heard: asyncio.Queue[Item] = asyncio.Queue()
    kept_to = request.response_format
    guides = None if kept_to is None or kept_to.type == "text" else await asyncio.to_thread(service.grammars.guides, kept_to, choices)
    question = Question(prompt, choices, limit, drawing, _into(heard), guides)
    try:
        service.engine.ask(question)
    except Full:
        raise Fault(429, "too many answers wait already; ask again in a second", "rate_limit_exceeded", "rate_limit_error") from None
    service.counts["tokens_total", '{kind="prompt"}'] += len(prompt)
    return Chat(service, request, question, heard, until, f"chatcmpl-{secrets.token_hex(12)}", int(time()))


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _into(heard: "asyncio.Queue[Item]") -> Callable[[int, Sequence[Token], End | None], None]:
    """What the engine's thread calls: puts into a queue of this loop's."""
    loop = asyncio.get_running_loop()

    def hear(choice: int, tokens: Sequence[Token], end: End | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(heard.put_nowait, (choice, tokens, end))

    return hear
