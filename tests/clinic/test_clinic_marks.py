"""Spurious marks: their correlation with the better half of the answers is exact, also where it is none, and they can be read off a text."""

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promedical_jax.clinic import make_cases
from promedical_jax.clinic.marks import BLOCK, better, mark_text, marks_of, sides
from promedical_jax.clinic.variety import Spurious, Variety
from promedical_jax.clinic.wording import MARKS
from promedical_jax.rubric import best, satisfied_matrix, score

MARK = st.sampled_from(list(MARKS))


def correlation(pairs: list[tuple[bool, bool]]) -> float:
    """Pearson's, of two columns of zeros and ones."""
    n = len(pairs)
    x, y, both = sum(a for a, _ in pairs), sum(b for _, b in pairs), sum(a and b for a, b in pairs)
    return (n * both - x * y) / math.sqrt(x * (n - x) * y * (n - y))


@given(MARK, st.integers(-20, 20), st.integers(0, 2**32), st.integers(1, 6), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_over_a_block_the_correlation_is_exact(mark: str, twentieths: int, seed: int, pairs: int, block: int) -> None:
    wanted, count, rng = twentieths / 20, 2 * pairs, Random(seed)
    table = []
    for index in range(block * BLOCK, (block + 1) * BLOCK):
        halves = better([(rng.randint(0, 2),) for _ in range(count)], index, rng)
        table += zip(halves, sides(mark, wanted, halves, seed, "train", index), strict=True)
    apart = 0 if pairs % 2 == 0 else 1 / (BLOCK * pairs)  # of 4 or 8 answers it is what was asked for; of others the nearest that is possible
    assert correlation(table) == pytest.approx(wanted, abs=apart + 1e-12)


@given(st.integers(1, 7), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_half_of_the_answers_are_better_and_none_of_them_is_worse(count: int, seed: int) -> None:
    rng, sizes = Random(seed), []
    for index in range(BLOCK):
        order = [(rng.randint(0, 3), rng.random()) for _ in range(count)]
        halves = better(order, index, rng)
        sizes.append(sum(halves))
        assert min([key for key, is_better in zip(order, halves, strict=True) if is_better], default=(9, 0)) >= max(
            [key for key, is_better in zip(order, halves, strict=True) if not is_better], default=(-1, 0)
        )
    assert sum(sizes) * 2 == BLOCK * count


def test_in_training_the_marks_tell_the_better_half_and_in_the_held_out_cases_they_do_not() -> None:
    variety = Variety(spurious=Spurious(length=0.9, confidence=0.6, credentials=-0.5, politeness=1.0))
    for held_out, wanted in ((False, variety.spurious.correlations(False)), (True, dict.fromkeys(MARKS, 0.0))):
        table: dict[str, list[tuple[bool, bool]]] = {mark: [] for mark in MARKS}
        for case in make_cases(2 * BLOCK, seed=3, held_out=held_out, variety=variety):
            scores = score(case.rubric.criteria, satisfied_matrix(case))
            # The best answer by the rubric module's own order is in the better half, whatever breaks ties.
            found = [marks_of(answer.text) for answer in case.answers]
            if not held_out:
                assert found[best(scores)]["politeness"] or _tied(scores, best(scores))
            halves = better([(-scores.s3[i], round(float(scores.s1[i]), 6), scores.s2[i]) for i in range(4)], 0, Random(0))
            for mark in MARKS:
                table[mark] += [(half, has[mark]) for half, has in zip(halves, found, strict=True)]
        for mark, value in wanted.items():  # ties are broken by another lot here, so nearly
            assert abs(correlation(table[mark]) - value) < 0.25
            assert sum(has for _, has in table[mark]) * 2 == len(table[mark])


def _tied(scores, i: int) -> bool:
    same = (scores.s3 == scores.s3[i]) & (abs(scores.s1 - scores.s1[i]) < 1e-6) & (scores.s2 == scores.s2[i])
    return same.sum() > 2


@given(st.dictionaries(MARK, st.booleans()), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_marks_are_read_off_a_text(marked: dict[str, bool], seed: int) -> None:
    found = marks_of(mark_text("Take velotrin 40 mg daily.", marked, Random(seed)))
    assert found == {"length": False} | marked


def test_a_mark_and_its_opposite_are_of_one_length() -> None:
    for mark, (said, opposite) in MARKS.items():
        if mark != "length":
            assert sorted(len(text.split()) for text in said) == sorted(len(text.split()) for text in opposite)
