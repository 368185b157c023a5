"""Our tasks run by lm-evaluation-harness: accuracies are those of `promedical bench run`, by log-likelihood on a checkpoint and by replies by rule."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from folders import save_policy
from scripted import hashed
from test_lm_eval import MODELS
from tiny import policy

from promedical_jax.asking import Ask, read_reply
from promedical_jax.clinic import build_tokenizer
from promedical_jax.suites.known import SUITES
from promedical_jax.suites.recipe import SuiteConfig
from promedical_jax.suites.run import run

pytest.importorskip("torch")
lm_eval = pytest.importorskip("lm_eval")
pytestmark = pytest.mark.live

OPTIONS = {"A": "对乙酰氨基酚", "B": "布洛芬", "C": "阿莫西林"}
DRUGS = [
    {"id": str(n), "question": f"问题{n}?", "kind": "indication", "options": OPTIONS, "answer": ["A", "C"][: 1 + n % 2]} for n in range(12)
]


@pytest.fixture(scope="module")
def folder() -> str:
    return subprocess.run([sys.executable, "-m", "promedical_jax.cli", "bench", "tasks-dir"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("lm_eval") / "model"
    save_policy(made, policy(MODELS["qwen3"], 3), MODELS["qwen3"], build_tokenizer())
    return made


def shortest(file: Path, to: Path, count: int = 12) -> Path:
    """The tokenizer spells what it does not know."""
    to.write_text("\n".join(sorted(file.read_text(encoding="utf-8").splitlines(), key=len)[:count]), encoding="utf-8")
    return to


def results(found: dict[str, Any] | None, task: str) -> dict[str, float]:
    assert found is not None
    return {name.removesuffix(",none"): value for name, value in found["results"][task].items() if name.endswith(",none") and "_stderr" not in name}


def test_multiple_choice_by_log_likelihood(data: Path, folder: str, model: Path, tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    file = shortest(next((data / "medqa").glob("*.jsonl")), tmp_path / "medqa.jsonl")
    tasks = TaskManager(include_path=folder, include_defaults=False, metadata={"medqa": str(file), "pretrained": str(model)})
    theirs = HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=4, max_length=8192)
    found = results(lm_eval.simple_evaluate(theirs, tasks=["promedical_medqa"], task_manager=tasks, bootstrap_iters=0), "promedical_medqa")
    report = run(SuiteConfig(suite="medqa", data=file, out=tmp_path / "ours", model=model))
    assert report.items == 12 and 0 < (report.figures["acc"].mean or 0) < 1  # neither all right nor all wrong, where anything would agree
    assert (found["acc"], found["acc_norm"]) == pytest.approx((report.figures["acc"].mean, report.figures["acc_norm"].mean))


def files(suite: str, data: Path, to: Path) -> Path:
    if suite == "chidrug":
        to.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in DRUGS), encoding="utf-8")
        return to
    if suite == "medec":
        return next((data / "medec").glob("*.csv"))
    return data / "pubmedqa" if suite == "pubmedqa" else next((data / suite).glob("*.json*"))


def said(suite: str, ask: Ask) -> str:
    """Something sound, or not."""
    draw = hashed(json.dumps(ask.messages), 8)
    if draw == 0:
        return "I would say so."
    if suite == "medec":
        return json.dumps({"error": draw < 5, "sentence": draw if draw < 5 else None, "correction": "It is so." if draw < 5 else None})
    keys = list(json.loads(ask.messages[1]["content"]).get("options" if suite != "chidrug" else "选项", {}))
    return json.dumps({"answer": keys[draw % len(keys)] if suite != "chidrug" else keys[: draw % 3]})


NAMES = {"accuracy": "accuracy", "flag right": "flag accuracy", "sentence right": "sentence accuracy", "composite": "correction, composite",
         "net": "net, right minus wrong", "declined": "declined to answer"}  # fmt: skip


@pytest.mark.parametrize("suite", ["medqa", "medmcqa", "pubmedqa", "chidrug", "medec"])
def test_what_is_generated_is_marked_by_the_suites_functions(suite: str, data: Path, folder: str, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    file, chosen = files(suite, data, tmp_path / "items.jsonl"), SUITES[suite]
    assert chosen.ask
    items = list(chosen.read(file))[:60]
    asks = {tuple(message["content"] for message in ask.messages): ask for ask in map(chosen.ask, items)}

    class ByRule(LM):
        def generate_until(self, requests: list[Instance]) -> list[str]:
            return [said(suite, asks[tuple(request.args[0].split("\n\n", 1))]) for request in requests]

        loglikelihood = loglikelihood_rolling = lambda self, requests: pytest.fail("nobody asks for these")

    tasks = TaskManager(include_path=folder, include_defaults=False, metadata={suite: str(file), "pretrained": "by rule"})
    task = f"promedical_{suite}_generate"
    found = results(lm_eval.simple_evaluate(ByRule(), tasks=[task], task_manager=tasks, limit=60, bootstrap_iters=0), task)
    marks = [chosen.mark(item, reply(said(suite, ask), ask), []) for item, ask in zip(items, map(chosen.ask, items), strict=True)]
    figures = chosen.figures(marks)
    assert found.pop("abstained") == pytest.approx(sum(mark.reply is None for mark in marks) / len(marks)) and any(mark.reply is None for mark in marks)
    assert len(found) == {"chidrug": 3, "medec": 3}.get(suite, 1)
    assert found == {name: pytest.approx(figures[NAMES[name]].mean) for name in found}


def reply(text: str, ask: Ask) -> Any:
    return None if text == "I would say so." else read_reply(text, ask.form)


def test_a_task_whose_file_is_not_given_says_how_to_give_it(folder: str) -> None:
    from lm_eval.tasks import TaskManager

    with pytest.raises(Exception, match="medqa: no file is given; add --metadata"):
        TaskManager(include_path=folder, include_defaults=False).load(["promedical_medqa"])
