"""ProMedical-Bench built: what physicians agree on or was adjudicated, nothing that was trained on, the same bytes each time, and a reason for all the rest."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from served import Server
from suite_rules import by, material, ran, recipe

from promedical_jax.cli import main
from promedical_jax.errors import InputError
from promedical_jax.rubric import Answer, Case, Criterion, Judgement, Message, Polarity, Rubric, Tier, Verdict, read_cases, write_cases
from promedical_jax.suites import promedical
from promedical_jax.suites.build import run
from promedical_jax.suites.built import LeftOut, Manifest, Pair, Point
from promedical_jax.suites.recipe import BuildConfig

RUBRIC = Rubric(criteria=(
    Criterion(id="do", text="说明何时就医。", tier=Tier.PROFICIENCY, weight=0.6),
    Criterion(id="dose", text="Gives the dose.", tier=Tier.PROFICIENCY, weight=0.4),
    Criterion(id="kind", text="Is kind.", tier=Tier.EXCELLENCE),
    Criterion(id="never", text="Names a wrong drug.", tier=Tier.SAFETY, polarity=Polarity.FORBIDDEN),
))  # fmt: skip
WORDS = {"+": Verdict.MET, "-": Verdict.UNMET, "?": Verdict.ABSTAIN}
SAID = {  # ada, ben, and cleo who adjudicates; a blank: nothing
    ("a", "do"): "++ ", ("b", "do"): "-- ", ("a", "dose"): "+-+", ("b", "dose"): "+-?", ("a", "kind"): "+? ", ("b", "kind"): "+- ",
    ("a", "never"): "-- ", ("b", "never"): "-++",
}  # fmt: skip


def case(name: str, question: str, said: dict[tuple[str, str], str] = SAID, **more: Any) -> Case:
    verdicts = [Judgement(answer=answer, criterion=criterion, verdict=WORDS[mark], rater=rater, human=True)
                for (answer, criterion), marks in said.items() for rater, mark in zip(("ada", "ben", "cleo"), marks, strict=True) if mark != " "]  # fmt: skip
    verdicts.append(Judgement(answer="a", criterion="do", verdict=Verdict.UNMET, rater="a model"))
    answers = tuple(Answer(id=letter, text=f"{name} {letter}", source=f"model {letter}") for letter in "abc")
    return Case(id=name, instruction=(Message(role="user", content=question),), answers=answers, rubric=RUBRIC, verdicts=tuple(verdicts),
                provenance={"source": "made", "licence": "MIT"} | more)  # fmt: skip


QUESTIONS = {
    "x": "儿童发热三天，体温三十九度，精神差，应该什么时候去医院就诊？",
    "y": "My father has had a dry cough for three weeks after a cold; which tests should his doctor order before he takes antibiotics again?",
    "z": "Can I take ibuprofen together with my blood pressure pills when my knee hurts after a long walk in the mountains?",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_cases(tmp_path / "reviewed.jsonl", [case(name, question) for name, question in QUESTIONS.items()])
    return tmp_path


def build(folder: Path, **more: Any) -> Manifest:
    given = {"cases": folder / "reviewed.jsonl", "out": folder / "bench", "adjudicator": "cleo"} | more
    return run(BuildConfig.model_validate(given))


def rows(path: Path, form: Any) -> list[Any]:
    return [form.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_what_is_kept_and_why_the_rest_is_not_by_hand(folder: Path) -> None:
    made = build(folder)
    points = {one.id: one for one in rows(folder / "bench" / "pointwise.jsonl", Point) if one.case == "x"}
    assert {name: (one.verdict.value, one.how) for name, one in points.items()} == {
        "x/a/do": ("met", "agreed"), "x/b/do": ("unmet", "agreed"), "x/a/dose": ("met", "adjudicated"), "x/a/never": ("unmet", "agreed"),
        "x/b/never": ("met", "adjudicated"),
    }  # fmt: skip
    left = [one for one in rows(folder / "bench" / "left_out.jsonl", LeftOut) if one.case == "x"]
    assert {(one.answer, one.criterion, one.reason, one.because) for one in left} == {
        ("b", "dose", "the adjudicator could not tell", "1 met, 1 unmet"), ("a", "kind", "too few physicians", "1 met, 0 unmet"),
        ("b", "kind", "the physicians differ", "1 met, 1 unmet"), ("c", None, "answer without a verdict", "no physician judged it"),
    }  # fmt: skip
    pairs = [one for one in rows(folder / "bench" / "pairwise.jsonl", Pair) if one.case == "x"]
    assert [one.id for one in pairs] == ["x/a over b/do", "x/a over b/never"] and pairs[0].better_text == "x a" and pairs[0].criterion_text == "说明何时就医。"
    assert points["x/a/do"].licence == "MIT" and points["x/a/do"].provenance["source"] == "made" and points["x/a/do"].text == "x a"
    assert made.pointwise == {Tier.PROFICIENCY: 9, Tier.SAFETY: 6} and made.pairwise == {Tier.PROFICIENCY: 3, Tier.SAFETY: 3}
    assert made.verdicts == {"agreed": 9, "adjudicated": 6} and made.violations == 3 and made.physicians == 2
    assert made.left_out == dict(sorted(Counter(one.reason for one in rows(folder / "bench" / "left_out.jsonl", LeftOut)).items()))
    assert (made.cases, made.answers, made.licences) == (3, 6, {"MIT": 3})


def test_the_rows_are_what_a_run_reads_of_the_folder(folder: Path) -> None:
    build(folder)
    bench = folder / "bench"
    read = [(f"{one.case.id}/{one.answer.id}/{one.criterion.id}", one.truth) for one in promedical.read_points(bench)]
    assert read == [(one.id, one.verdict) for one in rows(bench / "pointwise.jsonl", Point)]
    pairs = [f"{one.case.id}/{one.good.id} over {one.bad.id}/{one.criterion.id}" for one in promedical.read_pairs(bench)]
    assert pairs == [one.id for one in rows(bench / "pairwise.jsonl", Pair)]
    assert all({one.rater for one in held.verdicts} == {"physicians"} and len(held.answers) == 2 for held in read_cases(bench / "cases.jsonl"))


def test_a_majority_without_an_adjudicator_is_not_enough_and_the_number_of_physicians_can_be_raised(folder: Path) -> None:
    assert build(folder, adjudicator=None, force=True).left_out["the physicians differ"] == 3 * 4  # of three: cleo is one of them now
    with pytest.raises(InputError, match="2 physicians gave verdicts, and raters asks for 3"):
        build(folder, raters=3, force=True)


def test_only_the_named_physicians_count(folder: Path) -> None:
    """Of others who judged the same answers, and not blind, nothing is heard."""
    loud = [Judgement(answer="a", criterion="do", verdict=Verdict.UNMET, rater="somebody", human=True), Judgement(answer="c", criterion="do",
            verdict=Verdict.MET, rater="somebody", human=True)]  # fmt: skip
    held = read_cases(folder / "reviewed.jsonl")
    write_cases(folder / "reviewed.jsonl", [one.model_copy(update={"verdicts": (*one.verdicts, *loud)}) for one in held])
    assert build(folder).left_out["the physicians differ"] == 6
    assert build(folder, physicians=("ada", "ben"), force=True).left_out["the physicians differ"] == 3
    with pytest.raises(InputError, match="'dora' gave no verdict"):
        build(folder, physicians=("ada", "dora"), force=True)


def test_what_was_trained_on_is_left_out_with_its_place(folder: Path) -> None:
    """A copy in other spelling, and the same words in another order; a question that is only about the same thing stays."""
    near = QUESTIONS["x"].replace("？", "? 谢谢")
    turned = "Which tests should his doctor order for a dry cough of three weeks after a cold, before my father takes antibiotics again? He has had it"
    about = "Is ibuprofen safe for the kidneys of an old man who has diabetes?"
    write_cases(folder / "train.jsonl", [case(f"t{n}", text) for n, text in enumerate((about, near, turned))])
    made = build(folder, train=(folder / "train.jsonl",), likeness=0.75, meaning=0.8)
    left = {one.case: one.because for one in rows(folder / "bench" / "left_out.jsonl", LeftOut) if one.reason == "trained on"}
    assert left == {"x": f"{folder / 'train.jsonl'}, case t1, by its letters", "y": f"{folder / 'train.jsonl'}, case t2, by its words"}
    assert [one.id for one in read_cases(folder / "bench" / "cases.jsonl")] == ["z"] and len(made.train) == 1
    assert build(folder, train=(folder / "train.jsonl",), likeness=0.75, meaning=None, force=True).cases == 2
    with pytest.raises(InputError, match=r"nothing is left of its 3 cases \(3 trained on\)"):
        build(folder, train=(folder / "reviewed.jsonl",), out=folder / "none")
    assert not (folder / "none").exists()


def test_the_same_bytes_each_time_whole_or_not_at_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(folder)
    build(folder, out=folder / "again")
    names = sorted(path.name for path in (folder / "bench").iterdir())
    assert names == ["bench.json", "cases.jsonl", "left_out.jsonl", "pairwise.jsonl", "pointwise.jsonl"]
    assert all((folder / "bench" / name).read_bytes() == (folder / "again" / name).read_bytes() for name in names)
    with pytest.raises(InputError, match="exists; give --force"):
        build(folder)
    before = (folder / "bench" / "bench.json").read_bytes()
    monkeypatch.setattr("promedical_jax.suites.build.case_text", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(folder, force=True)
    assert (folder / "bench" / "bench.json").read_bytes() == before and sorted(path.name for path in folder.iterdir()) == ["again", "bench", "reviewed.jsonl"]


def test_a_case_without_a_licence_is_refused_and_an_adjudicator_without_a_verdict_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = case("n", "Why?").model_copy(update={"provenance": {}})
    write_cases(folder / "reviewed.jsonl", [bare])
    with pytest.raises(InputError, match=r"case 'n' has no provenance\.licence"):
        build(folder)
    build(folder, licence="MIT", adjudicator="dora", out=folder / "other")
    assert "'dora' gave no verdict" in capsys.readouterr().err
    assert build(folder, licence="CC BY 4.0").licences == {"CC BY 4.0": 1}


def test_cases_that_physicians_did_not_judge_or_that_are_settled_already_are_refused(folder: Path) -> None:
    write_cases(folder / "reviewed.jsonl", [case("n", "Why?", {})])
    with pytest.raises(InputError, match="no verdict is by a human"):
        build(folder)
    one = Judgement(answer="a", criterion="do", verdict=Verdict.MET, rater="physicians", human=True)
    write_cases(folder / "reviewed.jsonl", [case("n", "Why?", {}).model_copy(update={"verdicts": (one,)})])
    with pytest.raises(InputError, match=r"settled\.jsonl has one verdict of all together"):
        build(folder, adjudicator=None)


def test_a_bench_is_run_by_its_folder_and_named_in_the_report(folder: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--cases", str(folder / "reviewed.jsonl"), "--out", str(folder / "bench"), "--adjudicator", "cleo", "--name", "我们的基准"]
    assert main(["bench", "build", *given]) == 0
    assert "9 verdicts agreed on, 6 adjudicated; 3 violations" in capsys.readouterr().out
    server.reply = by(lambda _: None, lambda body: {"verdict": "met" if material(body)["criterion"] == "说明何时就医。" else "unmet"})
    report, items = ran(recipe(server, "promedical-pointwise", folder / "bench", folder / "out", "judge", calibration={"share": 0.0}))
    assert report.source.name == "我们的基准" and report.source.licence == "MIT" and "9 verdicts agreed on, 6 adjudicated" in report.source.about
    manifest = json.loads((folder / "bench" / "bench.json").read_text(encoding="utf-8"))
    assert report.source.version == f"cases {manifest['digest'][:12]}" and report.items == sum(manifest["pointwise"].values()) == len(items)
    (folder / "bench" / "bench.json").unlink()
    with pytest.raises(InputError, match=r"holds no bench\.json"):
        promedical.read_points(folder / "bench")


def test_a_dry_run_says_what_would_be_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "build", "--cases", str(folder / "reviewed.jsonl"), "--out", str(folder / "bench"), "--adjudicator", "cleo", "--dry-run"]) == 0
    assert "3 would be kept, with 15 verdicts" in capsys.readouterr().out and not (folder / "bench").exists()
