"""What names an experiment, what it needs, and what is cut from its cases."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promedical_jax.clinic import make_cases
from promedical_jax.lab.budget import CLINIC, Bench
from promedical_jax.lab.experiment import Base, Cut, Judge, Policy, cut_cases, in_order, name, needs
from promedical_jax.lab.recipe import LabConfig
from promedical_jax.lab.tables import TABLES
from promedical_jax.rubric.case import Tier

CASES = make_cases(24, seed=3, variety=CLINIC)


def test_the_same_recipe_has_the_same_folder_and_any_other_number_another():
    bench = Bench(LabConfig(table="T4"))
    usual = bench.grpo(bench.judge(), "scalar")
    assert name(usual, 0) == name(Bench(LabConfig(table="T3")).grpo(bench.judge(), "scalar"), 0)
    others = [
        bench.grpo(bench.judge(), "tiered"),
        bench.grpo(bench.judge(), "scalar", Cut(criteria=1)),
        bench.grpo(bench.judge(cut=Cut(safety_verdicts=0.5)), "scalar"),
        bench.grpo(bench.judge("implicit"), "scalar"),
        Bench(LabConfig(table="T4", budget="full")).grpo(bench.judge(), "scalar"),
    ]
    assert len({name(one, 0) for one in (usual, *others)}) == 6
    assert name(usual, 0).startswith("seed0/policy-") and name(usual, 1).startswith("seed1/")
    assert Policy.model_validate_json(usual.model_dump_json()) == usual  # the file beside the figures says it all


def test_what_is_needed_comes_first_and_once():
    bench = Bench(LabConfig(table="all"))
    wanted = [row.experiment for make in TABLES.values() for row in make(bench).rows]
    order = in_order(wanted)
    places = {name(one, 0): place for place, one in enumerate(order)}
    assert len(places) == len(order) and {name(one, 0) for one in wanted} <= places.keys()
    for place, one in enumerate(order):
        needed = [one.base] if isinstance(one, Judge) else [one.base, *([one.judge] if one.judge else [])] if isinstance(one, Policy) else []
        assert needed == needs(one) and all(places[name(need, 0)] < place for need in needed)
    assert any(isinstance(one, Base) for one in wanted)


@pytest.mark.parametrize("tier", [Tier.SAFETY, Tier.EXCELLENCE])
def test_a_tier_that_is_cut_is_in_no_rubric_and_no_verdict(tier: Tier):
    cut = cut_cases(CASES, Cut(rubric_without=(tier,)))
    assert any(c.tier is tier for case in CASES for c in case.rubric.criteria)
    for before, after in zip(CASES, cut, strict=True):
        assert [c for c in before.rubric.criteria if c.tier is not tier] == list(after.rubric.criteria)
        kept = {c.id for c in after.rubric.criteria}
        assert [one for one in before.verdicts if one.criterion in kept] == list(after.verdicts)
        assert after.answers == before.answers and after.id == before.id


@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=20)
def test_verdicts_that_a_smaller_share_keeps_a_larger_one_keeps_too(one: float, other: float):
    few, many = (cut_cases(CASES, Cut(safety_verdicts=share)) for share in sorted((one, other)))
    for a, b, whole in zip(few, many, CASES, strict=True):
        assert set(a.verdicts) <= set(b.verdicts) <= set(whole.verdicts)
        assert a.rubric == whole.rubric, "the criteria stay: nobody has judged them"
        tiers = {c.id: c.tier for c in a.rubric.criteria}
        assert [v for v in whole.verdicts if tiers[v.criterion] is not Tier.SAFETY] == [v for v in a.verdicts if tiers[v.criterion] is not Tier.SAFETY]


def test_shares_at_the_ends():
    silent = cut_cases(CASES, Cut(safety_verdicts=0.0))
    assert not any(c.tier is Tier.SAFETY for case in silent for v in case.verdicts for c in case.rubric.criteria if c.id == v.criterion)
    assert cut_cases(CASES, Cut()) == CASES
    half = cut_cases(make_cases(400, seed=1), Cut(safety_verdicts=0.5))
    kept = sum(any(c.tier is Tier.SAFETY and c.id == v.criterion for v in case.verdicts for c in case.rubric.criteria) for case in half)
    assert 160 < kept < 240


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_criteria_of_each_tier_with_weights_that_add_up(count: int):
    for before, after in zip(CASES, cut_cases(CASES, Cut(criteria=count)), strict=True):
        for tier in Tier:
            there = [c.id for c in before.rubric.criteria if c.tier is tier]
            assert [c.id for c in after.rubric.criteria if c.tier is tier] == there[:count]
        assert sum(c.weight for c in after.rubric.criteria if c.weight) == pytest.approx(1)
