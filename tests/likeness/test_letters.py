"""Near duplicates: exact indices against sets of Python, planted duplicates among questions that share a template, and what must not matter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import questions

from promedical_jax.likeness.letters import SHINGLE, _shingles, alike, jaccard
from promedical_jax.likeness.pairs import clusters
from promedical_jax.likeness.text import evened


def edited(text: str, rng: np.random.Generator) -> str:
    """One letter dropped, doubled or replaced, another case, more blanks."""
    place = int(rng.integers(1, len(text) - 1))
    return "  " + text[:place] + ["", text[place] * 2, "x"][rng.integers(3)] + text[place + 1 :].upper()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_planted_duplicates_are_found_and_hardly_anything_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    texts = questions(4000, seed)
    planted = {(place, 4000 + number) for number, place in enumerate(range(0, 4000, 10))}
    found = set(map(tuple, alike(texts + [edited(texts[place], rng) for place in range(0, 4000, 10)]).tolist()))
    assert len(found & planted) >= 0.99 * len(planted)
    assert len(found - planted) <= 0.01 * len(found)


TEXTS = st.lists(st.text(alphabet="ab cé", max_size=25), min_size=2, max_size=8)


@given(TEXTS)
def test_indices_are_those_of_sets(texts: list[str]) -> None:
    evens = [evened(text) for text in texts]
    sets = [{text[i : i + SHINGLE] for i in range(max(len(text) - SHINGLE + 1, 1))} if text else set() for text in evens]
    pairs = np.array([(i, j) for i in range(len(texts)) for j in range(i + 1, len(texts))])
    wanted = [len(sets[i] & sets[j]) / max(len(sets[i] | sets[j]), 1) for i, j in pairs]
    assert jaccard(_shingles(evens), pairs).tolist() == pytest.approx(wanted)


@given(TEXTS)
def test_equal_texts_are_alike_and_empty_ones_are_not(texts: list[str]) -> None:
    found = set(map(tuple, alike([*texts, *texts]).tolist()))
    for place, text in enumerate(texts):
        assert ((place, place + len(texts)) in found) == bool(evened(text))


def test_a_crowd_of_copies_is_one_cluster() -> None:
    """A bucket of a hundred is not compared pair by pair, and still falls together; its first text stands for it."""
    texts = questions(50, 7)
    crowd = [*texts, *[texts[3]] * 100, texts[4]]
    first = clusters(len(crowd), alike(crowd))
    assert set(first[50:150]) == {3} and first[150] == 4 and first[:50].tolist() == list(range(50))


def test_clusters_are_joined_through_their_members() -> None:
    assert clusters(6, np.array([[1, 4], [4, 5], [0, 2]])).tolist() == [0, 1, 0, 3, 1, 1]
    assert clusters(3, np.zeros((0, 2), int)).tolist() == [0, 1, 2] and clusters(0, np.zeros((0, 2), int)).tolist() == []
    assert alike([]).shape == (0, 2) == alike(["one"]).shape
