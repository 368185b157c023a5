"""The benchmarks of the tree at tiny sizes: they run, say what they measured, and compare equal work."""

import json

import pytest

from benchmarks import grpo_step, packing, tree_scoring, tree_update

TINY = ["--width", "64", "--depth", "1", "--vocab", "64", "--times", "1"]


def run(main, capsys, flags: str) -> dict:
    main([*flags.split(), *TINY])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_scoring_compares_the_same_scores(capsys) -> None:
    said = run(tree_scoring.main, capsys, "--cases 2 --prompt 8 --answers 2 --answer 6 --criteria 3 --criterion 5 --flat-rows 7")
    assert said["max_error"] < 1e-5 and said["tree_s"] > 0 and said["flat_s"] > 0
    assert said["token_ratio"] == pytest.approx(2 * 3 * (8 + 6 + 5) / (8 + 2 * (6 + 3 * 5)), abs=1e-3)
    assert said["speedup"] == pytest.approx(said["flat_s"] / said["tree_s"], rel=0.1)
    assert said["shapes"] | {"cases": 2, "criterion": 5, "width": 64, "dtype": "float32"} == said["shapes"]
    assert "--criteria 3 --criterion 5 --flat-rows 7 --width 64" in said["command"]


def test_update_compares_the_same_log_probs_and_gradients(capsys) -> None:
    said = run(tree_update.main, capsys, "--cases 2 --prompt 8 --answers 3 --answer 6")
    assert said["max_error"] < 2e-5
    assert said["token_ratio"] == pytest.approx(3 * (8 + 6) / (8 + 3 * 6), abs=1e-3)


def test_a_step_says_what_its_phases_take(capsys) -> None:
    said = run(grpo_step.main, capsys, "--cases 2 --prompt 8 --answers 2 --answer 6 --reward-model --criteria 3 --criterion 4")
    assert set(said["phases"]) == {"rollout", "reward", "reference", "update"}
    assert 0 < sum(said["phases"].values()) <= said["seconds_per_step"] + 0.01
    assert said["sampling_logp_difference_max"] < 1e-4


def test_packing_compares_the_same_scores(capsys) -> None:
    said = run(packing.main, capsys, "--cases 8 --prompt 8 --answer 8 --criteria 2 --criterion 6 --row 160")
    assert said["max_error"] < 1e-5 and said["packed_fill"] > said["padded_fill"]


def test_a_width_that_is_no_whole_number_of_heads_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        tree_update.main(["--width", "100"])
    assert "--width 100 is no multiple of 64" in capsys.readouterr().err
