"""What comes back means what the physicians said, and nothing more: from exports that a real Label Studio made, and from a stand-in over HTTP.

recorded/ has two cases of the clinic, reviewed in Label Studio 1.23.2. Ada's first page was filled in by keys in a browser, Yes, No, Cannot tell in turn, and
her second was skipped; Ben has two annotations of his first page, and none of his second. Of the rubrics Ada passed one, and Ben corrected it.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from physicians import choices, clinic, judge, otherwise, recipe, truth
from stand_in import PERSONAL, StandIn

from promedical_jax.cli import main
from promedical_jax.errors import InputError
from promedical_jax.review import adjudication, export, readback
from promedical_jax.review.reading import Preference
from promedical_jax.review.recipe import ReviewConfig, StudioRecipe
from promedical_jax.review.seal import FILE, Task, read_key
from promedical_jax.rubric import Case, Verdict, read_cases, write_cases
from promedical_jax.rubric.labels import majority

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture
def recorded(tmp_path: Path) -> ReviewConfig:
    """The recorded review of answers, to be read back from files."""
    (tmp_path / "out").mkdir()
    shutil.copytree(RECORDED / "answers", tmp_path / "exports")
    shutil.move(tmp_path / "exports" / FILE, tmp_path / "out" / FILE)
    shutil.copy(RECORDED / "cases.jsonl", tmp_path)
    return recipe(tmp_path, exports=tmp_path / "exports")


def preferences(config: ReviewConfig, name: str = readback.PREFERENCES) -> list[Preference]:
    return [Preference.model_validate_json(line) for line in (config.out / name).read_text().splitlines()]


def said(config: ReviewConfig, task: Task) -> dict[tuple[str, str], str]:
    cases = {case.id: case for case in read_cases(config.out / readback.REVIEWED)}
    return {(one.answer, one.criterion): one.verdict.value for one in cases[task.case].verdicts if one.rater == task.physician and one.human}


def test_real_exports_are_read(recorded: ReviewConfig, capsys: pytest.CaptureFixture[str]) -> None:
    readback.run(recorded)
    printed = capsys.readouterr().out
    key = read_key(recorded.out).key
    by_code = {row["data"]["code"]: row for name in ("ada", "ben") for row in json.loads((RECORDED / "answers" / f"{name}.json").read_text())}
    first = next(task for task in key.of("ada") if not by_code[task.code]["annotations"][-1]["was_cancelled"])
    cells = [(answer, criterion) for criterion in first.criteria for answer in first.answers]  # as Tab goes
    assert said(recorded, first) == {cell: ("met", "unmet", "abstain")[n % 3] for n, cell in enumerate(cells)}
    [ada, ben] = preferences(recorded)
    assert (ada.physician, ada.better, ada.worse) == ("ada", first.answers[1], first.answers[0])

    opinion = truth(read_cases(RECORDED / "cases.jsonl"))
    last = next(task for task in key.of("ben") if by_code[task.code]["annotations"])
    whole = {(answer, criterion): opinion(last.case, answer, criterion) for answer in last.answers for criterion in last.criteria}
    left_out = {(last.answers[0], criterion) for criterion in last.criteria[:2]}  # of his last annotation; his first had them
    assert said(recorded, last) == {cell: verdict for cell, verdict in whole.items() if cell not in left_out}
    assert (ben.better, ben.worse) == tuple(sorted(last.answers)[::-1])
    rows = [line.split() for line in printed.splitlines()]
    assert ["ada", "2", "1", "1", "0", "4", "4", "4", "1"] in rows and ["ben", "2", "1", "0", "1"] in [row[:5] for row in rows]
    assert "2 criteria or preferences were left empty; they are no verdicts" in printed
    reviewed = read_cases(recorded.out / readback.REVIEWED)
    assert all(any(not one.human for one in case.verdicts) for case in reviewed)  # the checker's stay

    before = (recorded.out / readback.REVIEWED).read_bytes()
    readback.run(recorded)
    assert (recorded.out / readback.REVIEWED).read_bytes() == before


Change = Callable[[list[dict[str, Any]]], Any]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[0]["data"].update(code="beef"), r"ada.json has a task 'beef', which .*sealed.json does not know; leave it out"),
        (lambda rows: rows[0]["data"].update(review="0ther"), r"ada.json has a task '\w+' of another review \(0ther\)"),
        (lambda rows: rows[0]["data"].update(seal="0" * 64), r"sealed.json was changed after the export: .*ada.json was sealed with 000000000000"),
        (lambda rows: rows[0]["annotations"][-1]["result"][0]["value"].update(choices=["Yes"]), r"task \w+: holds \['Yes'\] where one of met, unmet, abstain"),
        (lambda rows: rows[0]["annotations"][-1]["result"][0].update(from_name="c_0"), r"task \w+: has a field 'c_0', which the exported page does not have"),
        (lambda rows: rows[0].pop("annotations"), r"ada.json, task 1: field annotations: is missing; add it \(is it an export as JSON, and not as"),
        (lambda rows: rows.clear() or {"a": 1}, r"ada.json holds no list of tasks; export the project again, as JSON"),
    ],
)
def test_exports_that_are_not_of_this_review_are_refused(change: Change, words: str, recorded: ReviewConfig) -> None:
    assert recorded.exports
    rows = json.loads((recorded.exports / "ada.json").read_text())
    rows.sort(key=lambda row: row["annotations"][-1]["was_cancelled"])
    changed = change(rows)
    (recorded.exports / "ada.json").write_text(json.dumps(changed if isinstance(changed, dict) and "a" in changed else rows))
    with pytest.raises(InputError, match=words):
        readback.run(recorded)
    assert not (recorded.out / readback.REVIEWED).exists()


def test_a_key_that_was_changed_after_the_export_opens_nothing(recorded: ReviewConfig) -> None:
    path = recorded.out / FILE
    key = json.loads(path.read_text())
    key["tasks"][0]["answers"].reverse()  # A becomes B
    path.write_text(json.dumps(key))
    with pytest.raises(InputError, match=r"out/sealed.json was changed after the export: .*; put the file of the export back"):
        readback.run(recorded)


def test_cases_that_are_not_those_the_physicians_saw_are_refused(recorded: ReviewConfig) -> None:
    [first, *others] = read_cases(recorded.cases)
    edited = first.rubric.criteria[0].model_copy(update={"text": "Says something else."})
    rubric = first.rubric.model_copy(update={"criteria": (edited, *first.rubric.criteria[1:])})
    write_cases(recorded.cases, [first.model_copy(update={"rubric": rubric}), *others])
    with pytest.raises(InputError, match=r"cases.jsonl: case '.*' is not as the physicians saw it"):
        readback.run(recorded)
    write_cases(recorded.cases, others)
    with pytest.raises(InputError, match=r"cases.jsonl has no case '.*', which .*sealed.json has"):
        readback.run(recorded)


def test_where_nothing_is_to_read_that_is_said(recorded: ReviewConfig, tmp_path: Path) -> None:
    assert recorded.exports
    for path in recorded.exports.iterdir():
        path.write_text("[]")
    with pytest.raises(InputError, match=r"none of the 4 tasks of .* is submitted yet"):
        readback.run(recorded)
    (recorded.exports / "ada.json").write_text("[{")
    with pytest.raises(InputError, match=r"ada.json is no JSON that can be read"):
        readback.run(recorded)
    with pytest.raises(InputError, match=r"empty holds no .json file; put Label Studio's exports there"):
        readback.run(recorded.model_copy(update={"exports": tmp_path / "empty"}))
    with pytest.raises(InputError, match="nothing says where the annotations are"):
        readback.run(recorded.model_copy(update={"exports": None}))
    with pytest.raises(InputError, match=r"sealed.json does not exist; run `promedical review export` first"):
        readback.run(recipe(tmp_path, out=tmp_path / "nowhere"))


# Over HTTP, to the end


def reviewed(studio: StandIn, folder: Path, physicians: tuple[str, ...] = ("ada", "ben")) -> tuple[ReviewConfig, list[Case], set[tuple[str, str]], str]:
    """A review in which the last of the physicians says the contrary on two criteria, and prefers otherwise in one more case; the others say the truth."""
    _, cases = clinic(folder)
    config, opinion = recipe(folder, studio=StudioRecipe(url=studio.url, key="STUDIO_TOKEN"), physicians=physicians), truth(cases)
    export.run(config)
    key = read_key(config.out).key
    tasks, own = key.by_code, key.of(physicians[0])
    disputed, elsewhere = {(own[0].case, own[0].criteria[0]), (own[1].case, own[1].criteria[-1])}, own[2].case
    contrary = lambda case, answer, criterion: (otherwise if (case, criterion) in disputed else str)(opinion(case, answer, criterion))  # noqa: E731
    for name in physicians:
        view, odd = (contrary, elsewhere) if name == physicians[-1] else (opinion, "")
        studio.annotate(name, lambda code: judge(tasks[code], view, lambda case, pair: pair[case == odd]))  # noqa: B023
    return config, cases, disputed, elsewhere


@pytest.mark.parametrize("physicians", [("ada", "ben"), ("ada", "ben", "dora")])
def test_only_what_they_differ_on_is_adjudicated_and_that_settles_it(studio: StandIn, tmp_path: Path, physicians: tuple[str, ...]) -> None:
    config, cases, disputed, elsewhere = reviewed(studio, tmp_path, physicians)
    opinion = truth(cases)
    readback.run(config)
    level = len(physicians) == 2
    open_cells = [one for case in read_cases(config.out / readback.SETTLED_CASES) for one in case.verdicts if one.verdict is Verdict.ABSTAIN]
    assert len(open_cells) == (4 if level else 0) and len(preferences(config, readback.SETTLED_PREFERENCES)) == (11 if level else 12)

    studio.refuse = lambda method, path: (500, "no") if (method, path) == ("POST", "/api/projects") else None
    with pytest.raises(InputError, match="the same command goes on"):
        adjudication.run(config)
    studio.refuse = lambda method, path: None
    adjudication.run(config)
    key = read_key(config.out / adjudication.FOLDER).key
    assert {(task.case, criterion) for task in key.tasks for criterion in task.criteria} == disputed
    assert [task.case for task in key.tasks if task.overall] == [elsewhere] and key.physicians == ["cleo"]
    pages = {row["data"]["code"]: row["data"] for row in studio.of("cleo")["tasks"]}
    assert all(len(pages[task.code]["overall"]) == task.overall and len(pages[task.code]["criteria"]) == len(task.criteria) for task in key.tasks)
    with pytest.raises(InputError, match="holds an export, and Label Studio has all of it"):
        adjudication.run(config)

    tasks = key.by_code
    reverse = lambda *cell: otherwise(opinion(*cell))  # noqa: E731
    studio.annotate("cleo", lambda code: judge(tasks[code], reverse, lambda case, pair: pair[1]))  # with the last physician, against the truth
    readback.run(config)
    for case in read_cases(config.out / readback.SETTLED_CASES):
        for one in case.verdicts:
            expected = opinion(case.id, one.answer, one.criterion)
            assert one.rater == "physicians" if one.human else one.rater != "physicians"
            if one.human:
                assert one.verdict.value == (otherwise(expected) if (case.id, one.criterion) in disputed else expected)
    decided = {one.case: one for one in preferences(config, readback.SETTLED_PREFERENCES)}
    assert len(decided) == 12 and str(decided[elsewhere].better) > str(decided[elsewhere].worse)
    raters = {one.rater for case in read_cases(config.out / readback.REVIEWED) for one in case.verdicts if one.human}
    assert raters == {*physicians, "cleo"}


def test_a_criterion_on_which_they_agree_stays_though_the_adjudicator_is_asked_beside_it(studio: StandIn, tmp_path: Path) -> None:
    """A row is asked of both answers; where the two physicians agree, the third is one voice of three."""
    _, cases = clinic(tmp_path)
    config, opinion = recipe(tmp_path, studio=StudioRecipe(url=studio.url, key="STUDIO_TOKEN"), size=1), truth(cases)
    export.run(config)
    tasks = read_key(config.out).key.by_code
    [task, _] = tasks.values()
    first, second = task.answers
    half = lambda case, answer, criterion: (otherwise if (answer, criterion) == (first, task.criteria[0]) else str)(opinion(case, answer, criterion))  # noqa: E731
    studio.annotate("ada", lambda code: judge(tasks[code], opinion, lambda *_: "equal"))
    studio.annotate("ben", lambda code: judge(tasks[code], half, lambda *_: "equal"))
    adjudication.run(config)
    again = read_key(config.out / adjudication.FOLDER).key.by_code
    studio.annotate("cleo", lambda code: judge(again[code], lambda *cell: otherwise(opinion(*cell)), lambda *_: "equal"))
    readback.run(config)
    [case] = read_cases(config.out / readback.SETTLED_CASES)
    settled = {(one.answer, one.criterion): one.verdict.value for one in case.verdicts if one.human}
    assert settled[first, task.criteria[0]] == otherwise(opinion(case.id, first, task.criteria[0]))
    assert settled[second, task.criteria[0]] == opinion(case.id, second, task.criteria[0])
    [tie] = preferences(config, readback.SETTLED_PREFERENCES)
    assert tie.tie == tuple(sorted(task.answers)) and tie.better is None


def test_adjudication_waits_for_all_and_needs_somebody(studio: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, *_ = reviewed(studio, tmp_path)
    with pytest.raises(InputError, match="nobody is named to adjudicate; give adjudicator"):
        adjudication.run(config.model_copy(update={"adjudicator": None}))
    held = studio.of("ben")["tasks"][0]
    annotations = held["annotations"]
    held["annotations"] = []
    with pytest.raises(InputError, match=r"1 tasks of .*out are open yet"):
        adjudication.run(config)
    held["annotations"] = [annotations[0] | {"result": [], "was_cancelled": True}]
    adjudication.run(config)

    agreeing = recipe(tmp_path, out=tmp_path / "agreeing", studio=config.studio, physicians=("eve", "flo"))
    export.run(agreeing)
    tasks, opinion = read_key(agreeing.out).key.by_code, truth(read_cases(config.cases))
    for name in agreeing.physicians:
        studio.annotate(name, lambda code: judge(tasks[code], opinion, lambda case, pair: pair[0]))
    capsys.readouterr()
    adjudication.run(agreeing)
    assert "differ on nothing" in capsys.readouterr().out and not (agreeing.out / adjudication.FOLDER).exists()


def test_a_project_that_is_gone_and_a_key_that_was_changed_are_said(studio: StandIn, tmp_path: Path) -> None:
    config, *_ = reviewed(studio, tmp_path)
    path = config.out / FILE
    whole = path.read_text()
    path.write_text(whole + "\n")
    with pytest.raises(InputError, match=r"sealed.json was changed after the export: project \d+ of \w+ was sealed with"):
        readback.run(config)
    with pytest.raises(InputError, match=r"sealed.json was changed after the export"):
        export.run(config)
    path.write_text(whole)
    [number] = [number for number, one in studio.projects.items() if " of ben, " in one["description"]]
    del studio.projects[number]
    with pytest.raises(InputError, match="Label Studio has no project of this review for ben"):
        readback.run(config)


def test_who_cannot_tell_differs_from_nobody() -> None:
    assert majority([]) is None and majority(["a", "b"]) is None and majority(["a", "b", "b"]) == "b" and majority(["a"]) == "a"


def test_a_preference_is_one_of_two_things() -> None:
    with pytest.raises(ValueError, match="better and worse, or tie"):
        Preference(case="c", physician="ada", better="x")
    with pytest.raises(ValueError, match="better and worse, or tie"):
        Preference(case="c", physician="ada", better="x", worse="y", tie=("x", "y"))


# Rubrics


@pytest.fixture
def rubrics(tmp_path: Path) -> ReviewConfig:
    """The recorded review of rubrics."""
    (tmp_path / "out" / "round-1").mkdir(parents=True)
    shutil.copytree(RECORDED / "rubrics", tmp_path / "exports")
    shutil.move(tmp_path / "exports" / FILE, tmp_path / "out" / "round-1" / FILE)
    shutil.copy(RECORDED / "cases.jsonl", tmp_path)
    return recipe(tmp_path, what="rubrics", pool=tmp_path / "pool.jsonl", per_case=2, exports=tmp_path / "exports")


def test_a_real_correction_becomes_a_rubric(rubrics: ReviewConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the pages that were submitted, Ada's of one case says passed (with a weight that she had typed before) and Ben's of a case is a correction."""
    readback.run(rubrics)
    printed = capsys.readouterr().out
    key = read_key(rubrics.out / "round-1").key
    rows = {row["data"]["code"]: row for name in ("ada", "ben") for row in json.loads((RECORDED / "rubrics" / f"{name}.json").read_text())}
    ben = next(task for task in key.of("ben") if rows[task.code]["annotations"])
    ada = next(task for task in key.of("ada") if rows[task.code]["annotations"])
    cases = {case.id: case for case in read_cases(rubrics.cases)}
    [record] = [json.loads(line) for line in (rubrics.out / "rounds.jsonl").read_text().splitlines()]
    assert rubrics.pool and "round 1: 2 of 2 rubrics reviewed, 1 right as they stand (50.0 %)" in printed
    pool = {case.id: case for case in read_cases(rubrics.pool)}
    assert record["reviewed"] == 2 and record["passed"] == 1 and pool[ada.case].rubric == cases[ada.case].rubric
    mended = {one.id: one for one in pool[ben.case].rubric.criteria}
    written = {one.id: one for one in cases[ben.case].rubric.criteria}
    first = ben.criteria[0]
    assert mended[first].text == f"{written[first].text} Of every drug." and mended[first].tier == "excellence" and mended[first].polarity == "required"
    assert [one.text for one in pool[ben.case].rubric.criteria if one.id not in written] == ["Asks about the kidneys.", "Asks about other drugs."]
    assert record["edits"] == {"added": 2, "polarity": 1, "reworded": 1, "tier": 1}
    assert "excellence" not in {one.tier for one in written.values() if one.id == first}


def test_a_correction_without_a_weighted_criterion_names_the_task(studio: StandIn, tmp_path: Path) -> None:
    clinic(tmp_path)
    config = recipe(tmp_path, what="rubrics", pool=tmp_path / "pool.jsonl", studio=StudioRecipe(url=studio.url, key="STUDIO_TOKEN"), size=2)
    export.run(config)
    tasks = read_key(config.out / "round-1").key.by_code
    every = lambda code: [choices("rubric", "corrected"), *(choices(f"place_{row}", "removed") for row in range(len(tasks[code].criteria)))]  # noqa: E731
    studio.annotate("ada", every)
    with pytest.raises(InputError, match=r"project \d+ of ada, task \w+ of ada \(case '.*'\): the correction leaves no criterion of what an answer"):
        readback.run(config)
    assert not (tmp_path / "pool.jsonl").exists() and not (config.out / "rounds.jsonl").exists()


def test_the_commands_are_these(tmp_path: Path, studio: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    config, *_ = reviewed(studio, tmp_path)
    path = tmp_path / "review.yaml"
    path.write_text(f"cases: {config.cases}\nout: {config.out}\nwhat: answers\nphysicians: [ada, ben]\nadjudicator: cleo\n"
                    f"studio: {{url: '{studio.url}', key: STUDIO_TOKEN}}\n")  # fmt: skip
    for command, words in {"import": "reviewed.jsonl", "agreement": "Cohen's, the mean over pairs", "adjudicate": "cleo: 3 tasks", "export": ""}.items():
        code = main(["review", command, "--config", str(path)])
        said = capsys.readouterr()
        assert code == (2 if command == "export" else 0), said.err
        assert words in said.out and PERSONAL not in said.out + said.err
