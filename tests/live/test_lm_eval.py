"""Multiple choice by log-likelihood as lm-evaluation-harness has it, on the same checkpoint and items: log-likelihoods, acc and acc_norm."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from folders import save_policy
from tiny import CONFIG, policy

from promedical_jax.bench.likelihood import open_likelihood
from promedical_jax.clinic import build_tokenizer
from promedical_jax.suites import choice

pytest.importorskip("torch")
lm_eval = pytest.importorskip("lm_eval")
pytestmark = pytest.mark.live

MODELS = {
    "qwen3": replace(CONFIG, vocabulary=512, tied=True),
    "llama": replace(CONFIG, vocabulary=512, qk_norm=False, kv_heads=2, head=4),
}


@pytest.fixture
def items(request, data: Path) -> list[choice.Item]:
    """Short ones, for the tokenizer spells what it does not know."""
    paths = {"medqa": (choice.read_medqa, "medqa"), "medmcqa": (choice.read_medmcqa, "medmcqa"), "pubmedqa": (choice.read_pubmedqa, "pubmedqa")}
    read, path = paths[request.param]
    return sorted(read(data / path), key=lambda item: len(choice.likely(item).context))[:16]


@pytest.mark.parametrize(("name", "items"), [("qwen3", "medqa"), ("llama", "medmcqa"), ("qwen3", "pubmedqa")], indirect=["items"])
def test_log_likelihoods_acc_and_acc_norm(name: str, items: list[choice.Item], tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folder = tmp_path / "model"
    save_policy(folder, policy(MODELS[name], 3), MODELS[name], build_tokenizer())
    asked = [choice.likely(item) for item in items]
    rows = [{"context": one.context, "options": list(one.options), "gold": one.gold} for one in asked]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    task = {
        "task": "ours", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.json")}}, "test_split": "test",
        "output_type": "multiple_choice", "doc_to_text": "{{context}}", "doc_to_choice": "options", "doc_to_target": "gold",
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")],
    }  # fmt: skip
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4, max_length=8192)
    said = lm_eval.simple_evaluate(theirs, tasks=[task], task_manager=TaskManager(include_defaults=False), log_samples=True, bootstrap_iters=0)
    assert said is not None
    wanted = [[float(value) for value, _ in sample["filtered_resps"]] for sample in sorted(said["samples"]["ours"], key=lambda one: one["doc_id"])]

    found = open_likelihood(folder, batch=8)([(one.context, one.options) for one in asked])
    for ours, of_theirs in zip(found, wanted, strict=True):
        assert ours == pytest.approx(of_theirs, rel=1e-4)
    figures = choice.figures((), [choice.mark_likely(item, values) for item, values in zip(items, found, strict=True)])
    assert figures["acc"].mean == pytest.approx(said["results"]["ours"]["acc,none"])
    assert figures["acc_norm"].mean == pytest.approx(said["results"]["ours"]["acc_norm,none"])
    assert 0 < (figures["acc"].mean or 0) < 1  # neither all right nor all wrong, where anything would agree
