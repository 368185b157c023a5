"""From figures of seeds to verdicts on claims and checks."""

from dataclasses import replace
from math import inf, isnan, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from promedical_jax.bench.intervals import over_seeds
from promedical_jax.lab.budget import Bench
from promedical_jax.lab.findings import check, difference, judge
from promedical_jax.lab.measure import misordered
from promedical_jax.lab.recipe import LabConfig
from promedical_jax.lab.report import within
from promedical_jax.lab.tables import TABLES, Check, Claim, Column, Part, Row, Table

BASE = Bench(LabConfig(table="T1")).base()


def table(*claims: Claim, checks: tuple[Check, ...] = ()) -> Table:
    rows = tuple(Row(name, name, BASE) for name in ("a", "b"))
    return Table("T0", "title", "question", (Part("part", ()),), rows, claims, checks)


def figures(a: list[float], b: list[float], other: float = 0.0) -> dict[str, dict[int, dict[str, float]]]:
    return {row: {seed: {"safe": value, "other": other} for seed, value in enumerate(values)} for row, values in (("a", a), ("b", b))}


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6, unique=True))
def test_a_difference_is_sure_exactly_where_a_paired_t_test_is(apart: list[float]):
    other = [0.1 * i for i in range(len(apart))]
    ours = [x + y for x, y in zip(apart, other, strict=True)]
    one, p = difference(ours, other), ttest_rel(ours, other).pvalue
    if abs(p - 0.05) > 1e-6:
        assert (one.interval.low > 0 or one.interval.high < 0) == (p < 0.05)


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([0.8, 0.82, 0.81], [0.6, 0.61, 0.63], "reproduced"),
        ([0.6, 0.61, 0.63], [0.8, 0.82, 0.81], "contradicted"),
        ([0.6, 0.9, 0.7], [0.8, 0.7, 0.72], "undecided"),
        ([0.9], [0.1], "undecided"),  # of one seed nobody can tell
        ([nan, nan], [0.1, 0.2], "undecided"),
    ],
)
def test_a_verdict_is_where_the_interval_lies(a: list[float], b: list[float], verdict: str):
    [one] = judge(table(Claim("more", "a", "b", "safe")), figures(a, b))
    assert one.verdict == verdict


def test_a_claim_of_so_much_needs_so_much():
    a, b = [0.8, 0.82, 0.81], [0.6, 0.61, 0.63]
    claim = Claim("more", "a", "b", "safe", least=0.1)
    assert [one.verdict for one in judge(table(claim, replace(claim, least=0.3)), figures(a, b))] == ["reproduced", "contradicted"]
    against_itself = Claim("more", "a", "a", "safe", other="other")
    assert judge(table(against_itself), figures(a, b))[0].difference.interval.mean == pytest.approx(0.81)


def test_intervals_apart():
    assert difference([0.8, 0.82, 0.81], [0.6, 0.61, 0.63]).apart
    assert not difference([0.5, 0.7, 0.9], [0.45, 0.66, 0.85]).apart, "paired they differ, side by side their intervals overlap"
    assert difference([0.5, 0.7, 0.9], [0.45, 0.66, 0.85]).interval.low > 0


def test_one_seed_has_no_interval():
    one = over_seeds([0.5])
    assert one.mean == 0.5 and isnan(one.low) and isnan(one.high)
    assert isnan(over_seeds([nan]).mean)
    assert over_seeds([0.5, nan]).mean == 0.5


@pytest.mark.parametrize(
    ("one", "passed"),
    [
        (Check("low", "a", "safe", low=0.7), True),
        (Check("low", "a", "safe", low=0.9), False),
        (Check("high", "a", "safe", high=0.7), False),
        (Check("less", "a", "safe", "b", low=0.1, high=0.3), True),
        (Check("unknown", "a", "nothing", low=-inf), False),
    ],
)
def test_a_check_is_the_mean_in_its_bounds(one: Check, passed: bool):
    [found] = check(table(checks=(one,)), figures([0.8, 0.8], [0.6, 0.6]))
    assert found.passed is passed


def test_tables_speak_of_rows_that_they_have():
    for make in TABLES.values():
        for budget in ("small", "full"):
            one = make(Bench(LabConfig(table="all", budget=budget)))
            rows = [row.name for row in one.rows]
            assert len(set(rows)) == len(rows)
            spoken = {name for claim in one.claims for name in (claim.ahead, claim.behind)}
            spoken |= {name for each in one.checks for name in (each.row, each.minus) if name}
            assert spoken | set(one.curves) <= set(rows)


def test_an_interval_is_shown_to_end_where_shares_do():
    beyond = over_seeds([0.9, 1.0, 1.0])
    assert beyond.high > 1 and within(beyond, Column("safe", "safe")) == replace(beyond, high=1.0)
    assert within(beyond, Column("length", "tokens", share=False)) == beyond
    below = over_seeds([-0.1, 0.1, 0.05])
    assert within(below, Column("hacked", "overstated", signed=True)) == below and within(below, Column("safe", "safe")).low == 0
    assert isnan(within(over_seeds([0.5]), Column("safe", "safe")).low), "of one seed there is no interval"


def group(advantages: list[float], scores: list[tuple[float, float, float]]) -> list[dict[str, float]]:
    reward = [s1 + 0.1 * s2 - 2 * s3 for s1, s2, s3 in scores]
    return [{"advantage": a, "reward": r, "s1": s1, "s2": s2, "s3": s3} for a, r, (s1, s2, s3) in zip(advantages, reward, scores, strict=True)]


def test_misordered_counts_pairs_that_stand_against_their_scores():
    scores = [(1.0, 0.0, 0.0), (0.5, 1.0, 0.0), (1.0, 2.0, 1.0)]  # by the order, first the first
    right, turned = [0.9, 0.1, -1.0], [-1.0, 0.1, 0.9]
    for advantage in ("scalar", "lexicographic", "tiered"):
        assert misordered(iter([group(right, scores)]), advantage) == 0
        assert misordered(iter([group(turned, scores)]), advantage) == 1
        assert misordered(iter([group(right, scores), group(turned, scores)]), advantage) == 0.5
    assert misordered(iter([group([0.1, 0.9, -1.0], scores)]), "tiered") == 0, "among the safe, tiers weigh as they weigh"
    assert misordered(iter([group([0.1, 0.9, -1.0], scores)]), "lexicographic") == pytest.approx(1 / 3)
    assert isnan(misordered(iter([group([0.0, 0.0], [(1.0, 0.0, 0.0)] * 2)]), "scalar"))
