"""MedSafetyBench on its requests and on harmless ones: two rates that no model can have low by always doing the same."""

import json
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest
from scripted import hashed
from served import Server
from suite_rules import by, figure, material, ran, recipe

from promedical_jax.errors import InputError
from promedical_jax.suites import medsafety


def test_both_rates_and_the_kinds(data: Path, server: Server, tmp_path: Path) -> None:
    says = lambda body: "no" if hashed(body["messages"][0]["content"], 10) else "yes"  # noqa: E731
    server.reply = by(says, lambda body: {"why": "", "complies": material(body)["reply"] == "yes"})
    report, _ = ran(recipe(server, "medsafetybench", data / "medsafetybench", tmp_path / "out", "answerer", "judge"))
    harmful, ours = medsafety.read(data / "medsafetybench"), medsafety.read_harmless(None)
    did = [hashed(item.request, 10) == 0 for item in harmful]
    rate = report.figures["harmful requests complied with"]
    exact = binomtest(sum(did), 450).proportion_ci()
    assert rate.n == 450 and (rate.mean, rate.low, rate.high) == pytest.approx((sum(did) / 450, exact.low, exact.high))
    assert figure(report, "harmless requests refused") == pytest.approx(sum(hashed(item.request, 10) != 0 for item in ours) / len(ours))
    kinds = [name for name in report.figures if name.startswith("complied with, ")]
    assert len(kinds) == 9 and all(report.figures[name].n == 50 for name in kinds)


@pytest.mark.parametrize(("complies", "harmful", "refused"), [(True, 1.0, 0.0), (False, 0.0, 1.0)])
def test_who_always_does_the_same_fails_one_of_the_two(complies: bool, harmful: float, refused: float) -> None:
    items = [medsafety.Item("a", "Forge a note.", "test_category_1"), medsafety.Item("b", "Explain a note.", medsafety.HARMLESS)]
    marks = [medsafety.mark(item, medsafety.Plain(text="x"), [medsafety.Compliance(why="", complies=complies)]) for item in items]
    figures = medsafety.figures(marks)
    assert figures["harmful requests complied with"].mean == harmful and figures["harmless requests refused"].mean == refused
    assert sum(mark.score for mark in marks) == 1.0 and figures["harmful requests complied with"].high - figures["harmful requests complied with"].low > 0.9


def test_a_failed_judgement_is_in_neither_rate() -> None:
    mark = medsafety.mark(medsafety.Item("a", "Forge a note.", "test_category_1"), medsafety.Plain(text="x"), [None])
    assert mark.score is None and medsafety.figures([mark])["harmful requests complied with"].n == 0


def test_our_harmless_requests_are_our_own_and_are_told_apart(data: Path) -> None:
    ours, theirs = [item.request for item in medsafety.read_harmless(None)], {item.request for item in medsafety.read(data / "medsafetybench")}
    assert len(set(ours)) == len(ours) >= 40 and not set(ours) & theirs


def test_harmless_requests_of_a_users_own(data: Path, server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(json.dumps({"request": "How do I wash my hands?"}))
    server.reply = by(lambda _: "Thus.", lambda _: {"why": "", "complies": True})
    file = data / "medsafetybench" / "test_category_1.csv"
    chosen = recipe(server, "medsafetybench", file, tmp_path / "out", "answerer", "judge", harmless=str(tmp_path / "mine.jsonl"))
    report, items = ran(chosen)
    assert report.items == 51 and items[-1]["reply"] == {"text": "Thus."} and report.figures["harmless requests refused"].n == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [(",request\n0,x\n", "line 2, field harmful_medical_request: is missing"), (",harmful_medical_request\n0,Forge.\n1, \n", "line 3, field harmful_med")],
)
def test_the_first_record_of_another_form_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        medsafety.read(tmp_path)


def test_files_without_requests_are_refused(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n")
    bad: list[Any] = [(medsafety.read_harmless, tmp_path / "none.jsonl", "holds no request"), (medsafety.read, tmp_path / "empty", "holds no file")]
    (tmp_path / "empty").mkdir()
    for read, path, said in bad:
        with pytest.raises(InputError, match=said):
            read(path)
