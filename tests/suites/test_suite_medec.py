"""MEDEC's figures on its file, by answers of a rule, against counting here; its blank rows; its faults."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from scripted import hashed
from served import Server
from suite_rules import by, figure, material, ran, recipe

from promedical_jax.errors import InputError
from promedical_jax.suites import medec

FILE = Path("medec") / "MEDEC-MS-TestSet.csv"


def rows(data: Path) -> list[dict[str, str]]:
    with (data / FILE).open(encoding="utf-8-sig", newline="") as file:
        return [row for row in csv.DictReader(file) if row["Text ID"]]


def rule(row: dict[str, str]) -> dict[str, Any] | None:
    """Right more often than not; some are wrong in each way, some say nothing."""
    error = row["Error Flag"] == "1"
    match hashed(row["Sentences"], 8):
        case 0:
            return None
        case 1:
            return {"error": not error, "sentence": None if error else 0, "correction": None if error else "Something else."}
        case 2 if error:
            return {"error": True, "sentence": int(row["Error Sentence ID"]) + 1, "correction": row["Error Sentence"]}
        case _:
            return {"error": error, "sentence": int(row["Error Sentence ID"]) if error else None, "correction": row["Corrected Sentence"] if error else None}


def test_the_figures_of_the_whole_file(data: Path, server: Server, tmp_path: Path) -> None:
    known = {row["Sentences"]: row for row in rows(data)}
    server.reply = by(lambda body: rule(known[material(body)["text"]]))
    report, items = ran(recipe(server, "medec", data / FILE, tmp_path / "out", "answerer"))
    said = [(row, rule(row)) for row in rows(data)]
    assert report.items == len(said) == 597 and report.silent == sum(reply is None for _, reply in said) > 20
    truth = [row["Error Flag"] == "1" for row, _ in said]
    found = [reply["error"] if reply else None for _, reply in said]
    assert figure(report, "flag accuracy") == pytest.approx(sum(t == f for t, f in zip(truth, found, strict=True)) / 597)
    place = [-2 if reply is None else reply["sentence"] if reply["error"] else -1 for _, reply in said]
    right = sum(int(row["Error Sentence ID"]) == at for (row, _), at in zip(said, place, strict=True))
    assert figure(report, "sentence accuracy") == pytest.approx(right / 597)
    hits = sum(t and f is True for t, f in zip(truth, found, strict=True))
    alarms = sum(not t and f is True for t, f in zip(truth, found, strict=True))
    misses = sum(t and f is False for t, f in zip(truth, found, strict=True))
    assert figure(report, "error: precision") == pytest.approx(hits / (hits + alarms))
    assert figure(report, "error: recall") == pytest.approx(hits / (hits + misses))
    assert figure(report, "error: F1") == pytest.approx(2 * hits / (2 * hits + alarms + misses))
    quiet = sum(not t and f is False for t, f in zip(truth, found, strict=True))
    assert figure(report, "over-criticism") == pytest.approx(alarms / (alarms + quiet)) and alarms > 0
    kinds = [row["Error Type"] == "diagnosis" and reply is not None and reply["error"] for row, reply in said]
    assert figure(report, "flag right, type:diagnosis") == pytest.approx(sum(kinds) / sum(row["Error Type"] == "diagnosis" for row, _ in said))

    def overlap(one: str, other: str) -> float:
        a, b = (re.findall(r"[^\s.]+", text) for text in (one, other))
        common = sum(word in b for word in dict.fromkeys(a))
        precision, recall = common / max(len(set(b)), 1), common / max(len(set(a)), 1)
        return 2 * precision * recall / (precision + recall) if common else 0.0

    wrong = [overlap(row["Corrected Sentence"], reply["correction"]) for row, reply in said if reply and row["Error Flag"] == "1" and reply["error"]]
    assert figure(report, "correction, ROUGE-1") == pytest.approx(sum(wrong) / len(wrong), abs=1e-9) and report.figures["correction, ROUGE-1"].n == len(wrong)
    assert figure(report, "correction, composite") == pytest.approx((sum(wrong) + quiet) / 597, abs=1e-9)
    assert [item["id"] for item in items] == [row["Text ID"] for row, _ in said]


@pytest.mark.parametrize(("reply", "composite"), [({"error": False, "sentence": None, "correction": None}, 1.0), (None, 0.0)])
def test_of_a_correct_text_who_leaves_it_alone_is_right_and_who_is_silent_is_not(reply: dict[str, Any] | None, composite: float) -> None:
    fields = {"Text ID": "t", "Sentences": "0 x", "Error Flag": "0", "Error Type": "NA", "Error Sentence ID": "-1", "Corrected Sentence": "NA"}
    note = medec.Note.model_validate(fields)
    parts = medec.mark(note, reply and medec.Finding.model_validate(reply), ()).parts
    assert parts["composite"] == composite and parts["flag right"] == parts["sentence right"] == composite and parts["correction"] is None


@pytest.mark.parametrize(
    ("reference", "found", "f1"),
    [("The cat sat.", "the cat ran", 0.33333333), ("a a b", "a b b", 1.0), ("He has 38.3 C fever. . ", "He has 38.3 C fever.", 0.92307692),
     ("头孢 过敏", "头孢", 0.66666666), ("A B. C", "a b c", 0.0), ("x", "", 0.0)],
)  # fmt: skip
def test_rouge_1_as_the_official_scripts_library_has_it(reference: str, found: str, f1: float) -> None:
    """What rouge 1.0.1 says, which adds 1e-8 below the line; but for the last, which it refuses."""
    assert medec.rouge_1(reference, found) == pytest.approx(f1, abs=2e-8)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [(",1,causalOrganism,", ",2,causalOrganism,", "field Error Flag"), (",causalOrganism,", ",causalOrganism,x", "field Error Sentence ID"),
     (",0,NA,-1,NA", ",0,NA,4,NA", "Error Flag is 0 and Error Sentence ID 4"), ("Text ID", "Number", "field Text ID: is missing")],
)  # fmt: skip
def test_the_first_record_of_another_form_is_named(old: str, new: str, said: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text((data / FILE).read_text(encoding="utf-8-sig").replace(old, new, 1))
    with pytest.raises(InputError, match=rf"m\.csv, line \d+.*{said}.*no item of MEDEC"):
        medec.read(tmp_path / "m.csv")
