"""What the corpus asks of language models about a question: how hard it is, what it is about, an answer, a rubric. Each with the form of its reply.

The prompts are the text files of prompts/, one a task: a physician may read and change them, and a changed prompt is another question to the cache. A model is
given its material as one JSON document, so that nothing in a question can pass for the task.
"""

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from promedical_jax.asking import Ask, Form, about, turns
from promedical_jax.corpus.question import Question
from promedical_jax.corpus.taxonomy import Category, Specialty
from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Case, Criterion, Polarity, Rubric, Text, Tier


class Difficulty(Form):
    difficulty: Annotated[int, Field(ge=0, le=10)]


class Topic(Form):
    category: Category
    specialty: Specialty


class Answered(Form):
    answer: Text


def _by_tier(schema: dict[str, Any]) -> None:
    """Who may have a weight, in words that an endpoint can keep a reply to."""

    def with_tier(tiers: list[str], weight: dict[str, Any]) -> dict[str, Any]:
        return schema | {"properties": schema["properties"] | {"tier": {"enum": tiers}, "weight": weight}}

    weight, null = schema["properties"]["weight"]["anyOf"]
    either = [with_tier([Tier.PROFICIENCY.value], weight), with_tier([Tier.EXCELLENCE.value, Tier.SAFETY.value], null)]
    schema.clear()
    schema["anyOf"] = either


class Line(Form):
    model_config = Form.model_config | ConfigDict(json_schema_extra=_by_tier)

    text: Text
    tier: Tier
    polarity: Polarity
    weight: Annotated[float, Field(gt=0, le=1)] | None


class Lines(Form):
    """A rubric as a model writes it."""

    criteria: Annotated[tuple[Line, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _makes_a_rubric(self) -> Self:
        weighted = [line for line in self.criteria if line.tier is Tier.PROFICIENCY]
        if any((line.weight is None) == (line.tier is Tier.PROFICIENCY) for line in self.criteria):
            raise ValueError("each proficiency criterion needs a weight, and no other may have one: theirs is null")
        if not weighted:
            raise ValueError("there is no proficiency criterion; write one at least")
        texts = [line.text.casefold().strip() for line in self.criteria]
        if len(set(texts)) < len(texts):
            raise ValueError("two criteria are the same; leave one out")
        return self

    def rubric(self) -> Rubric:
        """With ids c1, c2, ... and the weights scaled to a sum of 1, which models miss: what one is beside another is what they mean."""
        total = sum(line.weight or 0 for line in self.criteria)
        return Rubric(criteria=tuple(
            Criterion(id=f"c{number}", text=line.text, tier=line.tier, polarity=line.polarity, weight=line.weight / total if line.weight else None)
            for number, line in enumerate(self.criteria, start=1)
        ))  # fmt: skip


def prompt(task: str, own: Path | None = None) -> str:
    """The text of prompts/`task`.txt, or of a file of one's own. Raises InputError for one that is not there or empty."""
    try:
        text = own.read_text(encoding="utf-8") if own else files(__package__).joinpath("prompts", f"{task}.txt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompt of {task}: {own} cannot be read ({error}); give a text file in UTF-8") from error
    if not text.strip():
        raise InputError(f"prompt of {task}: {own} is empty; write what the model is to do")
    return text


def asked(question: Question, task: str, form: type[Form], material: Callable[[Question], dict]) -> Ask:
    """`task`: the prompt's text. `material`: what the model is given of the question."""
    return Ask(about(task, material(question)), form)


def conversation(question: Question | Case) -> dict:
    """The material of most tasks: what was asked, without the source's answer."""
    return {"question": turns(question.instruction)}


def with_mistake(question: Question, mistake: str) -> dict:
    """The material of who writes an answer with a mistake."""
    return conversation(question) | {"mistake": mistake}


def with_reference(question: Question, examples: Sequence[Case] = ()) -> dict:
    """The material of who writes a rubric: also the source's answer, where there is one, and approved rubrics of other questions."""
    shown = [conversation(case) | {"criteria": [criterion.model_dump(mode="json", exclude={"id", "dimension"}) for criterion in case.rubric.criteria]}
             for case in examples]  # fmt: skip
    return conversation(question) | ({"reference": question.reference} if question.reference else {}) | ({"examples": shown} if shown else {})
