"""What the corpus begins with: an instruction as a source gives it, before anyone wrote a rubric or an answer for it."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from promedical_jax.rubric.case import Message, Record, Text


class Question(Record):
    """An instruction as chat messages. `reference` is what the source gives as the answer: never shown to who answers, and no rubric may leak it."""

    id: Text
    instruction: Annotated[tuple[Message, ...], Field(min_length=1)]
    reference: Text | None = None
    source: Text
    licence: Text
    provenance: dict[str, str] = {}  # noqa: RUF012 (pydantic copies it)

    @property
    def text(self) -> str:
        return self.text_of(self.instruction)

    @staticmethod
    def text_of(instruction: Iterable[Message]) -> str:
        """What people read of it: the messages that are not the system's, a line between them."""
        return "\n".join(message.content for message in instruction if message.role != "system")
