"""The suites as tasks of Inspect, with models that reply by rule: figures and marks are those of `promedical bench run`, also of what abstains."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted import hashed
from served import Server
from suite_rules import by, drawn, material, ran, recipe
from test_suite_choice import rule
from test_suite_healthbench import ORIGINAL
from test_suite_preference import FOURS, TIES, rating
from test_suite_walk import COUNTS, everybody, written

from promedical_jax.suites.known import SUITES
from promedical_jax.suites.report import Report

inspect_ai = pytest.importorskip("inspect_ai")
tasks = pytest.importorskip("promedical_jax.suites.inspect_tasks")
pytestmark = pytest.mark.live


def answered(body: dict[str, Any]) -> Any:
    """Of a free question words of its own, or none at all; of multiple choice a key, a word that is none, or nothing sound."""
    if "response_format" not in body:
        return "" if drawn(body, 7) == 0 else f"I would say {drawn(body, 1000)}."
    given = material(body)
    said = rule(given["question"], list(given["options"]), "A")
    return None if said is None else {"answer": said}


def judged(body: dict[str, Any]) -> Any:
    """A verdict, or nothing sound."""
    given, draw = material(body), drawn(body, 10)
    if draw == 0:
        return None
    if "criterion" in given:
        return {"why": "by rule", "met": draw < 6}
    return {"label": ["Entailment", "Neutral", "Contradiction"][draw % 3]} if "statement" in given else {"why": "by rule", "rating": rating(given["answer"])}


def head(source: Path, to: Path, count: int) -> Path:
    to.write_text("".join(source.read_text(encoding="utf-8").splitlines(keepends=True)[:count]), encoding="utf-8")
    return to


def preferences(to: Path) -> Path:
    to.write_text("".join(json.dumps(row) + "\n" for row in FOURS[:6] + TIES[:6]))
    return to


FILES: dict[str, Callable[[Path, Path], Path]] = {
    "healthbench": lambda data, to: head(data / "healthbench" / "healthbench_300.jsonl", to, 6),
    "kqa": lambda data, to: head(data / "kqa" / "questions_w_answers.jsonl", to, 6),
    "medqa": lambda data, to: head(next((data / "medqa").glob("*.jsonl")), to, 20),
    "rewardbench2": lambda _, to: preferences(to),
}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_API_KEY", "none")


def model(server: Server, name: str) -> Any:
    return inspect_ai.model.get_model(f"openai-api/local/{name}", base_url=server.url, memoize=False)


def asked(server: Server, suite: str, file: Path, out: Path, measured: str = "answerer", **more: Any) -> Any:
    roles = {"grader": model(server, "judge")} if SUITES[suite].ask and SUITES[suite].judge else None
    task = tasks.TASKS[suite](path=str(file), retries=1)
    [log] = inspect_ai.eval(task, model=model(server, measured), model_roles=roles, log_dir=str(out), display="none", **more)
    assert log.status == "success", log.error
    return log


def found(log: Any) -> dict[str, float]:
    assert log.results
    [score] = log.results.scores
    return {name: metric.value for name, metric in score.metrics.items()}


def alike(server: Server, suite: str, file: Path, tmp_path: Path) -> tuple[Report, Any]:
    """Our own run's report, and Inspect's log, whose figures and marks are the same and were asked for as often."""
    roles = [role for role, asks in (("answerer", SUITES[suite].ask), ("judge", SUITES[suite].judge)) if asks]
    report, items = ran(recipe(server, suite, file, tmp_path / "ours", *roles))
    counted = sum(server.seen.values())
    log = asked(server, suite, file, tmp_path / "theirs", roles[0])

    wanted: dict[str, float | None] = {"judgements": report.judgements, "judgements failed": report.failed}
    for name, figure in report.figures.items():
        wanted |= {name: figure.mean, f"{name}, low": figure.low, f"{name}, high": figure.high, f"{name}, n": figure.n}
    assert found(log) == {name: value for name, value in wanted.items() if value is not None}
    assert counted == sum(server.seen.values()) - counted  # as many questions, and as many further tries

    back = inspect_ai.log.read_eval_log(log.location)
    scores = {sample.id: sample.scores["suite_marks"] for sample in back.samples}
    assert [tasks.read_mark(scores[item["id"]].metadata).model_dump(mode="json") for item in items] == items and len(scores) == len(items)
    assert [scores[item["id"]].value for item in items] == [{"score": item["score"]} for item in items]  # who abstains has no score, and never zero
    assert back.eval.metadata["licence"] == SUITES[suite].source.licence
    return report, back


@pytest.mark.parametrize("suite", FILES)
def test_figures_and_marks_are_those_of_our_own_run(suite: str, data: Path, server: Server, tmp_path: Path) -> None:
    server.reply = by(answered, judged)
    report, log = alike(server, suite, FILES[suite](data, tmp_path / "items.jsonl"), tmp_path)
    assert report.failed or report.silent  # so that something abstains, and says why
    assert all((score.reason is not None) == (score.value["score"] is None) for sample in log.samples for score in sample.scores.values())


@pytest.mark.parametrize("suite", [name for name in SUITES if name not in FILES.keys() | COUNTS.keys()])
def test_so_are_those_of_every_other_suite(suite: str, server: Server, tmp_path: Path) -> None:
    server.reply = everybody("<think>{}</think>")
    alike(server, suite, written(tmp_path, suite), tmp_path)


def test_what_an_endpoint_says_in_a_replys_place_is_no_reply(server: Server, tmp_path: Path) -> None:
    """Inspect makes a reply of the complaint that a conversation is too long; nobody is asked to judge that."""
    (tmp_path / "hb.jsonl").write_text(json.dumps(ORIGINAL))
    fault = {"error": {"message": "the instruction has 999 tokens", "type": "invalid_request_error", "code": "context_length_exceeded"}}
    server.reply = lambda _, body: (400, json.dumps(fault), {})
    log = asked(server, "healthbench", tmp_path / "hb.jsonl", tmp_path / "log")
    assert sum(server.seen.values()) == 1 and found(log)["abstained"] == 1.0 and found(log)["judgements"] == 0 and "score" not in found(log)


def test_a_log_is_judged_again_by_another_grader_and_several_epochs_are_of_one_item(server: Server, tmp_path: Path) -> None:
    rows = [ORIGINAL | {"prompt_id": name, "prompt": [{"role": "user", "content": name}]} for name in ("one", "two", "three")]
    (tmp_path / "hb.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server.reply = by(lambda body: body["messages"][0]["content"], lambda body: {"why": "", "met": hashed(material(body)["answer"], 2) == 0})
    log = asked(server, "healthbench", tmp_path / "hb.jsonl", tmp_path / "log", epochs=2)
    once = {name: value for name, value in found(log).items() if not name.endswith(", n") and "judgements" not in name}
    assert found(log)["score, n"] == 6 and found(log)["judgements"] == 18
    server.seen.clear()
    server.reply = by(lambda _: pytest.fail("nobody answers again"), lambda body: {"why": "", "met": material(body)["criterion"] == "Is kind."})
    marks = tasks.suite_marks("healthbench", str(tmp_path / "hb.jsonl"))
    again = inspect_ai.score(log, marks, action="overwrite", model_roles={"grader": model(server, "judge")}, display="none")
    assert found(again)["score"] == 0.25 != once["score"] and found(again)["score, n"] == 6


def test_what_is_wrong_with_a_file_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "hb.jsonl").write_text(json.dumps(ORIGINAL | {"prompt": []}))
    for more, said in (({}, "line 1, field prompt"), ({"harmless": "h.jsonl"}, "leave harmless out")):
        with pytest.raises(tasks.PrerequisiteError) as caught:
            tasks.TASKS["healthbench"](path=str(tmp_path / "hb.jsonl"), **more)
        assert said in str(caught.value.message)
