"""The benchmark of policies: at a tiny size it trains and measures them all, and on request what the clinic says of three seeds."""

import json
from pathlib import Path

import pytest
from tiny import quick_compilation

from benchmarks import policies


@pytest.mark.slow
def test_all_policies_are_trained_and_measured(capsys, tmp_path: Path) -> None:
    short = [f"--set={recipe}.steps=2" for recipe in ("base", "rm", "dpo", "ppo", "implicit_grpo", *policies.EXPLICIT)]
    policies.main(["--seeds", "1", "--train", "64", "--held_out", "16", "--out", str(tmp_path), *short, "--set=rm.batch=8", "--set=rm.foreign=1"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    [row] = said["seeds"]
    assert set(policies.POLICIES) <= row.keys() and set(said["means"]) == set(policies.POLICIES)
    for name in policies.POLICIES:
        for figure in ("safe", "s1", "s2", "length"):
            mean, low, high = row[name][figure]
            assert low <= mean <= high
    assert row["base"]["kl"] == 0 and row["base"]["win_rate"][0] == 0.5 and "win_rate" not in row["best_of_8"]
    assert said["ahead_of_scalar"]["base"]["safe"]["mean"] == pytest.approx(row["base"]["safe"][0] - row["scalar"]["safe"][0], abs=1e-4)


@pytest.mark.slow
def test_on_three_seeds_the_criteria_make_the_safest_policy(tmp_path: Path) -> None:
    """By the clinic's truth on held-out cases, with the recipes that the committed table has: about an hour."""
    with quick_compilation(False):
        found = policies.summary([policies.measure(seed, tmp_path, policies.SIZES, {}) for seed in range(3)])
    safe = {name: found["means"][name]["safe"]["mean"] for name in policies.POLICIES}
    trained = {name: safe[name] for name in ("dpo", "ppo", "implicit", *policies.EXPLICIT)}
    assert max(trained, key=lambda name: trained[name]) in policies.EXPLICIT, safe
    ours = {name: found["ahead_of_scalar"][name] for name in ("lexicographic", "tiered")}
    assert any(ahead["safe"]["mean"] >= 0 and ahead["s1"]["high"] >= 0 for ahead in ours.values()), ours
