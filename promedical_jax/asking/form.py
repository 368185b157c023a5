"""A question to a language model, and the form of its reply."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from promedical_jax.asking.thinking import without_thinking
from promedical_jax.rubric.case import Text
from promedical_jax.rubric.faults import sentence

Messages = list[dict[str, str]]


class Turn(Protocol):
    """What has a role and a text: a message of a case, or of somebody else's file."""

    @property
    def role(self) -> str: ...

    @property
    def content(self) -> str: ...


class Form(BaseModel):
    """A reply, and nothing beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Plain(Form):
    """The form of a reply in a model's own words: all that it said. No JSON is asked for, so that it answers as it would answer anybody."""

    text: Text


@dataclass(frozen=True)
class Ask:
    """A question, and the form of its reply: `Plain`, or another pydantic model that forbids extra fields."""

    messages: Messages
    form: type[BaseModel]


def turns(messages: Iterable[Turn]) -> Messages:
    """A conversation as endpoints take it, and as material of a question about it."""
    return [{"role": message.role, "content": message.content} for message in messages]


def about(task: str, material: dict[str, Any]) -> Messages:
    """A task, and its material as one JSON document, so that nothing in it can pass for the task."""
    return [{"role": "system", "content": task}, {"role": "user", "content": json.dumps(material, ensure_ascii=False)}]


def read_reply(content: str, form: type[BaseModel]) -> BaseModel:
    """What was said after thinking, if anything was thought aloud. Raises ValidationError for what is not of the form."""
    if form is Plain:
        return Plain(text=without_thinking(content))
    try:
        return form.model_validate_json(content)  # whose own words may be such tags
    except ValidationError:
        if (said := without_thinking(content)) == content:
            raise
        return form.model_validate_json(said)


def again(ask: Ask, content: str, error: ValidationError) -> Messages:
    """The question once more, with what was replied and what was wrong with it, where anything was."""
    said = without_thinking(content)
    if not said.strip():
        return ask.messages
    told = f"That is not the JSON that was asked for: {sentence(error, ask.form)}. Reply with that JSON alone."
    return [*ask.messages, {"role": "assistant", "content": said}, {"role": "user", "content": told}]
