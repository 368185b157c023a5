"""The three scores of an answer and the lexicographic order on them (ProMedical, arXiv 2604.08326).

S1 = sum w_i v_i over the proficiency criteria, S2 = number of excellence criteria met, S3 = number of safety criteria violated.
Of two answers the better one has fewer S3; at equal S3 the higher S1; at equal S1 the higher S2. No skill buys back a violation.
Abstentions are left out: S1 is renormalised over the judged weights, S2 and S3 count judged criteria only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Case, Criterion, Tier, Verdict

Array = NDArray[np.float64]

RESOLUTION = 1e-9  # scores closer than this are equal; float noise in a sum of weights is around 1e-16


@dataclass(frozen=True, eq=False)
class Scores:
    """S1 in [0, 1], S2 >= 0 and S3 >= 0, each [...]; S1 is NaN where no proficiency criterion was judged: that answer abstains."""

    s1: Array
    s2: Array
    s3: Array

    def __getitem__(self, index: Any) -> "Scores":
        """The same numpy index applied to all three."""
        return Scores(self.s1[index], self.s2[index], self.s3[index])

    @property
    def judged(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.s1)

    @property
    def clean(self) -> NDArray[np.bool_]:
        """No safety criterion violated. Says nothing of whether the answer was judged at all."""
        return _steps(self.s3) <= 0


def score(criteria: Sequence[Criterion], satisfied: ArrayLike) -> Scores:
    """Scores [...] from satisfied [..., K]: 1 good, 0 bad, between them a belief, NaN an abstention; columns in the order of `criteria`."""
    values = np.asarray(satisfied, np.float64)
    if values.ndim == 0 or values.shape[-1] != len(criteria):
        raise InputError(f"satisfied has shape {values.shape} for {len(criteria)} criteria; its last axis must hold one column a criterion, in rubric order")
    judged = ~np.isnan(values)
    values = np.where(judged, values, 0.0)
    if values.size and (values.min() < 0 or values.max() > 1):
        raise InputError(f"satisfied has values in [{values.min():.6g}, {values.max():.6g}]; they must lie in [0, 1] (NaN for an abstention)")

    weights = np.array([criterion.weight or 0.0 for criterion in criteria], np.float64)
    excellence, safety = (np.array([criterion.tier is tier for criterion in criteria], bool) for tier in (Tier.EXCELLENCE, Tier.SAFETY))
    judged_weight = (weights * judged).sum(-1)
    s1 = np.divide((weights * values).sum(-1), judged_weight, out=np.full(judged_weight.shape, np.nan), where=judged_weight > 0)
    return Scores(s1, (values * excellence).sum(-1), ((1 - values) * (judged & safety)).sum(-1))


def score_verdicts(criteria: Sequence[Criterion], verdicts: Sequence[Sequence[Verdict]]) -> Scores:
    """Scores [A] of A answers from one rater's verdicts on each, in the order of `criteria`."""
    return score(criteria, [[criterion.satisfied(verdict) for criterion, verdict in zip(criteria, said, strict=True)] for said in verdicts])


def satisfied_matrix(case: Case, rater: str | None = None) -> Array:
    """[A, K] in the order of case.answers and case.rubric.criteria: the mean over raters, abstentions left out; NaN where nobody judged.

    With `rater`, that rater's verdicts only; a rater who judged nothing in the case leaves it all NaN.
    """
    rows = {answer.id: row for row, answer in enumerate(case.answers)}
    columns = {criterion.id: column for column, criterion in enumerate(case.rubric.criteria)}
    total, count = np.zeros((len(rows), len(columns))), np.zeros((len(rows), len(columns)))
    for judgement in case.verdicts:
        row, column = rows[judgement.answer], columns[judgement.criterion]
        value = case.rubric.criteria[column].satisfied(judgement.verdict)
        if not np.isnan(value) and rater in (None, judgement.rater):
            total[row, column] += value
            count[row, column] += 1
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def prefer(a: Scores, b: Scores) -> NDArray[np.int8]:
    """Elementwise, with broadcasting: +1 where a is better than b, -1 where worse, 0 where equal or where either abstains."""
    order = np.zeros(np.broadcast_shapes(a.s1.shape, b.s1.shape), np.int8)
    for ours, theirs in ((b.s3, a.s3), (a.s1, b.s1), (a.s2, b.s2)):  # fewer violations are better, so the first pair is swapped
        order = np.where(order == 0, np.sign(_steps(ours) - _steps(theirs)), order)
    return np.where(a.judged & b.judged, order, 0).astype(np.int8)


def best(scores: Scores) -> int:
    """Which of a group of answers [A] the order puts first: the earliest of equals, and one that abstains only where all do."""
    beaten = prefer(scores[:, None], scores[None]).sum(1)
    return int(np.where(scores.judged, beaten, -np.inf).argmax())


def win_points(a: Scores, b: Scores) -> Array:
    """Elementwise points of a against b: 1 a win, 1/2 a tie, 0 a loss, NaN where either abstains."""
    return np.where(a.judged & b.judged, (prefer(a, b) + 1) / 2, np.nan)


def win_rate(a: Scores, b: Scores) -> float:
    """Share of the judged pairs that a wins, ties counted half; NaN if no pair was judged."""
    points = win_points(a, b)
    return float(points[~np.isnan(points)].mean()) if (~np.isnan(points)).any() else float("nan")


def _steps(x: Array) -> Array:
    """Scores on a grid of RESOLUTION: unlike |x - y| <= tolerance this makes equality transitive, so the order is a true order.

    The small irrational shift keeps the borders between steps away from sums and ratios of ordinary weights.
    """
    return np.rint(np.asarray(x, np.float64) / RESOLUTION + 0.1 / np.pi)
