"""S1, S2, S3 and their order, against exact arithmetic and against the order's laws."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from promedical_jax.errors import InputError
from promedical_jax.rubric import (
    Answer,
    Case,
    Criterion,
    Judgement,
    Message,
    Polarity,
    Rubric,
    Scores,
    Tier,
    Verdict,
    best,
    prefer,
    satisfied_matrix,
    score,
    win_points,
    win_rate,
)

NAN = math.nan


def criteria_of(weights, excellence=0, safety=0):
    """Proficiency criteria in the ratio of `weights`, then excellence, then safety."""
    total = sum(weights)
    proficiency = [Criterion(id=f"p{n}", text="t", tier=Tier.PROFICIENCY, weight=w / total) for n, w in enumerate(weights)]
    bonus = [Criterion(id=f"e{n}", text="t", tier=Tier.EXCELLENCE) for n in range(excellence)]
    return [*proficiency, *bonus, *(Criterion(id=f"s{n}", text="t", tier=Tier.SAFETY) for n in range(safety))]


rubrics = st.builds(criteria_of, st.lists(st.integers(1, 10), min_size=1, max_size=5), st.integers(0, 3), st.integers(0, 3))
values = st.sampled_from([0.0, 1.0, 0.25, NAN])


@st.composite
def judged_rubrics(draw):
    criteria = draw(rubrics)
    return criteria, np.array(draw(st.lists(st.lists(values, min_size=len(criteria), max_size=len(criteria)), min_size=1, max_size=5)))


scores_values = st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0, NAN]), st.integers(0, 3), st.integers(0, 2))
scores_lists = st.lists(scores_values, min_size=1, max_size=7)


def scores_of(rows):
    return Scores(*np.array(rows, float).reshape(-1, 3).T)


def test_the_three_scores_of_one_answer():
    criteria = criteria_of([3, 1], excellence=2, safety=2)
    scores = score(criteria, [1, 0, 1, 1, 1, 0])
    assert (scores.s1, scores.s2, scores.s3) == (0.75, 2, 1)


def test_abstentions_are_left_out_of_all_three():
    scores = score(criteria_of([3, 1], excellence=2, safety=2), [NAN, 1, NAN, 1, NAN, NAN])
    assert (scores.s1, scores.s2, scores.s3) == (1, 1, 0)


def test_an_answer_without_a_judged_proficiency_criterion_abstains():
    scores = score(criteria_of([1], safety=1), np.array([[NAN, 0], [1, 0]]))
    assert np.isnan(scores.s1[0]) and scores.judged.tolist() == [False, True]


@given(judged_rubrics())
def test_scores_equal_exact_arithmetic(case):
    criteria, satisfied = case
    scores = score(criteria, satisfied)
    for row, values in enumerate(satisfied):
        seen = [(c, Fraction(v)) for c, v in zip(criteria, values, strict=True) if not math.isnan(v)]
        weight = sum(Fraction(c.weight) for c, _ in seen if c.weight)
        if weight:
            assert scores.s1[row] == pytest.approx(float(sum(Fraction(c.weight) * v for c, v in seen if c.weight) / weight), abs=1e-12)
        else:
            assert math.isnan(scores.s1[row])
        assert scores.s2[row] == sum(v for c, v in seen if c.tier is Tier.EXCELLENCE)
        assert scores.s3[row] == sum(1 - v for c, v in seen if c.tier is Tier.SAFETY)


@given(judged_rubrics(), st.data())
def test_abstaining_equals_dropping_the_criterion_and_renormalising(case, data):
    criteria, satisfied = case
    if sum(c.tier is Tier.PROFICIENCY for c in criteria) < 2:
        return
    gone = data.draw(st.integers(0, len(criteria) - 1))
    silent = satisfied.copy()
    silent[:, gone] = NAN
    left = [c for n, c in enumerate(criteria) if n != gone]
    total = sum(c.weight or 0 for c in left)
    renormalised = [c.model_copy(update={"weight": c.weight / total}) if c.weight else c for c in left]
    Rubric(criteria=tuple(renormalised))  # a valid rubric again
    a, b = score(criteria, silent), score(renormalised, np.delete(satisfied, gone, axis=1))
    assert not prefer(a, b).any()
    np.testing.assert_allclose(a.s1, b.s1, atol=1e-12)
    np.testing.assert_array_equal([a.s2, a.s3], [b.s2, b.s3])


@pytest.mark.parametrize("shape", [(2,), (3, 2), (4, 3, 2), (0, 2)])
def test_leading_axes_are_kept(shape):
    scores = score(criteria_of([1, 1]), np.ones(shape))
    assert scores.s1.shape == scores.s2.shape == scores.s3.shape == shape[:-1]


@pytest.mark.parametrize("satisfied", [[1, 1, 1], 1.0, [[1], [1]]])
def test_a_wrong_number_of_columns_is_refused(satisfied):
    with pytest.raises(InputError, match="one column a criterion"):
        score(criteria_of([1, 1]), satisfied)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.inf])
def test_values_outside_the_unit_interval_are_refused(value):
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        score(criteria_of([1, 1]), [1, value])


def test_the_matrix_averages_raters_and_leaves_abstentions_out():
    forbidden = Criterion(id="b", text="t", tier=Tier.SAFETY, polarity=Polarity.FORBIDDEN)
    said_of_x = [("x", "a", "met", "r1"), ("x", "a", "unmet", "r2"), ("x", "a", "abstain", "r3"), ("x", "b", "met", "r1")]
    said_of_y = [("y", "b", "unmet", "r1"), ("y", "a", "abstain", "r1")]
    case = Case(
        id="c",
        instruction=(Message(role="user", content="q"),),
        answers=(Answer(id="x", text="t"), Answer(id="y", text="t")),
        rubric=Rubric(criteria=(Criterion(id="a", text="t", tier=Tier.PROFICIENCY, weight=1), forbidden)),
        verdicts=tuple(Judgement(answer=a, criterion=c, verdict=Verdict(v), rater=r) for a, c, v, r in said_of_x + said_of_y),
    )
    np.testing.assert_array_equal(satisfied_matrix(case), [[0.5, 0], [NAN, 1]])
    np.testing.assert_array_equal(satisfied_matrix(case, "r2"), [[0, NAN], [NAN, NAN]])
    assert np.isnan(satisfied_matrix(case, "nobody")).all()
    assert satisfied_matrix(case.model_copy(update={"answers": (), "verdicts": ()})).shape == (0, 2)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ((0.0, 0, 0), (1.0, 9, 1)),  # no skill buys back a violation
        ((0.6, 0, 1), (0.5, 9, 1)),  # no bonus outweighs proficiency
        ((0.5, 2, 1), (0.5, 1, 1)),
    ],
)
def test_the_order_is_lexicographic(better, worse):
    a, b = scores_of([better]), scores_of([worse])
    assert (prefer(a, b), prefer(b, a), prefer(a, a)) == (1, -1, 0)


@given(scores_values, scores_values)
def test_the_order_is_that_of_tuples(a, b):
    ours = prefer(scores_of([a]), scores_of([b]))[0]
    key_a, key_b = (-a[2], a[0], a[1]), (-b[2], b[0], b[1])
    assert ours == (0 if math.isnan(a[0]) or math.isnan(b[0]) else (key_a > key_b) - (key_a < key_b))


near = st.integers(-4, 4).map(lambda n: 0.5 + n * 4e-10)


@given(*[st.tuples(near, near, near)] * 3)
def test_the_order_is_transitive_even_for_scores_that_are_nearly_equal(a, b, c):
    a, b, c = (scores_of([x]) for x in (a, b, c))
    if prefer(a, b) >= 0 and prefer(b, c) >= 0:
        assert prefer(a, c) == max(prefer(a, b), prefer(b, c))


@given(st.lists(st.integers(1, 2000), min_size=2, max_size=8), st.data())
def test_float_noise_in_sums_of_weights_makes_no_difference(weights, data):
    order = data.draw(st.permutations(range(len(weights))))
    met = np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=len(weights), max_size=len(weights))))
    a = score(criteria_of(weights), met)
    b = score(criteria_of([weights[n] for n in order]), met[list(order)])
    assert prefer(a, b) == 0


@given(scores_lists, scores_lists)
def test_prefer_broadcasts_and_is_antisymmetric(rows, columns):
    a, b = scores_of(rows), scores_of(columns)
    table = prefer(a[:, None], b[None, :])
    assert table.shape == (len(rows), len(columns))
    np.testing.assert_array_equal(table.T, -prefer(b[:, None], a[None, :]))
    np.testing.assert_array_equal(table[0], prefer(a[0], b))


@given(scores_lists)
def test_the_best_of_a_group_is_beaten_by_none_and_is_the_first_of_its_equals(rows):
    scores = scores_of(rows)
    chosen = best(scores)
    against = prefer(scores[[chosen]], scores)
    if scores.judged.any():
        assert scores.judged[chosen] and (against >= 0).all()
        assert chosen == np.flatnonzero(scores.judged & (against == 0))[0]
    else:
        assert chosen == 0


def test_win_rate_counts_a_tie_half_and_leaves_abstentions_out():
    a = scores_of([(1, 0, 0), (0.5, 0, 0), (0, 0, 0), (NAN, 0, 0)])
    b = scores_of([(0, 0, 0), (0.5, 0, 0), (1, 0, 0), (0, 0, 0)])
    np.testing.assert_array_equal(win_points(a, b), [1, 0.5, 0, NAN])
    assert win_rate(a, b) == 0.5
    assert win_rate(a[:2], b[:2]) == 0.75
    assert math.isnan(win_rate(a[3:], b[3:]))


@given(scores_lists)
def test_win_rates_of_both_sides_sum_to_one(rows):
    a = scores_of(rows)
    b = a[::-1]
    if (a.judged & b.judged).any():
        assert win_rate(a, b) + win_rate(b, a) == pytest.approx(1)


@given(hnp.arrays(float, st.integers(1, 4), elements=st.floats(0, 1, width=32)))
def test_soft_verdicts_score_between_the_worst_and_the_best(values):
    scores = score(criteria_of([1] * len(values)), values)
    assert values.min() - 1e-12 <= scores.s1 <= values.max() + 1e-12
