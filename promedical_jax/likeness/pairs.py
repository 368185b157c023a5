"""Pairs of near texts: which candidates hold, and who with whom is one cluster."""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

CHUNK = 100_000  # pairs at a time
SLACK = 1e-4  # by how much the float32 cosine of who proposes a pair may lie too low


def holding(vectors: np.ndarray, candidates: np.ndarray, threshold: float) -> np.ndarray:
    """Of candidates [_, 2], those of rows of vectors [n, d] whose cosine is at least `threshold`: the earlier row first, each pair once, sorted.

    Decided in float64, pair by pair, whoever proposed them: so the same vectors have the same pairs on any number of devices.
    """
    count = len(vectors)
    first, second = np.divmod(np.unique(candidates.min(1) * count + candidates.max(1)), max(count, 1)) if len(candidates) else np.zeros((2, 0), np.int64)
    near = np.zeros(len(first), bool)
    for start in range(0, len(first), CHUNK):
        part = slice(start, start + CHUNK)
        near[part] = np.einsum("nd,nd->n", vectors[first[part]], vectors[second[part]], dtype=np.float64) >= threshold
    return np.column_stack([first, second])[near & (first != second)]


def clusters(count: int, pairs: np.ndarray) -> np.ndarray:
    """[count]: for each text the first text of its cluster, where pairs [_, 2] join texts."""
    graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    first = np.full(label.max(initial=-1) + 1, count)
    np.minimum.at(first, label, np.arange(count))
    return first[label]
