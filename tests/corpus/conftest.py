"""A small corpus of real questions, whose models reply by the rules of scripted.py."""

import json
from pathlib import Path
from typing import Any

import pytest
from scripted import everyone, reply
from served import Server

from promedical_jax.clinic import make_cases
from promedical_jax.rubric import Message, write_cases


@pytest.fixture
def recipe(data, server: Server, tmp_path: Path) -> dict[str, Any]:
    """65 questions of three sources, of which five are copies, and two a benchmark's."""
    server.reply = reply
    medqa = (data / "medqa" / "us_4_options_test_500.jsonl").read_text().splitlines()
    (tmp_path / "medqa.jsonl").write_text("\n".join([*medqa[:30], *medqa[:5]]))
    kqa = [json.loads(line) for line in (data / "kqa" / "questions_w_answers.jsonl").read_text().splitlines()[:20]]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps({"q": row["Question"], "a": row["Free_form_answer"]}) + "\n" for row in kqa))
    (tmp_path / "chat.json").write_text(json.dumps(json.loads((data / "chatdoctor" / "chatdoctor5k.json").read_text())[:10]))
    items = [(Message(role="user", content=row["Question"]),) for row in kqa[:2]]
    write_cases(tmp_path / "bench.jsonl", [case.model_copy(update={"instruction": item}) for case, item in zip(make_cases(2, 0), items, strict=True)])
    at = {"url": server.url, "concurrency": 8, "retries": 6, "timeout": 5.0}
    return {
        "out": str(tmp_path / "corpus"),
        "sources": [{"name": "medqa", "path": str(tmp_path / "medqa.jsonl")}, {"name": "chatdoctor", "path": str(tmp_path / "chat.json")},
                    {"name": "mine", "path": str(tmp_path / "mine.jsonl"), "licence": "MIT", "question": "q", "reference": "a"}],
        "suites": [{"name": "kqa", "path": str(tmp_path / "bench.jsonl")}],
    } | everyone(at)  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses after failures are short."""
    monkeypatch.setattr("promedical_jax.asking.asker.FIRST_PAUSE", 0.001)
