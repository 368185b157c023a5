"""Advantages of the answers of a group: arrays [..., G], one group on the last axis, any number of groups before it."""

from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from promedical_jax.rubric.case import Record
from promedical_jax.rubric.scores import Array, Scores, prefer

STD_FLOOR = 1e-4  # added to the standard deviation, as published GRPO implementations do
VEIL = 0.1  # `tiered`: a clean answer beside violators is at most so far below zero, a violator at least half as far again


def scalar(rewards: ArrayLike) -> Array:
    """(r - mean) / (std + 1e-4) over the group's judged members (GRPO, arXiv 2402.03300; population std); NaN rewards get 0 and are not counted.

    Kept as the published method. It can cancel the veto: if every answer violates, the least bad one gets a positive advantage.
    """
    rewards = np.asarray(rewards, np.float64)
    return _standardised(rewards, ~np.isnan(rewards))


def lexicographic(scores: Scores) -> Array:
    """Advantages in [-2, 1] from the lexicographic order alone (ours); answers that abstain get 0 and are not counted.

    u_i = (judged answers strictly worse than i - strictly better) / (n - 1), n judged answers. If no judged answer is clean, a phantom clean answer joins,
    so that the group's normalisation does not cancel the veto. If clean and violating answers meet, m = (max u of violators + min u of clean) / 2 and the
    advantage is u - max(0, m); else it is u. So every violator's advantage is below 0 and below that of every clean answer, however many of each there are,
    and no answer loses by raising its S1 or S2 or by dropping a violation.
    """
    judged, clean = scores.judged, scores.judged & scores.clean
    violating = judged & ~scores.clean
    phantom = violating.any(-1, keepdims=True) & ~clean.any(-1, keepdims=True)

    margin = prefer(scores[..., :, None], scores[..., None, :]).sum(-1) - phantom  # the phantom is better than every answer of its group
    rivals = np.maximum(judged.sum(-1, keepdims=True) + phantom - 1, 1)
    u = np.where(judged, margin / rivals, 0)

    worst_clean = np.where(phantom, 1, np.where(clean, u, np.inf).min(-1, keepdims=True, initial=np.inf))
    best_violator = np.where(violating, u, -np.inf).max(-1, keepdims=True, initial=-np.inf)
    mixed = np.isfinite(worst_clean) & np.isfinite(best_violator)
    shift = np.maximum(0, np.where(mixed, worst_clean, 0) + np.where(mixed, best_violator, 0)) / 2
    return np.where(judged, u - shift, 0)


class TierWeights(Record):
    """What a standard deviation of each tier's score is worth to `tiered`. All 1 is GDPO's sum (arXiv 2601.05242)."""

    s1: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """of proficiency"""
    s2: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    """of excellence"""
    s3: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    """of fewer safety violations; from about 4 on, a policy learns to say little before it learns to say what helps"""


EVEN = TierWeights(s1=1.0, s2=1.0, s3=1.0)


def tiered(scores: Scores, weights: TierWeights = TierWeights()) -> Array:  # noqa: B008 (frozen)
    """Advantages that normalise each tier in the group by itself, so that none drowns the others, and then keep the veto (ours); abstainers get 0.

    x = w1 z(S1) + w2 z(S2) + w3 z(-S3), z over the judged answers, and for S3 with a phantom clean answer among them if none is clean. Where all are
    clean the advantage is x: with even weights GDPO's. Else what has the wrong sign is flattened (v is VEIL): a violator gets x, but above x = -2 v what
    rises from there to at most -1.5 v; a clean answer beside violators gets x, but below x = 0 what falls from there to at least -v. So every violator stands
    below zero and below every clean answer, and no answer loses by raising its S1 or S2 or by dropping a violation.
    """
    judged, clean = scores.judged, scores.judged & scores.clean
    violating = judged & ~scores.clean
    phantom = violating.any(-1, keepdims=True) & ~clean.any(-1, keepdims=True)
    among = np.concatenate([judged, phantom], -1)
    safety = _standardised(np.concatenate([np.where(judged, -scores.s3, 0), np.zeros_like(phantom, float)], -1), among)[..., :-1]
    x = weights.s1 * _standardised(scores.s1, judged) + weights.s2 * _standardised(scores.s2, judged) + weights.s3 * safety
    below = np.minimum(x, -2 * VEIL) - VEIL / 2 * np.expm1(-2 / VEIL * np.maximum(x + 2 * VEIL, 0))
    above = np.maximum(x, 0) + VEIL * np.expm1(np.minimum(x, 0) / VEIL)
    beside = violating.any(-1, keepdims=True)
    return np.where(violating, below, np.where(clean & beside, above, np.where(judged, x, 0)))


def _standardised(values: Array, members: NDArray[np.bool_]) -> Array:
    """(v - mean) / (std + 1e-4) over each group's members, 0 for the others."""
    count = np.maximum(members.sum(-1, keepdims=True), 1)
    centred = np.where(members, values - np.where(members, values, 0).sum(-1, keepdims=True) / count, 0)
    return centred / (np.sqrt((centred**2).sum(-1, keepdims=True) / count) + STD_FLOOR)
