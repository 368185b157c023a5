"""From figures of some seeds to what a table says: means with intervals over seeds, and of each claim whether it is reproduced.

A seed is one draw of everything: cases, start, training. So intervals are Student's, over seeds, and differences are taken seed by seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan
from typing import Literal

import numpy as np

from promedical_jax.bench.intervals import Interval, over_seeds
from promedical_jax.lab.tables import Check, Claim, Table

Figures = Mapping[str, Mapping[int, Mapping[str, float]]]  # row -> seed -> figure -> number
Verdict = Literal["reproduced", "contradicted", "undecided"]


@dataclass(frozen=True)
class Difference:
    """Of one thing from another, seed by seed. `effect`: the mean over the standard deviation over seeds (Cohen's d of paired samples)."""

    interval: Interval
    effect: float
    apart: bool  # whether the two's own intervals do not touch


@dataclass(frozen=True)
class Judged:
    claim: Claim
    difference: Difference
    verdict: Verdict


@dataclass(frozen=True)
class Checked:
    check: Check
    value: float
    passed: bool


def figure(figures: Figures, row: str, name: str) -> list[float]:
    """Of each seed, in order; NaN where it was not measured."""
    return [figures[row][seed].get(name, nan) for seed in sorted(figures[row])]


def difference(ahead: Sequence[float], behind: Sequence[float]) -> Difference:
    apart = np.asarray(ahead, np.float64) - np.asarray(behind, np.float64)
    interval, spread = over_seeds(list(apart)), float(np.std(apart, ddof=1)) if len(apart) > 1 else nan
    first, second = over_seeds(ahead), over_seeds(behind)
    return Difference(interval, interval.mean / spread if spread > 0 else nan, first.low > second.high or first.high < second.low)


def judge(table: Table, figures: Figures) -> list[Judged]:
    """Each claim: reproduced where the interval of the difference lies above what it claims, contradicted where it lies below, else undecided."""
    found = []
    for claim in table.claims:
        one = difference(figure(figures, claim.ahead, claim.figure), figure(figures, claim.behind, claim.other or claim.figure))
        low, high = (end if end == end else sign * inf for end, sign in ((one.interval.low, -1), (one.interval.high, 1)))
        found.append(Judged(claim, one, "reproduced" if low > claim.least else "contradicted" if high < claim.least else "undecided"))
    return found


def check(table: Table, figures: Figures) -> list[Checked]:
    """Each check, by its mean over seeds; what was not measured has not passed."""
    found = []
    for one in table.checks:
        value = np.asarray(figure(figures, one.row, one.figure), np.float64)
        if one.minus:
            value = value - np.asarray(figure(figures, one.minus, one.other or one.figure), np.float64)
        mean = float(value.mean())
        found.append(Checked(one, mean, one.low <= mean <= one.high))
    return found
