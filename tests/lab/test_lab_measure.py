"""The figures of policies, against sums over answers done by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from promedical_jax.answering import Answered
from promedical_jax.clinic import Variety, make_cases, truth
from promedical_jax.lab.budget import Bench
from promedical_jax.lab.experiment import Cut
from promedical_jax.lab.measure import of_policy, of_training
from promedical_jax.lab.recipe import LabConfig
from promedical_jax.rubric import score_verdicts
from promedical_jax.rubric.case import Case, Tier, Verdict

CASES = make_cases(60, seed=2, held_out=True, variety=Variety(levels=(1, 2), alarming=0.3, harmful=0.3))
BENCH = Bench(LabConfig(table="T4", budget="smoke"))


def answered(cases: Sequence[Case], texts: Sequence[Sequence[str]]) -> list[Answered]:
    said = truth(list(zip(cases, texts, strict=True)))
    lengths = [tuple(len(text.split()) for text in row) for row in texts]
    return [
        Answered(case, tuple(row), length, tuple(verdicts), score_verdicts(case.rubric.criteria, verdicts))
        for case, row, length, verdicts in zip(cases, texts, lengths, said, strict=True)
    ]


OWN = answered(CASES, [[answer.text for answer in case.answers] for case in CASES])


def test_shares_are_those_of_the_answers() -> None:
    found = of_policy(OWN, None)
    assert found["safe"] == pytest.approx(np.mean([np.mean(one.scores.clean) for one in OWN]))
    assert found["s1"] == pytest.approx(np.mean([np.mean(one.scores.s1) for one in OWN]))
    assert found["length"] == pytest.approx(np.mean([np.mean(one.lengths) for one in OWN]))
    satisfied = [c.satisfied(v) for one in OWN for row in one.verdicts for c, v in zip(one.case.rubric.criteria, row, strict=True)]
    assert found["overall"] == pytest.approx(np.mean(satisfied))
    shares = []
    for one in OWN:
        columns = [k for k, c in enumerate(one.case.rubric.criteria) if c.tier is Tier.EXCELLENCE]
        if columns:
            shares.append(np.mean([row[k] is Verdict.MET for row in one.verdicts for k in columns]))
    assert found["s2"] == pytest.approx(np.mean(shares))


def test_refusals_are_told_apart_by_what_was_asked() -> None:
    """Who always refuses declines all that is to be declined, and refuses all that is to be answered."""
    refusing, plain = "I can not help with this.", "Take care."
    always, never = (of_policy(answered(CASES, [[text] * 2] * len(CASES)), None) for text in (refusing, plain))
    assert (always["over_refusal"], always["over_refusal_alarming"], always["declined"]) == (1, 1, 1)
    assert (never["over_refusal"], never["over_refusal_alarming"], never["declined"]) == (0, 0, 0)
    right = of_policy(answered(CASES, [[refusing if case.category == "harmful" else plain] for case in CASES]), None)
    assert (right["over_refusal"], right["declined"]) == (0, 1)


def test_each_criterion_of_safety_has_its_own_figure() -> None:
    """Of the answers to cases that ask for it, those that keep to it; the others have nothing to keep."""
    boasting = of_policy(answered(CASES, [["I am a licensed doctor. Take care."] * 2] * len(CASES)), None)
    assert boasting["kept_credential"] == 0 and boasting["kept_overdose"] == boasting["kept_reassurance"] == boasting["kept_compliance"] == 1
    asked = [one for one in OWN if any(c.id == "compliance" for c in one.case.rubric.criteria)]
    assert 0 < len(asked) < len(OWN)
    kept = [row[k] is Verdict.UNMET for one in asked for row in one.verdicts for k, c in enumerate(one.case.rubric.criteria) if c.id == "compliance"]
    assert of_policy(OWN, None)["kept_compliance"] == pytest.approx(np.mean(kept))


def test_wins_are_against_the_bases_answers() -> None:
    assert of_policy(OWN, OWN)["win"] == 0.5
    worst = answered(CASES, [["I am a licensed doctor. You do not need a doctor."] * 4] * len(CASES))
    assert of_policy(OWN, worst)["win"] > 0.75 and of_policy(worst, OWN)["win"] < 0.25


def run(folder: Path, rows: list[dict[str, float | None]], rollouts: list[dict[str, object]]) -> Path:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rollouts))
    return folder


def test_training_is_read_from_its_own_files(tmp_path: Path) -> None:
    gap = "sampling/sampling_logp_difference/mean"
    same = {"safe": 0.9}
    rows = [{"step": step, **same, "true/safe": 0.9 - 0.1 * step, "kl": 0.1 * step, gap: 0.5 if step == 1 else 1e-7} for step in range(4)]
    about = {"case": "a", "s1": 1.0, "s2": 0.0}
    safe, unsafe = {"s3": 0.0, "reward": 1.0}, {"s3": 1.0, "reward": -1.0}
    told = [(0, safe, -1.0), (0, unsafe, 1.0), (1, safe, 1.0), (1, unsafe, -1.0)]
    rollouts = [{"step": step, "advantage": advantage, **about, **which} for step, which, advantage in told]
    folder = run(tmp_path, rows, rollouts)
    found, curves = of_training(folder, BENCH.grpo(BENCH.judge(), "tiered"))
    assert found["gap"] == 0.5 and found["kl"] == pytest.approx(0.2) and found["hacked"] == pytest.approx(0.3)
    assert found["misordered"] == 0.5, "one group of two is turned around"
    assert curves["true_safe"] == pytest.approx([0.9, 0.8, 0.7, 0.6]) and curves["step"] == [0, 1, 2, 3]
    found, _ = of_training(folder, BENCH.grpo(BENCH.judge(), "scalar", Cut(rubric_without=(Tier.SAFETY,))))
    assert "hacked" not in found, "a reward that is told nothing of safety overstates nothing"


def test_a_step_that_was_skipped_leaves_a_gap_in_the_curve(tmp_path: Path) -> None:
    rows = [{"step": 0, "safe": 0.5, "true/safe": 0.5}, {"step": 1, "safe": None, "true/safe": None}]
    found, curves = of_training(run(tmp_path, rows, []), BENCH.policy("dpo"))
    assert curves["safe"] == [0.5, None] and "misordered" not in found
