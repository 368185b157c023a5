"""A reward model from three physicians' labels of K-QA: from the two files and a HF checkpoint folder to held-out figures, with every label accounted for."""

import csv
import json
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from folders import save_policy
from tiny import policy

from promedical_jax.cli import main
from promedical_jax.data.load import load_tokenizer
from promedical_jax.model.rope import Rope
from promedical_jax.model.transformer import ModelConfig
from promedical_jax.reward.folder import read_verdicts
from promedical_jax.reward.ledger import read_ledger
from promedical_jax.rubric import Case, Verdict, read_cases, write_cases
from promedical_jax.rubric.labels import labels_of

VETO = "no_contradiction"


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the whole path: cases, a checkpoint with weights, the trained reward model, scored cases with their ledger."""
    folder = tmp_path_factory.mktemp("kqa")
    tokenizer = load_tokenizer(data / "tokenizer", 151_936)
    config = ModelConfig(vocabulary=151_936, width=16, depth=1, kv_heads=2, query_heads=2, head=8, feed_forward=32, rope=Rope(1e6), tied=True)
    save_policy(folder / "model", jax.tree.map(lambda x: 0.1 * x, policy(config)), config, tokenizer)
    cases = folder / "cases.jsonl"
    assert main(["data", "import", "kqa", str(data / "kqa"), "--out", str(cases)]) == 0
    recipe = {"cases": cases, "model": folder / "model", "out": folder / "rm", "steps": 6, "batch": 8, "row": 1024, "ties": "davidson",
              "held_out_share": 5 / 30, "calibration.share": 0.2, "calibration.method": "temperature", "calibration.abstain": 0.1, "calibration.recall": 0.9,
              "optimizer.learning_rate": 0.002}  # fmt: skip
    assert main(["train", "rm", *flags(recipe)]) == 0
    assert main(["score", "--model", str(folder / "rm/model"), "--cases", str(folder / "rm/held_out.jsonl"), "--out", str(folder / "scored.jsonl")]) == 0
    return folder


def flags(recipe: dict) -> list[str]:
    return [part for name, value in recipe.items() for part in (f"--{name}", str(value))]


def labels(data: Path) -> list[dict[str, str]]:
    with (data / "kqa" / "physician_labels_30q.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_every_label_of_the_file_is_a_verdict_that_is_learned_from_or_held_out(run: Path, data: Path) -> None:
    rows = labels(data)
    said = Counter(row[f"label_{n}"] for row in rows for n in range(3))
    cases = [case for case in read_cases(run / "cases.jsonl") if case.verdicts]
    verdicts = Counter(j.verdict for case in cases for j in case.verdicts if j.criterion != VETO)
    assert verdicts == {Verdict.MET: said["Entailment"], Verdict.UNMET: said["Neutral"] + said["Contradiction"]}
    contradicted = {(row["Question"].split()[0], row["answer"], n) for row in rows for n in range(3) if row[f"label_{n}"] == "Contradiction"}
    assert sum(j.verdict is Verdict.UNMET for case in cases for j in case.verdicts if j.criterion == VETO) == len(contradicted)
    shares = [labels_of(case).met for case in cases]
    judged = sum(int((~np.isnan(share)).sum()) for share in shares)
    answers = len({(row["Question"], row["llm_x"]) for row in rows})
    assert judged == len(rows) + answers  # a share for each row, and for each answer one of the veto
    thirds = {round(float(x), 9) for share in shares for x in share[~np.isnan(share)]}
    assert thirds <= {0.0, round(1 / 3, 9), round(2 / 3, 9), 1.0}

    held_out = read_cases(run / "rm" / "held_out.jsonl")
    assert len(cases) == 30 and len(held_out) == 5
    figures = json.loads((run / "rm" / "evaluation.json").read_text())
    held = {case.id for case in held_out}
    here = sum(int((~np.isnan(share)).sum()) for case, share in zip(cases, shares, strict=True) if case.id in held)
    assert sum(tier["count"] for tier in figures["tiers"].values()) + figures["split"] == here and figures["split"] == 0  # of three, most agree
    assert figures["n_cases"] == 5 and figures["n_answers"] == sum(len(case.answers) for case in held_out)


def test_held_out_figures_have_intervals_and_stand_beside_the_majority(run: Path) -> None:
    figures = json.loads((run / "rm" / "evaluation.json").read_text())
    for name, tier in figures["tiers"].items():
        assert 0.5 <= tier["majority"] <= 1, name
        for figure in ("accuracy", "ece"):
            assert tier[figure]["mean"] is None or tier[figure]["low"] <= tier[figure]["mean"] <= tier[figure]["high"]
        assert tier["count"] >= tier["abstained"]
    assert "<svg" in (run / "rm" / "evaluation.html").read_text()


def test_the_calibration_is_what_the_recipe_asks_for(run: Path) -> None:
    verdicts = read_verdicts(run / "rm" / "model")
    for tier, one in verdicts.tiers.items():
        assert one.calibration.method == "temperature" and one.labels > 0 and one.high - one.low == pytest.approx(0.1), tier


def test_abstentions_are_verdicts_and_the_ledger_reconciles(run: Path) -> None:
    scored, rows = read_cases(run / "scored.jsonl"), list(read_ledger(run / "scored.ledger.parquet"))
    assert len(rows) == sum(len(case.answers) * len(case.rubric.criteria) for case in scored)
    [model] = {row["model"] for row in rows}
    said = Counter(j.verdict.value for case in scored for j in case.verdicts if j.rater == f"reward-model-{model[:12]}")
    assert said == Counter(row["verdict"] for row in rows)
    verdicts = read_verdicts(run / "rm" / "model")
    for row in rows:
        tier = verdicts.tiers[next(tier for tier in verdicts.tiers if tier == row["tier"])]
        good = row["probability"] if row["polarity"] == "required" else 1 - row["probability"]
        if min(abs(good - tier.low), abs(good - tier.high)) > 1e-5:  # the ledger's probabilities are rounded
            assert (row["verdict"] == "abstain") == (tier.low < good <= tier.high)


def test_one_judged_answer_a_question_makes_no_pairs_and_a_copy_of_it_makes_ties(run: Path, tmp_path: Path) -> None:
    """K-QA's physicians judged one answer a question: its pairs say nothing. With a copy of each, on which one of the three abstains, they all tie."""
    cases = [case for case in read_cases(run / "cases.jsonl") if case.verdicts]
    alone = [labels_of(case) for case in cases]
    assert not any(one.wins.any() or one.ties.any() for one in alone)
    doubled = [_doubled(case) for case in cases]
    both = [labels_of(case) for case in doubled]
    split = sum(int(((share > 0) & (share < 1)).sum()) for share in (one.met for one in alone))
    assert sum(one.ties.sum() for one in both) / 2 == sum((one.weight > 0).sum() for one in alone)  # two of three judged both, and said the same of both
    assert not any(one.wins.any() for one in both) and split > 0
    write_cases(tmp_path / "doubled.jsonl", doubled)
    cases = tmp_path / "doubled.jsonl"
    recipe = {"cases": cases, "model": run / "model", "out": tmp_path / "rm", "steps": 1, "batch": 8, "row": 2048, "ties": "rao_kupper"}
    assert main(["train", "rm", *flags(recipe)]) == 0
    [first] = [json.loads(line) for line in (tmp_path / "rm" / "metrics.jsonl").read_text().splitlines()]
    assert first["loss/pair"] > 0 and first["num_labels"] > 0


def _doubled(case: Case) -> Case:
    [judged] = {j.answer for j in case.verdicts}
    copied = next(answer for answer in case.answers if answer.id == judged)
    heard = {j: Verdict.ABSTAIN if j.rater == "physician_2" else j.verdict for j in case.verdicts}
    said = [j.model_copy(update={"answer": "copy", "verdict": verdict}) for j, verdict in heard.items()]
    return case.model_copy(update={"answers": (*case.answers, copied.model_copy(update={"id": "copy"})), "verdicts": (*case.verdicts, *said)})
