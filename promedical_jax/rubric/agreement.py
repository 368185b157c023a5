"""How far raters agree beyond chance: weighted kappa, Krippendorff's alpha, Gwet's AC2.

Each is a function of sums over units, so that a bootstrap resamples the units' (or the cases') parts and adds them up again. A unit is whatever was rated
once by each of some raters: a criterion of an answer, or a pair of answers. Checked against the examples that their authors published.

Letters: u units, r raters, q categories.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

NONE = -1  # in the place of a rating that was not given
Distance = Literal["nominal", "linear", "quadratic"]


def closeness(categories: int, distance: Distance = "nominal") -> np.ndarray:
    """[q, q]: how far two ratings agree, from 1 for the same category to 0 for the farthest; nominal categories agree wholly or not at all."""
    if categories < 2:
        raise ValueError(f"agreement needs at least 2 categories, got {categories}")
    apart = np.abs(np.subtract.outer(np.arange(categories), np.arange(categories))) / (categories - 1)
    return {"nominal": (apart == 0).astype(float), "linear": 1 - apart, "quadratic": 1 - apart**2}[distance]


@dataclass(frozen=True)
class Coefficient:
    """1 where all agree, 0 where as many do as by chance, NaN where chance alone would make all agree or no unit has two ratings.

    parts(ratings [u, r], weights [q, q]) -> [u, ...], and of(their sums over units, weights) -> a coefficient for each sum that leading axes hold, such as those
    of many resamples. Ratings are 0 to q - 1, or NONE.
    """

    parts: Callable[[np.ndarray, np.ndarray], np.ndarray]
    of: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def __call__(self, ratings: np.ndarray, weights: np.ndarray) -> float:
        return float(self.of(self.parts(ratings, weights).sum(0), weights))


def _counts(ratings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[u, q]: how many raters chose each category. Raises ValueError for what is no category."""
    ratings = np.asarray(ratings)
    if ratings.ndim != 2 or not np.issubdtype(ratings.dtype, np.integer) or ratings.min(initial=0) < NONE or ratings.max(initial=0) >= len(weights):
        raise ValueError(f"ratings must be whole numbers [units, raters] from 0 to {len(weights) - 1}, or {NONE} for none; got {ratings.dtype} {ratings.shape}")
    return (ratings[:, :, None] == np.arange(len(weights))).sum(1)


def _beyond(observed: np.ndarray, chance: np.ndarray) -> np.ndarray:
    return _over(observed - chance, 1 - chance)


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Elementwise, NaN where there is nothing to divide by."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 1e-12)


def _between(one: np.ndarray, weights: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[..., q] and [..., q] -> [...]: the mean weight of two ratings that are drawn each from its own."""
    return np.einsum("...i,ij,...j->...", one, weights, other)


# Cohen 1968: two raters, chance by each rater's own habits


def _tables(ratings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[u, q, q]: one in the place of the two ratings; units with one of them count for nothing."""
    _counts(ratings, weights)
    if ratings.shape[1] != 2:
        raise ValueError(f"kappa compares two raters, got {ratings.shape[1]}")
    first, second = (np.asarray(ratings)[:, i, None] == np.arange(len(weights)) for i in range(2))
    return (first[:, :, None] & second[:, None, :]).astype(float)


def _kappa(table: np.ndarray, weights: np.ndarray) -> np.ndarray:
    share = _over(table, table.sum((-2, -1), keepdims=True))
    return _beyond((share * weights).sum((-2, -1)), _between(share.sum(-1), weights, share.sum(-2)))


# Krippendorff 2011: any number of raters, chance by drawing two of all ratings


def _coincidences(ratings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[u, q, q]: the ordered pairs of a unit's ratings, each unit with as much weight as it has ratings."""
    n = _counts(ratings, weights).astype(float)
    pairs = n[:, :, None] * n[:, None, :] - np.eye(len(weights)) * n[:, :, None]
    return pairs / np.maximum(n.sum(1) - 1, 1)[:, None, None]


def _alpha(coincidences: np.ndarray, weights: np.ndarray) -> np.ndarray:
    each = coincidences.sum(-1)
    expected = _over(_between(each, 1 - weights, each), each.sum(-1) - 1)
    return 1 - _over((coincidences * (1 - weights)).sum((-2, -1)), expected)


# Gwet 2014, chapter 5: any number of raters, chance only among what is hard to rate, so that a rare category is no paradox


def _gwet_parts(ratings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[u, q + 3]: the shares of the categories, whether a unit is rated and whether twice, and how far its ratings agree."""
    n = _counts(ratings, weights).astype(float)
    m = n.sum(1)
    twice = m >= 2
    agree = (n * (n @ weights - 1)).sum(1) / np.maximum(m * (m - 1), 1)
    return np.column_stack([n / np.maximum(m, 1)[:, None], m > 0, twice, np.where(twice, agree, 0.0)])


def _ac2(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    q = len(weights)
    rated, twice, agree = (sums[..., q + column] for column in range(3))
    share = _over(sums[..., :q], rated[..., None])
    return _beyond(_over(agree, twice), weights.sum() / (q * (q - 1)) * (share * (1 - share)).sum(-1))


weighted_kappa = Coefficient(_tables, _kappa)
krippendorff_alpha = Coefficient(_coincidences, _alpha)
gwet_ac2 = Coefficient(_gwet_parts, _ac2)
