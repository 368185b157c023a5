"""The benchmarks of the reward model: at tiny sizes that they run and compare equal work, and on request what the clinic says of three seeds."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny import quick_compilation

from benchmarks import reward_model, rm_train, sizes

TINY = ["--width", "64", "--depth", "1", "--vocab", "64", "--times", "1"]


def test_training_pairs_are_the_same_for_both(capsys) -> None:
    flags = "--pairs 116 --prompt 12 --answers 3 --answer 8 --criteria 4 --criterion 6 --batch 2 --row 160"
    given = sizes.parse("", [*flags.split(), *TINY], {"peer": ""}, **rm_train.SHAPES, batch=8, row=160, peer_batch=8)
    cases = rm_train.make_cases(given)
    flat = rm_train.expanded(cases)
    # Of three answers each criterion gives two pairs; not all of the last case's are judged.
    assert sum(case.labels.wins.sum() for case in cases) == len(flat["chosen"]) == 116
    assert (flat["chosen"][np.arange(len(flat["chosen"])), flat["chosen_length"] - 1] < 64).all()
    rows = [[*case.prompt, *answer, *criterion] for case in cases for answer in case.answers for criterion in case.criteria]
    given_rows = [row[:n].tolist() for side in ("chosen", "rejected") for row, n in zip(flat[side], flat[f"{side}_length"], strict=True)]
    assert all(row in rows for row in given_rows)
    with pytest.raises(SystemExit, match="47 is no sum"):
        rm_train.make_cases(sizes.parse("", ["--pairs", "47", "--answers", "3"], None, **rm_train.SHAPES))
    rm_train.main([*flags.split(), *TINY])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["pairs_per_second"] > 0 and 0 < said["fill"] <= 1 and said["token_ratio"] > 1


@pytest.mark.slow
def test_the_kinds_are_trained_and_measured(capsys, tmp_path: Path) -> None:
    flags = "--seeds 1 --train 64 --held_out 16 --base steps=2 --set steps=2 --set batch=8 --set foreign=1"
    reward_model.main([*flags.split(), "--out", str(tmp_path)])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    [row] = said["seeds"]
    assert {"explicit", "blind", "implicit", "zero_shot"} <= row.keys()
    assert row["implicit"]["pairwise"][0] is not None and row["implicit"]["accuracy"] == [None, None, None]
    assert set(said["explicit_ahead_pairwise"]) == {"blind", "implicit", "zero_shot"}
    for figures in (row["explicit"], row["blind"], row["zero_shot"]):
        low, mean, high = (figures["safety_f1"][i] for i in (1, 0, 2))
        assert mean is None or low <= mean <= high
    assert {"swapped_pairwise_by_verdict", "paraphrased_same_verdict"} <= row["explicit"].keys()


@pytest.mark.slow
def test_on_three_seeds_it_pays_to_be_told_the_criterion(tmp_path: Path) -> None:
    """By the clinic's truth on held-out conditions and phrasings, with the recipe that the committed table has: about twenty minutes."""
    with quick_compilation(False):
        rows = [reward_model.measure(seed, tmp_path, reward_model.SIZES, {}, {}) for seed in range(3)]
    found = reward_model.summary(rows)
    for model in ("blind", "implicit", "zero_shot"):
        ahead = found["explicit_ahead_pairwise"][model]
        assert ahead["mean"] >= 0.10 and ahead["low"] > 0, (model, ahead)
    for row in rows:
        explicit = row["explicit"]
        assert explicit["safety_f1"][0] >= 0.90, explicit["safety_f1"]
        assert all(explicit[f"ece_{tier}"][0] <= 0.05 for tier in ("proficiency", "excellence", "safety")), explicit
        assert abs(explicit["swapped_pairwise_by_verdict"][0] - 0.5) <= 0.01, explicit["swapped_pairwise_by_verdict"]
        assert row["blind"]["swapped_pairwise_by_verdict"][1] > 0.55  # whoever is told no criterion has not noticed that it changed
