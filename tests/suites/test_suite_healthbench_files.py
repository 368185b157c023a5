"""HealthBench's published files, hard, consensus and the physicians' labels: what is refused, and the figures against the official rules written out here."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import Server
from suite_rules import by, figure, material, ran, recipe
from test_suite_healthbench import ORIGINAL

from promedical_jax.errors import InputError
from promedical_jax.suites import healthbench, healthbench_meta
from promedical_jax.suites.known import SUITES

CONSENSUS = {"criterion": "Sends to hospital.", "points": 5, "tags": ["level:cluster", "cluster:emergency_referrals_emergent", "axis:accuracy"]}


def write(path: Path, count: int, rubrics: Any = ORIGINAL["rubrics"]) -> Path:
    path.write_text("".join(json.dumps(ORIGINAL | {"prompt_id": f"p{n}", "rubrics": rubrics}) + "\n" for n in range(count)))
    return path


def test_a_subset_is_its_own_file_and_all_of_it(tmp_path: Path) -> None:
    hard, consensus = SUITES["healthbench-hard"], SUITES["healthbench-consensus"]
    with pytest.raises(InputError, match=r"holds no hard_2025-05-08-21-00-10\.jsonl, which HealthBench Hard is; fetch https://"):
        hard.read(tmp_path)
    write(tmp_path / "mine.jsonl", 999)
    with pytest.raises(InputError, match=r"mine\.jsonl holds 999 conversations and HealthBench Hard has 1,000"):
        hard.read(tmp_path / "mine.jsonl")
    write(tmp_path / healthbench.HARD_FILE.file, 1000)
    write(tmp_path / healthbench.WHOLE.file, 5000)
    assert len(hard.read(tmp_path)) == 1000 and len(healthbench.read(tmp_path)) == 5000  # each by its name in a folder of all
    write(tmp_path / healthbench.CONSENSUS_FILE.file, 3671, [CONSENSUS])
    assert len(consensus.read(tmp_path)) == 3671
    write(tmp_path / healthbench.CONSENSUS_FILE.file, 3671, [CONSENSUS, ORIGINAL["rubrics"][0]])
    with pytest.raises(InputError, match=r"line 1, field rubrics\[1\]\.tags: level:cluster is not among them"):
        consensus.read(tmp_path)
    write(tmp_path / healthbench.WHOLE.file, 4999)
    with pytest.raises(InputError, match="holds 4,999 conversations and HealthBench has 5,000"):
        healthbench.read(tmp_path)
    assert len({SUITES[name].source.version for name in ("healthbench", "healthbench-hard", "healthbench-consensus", "healthbench-meta")}) == 4


def test_hard_is_run_and_says_what_it_is(server: Server, tmp_path: Path) -> None:
    write(tmp_path / healthbench.HARD_FILE.file, 1000)
    server.reply = by(lambda _: "Rest.", lambda body: {"why": "", "met": material(body)["criterion"] == "Is kind."})
    report, _ = ran(recipe(server, "healthbench-hard", tmp_path, tmp_path / "out", "answerer", "judge", items=3))
    assert report.suite == "healthbench-hard" and report.source.name == "HealthBench Hard" and report.items == 3 and figure(report, "score") == 0.25
    assert figure(report, "theme:hedging") == figure(report, "physician_agreed_category:any") == 0.25


def row(n: int, category: str, labels: list[bool]) -> dict[str, Any]:
    physicians = [f"physician {(n + i) % 5}" for i in range(len(labels))]
    return {"prompt": [{"role": "user", "content": f"胸口痛😟 {n % 7}"}], "prompt_id": f"p{n % 7}", "completion": f"answer {n}", "completion_id": f"c{n}",
            "canary": "x", "rubric": f"criterion of {category}", "category": category, "binary_labels": labels,
            "anonymized_physician_ids": physicians}  # fmt: skip


RNG = np.random.default_rng(3)
META = [row(n, f"cluster:{'abc'[n % 3]}", [bool(x) for x in RNG.integers(0, 2, 2 + n % 2)]) for n in range(60)]


def official(said: list[bool], others: list[list[bool]], clusters: list[str]) -> dict[tuple[str, str], float]:
    """By (criterion, or "" for all; positive, negative or balanced), as simple-evals has it: lists of whether both say the same, by what each of them says."""
    same: dict[tuple[str, str, bool], list[bool]] = defaultdict(list)
    for mine, theirs, cluster in zip(said, others, clusters, strict=True):
        for one in theirs:
            for name in ("", cluster):
                same[name, "precision", mine].append(mine == one)
                same[name, "recall", one].append(mine == one)
    found: dict[tuple[str, str], float] = {}
    for name in {"", *clusters}:
        both = []
        for word, of in (("met", True), ("not met", False)):
            if (name, "precision", of) in same and (name, "recall", of) in same:
                precision, recall = (float(np.mean(same[name, what, of])) for what in ("precision", "recall"))
                found[name, word] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
                both.append(found[name, word])
        if len(both) == 2:
            found[name, "balanced"] = sum(both) / 2
    return found


def test_the_judge_against_physicians_as_the_official_code_has_it(server: Server, tmp_path: Path) -> None:
    (tmp_path / "meta.jsonl").write_text("".join(json.dumps(one) + "\n" for one in META))
    rule = {one["completion"]: n % 10 for n, one in enumerate(META)}  # at 0 it fails
    server.reply = by(lambda _: None, lambda body: {"why": "", "met": rule[material(body)["answer"]] % 3 > 0} if rule[material(body)["answer"]] else None)
    report, items = ran(recipe(server, "healthbench-meta", tmp_path / "meta.jsonl", tmp_path / "out", "judge"))
    kept = [(one, rule[one["completion"]] % 3 > 0) for one in META if rule[one["completion"]]]
    theirs = official([said for _, said in kept], [one["binary_labels"] for one, _ in kept], [one["category"] for one, _ in kept])
    assert figure(report, "balanced F1") == pytest.approx(theirs["", "balanced"]) and report.figures["balanced F1"].n == 54 == len(kept)
    assert figure(report, "F1, met") == pytest.approx(theirs["", "met"]) and figure(report, "F1, not met") == pytest.approx(theirs["", "not met"])
    each = [theirs[name, "balanced"] for name in ("cluster:a", "cluster:b", "cluster:c")]
    assert figure(report, "balanced F1, mean of criteria") == pytest.approx(np.mean(each))
    assert [figure(report, f"balanced F1, cluster:{name}") for name in "abc"] == pytest.approx(each)
    low, high = report.figures["balanced F1"].low, report.figures["balanced F1"].high
    assert low is not None and high is not None and low < theirs["", "balanced"] < high
    pairs = [
        (one["binary_labels"][i], one["binary_labels"][:i] + one["binary_labels"][i + 1 :], one["category"])
        for one in META
        for i in range(len(one["binary_labels"]))
    ]
    among = official(*(list(each) for each in zip(*pairs, strict=True)))
    assert figure(report, "physicians among themselves, mean of criteria") == pytest.approx(np.mean([among[f"cluster:{name}", "balanced"] for name in "abc"]))
    assert figure(report, "abstained") == 0.1 and items[1]["score"] == pytest.approx(
        np.mean([x == (rule[META[1]["completion"]] % 3 > 0) for x in META[1]["binary_labels"]])
    )


def test_a_class_that_nobody_names_has_no_f1() -> None:
    """As in simple-evals' own test: three rows, of which the last's criterion has one class alone."""
    said, labels, clusters = (True, False, True), ([True, True, False], [True, False], [False]), ("cluster:a", "cluster:a", "cluster:b")
    rows = [healthbench_meta.Judged.model_validate(row(n, clusters[n], list(labels[n]))) for n in range(3)]
    marks = [healthbench_meta.mark((f"{n}", one), None, [healthbench.Met(why="", met=said[n])]) for n, one in enumerate(rows)]
    figures = healthbench_meta.figures(marks)
    positive, negative = 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3), 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)
    assert figures["F1, met"].mean == pytest.approx(positive) and figures["balanced F1"].mean == pytest.approx((positive + negative) / 2)
    assert figures["balanced F1, cluster:b"].mean is None and figures["balanced F1, mean of criteria"].mean == figures["balanced F1, cluster:a"].mean


@pytest.mark.parametrize(
    ("change", "said"),
    [({"binary_labels": [True]}, "binary_labels holds 1 and anonymized_physician_ids 2"), ({"binary_labels": []}, "field binary_labels"),
     ({"rubric": ""}, "field rubric"), ({"prompt": "text"}, "field prompt")],
)  # fmt: skip
def test_the_first_row_of_another_form_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "meta.jsonl").write_text(json.dumps(META[0]) + "\n" + json.dumps(META[0] | change))
    with pytest.raises(InputError, match=rf"meta\.jsonl, line 2.*{said}"):
        healthbench_meta.read(tmp_path / "meta.jsonl")
    (tmp_path / healthbench_meta.FILE).write_text(json.dumps(META[0]))
    with pytest.raises(InputError, match="holds 2 labels of physicians and HealthBench meta-evaluation has 60,896"):
        healthbench_meta.read(tmp_path)
