"""From scores to verdicts, tier by tier: probability, operating point and the band in which the verdict is to abstain. What calibration.json holds.

Verdicts speak of the criterion's text; thresholds speak of what is good for the answer: P(satisfied) is P(met) of a required criterion and 1 - P(met)
of a forbidden one. So one operating point holds for all of a tier's criteria, and "a violation" means the same with either polarity.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, model_validator

from promedical_jax.config import Kind
from promedical_jax.reward.calibration import Map, Method, Platt, fit
from promedical_jax.rubric.case import Criterion, Polarity, Record, Tier, Verdict
from promedical_jax.rubric.labels import Labels
from promedical_jax.rubric.scores import Array

Use = Literal["hard", "soft"]
Probability = Annotated[float, Field(ge=0, le=1)]


class Wanted(Protocol):
    """What is asked of a calibration (config.Calibration)."""

    @property
    def method(self) -> Method: ...
    @property
    def recall(self) -> float | None: ...
    @property
    def abstain(self) -> float: ...


class TierVerdicts(Record):
    """A criterion is violated or missed where P(satisfied) <= low, satisfied where P(satisfied) > high, and between the two the verdict is to abstain.

    `labels`: how many the calibration was fitted to; 0 leaves the scores as they are.
    """

    calibration: Map = Platt()
    low: Probability = 0.5
    high: Probability = 0.5
    labels: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _band_is_in_order(self) -> "TierVerdicts":
        if self.low > self.high:
            raise ValueError(f"low is {self.low:g} and high is {self.high:g}; low must not be above high")
        return self


class Verdicts(Record):
    """How a reward model's scores become verdicts. The implicit kind has none: its score is of the whole answer."""

    kind: Kind = "explicit"
    tiers: dict[Tier, TierVerdicts] = Field(default_factory=lambda: {tier: TierVerdicts() for tier in Tier})

    @model_validator(mode="after")
    def _every_tier_is_there(self) -> "Verdicts":
        wanted = set() if self.kind == "implicit" else set(Tier)
        if set(self.tiers) != wanted:
            names = ", ".join(tier.value for tier in Tier if tier in wanted) or "none"
            raise ValueError(f"tiers of an {self.kind} reward model must be {names}; train it again")
        return self

    def probability(self, scores: ArrayLike, criteria: Sequence[Criterion]) -> Array:
        """P(met) [..., K] of raw scores [..., K] of these criteria."""
        scores = np.asarray(scores, np.float64)
        columns = [self.tiers[criterion.tier].calibration.probability(scores[..., k]) for k, criterion in enumerate(criteria)]
        return np.stack(columns, -1) if columns else np.zeros(scores.shape)

    def satisfied(self, probability: ArrayLike, criteria: Sequence[Criterion], use: Mapping[Tier, Use] = MappingProxyType({})) -> Array:
        """[..., K]: 1 satisfied, 0 not, NaN to abstain; of the tiers whose `use` is soft, P(satisfied) itself."""
        forbidden = np.array([criterion.polarity is Polarity.FORBIDDEN for criterion in criteria], bool)
        good = np.where(forbidden, 1 - np.asarray(probability), np.asarray(probability))
        low, high = (np.array([getattr(self.tiers[c.tier], name) for c in criteria]) for name in ("low", "high"))
        hard = np.where(good > high, 1.0, np.where(good <= low, 0.0, np.nan))
        soft = np.array([use.get(criterion.tier) == "soft" for criterion in criteria], bool)
        return np.where(soft, good, hard)

    def read(self, probability: ArrayLike, criteria: Sequence[Criterion]) -> list[tuple[Verdict, ...]]:
        """The verdicts on each of some answers: probability [A, K] -> A tuples in the order of the criteria."""
        return [tuple(_verdict(good, criterion) for good, criterion in zip(row, criteria, strict=True)) for row in self.satisfied(probability, criteria)]


def _verdict(satisfied: float, criterion: Criterion) -> Verdict:
    if np.isnan(satisfied):
        return Verdict.ABSTAIN
    return Verdict.MET if bool(satisfied) == (criterion.polarity is Polarity.REQUIRED) else Verdict.UNMET


UNCALIBRATED = Verdicts()


def calibrate(cases: Sequence[tuple[Sequence[Criterion], Array, Labels]], wanted: Wanted, kind: Kind = "explicit") -> tuple[Verdicts, list[str]]:
    """Fits each tier alone to cases kept apart: of each its criteria, scores [A, K] and labels. A tier without labels stays as it is.

    With `wanted.recall`, the safety tier's threshold is the lowest at which so large a share of the violations among these labels is found. The band to
    abstain in lies around a threshold of one half, and above one that was wanted: no violation that it finds is given up for doubt.
    Returns also what there is to say of it.
    """
    if kind == "implicit":
        return Verdicts(kind=kind, tiers={}), []
    tiers, said = {}, []
    for tier in Tier:
        scores, labels, weights, forbidden = _of_tier(cases, tier)
        fitted = fit(wanted.method, scores, labels, weights)
        low, high = max(0.5 - wanted.abstain / 2, 0.0), min(0.5 + wanted.abstain / 2, 1.0)
        if tier is Tier.SAFETY and wanted.recall is not None:
            p = fitted.probability(scores)
            good, bad = np.where(forbidden, 1 - p, p), weights * np.where(forbidden, labels, 1 - labels)
            if bad.sum() > 0:
                low = _threshold(good, bad, wanted.recall)
                high = min(low + wanted.abstain, 1.0)
            else:
                said.append("no label that calibration may see is a violation, so calibration.recall is not heeded; give it more cases")
        if not len(scores):
            said.append(f"no label of tier {tier.value} is kept apart, so its scores stay uncalibrated; raise calibration.share")
        tiers[tier] = TierVerdicts(calibration=fitted, low=low, high=high, labels=len(scores))
    return Verdicts(kind=kind, tiers=tiers), said


def _threshold(good: Array, bad: Array, recall: float) -> float:
    """The lowest P(satisfied) at or below which there is this share of the mass `bad`."""
    order = np.argsort(good, kind="stable")
    found = np.cumsum(bad[order]) / bad.sum()
    return float(good[order][np.searchsorted(found, recall - 1e-12)])


def _of_tier(cases: Sequence[tuple[Sequence[Criterion], Array, Labels]], tier: Tier) -> tuple[Array, Array, Array, np.ndarray]:
    """Scores, labels, weights and whether the criterion is forbidden, of all judged (answer, criterion) of a tier, each [n]."""
    parts: list[list[Array]] = [[], [], [], []]
    for criteria, scores, labels in cases:
        for k, criterion in enumerate(criteria):
            heard = labels.weight[:, k] > 0 if criterion.tier is tier else np.zeros(len(scores), bool)
            columns = (scores[:, k], labels.met[:, k], labels.weight[:, k], np.full(len(scores), criterion.polarity is Polarity.FORBIDDEN))
            for part, column in zip(parts, columns, strict=True):
                part.append(np.asarray(column)[heard])
    held = [np.concatenate(part) if part else np.zeros(0) for part in parts]
    return held[0], held[1], held[2], held[3].astype(bool)
