"""Who judges on this machine: a reward model, a language model that is asked yes or no, or the clinic's checker; and what to call each in a report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from promedical_jax import __version__
from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Case, Judge, Verdict
from promedical_jax.rubric.scores import Array


class Said(Protocol):
    """The word on the A answers of one case, on each of its K criteria."""

    @property
    def score(self) -> Array: ...  # [A, K] the higher, the surer that the criterion's text holds

    @property
    def probability(self) -> Array: ...  # [A, K] that it holds

    @property
    def verdicts(self) -> list[tuple[Verdict, ...]]: ...


LocalJudge = Callable[[Sequence[Case], Sequence[Sequence[str]]], Sequence[Said]]


@dataclass(frozen=True)
class Named:
    """What a report says of a judge beside its figures; `judge`: where it is on this machine, and not behind an endpoint."""

    name: str
    version: str | None
    calibration: str
    judge: LocalJudge | None = None


@dataclass(frozen=True)
class Told:
    score: Array
    probability: Array
    verdicts: list[tuple[Verdict, ...]]


def of_verdicts(judge: Judge) -> LocalJudge:
    """A judge that says met or unmet and nothing between: a verdict's score is 1 or -1, NaN where it abstains."""

    def told(cases: Sequence[Case], texts: Sequence[Sequence[str]]) -> list[Told]:
        given = judge(list(zip(cases, texts, strict=True)))
        return [Told(*beliefs(said), list(said)) for said in given]

    return told


def beliefs(said: Sequence[Sequence[Verdict]]) -> tuple[Array, Array]:
    """Scores and probabilities [A, K] of plain verdicts."""
    score = np.array([[SCORE[verdict] for verdict in row] for row in said], float)
    return score, (score + 1) / 2


SCORE = {Verdict.MET: 1.0, Verdict.UNMET: -1.0, Verdict.ABSTAIN: float("nan")}


def open_named(folder: Path, zero_shot: bool, batch: int, dtype: Literal["float32", "bfloat16"]) -> Named:
    """A reward model, or a language model that is asked yes or no. Raises InputError for a folder that holds none, and for a model that gives no verdicts."""
    from promedical_jax.bench.local import open_folder

    judge = open_folder(folder, zero_shot, batch, dtype)
    if judge.model.kind == "implicit":
        raise InputError(f"reward_model: {folder} is of the implicit kind, which is told no criterion and gives no verdicts; give one of another kind")
    fitted = [f"{tier.value} by {one.calibration.method} on {one.labels:,} labels" for tier, one in judge.model.verdicts.tiers.items() if one.labels]
    name = f"{folder} asked yes or no" if zero_shot else f"reward model {folder}, {judge.model.kind}"
    return Named(name, judge.model.hash[:12], ", ".join(fitted) or "none: the sign of its score is its verdict", judge)


def the_checker() -> Named:
    """The clinic's own, which knows the truth."""
    from promedical_jax.clinic import truth

    return Named("the clinic's checker, which knows the truth", f"promedical-jax {__version__}", "none: it is the truth", of_verdicts(truth))
