"""`inspect eval` as its users run it: our tasks by their entry point, a model behind `promedical serve`, logs that Inspect reads and its viewer shows."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hosted import hosted
from served import Server

from promedical_jax.suites.recipe import SuiteConfig
from promedical_jax.suites.run import run

logs_of = pytest.importorskip("inspect_ai.log")
pytestmark = pytest.mark.live

ROWS: dict[str, list[dict[str, Any]]] = {
    "healthbench": [
        {"prompt_id": str(n), "prompt": [{"role": "user", "content": text}],
         "rubrics": [{"criterion": "Is kind.", "points": 3, "tags": ["axis:accuracy"]}, {"criterion": "Is short.", "points": 2, "tags": []}]}
        for n, text in enumerate(["I cough.", "I have Ulbrin ague.", "我头痛。"])
    ],
    "kqa": [{"Question": text, "Free_form_answer": "A.", "Must_have": ["Rest."], "Nice_to_have": ["Tea."]} for text in ("How long?", "How much?")],
}  # fmt: skip


def judging(_: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
    """Nothing sound of what is short; of all else what the letters of the answer say."""
    given = json.loads(body["messages"][1]["content"])
    even = sum(map(ord, given["answer"])) % 2 == 0
    said = {"why": "by rule", "met": even} if "criterion" in given else {"label": "Entailment" if even else "Neutral"}
    text = "it is" if given.get("criterion") == "Is short." else json.dumps(said)
    return 200, json.dumps({"model": "judge", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}), {}


def values(log: Any) -> dict[str, float]:
    assert log.status == "success" and log.results, log.error
    return {name: metric.value for name, metric in log.results.scores[0].metrics.items()}


def test_inspect_eval_runs_healthbench_and_kqa_against_our_server(models: Path, server: Server, tmp_path: Path) -> None:
    server.reply = judging
    command, logs = str(Path(sys.executable).with_name("inspect")), tmp_path / "logs"
    with hosted(models) as host:
        running = {}
        for suite, rows in ROWS.items():
            (tmp_path / f"{suite}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            line = [command, "eval", f"promedical_jax/{suite}", "-T", f"path={suite}.jsonl", "--model", "openai-api/ours/tiny", "--max-tokens", "24"]
            line += ["--model-role", "grader=openai-api/judging/judge", "--log-dir", str(logs / suite), "--display", "none"]
            environment = os.environ | {"OURS_API_KEY": "none", "OURS_BASE_URL": host.url, "JUDGING_API_KEY": "none", "JUDGING_BASE_URL": server.url}
            running[suite] = subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for process in running.values():
            said, _ = process.communicate(timeout=120)
            assert process.returncode == 0, said
        for suite in ROWS:
            [file] = (logs / suite).glob("*.eval")
            log = logs_of.read_eval_log(str(file))
            at = {"url": host.url, "model": "tiny", "max_tokens": 24}, {"url": server.url, "model": "judge", "max_tokens": 512}
            recipe = {"suite": suite, "data": tmp_path / f"{suite}.jsonl", "out": tmp_path / suite, "answerer": at[0], "judge": at[1]}
            report = run(SuiteConfig.model_validate(recipe))
            assert log.eval.task == f"promedical_jax/{suite}" and len(log.samples or ()) == len(ROWS[suite]) == report.items
            found = values(log)
            assert found["judgements"] == report.judgements > 0 and found["judgements failed"] == report.failed == (3 if suite == "healthbench" else 0)
            for name, figure in report.figures.items():
                assert (found.get(name), found[f"{name}, n"]) == (figure.mean, figure.n)
    logs_of.bundle_log_dir(str(logs), str(tmp_path / "bundle"))
    assert (tmp_path / "bundle" / "index.html").is_file() and len(list((tmp_path / "bundle" / "logs").rglob("*.eval"))) == 2
