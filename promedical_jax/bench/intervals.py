"""How sure a figure is: 95 % intervals over cases.

The case is the unit that is drawn at random: answers to one instruction, and criteria of one answer, resemble each other, so an
interval over answers or criteria would be too narrow. Every function here therefore takes one entry per case and resamples whole cases.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BeforeValidator
from scipy.stats import beta
from scipy.stats import t as student

Z95 = 1.959963984540054  # the normal quantile that leaves 2.5 % on either side


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval, low <= mean <= high, in the unit of the figure. All three are NaN where there was nothing to measure."""

    mean: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


NOTHING = Interval(float("nan"), float("nan"), float("nan"))


def _null_is_nan(value: Any) -> Any:
    """JSON has no NaN: it is written as null, and null is read back as NaN."""
    if isinstance(value, dict):
        return {name: math.nan if part is None else part for name, part in value.items()}
    return math.nan if value is None else value


Number = Annotated[float, BeforeValidator(_null_is_nan)]  # a number of a record that is kept as JSON
Figure = Annotated[Interval, BeforeValidator(_null_is_nan)]


def bootstrap(values: Sequence[float] | ArrayLike, seed: int = 0, n: int = 1000) -> Interval:
    """Percentile bootstrap of the mean of `values` [cases] (Efron 1979), from `n` resamples; NaN entries (abstained cases) are left out.

    Values that are all alike would resample to a point, as if five safe answers of five proved safety: where they can be shares (in [0, 1])
    the Wilson interval of that share takes over. The same seed gives the same interval.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"values must have one entry per case, got an array of shape {array.shape}")
    return bootstrap_ratio(array, np.ones_like(array), seed, n)


def bootstrap_ratio(hits: Sequence[float] | ArrayLike, trials: Sequence[float] | ArrayLike, seed: int = 0, n: int = 1000) -> Interval:
    """As `bootstrap`, for sum(hits) / sum(trials), both [cases]: an accuracy over all judgements when cases hold unequal numbers of them.

    Cases without a trial, or with NaN in either array, are left out.
    """
    over, under = np.asarray(hits, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    if over.shape != under.shape or over.ndim != 1:
        raise ValueError(f"hits and trials must both have one entry per case, got shapes {over.shape} and {under.shape}")
    if n < 1:
        raise ValueError(f"n is the number of resamples and must be at least 1, got {n}")
    kept = np.isfinite(over) & (under > 0)
    over, under = over[kept], under[kept]
    if over.size == 0:
        return NOTHING
    mean = float(over.sum() / under.sum())
    shares = over / under
    if np.ptp(shares) <= 1e-12:
        return wilson(mean * over.size, over.size) if 0 <= mean <= 1 else Interval(mean, mean, mean)
    rng = np.random.default_rng(seed)
    resampled = np.empty(n)
    for i in range(n):  # one resample at a time: memory stays that of the values, however many cases there are
        rows = rng.integers(over.size, size=over.size)
        resampled[i] = over[rows].sum() / under[rows].sum()
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(mean, min(float(low), mean), max(float(high), mean))


def bootstrap_of(rows: ArrayLike, statistic: Callable[[np.ndarray], float], seed: int = 0, n: int = 1000) -> Interval:
    """As `bootstrap`, for a statistic of sums over cases, such as a calibration error: rows [cases, ...] are summed over cases and given to `statistic`.

    Resamples of which it is NaN are left out. Resamples that are all alike give a point: what never varies among the cases cannot be bootstrapped.
    """
    array = np.asarray(rows, dtype=np.float64)
    if not len(array):
        return NOTHING
    mean = statistic(array.sum(0))
    if not math.isfinite(mean):
        return NOTHING
    rng = np.random.default_rng(seed)
    flat = array.reshape(len(array), -1)
    draws = [statistic((rng.multinomial(len(array), np.full(len(array), 1 / len(array))) @ flat).reshape(array.shape[1:])) for _ in range(n)]
    kept = [value for value in draws if math.isfinite(value)] or [mean]
    low, high = np.percentile(kept, [2.5, 97.5])
    return Interval(mean, min(float(low), mean), max(float(high), mean))


FLIPS = 10_000
EXACT = 13  # differences up to which all 2^n signs are fewer than FLIPS


def sign_flips(differences: Sequence[float] | ArrayLike, seed: int = 0) -> float:
    """Two-sided p of paired differences [cases] by flipping their signs (Fisher's randomisation test): how often a sum as far from zero would come about if
    either of two runs could have had either value of each case. Ties, which are differences of zero, stay and change nothing. Exact up to 13 differences,
    else from 10,000 draws, these themselves one of them. NaN entries are left out; NaN where none is left.

    As scipy's permutation_test of samples, which takes twenty times as long.
    """
    array = np.asarray(differences, np.float64)
    array = array[np.isfinite(array)]
    if not array.size:
        return math.nan
    moved = array[array != 0]
    far = abs(moved.sum()) * (1 - 1e-12)
    if len(moved) <= EXACT:
        signs = 1.0 - 2 * ((np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved))) & 1)
        return float((np.abs(signs @ moved) >= far).mean())
    rng, hits = np.random.default_rng(seed), 0
    for start in range(0, FLIPS, 500):
        signs = 1.0 - 2 * rng.integers(0, 2, (min(500, FLIPS - start), len(moved)), dtype=np.int8)
        hits += int((np.abs(signs @ moved) >= far).sum())
    return (hits + 1) / (FLIPS + 1)


def over_seeds(values: Sequence[float] | ArrayLike) -> Interval:
    """The mean of `values` [seeds] with Student's 95 % interval: a seed is one draw of everything, and seeds are few. NaN entries are left out; of one value
    alone nobody can tell, and the interval has no ends."""
    array = np.asarray(values, np.float64)
    known = array[np.isfinite(array)]
    if not known.size:
        return NOTHING
    mean = float(known.mean())
    if known.size == 1:
        return Interval(mean, math.nan, math.nan)
    half = float(student.ppf(0.975, known.size - 1)) * float(known.std(ddof=1)) / sqrt(known.size)
    return Interval(mean, mean - half, mean + half)


def clopper_pearson(successes: int, n: int) -> Interval:
    """The exact interval of a share (Clopper and Pearson 1934): `successes` of `n` independent trials. For rare events, where others are too narrow."""
    if n == 0:
        return NOTHING
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n, got {successes} of {n}")
    low = 0.0 if successes == 0 else float(beta.ppf(0.025, successes, n - successes + 1))
    high = 1.0 if successes == n else float(beta.ppf(0.975, successes + 1, n - successes))
    return Interval(successes / n, low, high)


def wilson(successes: float, n: int) -> Interval:
    """Wilson's score interval of a share (Wilson 1927): `successes` of `n` independent trials. It never is a point and never leaves [0, 1]."""
    if n == 0:
        return NOTHING
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n, got {successes} of {n}")
    share = successes / n
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2)) / (1 + Z95**2 / n)
    return Interval(share, min(max(0.0, centre - half), share), max(min(1.0, centre + half), share))
