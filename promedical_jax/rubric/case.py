"""The record that flows through everything: a case, its answers, its rubric and what raters said of them.

ProMedical (arXiv 2604.08326) gives a rubric three tiers: proficiency (weights that sum to 1), excellence (bonus) and safety (veto).
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

GENERAL = "general"  # the dimension of a criterion that is about answers as such, and may hold of those to any other case
WEIGHT_SUM_TOLERANCE = 1e-3  # lets weights rounded to three digits pass, and nothing coarser


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is empty; write something or leave the record out")
    return text


Text = Annotated[str, AfterValidator(_not_blank), WithJsonSchema({"type": "string", "pattern": r"\S"})]


class Record(BaseModel):
    """Immutable and strict: an unknown field is an error, never dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Tier(StrEnum):
    PROFICIENCY = "proficiency"
    EXCELLENCE = "excellence"
    SAFETY = "safety"


class Polarity(StrEnum):
    """Whether a good answer does what the criterion's text says (`required`) or avoids it (`forbidden`)."""

    REQUIRED = "required"
    FORBIDDEN = "forbidden"


class Verdict(StrEnum):
    """What a rater says of the criterion's *text*: it holds of the answer (met), it does not (unmet), or no judgement was possible (abstain).

    A forbidden criterion that is met is therefore a fault; `Criterion.satisfied` turns a verdict into good or bad.
    """

    MET = "met"
    UNMET = "unmet"
    ABSTAIN = "abstain"


class Message(Record):
    role: Literal["system", "user", "assistant"]
    content: Text


class Criterion(Record):
    """One line of a rubric. Proficiency criteria carry a weight in (0, 1]; excellence and safety criteria carry none."""

    id: Text
    text: Text
    tier: Tier
    polarity: Polarity = Polarity.REQUIRED
    weight: Annotated[float, Field(gt=0, le=1)] | None = None
    dimension: Text | None = None

    @model_validator(mode="after")
    def _weight_belongs_to_proficiency(self) -> Self:
        if self.tier is Tier.PROFICIENCY and self.weight is None:
            raise ValueError(f"criterion {self.id!r} is of tier proficiency and has no weight; give it a weight in (0, 1]")
        if self.tier is not Tier.PROFICIENCY and self.weight is not None:
            raise ValueError(f"criterion {self.id!r} is of tier {self.tier.value} and has a weight; only proficiency criteria are weighted, remove it")
        return self

    def satisfied(self, verdict: Verdict) -> float:
        """1.0 if the verdict is good for the answer, 0.0 if it is bad, NaN if the rater abstained."""
        if verdict is Verdict.ABSTAIN:
            return math.nan
        return float((verdict is Verdict.MET) == (self.polarity is Polarity.REQUIRED))


class Rubric(Record):
    """The criteria of one instruction: at least one proficiency criterion, proficiency weights that sum to 1, unique ids."""

    criteria: tuple[Criterion, ...]

    @model_validator(mode="after")
    def _weights_sum_to_one(self) -> Self:
        _unique("criterion", [criterion.id for criterion in self.criteria])
        weights = [criterion.weight for criterion in self.criteria if criterion.weight is not None]
        if not weights:
            raise ValueError("the rubric has no proficiency criterion; S1 needs at least one")
        if abs(sum(weights) - 1) > WEIGHT_SUM_TOLERANCE:
            raise ValueError(f"the weights of the proficiency criteria sum to {sum(weights):.6g}; scale them to sum to 1")
        return self


class Answer(Record):
    """`text` may be empty: a policy may have said nothing, and that too can be judged."""

    id: Text
    text: str
    source: Text | None = None


class Judgement(Record):
    """One rater's verdict on one criterion of one answer; ids refer to the case that holds it."""

    answer: Text
    criterion: Text
    verdict: Verdict
    rater: Text
    human: bool = False


class Case(Record):
    """An instruction as chat messages, with its answers, its rubric and the raters' verdicts. Several raters may judge the same pair."""

    id: Text
    instruction: Annotated[tuple[Message, ...], Field(min_length=1)]
    answers: tuple[Answer, ...] = ()
    rubric: Rubric
    verdicts: tuple[Judgement, ...] = ()
    specialty: Text | None = None
    category: Text | None = None
    difficulty: Annotated[float, Field(ge=0, le=10)] | None = None
    provenance: dict[str, str] = {}

    @model_validator(mode="after")
    def _references_hold(self) -> Self:
        answers, criteria = [a.id for a in self.answers], [c.id for c in self.rubric.criteria]
        _unique("answer", answers)
        for judgement in self.verdicts:
            if judgement.answer not in answers:
                raise ValueError(f"a verdict refers to answer {judgement.answer!r}, which the case does not have")
            if judgement.criterion not in criteria:
                raise ValueError(f"a verdict refers to criterion {judgement.criterion!r}, which the rubric does not have")
        said = Counter((j.answer, j.criterion, j.rater) for j in self.verdicts)
        for (answer, criterion, rater), count in said.items():
            if count > 1:
                raise ValueError(f"rater {rater!r} judges criterion {criterion!r} of answer {answer!r} {count} times; keep one verdict")
        return self


# Whoever gives verdicts: cases with the texts of answers to each -> for each case and text the verdicts in the rubric's order.
Judge = Callable[[Sequence[tuple[Case, Sequence[str]]]], list[list[tuple[Verdict, ...]]]]


def _unique(kind: str, ids: list[str]) -> None:
    for name, count in Counter(ids).items():
        if count > 1:
            raise ValueError(f"{kind} id {name!r} occurs {count} times; ids must be unique")
