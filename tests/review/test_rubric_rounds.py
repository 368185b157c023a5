"""A review of rubrics, round by round: what a correction does to a rubric, what the pool holds, and when it is enough."""

from pathlib import Path
from typing import Any

import pytest
from physicians import choices, number, recipe, texts
from stand_in import StandIn

from promedical_jax.errors import InputError
from promedical_jax.review import adjudication, export, readback
from promedical_jax.review.reading import Page
from promedical_jax.review.recipe import ReviewConfig, StudioRecipe
from promedical_jax.review.rounds import compare
from promedical_jax.review.rubrics import advice, correction, read_pool, read_rounds
from promedical_jax.review.seal import Task, in_order, read_key
from promedical_jax.rubric import Answer, Case, Criterion, Judgement, Message, Polarity, Rubric, Tier, Verdict, write_cases

VETO = Criterion(id="veto", text="Advises aspirin.", tier=Tier.SAFETY, polarity=Polarity.FORBIDDEN)
DOSE = Criterion(id="dose", text="Names the dose.", tier=Tier.PROFICIENCY, weight=0.6)
KIDNEYS = Criterion(id="kidneys", text="Asks about the kidneys.", tier=Tier.PROFICIENCY, weight=0.4)
WARM = Criterion(id="warm", text="Is kind.", tier=Tier.EXCELLENCE)
RUBRIC = Rubric(criteria=(DOSE, WARM, KIDNEYS, VETO))  # on the page: veto, dose, kidneys, warm


def case(name: str = "c") -> Case:
    said = tuple(Judgement(answer="x", criterion=one.id, verdict=Verdict.MET, rater="judge") for one in RUBRIC.criteria)
    return Case(id=name, instruction=(Message(role="user", content=f"Question {name}?"),), answers=(Answer(id="x", text="Yes."),), rubric=RUBRIC, verdicts=said)


def page(*said: dict[str, Any], one: Case | None = None) -> Page:
    one = one or case()
    task = Task(code="abc", physician="ada", case=one.id, answers=(), criteria=in_order(one), overall=False, digest="d")
    held = {field["from_name"]: next(iter(field["value"].values())) for field in said}
    return Page(task, "project 1", {name: value if isinstance(value, list) else [value] for name, value in held.items()})


def corrected(*said: dict[str, Any]) -> dict[str, Criterion]:
    rubric = correction(page(choices("rubric", "corrected"), *said), case())
    assert rubric
    return {one.id: one for one in rubric.criteria}


def test_what_is_left_alone_stays() -> None:
    assert correction(page(choices("rubric", "passed"), texts("text_0", "Ignored.")), case()) == RUBRIC
    filled_in = [texts(f"text_{row}", one.text) for row, one in enumerate((VETO, DOSE, KIDNEYS, WARM))]
    assert correction(page(choices("rubric", "corrected"), *filled_in), case()) == RUBRIC
    assert corrected(texts("text_1", f" {DOSE.text}\r\n"))["dose"] == DOSE
    assert correction(page(), case()) is None  # neither right nor wrong
    assert correction(Page(page().task, "", None), case()) is None


def test_each_kind_of_change() -> None:
    found = corrected(texts("text_0", VETO.text, "Advises aspirin to a child."), choices("polarity_2", "forbidden"), choices("place_3", "safety"))
    assert found["veto"].text == "Advises aspirin to a child."  # Label Studio may send what was written along
    assert found["kidneys"].polarity is Polarity.FORBIDDEN and found["kidneys"].weight == 0.4
    assert found["warm"].tier is Tier.SAFETY and found["warm"].weight is None
    assert list(found) == ["dose", "warm", "kidneys", "veto"]


def test_weights_are_scaled_to_sum_to_one() -> None:
    assert corrected(choices("place_1", "removed"))["kidneys"].weight == 1
    assert compare(RUBRIC, Rubric(criteria=tuple(corrected(choices("place_1", "removed")).values()))).edits == {"removed": 1}  # and no edit of a weight
    found = corrected(number("weight_1", 30), number("weight_2", 20))
    assert (found["dose"].weight, found["kidneys"].weight) == pytest.approx((0.6, 0.4))
    found = corrected(choices("place_3", "proficiency"))  # as heavy as the mean of those that were written
    assert found["warm"].weight == pytest.approx(1 / 3) and found["dose"].weight == pytest.approx(0.4)
    found = corrected(choices("place_3", "proficiency"), number("weight_3", 100))
    assert found["warm"].weight == pytest.approx(0.5)
    found = corrected(choices("place_1", "excellence"), texts("add_proficiency_required", "Asks about other drugs."))
    assert found["dose"].weight is None and found["added_1"].weight == pytest.approx(0.5 / 0.9)


def test_criteria_are_added() -> None:
    found = corrected(texts("add_safety_forbidden", "Advises ibuprofen.", " ", "Advises ibuprofen."), texts("add_safety_required", "Calls for help."),
                      texts("add_excellence_required", "Is short."))  # fmt: skip
    added = [(one.text, one.tier, one.polarity) for name, one in found.items() if name.startswith("added_")]
    assert added == [("Advises ibuprofen.", Tier.SAFETY, Polarity.FORBIDDEN), ("Calls for help.", Tier.SAFETY, Polarity.REQUIRED),
                     ("Is short.", Tier.EXCELLENCE, Polarity.REQUIRED)]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([choices("place_1", "removed"), choices("place_2", "removed")], r"project 1, task abc of ada \(case 'c'\): the correction leaves no criterion"),
        ([choices("place_1", "gone")], r"task abc: holds \['gone'\] where one of proficiency, excellence, safety, removed is expected"),
        ([choices("place_9", "removed")], "task abc: has a field 'place_9', which the exported page does not have"),
        ([number("weight_1", 0)], "task abc: a weight is 0; it must lie above 0"),
        ([number("weight_1", 101)], "task abc: a weight is 101; it must lie above 0"),
    ],
)
def test_a_correction_that_gives_no_rubric_is_refused(said: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        corrected(*said)


# Rounds


def begin(studio: StandIn, folder: Path, count: int, **changes: Any) -> ReviewConfig:
    write_cases(folder / "cases.jsonl", [case(f"c{n}") for n in range(count)])
    given = {"what": "rubrics", "pool": folder / "pool.jsonl", "studio": StudioRecipe(url=studio.url, key="STUDIO_TOKEN"), "adjudicator": None}
    return recipe(folder, **given | changes)


WRONG = [choices("rubric", "corrected"), texts("text_1", "Names dose and interval.")]
RIGHT = [choices("rubric", "passed")]


def annotate(studio: StandIn, config: ReviewConfig, round_: int, wrong: int, upto: int | None = None) -> list[str]:
    """The first `wrong` cases of a round, in the order of their ids, are corrected, the others passed; only the first `upto` tasks are submitted."""
    key = read_key(config.out / f"round-{round_}").key
    order = sorted({task.case for task in key.tasks})
    cases = {task.code: task.case for task in key.tasks}
    for project in studio.projects.values():
        if key.review in project["description"]:
            for task in project["tasks"]:
                place = order.index(cases[task["data"]["code"]])
                if upto is None or place < upto:
                    task["annotations"] = [{"id": 1, "result": WRONG if place < wrong else RIGHT}]
    return order


def test_rounds_until_it_is_enough(studio: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = begin(studio, tmp_path, 260, size=100, threshold=0.8)
    export.run(config)
    with pytest.raises(InputError, match="Label Studio has all of it"):
        export.run(config)
    first = annotate(studio, config, 1, wrong=30)
    readback.run(config)
    said = capsys.readouterr().out
    assert "round 1: 100 of 100 rubrics reviewed, 70 right as they stand (70.0 %)" in said and "30 reworded" in said
    assert "no number of reviews shows that 80 % are right; let the pool teach the writer" in said
    pool = {one.id: one for one in read_pool(config)}
    assert sorted(pool) == first and pool[first[0]].rubric.criteria[0].text == "Names dose and interval." and pool[first[30]].rubric == RUBRIC
    assert {one.criterion for one in pool[first[0]].verdicts} == {"warm", "kidneys", "veto"}  # the verdict on what was reworded is gone
    assert pool[first[0]].provenance == {"review": "corrected in round 1"} and pool[first[30]].provenance == {"review": "passed in round 1"}

    export.run(config)
    second = annotate(studio, config, 2, wrong=2)
    assert not set(first) & set(second)
    readback.run(config)
    said = capsys.readouterr().out
    assert "enough: more than 80 % are right" in said
    assert advice(read_rounds(config)[1], config.model_copy(update={"missed": 0.7})).startswith("not enough")  # most of the 98 may have been let pass
    readback.run(config)  # again: nothing twice
    assert [(one.number, one.reviewed, one.passed) for one in read_rounds(config)] == [(1, 100, 70), (2, 100, 98)] and len(read_pool(config)) == 200
    assert read_rounds(config)[1].allowed_error == pytest.approx(0.05 * 6 / (3.141592653589793 * 2) ** 2)

    export.run(config)
    assert len({task.case for task in read_key(config.out / "round-3").key.tasks}) == 60  # all that are left
    annotate(studio, config, 3, wrong=0)
    readback.run(config)
    with pytest.raises(InputError, match=r"cases.jsonl: each case is in .*pool.jsonl or was seen in an earlier round"):
        export.run(config)


def test_what_is_not_submitted_counts_as_not_right_until_it_is(studio: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = begin(studio, tmp_path, 100, size=100, threshold=0.8)
    export.run(config)
    with pytest.raises(InputError, match=r"none of the 100 tasks of .*round-1 is submitted yet"):
        readback.run(config)
    annotate(studio, config, 1, wrong=0, upto=70)
    readback.run(config)
    said = capsys.readouterr().out
    assert "70 of 100 rubrics reviewed, 70 right" in said and "30 are not submitted, and count as not right until they are" in said
    assert "not enough to say that more than 80 % are right: if as many pass, round 2 needs" in said  # 70 of 70 would have been enough
    annotate(studio, config, 1, wrong=0)
    readback.run(config)
    assert "enough: more than 80 %" in capsys.readouterr().out and [one.number for one in read_rounds(config)] == [1]


def test_the_newest_gold_of_a_case_replaces_an_older_one(studio: StandIn, tmp_path: Path) -> None:
    config = begin(studio, tmp_path, 4, size=4)
    write_cases(tmp_path / "pool.jsonl", [case("elsewhere"), case("c0")])
    export.run(config)
    assert {task.case for task in read_key(config.out / "round-1").key.tasks} == {"c1", "c2", "c3"}  # c0 is in the pool
    annotate(studio, config, 1, wrong=1)
    readback.run(config)
    annotate(studio, config, 1, wrong=2)
    readback.run(config)
    assert [(one.id, one.provenance.get("review")) for one in read_pool(config)] == [
        ("elsewhere", None), ("c0", None), ("c1", "corrected in round 1"), ("c2", "corrected in round 1"), ("c3", "passed in round 1")]  # fmt: skip


def test_corrections_that_differ_are_in_no_pool_until_somebody_adjudicates(studio: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = begin(studio, tmp_path, 3, size=3, per_case=2, adjudicator="cleo")
    export.run(config)
    studio.annotate("ada", lambda code: RIGHT)
    key = read_key(config.out / "round-1").key
    [odd] = [task.code for task in key.of("ben") if task.case == "c1"]
    studio.annotate("ben", lambda code: WRONG if code == odd else RIGHT)
    readback.run(config)
    said = capsys.readouterr().out
    assert "1 were corrected in several ways and are not in the pool; `promedical review adjudicate`" in said
    assert [one.id for one in read_pool(config)] == ["c0", "c2"] and read_rounds(config)[0].passed == 2
    adjudication.run(config)
    again = read_key(config.out / "round-1" / adjudication.FOLDER).key
    assert [(task.physician, task.case) for task in again.tasks] == [("cleo", "c1")]
    studio.annotate("cleo", lambda code: WRONG)
    readback.run(config)
    assert {one.id: one.rubric.criteria[0].text for one in read_pool(config)} == {"c0": DOSE.text, "c1": "Names dose and interval.", "c2": DOSE.text}
    assert (read_rounds(config)[0].passed, read_rounds(config)[0].differ) == (2, 0)
