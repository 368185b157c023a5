"""Reward functions with TRL's signature: what they are given, what they may say, and what becomes of it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import CONFIG

from promedical_jax.config import GrpoConfig, PpoConfig, RewardFunction
from promedical_jax.errors import InputError
from promedical_jax.recipe import dump, read_recipe
from promedical_jax.reward import UNCALIBRATED, RewardModel
from promedical_jax.rubric import Case
from promedical_jax.train import rewards
from promedical_jax.train.functions import add_weighted, criteria_of, find_functions, values

CASE = Case.model_validate({
    "id": "c", "instruction": [{"role": "user", "content": "I cough."}],
    "rubric": {"criteria": [{"id": "p", "text": "P.", "tier": "proficiency", "weight": 1.0}, {"id": "s", "text": "S.", "tier": "safety"}]},
})  # fmt: skip
OTHER = CASE.model_copy(update={"id": "d"})
GIVEN = [CASE, OTHER], [["1. Rest.", "Rest."], ["", "1."]], [[[5, 6], [6]], [[], [5]]]
SOURCE = """
SEEN = []

def steps(prompts, completions, completion_ids, case, rubric, **columns):
    SEEN.append(dict(prompts=prompts, completions=completions, completion_ids=completion_ids, case=case, rubric=rubric, columns=columns))
    return [1.0 if "1." in turns[0]["content"] else 0 for turns in completions]

async def short(completions, **rest):
    return [None if not turns[0]["content"] else -len(turns[0]["content"]) for turns in completions]

def fails(**_): raise KeyError("dose")
def few(completions, **_): return [1.0]
def words(completions, **_): return ["good"] * len(completions)
def endless(completions, **_): return [float("inf")] * len(completions)
def big(completions, **_): return [7] * len(completions)
def half(completions, **_): return [0.5] * len(completions)
NUMBER = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(SOURCE)
    return tmp_path / "mine.py"


def named(file: Path, name: str, **keys) -> RewardFunction:
    return RewardFunction(function=f"{file}:{name}", **keys)


def said_by(*functions: RewardFunction) -> np.ndarray:
    return values(find_functions(functions), *GIVEN)


def test_a_function_gets_what_trl_gives_and_may_abstain(file: Path) -> None:
    found = find_functions([named(file, "steps", tier="excellence"), named(file, "short")])
    said = values(found, *GIVEN)
    np.testing.assert_array_equal(said, [[[1, -8], [0, -5]], [[0, np.nan], [1, -2]]])
    [seen] = found[0][1].__globals__["SEEN"]
    assert seen["prompts"] == [[{"role": "user", "content": "I cough."}]] * 4 and seen["case"] == ["c", "c", "d", "d"]
    assert seen["completions"][0] == [{"role": "assistant", "content": "1. Rest."}] and seen["completion_ids"] == [[5, 6], [6], [], [5]]
    assert seen["rubric"][0]["criteria"][0]["weight"] == 1.0 and not seen["columns"]


@pytest.mark.parametrize(("name", "keys", "sentence"), [
    ("fails", {}, "failed \\(KeyError: 'dose'\\); mend it, or let it return None"),
    ("few", {}, "returned 1 numbers for 4 completions"),
    ("words", {}, "must return a list of numbers and None"),
    ("endless", {}, "infinite"),
    ("big", {"tier": "excellence"}, "of tier excellence and returned 7, .*scale it"),
    ("half", {"tier": "safety"}, "of tier safety and returned 0.5; return 1 for a safe answer, 0 for a violation"),
])  # fmt: skip
def test_what_a_reward_cannot_be_is_refused(name: str, keys: dict, sentence: str, file: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        said_by(named(file, name, **keys))


def test_names_that_are_not_there_are_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    for function, sentence in ((f"{file}:none", "has no function 'none'"), (f"{file}:NUMBER", "has no function 'NUMBER'"), ("none.py:f", "no such file"),
                               ("no_package.of_mine:f", "cannot be imported"), (f"{tmp_path / 'broken.py'}:f", "No module named 'nothing_of_this_name'")):
        with pytest.raises(InputError, match=sentence):
            find_functions([RewardFunction(function=function)])


def recipe(**keys) -> GrpoConfig:
    return GrpoConfig(out="o", cases="c", model="m", **keys)


def test_recipes_that_nobody_judges_or_no_tier_orders_are_refused(tmp_path: Path) -> None:
    one = RewardFunction(function="a:b", tier="excellence")
    for keys, sentence in (({}, "nobody judges the answers"), ({"functions": (one, RewardFunction(function="c:b", tier="proficiency"))}, "names of their own"),
                           ({"functions": ({"function": "a:b"},)}, "goes by tiers, and a:b of functions has none"),
                           ({"functions": ({"function": "a:b", "tier": "proficiency", "weight": 2},)}, "weight of 2; give it one in"),
                           ({"functions": ({"function": "a:b", "tier": "safety", "weight": 2},)}, "leave its weight out"),
                           ({"functions": (one,)}, "none is of tier proficiency, so without reward_model no answer has an S1"),
                           ({"functions": ({"function": "a"},)}, "function")):
        with pytest.raises(ValueError, match=sentence):
            recipe(**keys)
    PpoConfig(out="o", cases="c", model="m", functions=({"function": "a:b"},))
    with pytest.raises(ValueError, match=r"watch\.judge is given, and watch\.cases is not"):
        recipe(reward_model="r", watch={"judge": "another"})
    whole = recipe(functions=(one, RewardFunction(function="a:c", weight=0.5)), advantage="scalar", reward_model="r")
    (tmp_path / "recipe.yaml").write_text(dump(whole))
    assert read_recipe(GrpoConfig, tmp_path / "recipe.yaml") == whole
    flags = {"out": "o", "cases": "c", "model": "m", "reward_model": "r", "functions": "[{function: 'a:b', tier: excellence}]"}
    assert read_recipe(GrpoConfig, None, flags).functions == (one,)


@pytest.mark.parametrize(("functions", "sentence"), [
    ("[{function: my_rewards.numbered, tier: excellence}]", "--functions: 'function' of number 1 is 'my_rewards.numbered': string should match pattern"),
    ("[{function: 'a:b', teir: excellence}]", "--functions: 'teir' of number 1 is 'excellence': extra inputs are not permitted"),
    ("[{function: 'a:b'}, {tier: excellence}]", "--functions: 'function' of number 2 is missing"),
    ("[{function: 'a:b', tier: veto}]", "--functions: 'tier' of number 1 is 'veto': input should be 'proficiency', 'excellence' or 'safety'"),
])  # fmt: skip
def test_faults_in_a_recipe_s_functions_are_named(functions: str, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        read_recipe(GrpoConfig, None, {"out": "o", "cases": "c", "model": "m", "reward_model": "r", "functions": functions})
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_functions_with_a_tier_are_criteria_behind_the_rubric_s(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = np.array([[[2.0, 2.0], [-2.0, 2.0], [2.0, 2.0]]])
    monkeypatch.setattr(rewards, "jit_score", lambda *_, **__: raw)
    functions = tuple(RewardFunction(function=f"a:{tier}", tier=tier, weight=weight)
                      for tier, weight in (("proficiency", 0.25), ("excellence", 1), ("safety", 1)))  # fmt: skip
    said = np.array([[[1, 0.5, 1], [0.5, np.nan, 1], [np.nan, 1, 0]]])
    model = RewardModel({}, CONFIG, UNCALIBRATED)
    judged = rewards.judge(model, SimpleNamespace(tiers=None), [CASE], recipe(functions=functions, reward_model="r"), said_by_functions=said)
    np.testing.assert_allclose(judged.scores.s1, [[1, 0.125 / 1.25, 1]])  # of who abstains the rubric's own is left
    np.testing.assert_allclose(judged.scores.s2, [[0.5, 0, 1]])
    np.testing.assert_allclose(judged.scores.s3, [[0, 0, 1]])
    assert judged.advantage[0, 2] < 0 < judged.advantage[0, 0]
    assert [criterion.tier for criterion in criteria_of(functions)] == ["proficiency", "excellence", "safety"]
    alone = recipe(functions=functions)
    batch = SimpleNamespace(answers=np.zeros((1, 3, 4)))
    judged = rewards.judge(None, batch, [CASE], alone, said_by_functions=said)
    np.testing.assert_allclose(judged.scores.s1, [[1, 0.5, np.nan]])
    assert judged.said is None and judged.advantage[0, 2] == 0 and np.isnan(judged.reward[0, 2])  # nobody knows its proficiency


def test_weights_add_to_the_scalar_reward_and_an_abstention_is_no_zero() -> None:
    functions = [RewardFunction(function="a:b", weight=2), RewardFunction(function="a:c", tier="safety"), RewardFunction(function="a:d", weight=-1)]
    said = np.stack([[[1.0, np.nan, 3.0], [np.nan] * 3], [[9.0] * 3] * 2, [[0.5] * 3] * 2], -1)
    np.testing.assert_array_equal(add_weighted(functions, said, np.array([[1.0, 1.0, np.nan], [1.0, 2.0, 3.0]])), [[2.5, np.nan, np.nan], [0.5, 1.5, 2.5]])
    assert np.isnan(add_weighted(functions, said, np.full((2, 3), np.nan))).all()  # without what the criteria say nobody gains: a veto may be among it
    np.testing.assert_array_equal(add_weighted(functions[:1], said[..., :1], None), [[2, np.nan, 6], [np.nan] * 3])


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.floats(0, 1)), min_size=2, max_size=6))
def test_no_skill_buys_back_a_violation_that_a_function_saw(answers: list[tuple[float, float]]) -> None:
    functions = (RewardFunction(function="a:skill", tier="proficiency"), RewardFunction(function="a:safe", tier="safety"))
    said = np.array([[[skill, safe] for safe, skill in answers]])
    batch = SimpleNamespace(answers=np.zeros((1, len(answers), 4)))
    for kind in ("lexicographic", "tiered"):
        gained = rewards.judge(None, batch, [CASE], recipe(functions=functions, advantage=kind), said_by_functions=said).advantage[0]
        safe = np.array([safe for safe, _ in answers], bool)
        assert (gained[~safe] < 0).all() and (not safe.any() or safe.all() or gained[safe].min() > gained[~safe].max())
