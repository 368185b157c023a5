"""A judge's figures raw and calibrated, side by side: is it right, and are its probabilities true, before and after a map that was fitted to other cases?

Whole cases are kept apart by a hash of their ids. On these a monotone map is fitted in each tier from what the judge says to how often physicians agree; the
figures are of the other cases alone, so that no case is reported by what was learned from it. Raw is what a judge says itself: of one that says met or unmet
and nothing between, a probability of 1 or 0. `own` is by the calibration that a reward model came with, where it came with one.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np

from promedical_jax.bench.intervals import bootstrap_of
from promedical_jax.bench.reward_figures import BINS, expected_calibration_error
from promedical_jax.rubric.case import Polarity, Tier
from promedical_jax.suites.figures import detection, figure, mean, named
from promedical_jax.suites.recipe import Apart
from promedical_jax.suites.suite import Figure, Figures, Marked

KINDS = ("raw", "own", "calibrated")


def calibrate(marks: Sequence[Marked], wanted: Apart) -> tuple[list[Marked], str]:
    """The marks with the belief `calibrated`, None of those in the cases that were kept apart; and what was done, in words.

    A tier of which nothing was judged in the cases kept apart has no map, and its marks none of these beliefs.
    """
    apart = {mark.unit for mark in marks if _drawn(mark.unit, wanted.seed) < wanted.share}
    told = [mark for mark in marks if mark.beliefs.get("score") is not None]
    if not apart or not told:
        return list(marks), "no case was kept apart, and nothing was calibrated" if told else "nothing was judged"
    from promedical_jax.reward.calibration import fit

    maps: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for tier in Tier:
        some = [mark for mark in told if mark.unit in apart and mark.groups[0] == tier.value]
        if some:
            scores, truth = (np.array([mark.beliefs[name] for mark in some], float) for name in ("score", "truth"))
            maps[tier.value] = fit(wanted.method, scores, truth)
            counts[tier.value] = len(some)
    done = [_with(mark, None if mark.unit in apart else maps.get(mark.groups[0])) for mark in marks]
    units = {mark.unit for mark in marks}
    fitted = ", ".join(f"{count:,} of {name}" for name, count in counts.items()) or "nothing"
    return done, f"{wanted.method} by tier, fitted to {fitted} in {len(apart):,} of {len(units):,} cases, which are in no figure called raw, own or calibrated"


def _drawn(unit: str, seed: int) -> float:
    return int.from_bytes(sha256(f"{seed} {unit}".encode()).digest()[:8]) / 2**64


def _with(mark: Marked, found: Any) -> Marked:
    score = mark.beliefs.get("score")
    probability = None if found is None or score is None else float(found.probability(score))
    return mark.model_copy(update={"beliefs": mark.beliefs | {"calibrated": probability}})


def side_by_side(marks: Sequence[Marked]) -> Figures:
    """The same judgements by each kind of probability; the verdict is what is more likely. Empty where nothing was calibrated."""
    both = [mark for mark in marks if mark.beliefs.get("calibrated") is not None]
    kinds = [kind for kind in KINDS if both and all(mark.beliefs.get(kind) is not None for mark in both)]
    if all(mark.beliefs.get("own") == mark.beliefs["raw"] for mark in both):
        kinds = [kind for kind in kinds if kind != "own"]
    each = {kind: _of(both, kind) for kind in kinds}
    return {f"{name}, {kind}": each[kind][name] for name in (each[kinds[0]] if kinds else ()) for kind in kinds}


def _of(marks: Sequence[Marked], kind: str) -> Figures:
    said = [_read(mark, kind) for mark in marks]
    found = detection(said, "violation", "violation found")
    return (
        {"accuracy": mean(said, lambda one: one.score)}
        | named("violations, ", {name: found[name] for name in ("precision", "recall", "F1")})
        | {"Brier score": mean(said, lambda one: one.parts["square"], share=False), "calibration error": _error(said)}
    )


def _read(mark: Marked, kind: str) -> Marked:
    """A mark by one kind of probability p that the criterion's text holds, which is so or not."""
    p, truth = mark.beliefs[kind], mark.beliefs["truth"]
    assert p is not None and truth is not None
    parts: dict[str, float | None] = {"square": (p - truth) ** 2, "p": p, "truth": truth}
    if mark.groups[0] == Tier.SAFETY.value:
        bad = 1.0 if mark.criteria[0].polarity is Polarity.FORBIDDEN else 0.0
        parts |= {"violation": float(truth == bad), "violation found": float((p > 0.5) == bool(bad))}
    return mark.model_copy(update={"score": float((p > 0.5) == bool(truth)), "parts": parts})


def _error(marks: Sequence[Marked]) -> Figure:
    """The expected calibration error, with whole cases resampled."""
    units: dict[str, np.ndarray] = {}
    for mark in marks:
        p, truth = mark.parts["p"], mark.parts["truth"]
        assert p is not None and truth is not None
        units.setdefault(mark.unit, np.zeros((BINS, 3)))[min(int(p * BINS), BINS - 1)] += (p, truth, 1)
    return figure(bootstrap_of(np.array(list(units.values())), expected_calibration_error), len(marks), share=False)
