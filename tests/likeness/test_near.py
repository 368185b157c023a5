"""Near vectors: cells and the mesh against every pair in float64, what must not matter, and what the n-grams call near."""

from functools import partial

import jax
import numpy as np
import pytest
from texts import questions

from promedical_jax.likeness import cells, mesh, ngrams
from promedical_jax.likeness.pairs import clusters, holding
from promedical_jax.model.sharding import make_mesh


def crowd(count: int, width: int, seed: int) -> np.ndarray:
    """Rows of length 1, every third one near an earlier one: at cosines from about 0.8 to 1; and one row of zeros."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, width))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for place in range(3, count, 3):
        rows[place] = rows[rng.integers(place)] + rng.uniform(0, 0.75) * rng.normal(size=width) * width**-0.5
    rows[count // 2] = 0
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def every(vectors: np.ndarray, threshold: float) -> np.ndarray:
    wide = vectors.astype(np.float64)
    return np.argwhere(np.triu(wide @ wide.T >= threshold, 1))


@pytest.mark.parametrize(("count", "width", "threshold"), [(700, 16, 0.9), (1111, 40, 0.85), (3, 8, 0.95)])
@pytest.mark.parametrize("fsdp", [1, 8])
def test_the_mesh_finds_the_same_pairs_on_one_device_and_on_eight(count: int, width: int, threshold: float, fsdp: int) -> None:
    vectors = crowd(count, width, count)
    found = mesh.near(vectors, threshold, make_mesh(fsdp, devices=jax.devices()[:fsdp]))
    assert found.tolist() == every(vectors, threshold).tolist()
    assert count == 3 or len(found) > 50


def test_the_mesh_takes_more_rows_and_columns_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "ROWS", 64)
    monkeypatch.setattr(mesh, "COLUMNS", 1024)
    vectors = crowd(2500, 16, 1)
    where = make_mesh(devices=jax.devices())
    assert mesh.near(vectors, 0.9, where).tolist() == every(vectors, 0.9).tolist()
    jax.clear_caches()  # the sizes of blocks are of this test alone


def test_cells_miss_hardly_a_pair_and_invent_none(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = crowd(6000, 64, 2)
    exact = every(vectors, 0.9).tolist()
    assert cells.near(vectors, 0.9).tolist() == exact  # few enough for all pairs
    monkeypatch.setattr(cells, "ALL", 1000)
    monkeypatch.setattr(cells, "ROWS_A_CELL", 100)
    found = cells.near(vectors, 0.9).tolist()
    assert set(map(tuple, found)) <= set(map(tuple, exact)) and len(found) >= 0.99 * len(exact)
    assert found == sorted(found) and cells.near(vectors, 0.9).tolist() == found


def test_rows_that_are_equal_or_empty_are_what_they_are() -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 1, 0, 3, 0]]
    vectors[3] = 0
    for near in (cells.near, partial(mesh.near, mesh=make_mesh(devices=jax.devices()))):
        assert near(vectors, 1.0).tolist() == [[0, 2], [0, 4], [2, 4]] and near(vectors[:0], 0.9).shape == (0, 2)
    assert clusters(5, cells.near(vectors, 1.0)).tolist() == [0, 1, 0, 3, 0]
    assert holding(vectors, np.array([[4, 0], [0, 4], [2, 2], [0, 1]]), 0.9).tolist() == [[0, 4]]


def test_ngrams_know_the_same_words_in_another_order_and_nothing_of_synonyms() -> None:
    said = [
        "How should acute gout be treated when the patient takes warfarin?",
        "The patient takes warfarin: when acute, how should gout be treated?",
        "How should acute gout be treated when the patient takes heparin?",
        "What is the therapy of a sudden attack of podagra under anticoagulation?",
        "", "?!", "a b", "B, a",
    ]  # fmt: skip
    vectors = ngrams.embed(said)
    cosine = vectors @ vectors.T
    assert cosine[0, 1] > 0.97 and 0.8 < cosine[0, 2] < 0.93 and cosine[0, 3] < 0.6
    assert not vectors[4:6].any() and cosine[6, 7] == pytest.approx(1)
    assert np.linalg.norm(vectors[[0, 1, 2, 3, 6, 7]], axis=1) == pytest.approx(1, abs=1e-6)


def test_an_ngram_vector_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*questions(50, 0), "Ärzte ﬁnden 5 µg", "x"]
    whole = ngrams.embed(texts)
    assert all((ngrams.embed([text]) == row).all() for text, row in zip(texts, whole, strict=True))
    monkeypatch.setattr(ngrams, "CHUNK", 7)
    assert (ngrams.embed(texts) == whole).all()
