"""An answerer and a judge that reply to a suite's questions by a rule, and a suite's run against them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripted import hashed
from served import Server

from promedical_jax.suites.recipe import SuiteConfig
from promedical_jax.suites.report import Report
from promedical_jax.suites.run import run


def by(answers: Callable[[dict[str, Any]], Any], judges: Callable[[dict[str, Any]], Any] = lambda _: None) -> Callable[..., tuple[int, str, dict[str, str]]]:
    """A server's reply: the model `answerer` says what `answers` makes of the request's body, the model `judge` what `judges` does. None: nothing sound."""

    def reply(_: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        content = (answers if body["model"] == "answerer" else judges)(body)
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        message = {"role": "assistant", "content": "that is no reply" if content is None else text}
        whole = {"model": body["model"], "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
        return 200, json.dumps(whole, ensure_ascii=False), {}

    return reply


def material(body: dict[str, Any]) -> dict[str, Any]:
    """What a question is about, as it was sent."""
    return json.loads(body["messages"][1]["content"])


def drawn(body: dict[str, Any], among: int) -> int:
    return hashed(json.dumps(body["messages"][:2]), among)


def recipe(server: Server, suite: str, data: Path, out: Path, *roles: str, **more: Any) -> dict[str, Any]:
    at = {"url": server.url, "concurrency": 8, "retries": 1, "timeout": 20.0}
    return {"suite": suite, "data": str(data), "out": str(out)} | {role: at | {"model": role} for role in roles} | more


def ran(chosen: dict[str, Any]) -> tuple[Report, list[dict[str, Any]]]:
    """The report, and the lines of items.jsonl."""
    report = run(SuiteConfig.model_validate(chosen))
    return report, [json.loads(line) for line in (Path(chosen["out"]) / "items.jsonl").read_text(encoding="utf-8").splitlines()]


def figure(report: Report, name: str) -> float | None:
    return report.figures[name].mean
