"""Intervals against known values, and what must hold of them whatever the data."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test

from promedical_jax.bench.intervals import Interval, bootstrap, bootstrap_of, bootstrap_ratio, clopper_pearson, sign_flips, wilson

shares = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (1, 1, 0.2065, 1.0)],  # 81 of 263: Newcombe 1998, table I
)
def test_wilson_has_the_published_values(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert interval.mean == successes / n
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_ordered_and_never_a_point(drawn: tuple[int, int]) -> None:
    interval = wilson(*drawn)
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1
    assert interval.low < interval.high


def test_wilson_refuses_more_successes_than_trials() -> None:
    with pytest.raises(ValueError, match="between 0 and n"):
        wilson(3, 2)


def test_nothing_measured_is_nan() -> None:
    shares_of_nothing = wilson(0, 0), clopper_pearson(0, 0), bootstrap_ratio([0, 0], [0, 0])
    for interval in (*shares_of_nothing, bootstrap([]), bootstrap([math.nan, math.nan]), bootstrap_of([], share), bootstrap_of([[0, 0]], share)):
        assert all(math.isnan(value) for value in interval.as_dict().values())


@settings(max_examples=40, deadline=None)
@given(shares)
def test_bootstrap_is_ordered_and_stays_among_the_values(values: list[float]) -> None:
    interval = bootstrap(values, n=50)
    assert interval.mean == pytest.approx(np.mean(values))
    assert -1e-9 <= interval.low <= interval.mean <= interval.high <= 1 + 1e-9


def test_bootstrap_is_a_function_of_its_seed() -> None:
    values = np.random.default_rng(1).random(40)
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3) != bootstrap(values, seed=4)


def test_bootstrap_agrees_with_the_normal_interval_when_there_are_many_cases() -> None:
    values = np.random.default_rng(0).normal(10.0, 2.0, size=2000)
    interval, half = bootstrap(values, n=2000), 1.96 * values.std() / math.sqrt(2000)
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = [(interval := bootstrap(rng.random(60) < 0.4, seed=i, n=300)).low <= 0.4 <= interval.high for i in range(200)]
    assert 0.90 <= np.mean(covered) <= 0.99


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_shares_that_are_all_alike_get_wilsons_interval_and_not_a_point(share: float) -> None:
    assert bootstrap([share] * 12) == wilson(share * 12, 12)


def test_lengths_that_are_all_alike_are_a_point() -> None:
    assert bootstrap([7.0, 7.0]) == Interval(7.0, 7.0, 7.0)


def test_abstained_cases_are_left_out() -> None:
    assert bootstrap([0.2, math.nan, 0.9]) == bootstrap([0.2, 0.9])


def test_a_ratio_weighs_judgements_and_resamples_cases() -> None:
    one_big_case = bootstrap_ratio([90, 0], [100, 1])
    assert one_big_case.mean == pytest.approx(90 / 101)
    assert one_big_case.low == 0.0  # now and then the small case is drawn twice: 101 judgements are not 101 independent ones


@pytest.mark.parametrize("values", [[[0.1, 0.2]], 0.5])
def test_bootstrap_wants_one_value_per_case(values: object) -> None:
    with pytest.raises(ValueError, match="one entry per case"):
        bootstrap(values)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_exact_bounds_are_scipys(drawn: tuple[int, int]) -> None:
    interval, wanted = clopper_pearson(*drawn), binomtest(*drawn).proportion_ci(0.95, method="exact")
    assert (interval.mean, interval.low, interval.high) == pytest.approx((drawn[0] / drawn[1], wanted.low, wanted.high))
    assert interval.low <= interval.mean <= interval.high


@pytest.mark.parametrize(("successes", "low", "high"), [(0, 0.0, 1 - 0.025**0.1), (10, 0.025**0.1, 1.0)])
def test_exact_bounds_of_none_and_of_all(successes: int, low: float, high: float) -> None:
    assert clopper_pearson(successes, 10) == Interval(successes / 10, pytest.approx(low), pytest.approx(high))  # (alpha / 2) ** (1 / n), by hand


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 2), (0, -1)])
def test_exact_bounds_refuse_more_successes_than_trials(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="between 0 and n"):
        clopper_pearson(successes, n)


def share(sums: np.ndarray) -> float:
    return float(sums[0] / sums[1]) if sums[1] else math.nan


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(5, 9)), min_size=1, max_size=20))
def test_a_bootstrapped_statistic_is_that_of_the_sums_and_lies_in_its_interval(rows: list[tuple[int, int]]) -> None:
    interval = bootstrap_of(rows, share, n=50)
    assert interval.mean == pytest.approx(bootstrap_ratio(*zip(*rows, strict=True), n=50).mean)
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1


def test_a_bootstrapped_statistic_agrees_with_the_ratios_interval_where_there_are_many_cases() -> None:
    rng = np.random.default_rng(0)
    trials = rng.integers(1, 9, 300)
    rows = np.stack([rng.binomial(trials, 0.7), trials], 1)
    interval, ratio = bootstrap_of(rows, share), bootstrap_ratio(rows[:, 0], rows[:, 1])
    assert (interval.low, interval.high) == pytest.approx((ratio.low, ratio.high), abs=0.1 * (ratio.high - ratio.low))


def test_a_bootstrapped_statistic_is_a_function_of_its_seed_and_sees_rows_in_their_shape() -> None:
    rows = np.random.default_rng(1).random((30, 4, 2))

    def largest(sums: np.ndarray) -> float:
        assert sums.shape == (4, 2)
        return float(sums.max() / sums.sum())

    assert bootstrap_of(rows, largest, seed=3) == bootstrap_of(rows, largest, seed=3) != bootstrap_of(rows, largest, seed=4)


def test_resamples_without_a_statistic_are_left_out() -> None:
    rows = [[0, 0], [0, 0], [0, 0], [1, 2]]  # a third of the resamples have no trial
    assert bootstrap_of(rows, share) == Interval(0.5, 0.5, 0.5)


@pytest.mark.parametrize("values", [[0.5, 0.5, 0.5, -0.5, 0.0, 0.25], [1.0, 0.2, -0.1, 0.4, 0.3, 0.35, -0.25, 0.1, 0.6], [0.5, -0.5]])
def test_few_differences_are_tested_exactly(values: list[float]) -> None:
    """Against scipy, which tries all signs too; ties stay and change nothing."""
    wanted = permutation_test((np.array(values),), lambda x, axis: x.mean(axis), permutation_type="samples", vectorized=True, n_resamples=np.inf).pvalue
    assert sign_flips(values) == pytest.approx(wanted, abs=1e-12)
    assert sign_flips([*values, 0.0, 0.0, math.nan]) == sign_flips(values) == sign_flips([-value for value in values])


def test_many_differences_are_tested_by_draws_that_are_the_same_each_time() -> None:
    rng = np.random.default_rng(3)
    for shift in (0.0, 0.15, 0.25):
        values = rng.normal(shift, 1, 120)
        wanted = permutation_test((values,), lambda x, axis: x.mean(axis), permutation_type="samples", vectorized=True, n_resamples=20_000, rng=rng).pvalue
        assert sign_flips(values) == sign_flips(values) == pytest.approx(wanted, abs=0.015)


def test_equal_runs_do_not_differ_and_nothing_is_no_test() -> None:
    assert sign_flips([0.0] * 5) == 1.0 and sign_flips([0.0] * 500) == 1.0 and sign_flips([0.3]) == 1.0 and math.isnan(sign_flips([math.nan]))


def test_the_test_errs_as_often_as_it_says() -> None:
    """Of 400 pairs of equal runs with ties, those called different at 0.05: 20, give or take."""
    rng = np.random.default_rng(0)
    draws = [rng.choice([-0.5, -0.25, 0.0, 0.0, 0.25, 0.5], 13) for _ in range(400)]
    assert 5 <= sum(sign_flips(draw) <= 0.05 for draw in draws) <= 32
