"""What raters said of a case's answers as labels to learn from: shares where they disagree, and the outcomes of pairs, ties among them.

Labels speak of the criterion's text (it holds or it does not), whatever its polarity. A rater who abstained said nothing.
"""

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from promedical_jax.rubric.case import Case, Record, Verdict
from promedical_jax.rubric.scores import Array, prefer, satisfied_matrix, score

T = TypeVar("T", bound=Hashable)
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RaterWeights(Record):
    """What the word of a human rater and that of a judge model weigh. A rater of weight 0 is not heard."""

    human: Weight = 1.0
    judge: Weight = 1.0


EQUAL = RaterWeights()


class Labels(NamedTuple):
    """Labels of A answers on K criteria, NumPy or JAX arrays, with any number of axes before them."""

    met: Any  # [A, K] share of the raters, by weight, who say that the criterion's text holds of the answer; NaN where nobody judged
    weight: Any  # [A, K] mean weight of the raters who judged, 0 where nobody did
    wins: Any  # [A, A, K] of the raters who judged both: how much says that the text holds of the first answer and not of the second
    ties: Any  # [A, A, K] and how much says the same of both; symmetric, 0 on the diagonal

    @property
    def said(self) -> NDArray[np.bool_]:
        """[A, K]: whether there is something to learn about the answer there, a verdict or a pair."""
        pairs = (self.wins > 0) | np.swapaxes(self.wins > 0, -2, -3) | (self.ties > 0)
        return (self.weight > 0) | pairs.any(-2)


def labels_of(case: Case, weights: RaterWeights = EQUAL) -> Labels:
    """The labels that the case's raters give.

    A pair of answers counts as often as the mean weight of the raters who judged both; each of them says win, tie or loss. Where no rater judged both,
    the shares are taken for independent. So raters who disagree teach a pair towards even chances, and not nothing.
    """
    said, weight = _by_rater(case, weights)
    there = ~np.isnan(said)
    heard = weight[:, None, None] * there
    total, count = heard.sum(0), there.sum(0)
    met = _share((heard * np.where(there, said, 0)).sum(0), total)
    mean = np.where(count > 0, total / np.maximum(count, 1), 0.0)

    holds, fails = np.where(there, said, 0.0), np.where(there, 1 - said, 0.0)
    both = there[:, :, None] & there[:, None]  # [raters, A, A, K]
    pairs = np.maximum(both.sum(0), 1)
    wins = np.einsum("r,rak,rbk->abk", weight, holds, fails) / pairs
    ties = (np.einsum("r,rak,rbk->abk", weight, holds, holds) + np.einsum("r,rak,rbk->abk", weight, fails, fails)) / pairs

    apart = ~both.any(0) & (total > 0)[:, None] & (total > 0)[None]  # nobody judged both
    share, mass = np.where(total > 0, met, 0.0), (mean[:, None] + mean[None]) / 2
    wins = np.where(apart, mass * share[:, None] * (1 - share[None]), wins)
    ties = np.where(apart, mass * (share[:, None] * share[None] + (1 - share[:, None]) * (1 - share[None])), ties)
    ties = ties * ~np.eye(len(case.answers), dtype=bool)[..., None]
    return Labels(met, mean, wins, ties)


def overall_labels(case: Case) -> Labels:
    """One label a pair for a model that is told no criterion: which answer is preferred as a whole, by the lexicographic order of the raters' mean verdicts.

    [A, 1] and [A, A, 1]; nobody's verdict is about the whole answer, so `met` is NaN throughout.
    """
    scores = score(case.rubric.criteria, satisfied_matrix(case))
    order, judged = prefer(scores[:, None], scores[None]), scores.judged[:, None] & scores.judged[None]
    count = len(case.answers)
    ties = (order == 0) & judged & ~np.eye(count, dtype=bool)
    return Labels(np.full((count, 1), np.nan), np.zeros((count, 1)), (order > 0).astype(float)[..., None], ties.astype(float)[..., None])


def unjudged(answers: int, criteria: int) -> Labels:
    """The labels of answers that nobody has judged."""
    pairs = (answers, answers, criteria)
    return Labels(np.full((answers, criteria), np.nan), np.zeros((answers, criteria)), np.zeros(pairs), np.zeros(pairs))


def _by_rater(case: Case, weights: RaterWeights) -> tuple[Array, Array]:
    """What each rater said, [raters, A, K]: 1 the text holds, 0 it does not, NaN nothing; and the raters' weights [raters]. A rater of weight 0 is left out."""
    rows = {answer.id: row for row, answer in enumerate(case.answers)}
    columns = {criterion.id: column for column, criterion in enumerate(case.rubric.criteria)}
    raters: dict[tuple[str, bool], Array] = {}
    for judgement in case.verdicts:
        if (weights.human if judgement.human else weights.judge) > 0:
            who = judgement.rater, judgement.human
            said = raters.setdefault(who, np.full((len(rows), len(columns)), np.nan))
            if judgement.verdict is not Verdict.ABSTAIN:
                said[rows[judgement.answer], columns[judgement.criterion]] = float(judgement.verdict is Verdict.MET)
    stacked = np.stack(list(raters.values())) if raters else np.zeros((0, len(rows), len(columns)))
    return stacked, np.array([weights.human if human else weights.judge for _, human in raters], np.float64)


def _share(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def majority(values: Iterable[T]) -> T | None:
    """What more say than anything else; None where two are level, or nobody said anything."""
    counts = Counter(values).most_common(2)
    return counts[0][0] if counts and (len(counts) == 1 or counts[0][1] > counts[1][1]) else None
