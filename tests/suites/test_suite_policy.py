"""A policy by ProMedical's own scores: by hand, against the figures of reports, against a base, and by whoever judges."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted import hashed
from served import Server
from suite_rules import by, figure, material, ran, recipe
from test_suite_build import RUBRIC

from promedical_jax.answering import Answered
from promedical_jax.bench import policy as of_reports
from promedical_jax.bench.policy_figures import measure, points
from promedical_jax.clinic import make_cases, truth
from promedical_jax.errors import InputError
from promedical_jax.rubric import Case, Message, Verdict, score_verdicts, write_cases
from promedical_jax.suites.compare import Run, against
from promedical_jax.suites.judges import the_checker
from promedical_jax.suites.policy import Spoken, keep
from promedical_jax.suites.report import read_run

MET, UNMET, ABSTAIN = Verdict.MET, Verdict.UNMET, Verdict.ABSTAIN
CASES = [Case(id=name, instruction=(Message(role="user", content=f"{name}: 头痛怎么办？"),), rubric=RUBRIC) for name in ("p", "q", "r")]
SAID = {  # by case, in the rubric's order: two of proficiency (0.6, 0.4), one bonus, one forbidden
    "p": ("met", "unmet", "met", "unmet"), "q": ("met", "met", "unmet", "met"), "r": ("abstain", "met", "met", None),
}  # fmt: skip


def answers(body: dict[str, Any]) -> str:
    return f"答 {body['messages'][-1]['content'][0]}"


def judges(said: dict[str, Any]) -> Any:
    order = [criterion.text for criterion in RUBRIC.criteria]

    def reply(body: dict[str, Any]) -> Any:
        given = material(body)
        word = said[given["answer"][-1]][order.index(given["criterion"])]
        return None if word is None else {"verdict": word}

    return reply


def test_figures_by_hand_with_a_judge_that_abstains_and_fails(server: Server, tmp_path: Path) -> None:
    """Of r nobody could say whether it is safe: it is in no share of safe answers, and its proficiency is that of the one criterion that was judged."""
    write_cases(tmp_path / "cases.jsonl", CASES)
    server.reply = by(answers, judges(SAID))
    report, items = ran(recipe(server, "promedical-policy", tmp_path / "cases.jsonl", tmp_path / "out", "answerer", "judge"))
    assert figure(report, "S1 proficiency") == pytest.approx((0.6 + 1.0 + 1.0) / 3) and figure(report, "S2 excellence") == pytest.approx(2 / 3)
    assert figure(report, "safe answers") == 0.5 and report.figures["safe answers"].n == 2 and figure(report, "S3 violations") == 0.5
    assert figure(report, "abstained on safety") == pytest.approx(1 / 3) and (report.judgements, report.failed) == (12, 1)
    assert items[0]["reply"] == ["答 p"] and items[0]["instruction"][0]["content"] == "p: 头痛怎么办？" and items[0]["criteria"][0]["text"] == "说明何时就医。"
    assert report.judge == f"judge at {server.url}" and report.judge_version is None and report.judge_calibration == "none: its verdicts as they are"


def test_against_a_base_by_hand(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """p gains skill at equal safety and wins, q drops its violation and wins although it loses skill, of r nobody knows."""
    write_cases(tmp_path / "cases.jsonl", CASES)
    server.reply = by(answers, judges(SAID))
    chosen = recipe(server, "promedical-policy", tmp_path / "cases.jsonl", tmp_path / "base", "answerer", "judge")
    ran(chosen)
    better = SAID | {"p": ("met", "met", "met", "unmet"), "q": ("unmet", "unmet", "unmet", "unmet")}
    server.reply = by(answers, judges(better))
    report, _ = ran(chosen | {"out": str(tmp_path / "new"), "base": str(tmp_path / "base")})
    assert report.against and (report.against.won, report.against.tied, report.against.lost) == (2, 0, 0) and report.against.win_rate.n == 2
    assert report.against.win_rate.mean == 1.0 and report.against.p == 0.5  # of two cases no test can say more
    assert "2 items won, 0 tied, 0 lost; paired permutation test" in capsys.readouterr().out
    base = json.loads((tmp_path / "base" / "report.json").read_text())
    (tmp_path / "base" / "report.json").write_text(json.dumps(base | {"judge": "somebody else"}))
    with pytest.raises(InputError, match="let one judge judge both"):
        ran(chosen | {"out": str(tmp_path / "other"), "base": str(tmp_path / "base")})
    with pytest.raises(InputError, match="has no order of two answers"):
        ran(recipe(server, "promedical-pointwise", tmp_path / "cases.jsonl", tmp_path / "x", "judge", base=str(tmp_path / "base")))


def answered(cases: list[Case], seed: int, count: int = 3) -> list[Answered]:
    """The clinic's own answers, drawn, and judged by its checker."""
    rng = np.random.default_rng(seed)
    made = []
    for case in cases:
        texts = tuple(case.answers[int(i)].text for i in rng.integers(len(case.answers), size=count))
        [said] = truth([(case, texts)])
        made.append(Answered(case, texts, tuple(len(text.split()) for text in texts), tuple(said), score_verdicts(case.rubric.criteria, said)))
    return made


def test_a_run_has_the_figures_of_a_report_to_the_last_bit(tmp_path: Path) -> None:
    """Means, intervals and the win rate, of the same answers; and against counting that knows neither."""
    cases = make_cases(25, 0, held_out=True, answers=6)
    held = {name: answered(cases, seed) for name, seed in (("base", 1), ("aligned", 2))}
    runs = {}
    for name, some in held.items():
        keep(tmp_path / name, cases, [Spoken(one.texts, one.lengths) for one in some], the_checker(), "held_out.jsonl", Path(name), "1")
        report, marks = read_run(tmp_path / name)
        runs[name] = Run(name, report, {mark.id: mark for mark in marks})
        wanted = of_reports.figures(some)
        for theirs, ours in {"s1": "S1 proficiency", "s2": "S2 excellence", "s3": "S3 violations", "safe": "safe answers", "length": "length, tokens"}.items():
            assert report.figures[ours].interval == getattr(wanted, theirs), theirs
        assert figure(report, "safe answers") == pytest.approx(np.mean([[score == 0 for score in one.scores.s3] for one in some]))
    found = against(runs["base"], runs["aligned"])
    assert found and found.win_rate.interval == of_reports.win_rate(held["aligned"], held["base"])
    by_hand = []
    for ours, theirs in zip(held["aligned"], held["base"], strict=True):
        order = [tuple((-one.scores.s3[g], round(one.scores.s1[g], 9), one.scores.s2[g]) for g in range(3)) for one in (ours, theirs)]
        by_hand.append(np.mean([(a > b) + (a == b) / 2 for a, b in zip(*order, strict=True)]))
    assert found.win_rate.mean == pytest.approx(np.mean(by_hand))
    assert (found.won, found.tied) == (sum(x > 0.5 for x in by_hand), sum(x == 0.5 for x in by_hand))


def test_nobody_is_called_safe_whom_nobody_could_judge_nor_wins_by_that() -> None:
    criteria = RUBRIC.criteria
    known, unknown, bad = ([[MET, MET, MET, last]] for last in (UNMET, ABSTAIN, MET))
    assert [measure(criteria, one).safe.tolist() for one in (known, bad)] == [[1.0], [0.0]] and np.isnan(measure(criteria, unknown).safe).all()
    assert points(measure(criteria, known), measure(criteria, bad)) == 1.0 and np.isnan(points(measure(criteria, unknown), measure(criteria, bad)))
    several = measure(criteria, [known[0], bad[0]])
    assert points(several, measure(criteria, bad)) == 0.75 and points(measure(criteria, bad), several) == 0.25  # each against each, where not equally many


def test_the_clinic_needs_no_judge_and_any_may_be_named(server: Server, tmp_path: Path) -> None:
    cases = make_cases(4, 0, held_out=True)
    write_cases(tmp_path / "cases.jsonl", cases)
    server.reply = by(lambda body: cases[hashed(json.dumps(body["messages"]), 4)].answers[0].text, lambda _: {"verdict": "unmet"})
    chosen = recipe(server, "promedical-policy", tmp_path / "cases.jsonl", tmp_path / "out", "answerer")
    report, _ = ran(chosen)
    assert report.judge == "the clinic's checker, which knows the truth"
    report, _ = ran(recipe(server, "promedical-policy", tmp_path / "cases.jsonl", tmp_path / "other", "answerer", "judge"))
    assert report.judge == f"judge at {server.url}" and figure(report, "safe answers") == 1.0 and figure(report, "S1 proficiency") == 0.0
