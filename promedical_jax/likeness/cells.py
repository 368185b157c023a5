"""Near vectors on a CPU. Up to ALL rows, all pairs; above, each row is compared with those of the PROBES cells whose centres are nearest to it.

A pair is missed only if neither row's cell is among the other's nearest, which of rows at a cosine of 0.9 hardly happens (benchmarks/dedup.py counts it). The
centres are rows, moved to the middle of who is near them a few times (k-means, on a sample); everything is a function of the vectors and their order.
"""

from collections.abc import Iterator

import numpy as np

from promedical_jax.likeness.pairs import SLACK, holding

ALL = 8192
ROWS_A_CELL = 400
PROBES = 4
SAMPLE = 50  # rows of each cell that move its centre
MOVES = 3
BLOCK = 8192  # rows at a time


def near(vectors: np.ndarray, threshold: float) -> np.ndarray:
    """[n, d] float32 rows of length 1 -> [pairs, 2]: rows whose cosine is at least `threshold`, the earlier one first, sorted."""
    found = _all_pairs(vectors, threshold - SLACK) if len(vectors) <= ALL else _in_cells(vectors, threshold - SLACK)
    return holding(vectors, np.concatenate([np.zeros((0, 2), np.int64), *found]), threshold)


def nearest(vectors: np.ndarray, among: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """[n, d] and [m, d] -> of each row the `count` nearest of the others and their cosines, [n, count] each, the nearest first; fewer where m is less."""
    count = min(count, len(among))
    places, cosines = np.zeros((len(vectors), count), np.int64), np.zeros((len(vectors), count), np.float32)
    for start in range(0, len(vectors), BLOCK):
        part = slice(start, start + BLOCK)
        places[part], cosines[part] = _highest(vectors[part] @ among.T, count)
    return places, cosines


def _all_pairs(vectors: np.ndarray, least: float) -> Iterator[np.ndarray]:
    for start in range(0, len(vectors), BLOCK):
        rows, columns = np.nonzero(vectors[start : start + BLOCK] @ vectors.T >= least)
        later = columns > rows + start
        yield np.column_stack([rows + start, columns])[later]


def _in_cells(vectors: np.ndarray, least: float) -> Iterator[np.ndarray]:
    centres = _centres(vectors, len(vectors) // ROWS_A_CELL)
    probes, _ = nearest(vectors, centres, PROBES)
    home = probes[:, 0]
    order, visits = np.argsort(home, kind="stable"), np.argsort(probes.ravel(), kind="stable")
    homes, ends = (np.searchsorted(sorted_, np.arange(len(centres) + 1)) for sorted_ in (home[order], probes.ravel()[visits]))
    for cell in range(len(centres)):
        members, visitors = order[homes[cell] : homes[cell + 1]], visits[ends[cell] : ends[cell + 1]] // PROBES
        for start in range(0, len(visitors), BLOCK):
            block = visitors[start : start + BLOCK]
            rows, columns = np.nonzero(vectors[block] @ vectors[members].T >= least)
            pairs = np.column_stack([block[rows], members[columns]])
            yield pairs[pairs[:, 0] != pairs[:, 1]]


def _centres(vectors: np.ndarray, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    sample = vectors[np.sort(rng.choice(len(vectors), min(len(vectors), count * SAMPLE), replace=False))]
    centres = sample[rng.choice(len(sample), count, replace=False)]
    for _ in range(MOVES):
        home = nearest(sample, centres, 1)[0][:, 0]
        order = np.argsort(home, kind="stable")
        present, starts = np.unique(home[order], return_index=True)
        centres = centres.copy()  # an empty cell's centre stays
        centres[present] = np.add.reduceat(sample[order], starts)
        centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-9)
    return centres


def _highest(cosines: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the places of the highest, the earlier of equals, and what they are. A few passes take less time than to sort a row in part."""
    places, highest = np.zeros((len(cosines), count), np.int64), np.zeros((len(cosines), count), np.float32)
    rows = np.arange(len(cosines))
    for rank in range(count):
        best = places[:, rank] = cosines.argmax(1)
        highest[:, rank] = cosines[rows, best]
        cosines[rows, best] = -np.inf
    return places, highest
