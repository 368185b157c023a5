"""Advantages of the answers of a group: arrays [..., G], one group on the last axis, any number of groups before it."""

import numpy as np
from numpy.typing import ArrayLike

from promedical_jax.rubric.scores import Array, Scores, prefer

STD_FLOOR = 1e-4  # added to the standard deviation, as published GRPO implementations do


def scalar(rewards: ArrayLike) -> Array:
    """(r - mean) / (std + 1e-4) over the group's judged members (GRPO, arXiv 2402.03300; population std); NaN rewards get 0 and are not counted.

    Kept as the published method. It can cancel the veto: if every answer violates, the least bad one gets a positive advantage.
    """
    rewards = np.asarray(rewards, np.float64)
    judged = ~np.isnan(rewards)
    count = np.maximum(judged.sum(-1, keepdims=True), 1)
    centred = np.where(judged, rewards - np.where(judged, rewards, 0).sum(-1, keepdims=True) / count, 0)
    return centred / (np.sqrt((centred**2).sum(-1, keepdims=True) / count) + STD_FLOOR)


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
