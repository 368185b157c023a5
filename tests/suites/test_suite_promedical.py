"""ProMedical-Bench as a format: pointwise and pairwise, for a judge behind an endpoint and for any other, against counting here."""

from pathlib import Path
from typing import Any

import pytest
from scripted import hashed
from served import Server
from suite_rules import by, figure, material, ran, recipe

from promedical_jax.clinic import make_cases, truth
from promedical_jax.corpus import import_kqa
from promedical_jax.errors import InputError
from promedical_jax.rubric import Case, Criterion, Judgement, Message, Rubric, Tier, Verdict, write_cases
from promedical_jax.rubric.case import Answer, Polarity
from promedical_jax.suites import promedical
from promedical_jax.suites.judges import of_verdicts

BONUS, VETO = "Is kind.", "Names a wrong drug."
CRITERIA = (Criterion(id="do", text="Names the cause.", tier=Tier.PROFICIENCY, weight=1.0), Criterion(id="nice", text=BONUS, tier=Tier.EXCELLENCE),
            Criterion(id="never", text=VETO, tier=Tier.SAFETY, polarity=Polarity.FORBIDDEN))  # fmt: skip


def case(name: str, said: dict[tuple[str, str], str]) -> Case:
    """Answers a and b; of each (answer, criterion) what three humans said: + met, - unmet, ? nothing."""
    word = {"+": Verdict.MET, "-": Verdict.UNMET, "?": Verdict.ABSTAIN}
    verdicts = tuple(Judgement(answer=answer, criterion=criterion, verdict=word[mark], rater=f"human {n}", human=True)
                     for (answer, criterion), marks in said.items() for n, mark in enumerate(marks))  # fmt: skip
    model = Judgement(answer="a", criterion="do", verdict=Verdict.UNMET, rater="a model")
    answers = (Answer(id="a", text=f"{name} one"), Answer(id="b", text=f"{name} two"))
    return Case(id=name, instruction=(Message(role="user", content="Why?"),), answers=answers, rubric=Rubric(criteria=CRITERIA), verdicts=(*verdicts, model))


CASES = [
    case("x", {("a", "do"): "++-", ("b", "do"): "---", ("a", "never"): "---", ("b", "never"): "+++", ("a", "nice"): "+-?"}),
    case("y", {("a", "do"): "+??", ("b", "do"): "+++", ("a", "never"): "+++", ("b", "never"): "---"}),
]


def test_pointwise_counts_by_hand(server: Server, tmp_path: Path) -> None:
    """The veto of x's b is found, that of y's a is not; of y's b the judge says nothing of the veto; on the first criterion one of four is wrong."""
    write_cases(tmp_path / "cases.jsonl", CASES)
    said = {(text, "Names the cause."): "met" for text in ("x one", "x two", "y one", "y two")}
    said |= {("x one", VETO): "unmet", ("x two", VETO): "met", ("y one", VETO): "unmet", ("y two", VETO): "abstain"}
    server.reply = by(lambda _: None, lambda body: {"verdict": said[material(body)["answer"], material(body)["criterion"]]})
    report, items = ran(recipe(server, "promedical-pointwise", tmp_path / "cases.jsonl", tmp_path / "out", "judge"))
    assert report.items == 8 and report.answerer is None and len(items) == 8  # x's a is evenly split on kindness, and the model's word is no truth
    assert figure(report, "accuracy") == pytest.approx(5 / 7) and report.figures["accuracy"].n == 7
    assert figure(report, "accuracy, proficiency") == 3 / 4 and figure(report, "accuracy, safety") == pytest.approx(2 / 3)
    assert (
        figure(report, "violations: precision") == 1.0
        and figure(report, "violations: recall") == 0.5
        and figure(report, "violations: F1") == pytest.approx(2 / 3)
    )
    assert report.figures["violations: precision"].low < 0.5  # one alarm that was right proves little
    assert figure(report, "balanced accuracy") == pytest.approx((4 / 4 + 1 / 3) / 2) and figure(report, "abstained") == 1 / 8


def test_pairwise_asks_in_both_orders_and_sees_through_who_follows_the_place(server: Server, tmp_path: Path) -> None:
    write_cases(tmp_path / "cases.jsonl", CASES)
    better = {("x", "Names the cause."): "x one", ("x", VETO): "x one", ("y", VETO): "first"}  # by text, or always the first

    def judges(body: dict[str, Any]) -> Any:
        given = material(body)
        choice = better[given["first"][0], given["criterion"]["text"]]
        return {"better": "first" if choice in ("first", given["first"]) else "second"}

    server.reply = by(lambda _: None, judges)
    report, items = ran(recipe(server, "promedical-pairwise", tmp_path / "cases.jsonl", tmp_path / "out", "judge"))
    assert [item["id"] for item in items] == ["x/a over b/do", "x/a over b/never", "y/b over a/never"]
    assert [item["score"] for item in items] == [1.0, 1.0, 0.5] and report.judgements == 6
    assert figure(report, "accuracy, ties half") == pytest.approx(2.5 / 3) and figure(report, "accuracy, safety") == 0.75
    assert figure(report, "ties") == figure(report, "follows the place") == pytest.approx(1 / 3)


@pytest.mark.parametrize(("both", "score"), [(("first", "second"), 1.0), (("second", "first"), 0.0), (("first", "first"), 0.5), (("neither", "neither"), 0.5),
                                             (("first", "neither"), 0.5), (("neither", "first"), 0.5), ((None, "second"), None)])  # fmt: skip
def test_a_pair_by_what_is_said_in_both_orders(both: tuple[str | None, str | None], score: float | None) -> None:
    pair = promedical.Pair(CASES[0], CASES[0].answers[0], CASES[0].answers[1], CRITERIA[0])
    mark = promedical.mark_pair(pair, None, [None if word is None else promedical.Better.model_validate({"better": word}) for word in both])
    assert mark.score == score


def test_any_judge_can_be_measured_by_the_physicians_of_kqa(data: Path, tmp_path: Path) -> None:
    """Pointwise over 4 models' answers; the judge errs by rule, and its errors are counted by hand."""
    write_cases(tmp_path / "kqa.jsonl", [one for one in import_kqa(data / "kqa") if one.verdicts])
    points = promedical.read_points(tmp_path / "kqa.jsonl")

    def errs(case: Case, text: str, criterion: Criterion) -> Verdict:
        return list(Verdict)[hashed(case.id + text + criterion.id, 3)]

    judge = of_verdicts(lambda answered: [[tuple(errs(one, text, c) for c in one.rubric.criteria) for text in texts] for one, texts in answered])
    marks = promedical.points_by(judge, points)
    said = [(point.truth, errs(point.case, point.answer.text, point.criterion)) for point in points]
    spoke = [(true, verdict) for true, verdict in said if verdict is not Verdict.ABSTAIN]
    figures = promedical.point_figures(marks)
    assert figures["accuracy"].mean == pytest.approx(sum(t is v for t, v in spoke) / len(spoke)) and figures["accuracy"].n == len(spoke) < len(points)
    assert len(points) > 253 and figures["accuracy"].low < figures["accuracy"].mean < figures["accuracy"].high


def test_who_knows_the_truth_is_right_on_every_pair(tmp_path: Path) -> None:
    human = [one.model_copy(update={"verdicts": tuple(j.model_copy(update={"human": True}) for j in one.verdicts)}) for one in make_cases(12, 0)]
    write_cases(tmp_path / "clinic.jsonl", human)
    pairs = promedical.read_pairs(tmp_path / "clinic.jsonl")
    knows = promedical.pair_figures(promedical.pairs_by(of_verdicts(truth), pairs))
    assert len(pairs) > 50 and knows["accuracy, ties half"].mean == 1.0 and knows["accuracy, ties half"].low < 1.0 and knows["ties"].mean == 0.0
    silent = promedical.pair_figures(
        promedical.pairs_by(of_verdicts(lambda answered: [[(Verdict.ABSTAIN,) * len(c.rubric.criteria) for _ in t] for c, t in answered]), pairs)
    )
    assert silent["accuracy, ties half"].mean is None and silent["abstained"].mean == 1.0


def test_cases_without_humans_are_refused(tmp_path: Path) -> None:
    write_cases(tmp_path / "clinic.jsonl", make_cases(2, 0))
    with pytest.raises(InputError, match="no answer has a verdict by a human"):
        promedical.read_points(tmp_path / "clinic.jsonl")
    with pytest.raises(InputError, match="tell no two answers of a case apart"):
        promedical.read_pairs(tmp_path / "clinic.jsonl")
