"""Log-likelihoods of options on a small model folder, against one flat row an option; and a suite run with a local model."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from folders import save_policy
from tiny import CONFIG, policy

from promedical_jax.bench.likelihood import Likelihood, open_likelihood
from promedical_jax.cli import main
from promedical_jax.clinic import build_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.model import transformer
from promedical_jax.model.layout import TreeBatch, tree

ASKED = [
    ("Question: Which drug helps Dorvane fever?\nAnswer:", ("velotrin", "no drug", "rest and a long walk by the sea, day after day")),
    ("Take", ("40 mg", "5 days")),
    ("Question: 哪种药?\nAnswer:", ("维罗特林", "yes")),
]


WIDE = replace(CONFIG, vocabulary=512)


def save(folder: Path) -> Path:
    save_policy(folder, policy(WIDE), WIDE, build_tokenizer())
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Likelihood:
    return open_likelihood(save(tmp_path_factory.mktemp("model") / "a"), batch=2)


def alone(model: Likelihood, context: str, option: str) -> float:
    """A row by itself, without padding: the sum over the option's tokens of log softmax."""
    ids, begin = np.array([model.tokenizer.encode(f"{context} {option}")]), len(model.tokenizer.encode(context))
    batch = TreeBatch(jnp.asarray(ids), jnp.arange(ids.shape[1])[None], jnp.ones(ids.shape, bool))
    params = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), model.params)
    logits = transformer.forward(params, model.config, batch, tree(ids.shape[1])) @ transformer.unembedding(params).T
    log_p = jax.nn.log_softmax(logits[0].astype(jnp.float32))
    return float(sum(log_p[at - 1, ids[0, at]] for at in range(begin, ids.shape[1])))


def test_each_option_as_in_a_row_of_its_own(model: Likelihood) -> None:
    found = model(ASKED)
    assert [len(each) for each in found] == [3, 2, 2]
    for (context, options), values in zip(ASKED, found, strict=True):
        assert values == pytest.approx([alone(model, context, option) for option in options], rel=1e-4)
        assert len(set(values)) == len(values) and max(values) < 0


def test_neither_order_nor_company_matters(model: Likelihood) -> None:
    assert model(ASKED[::-1])[::-1] == [pytest.approx(values, rel=1e-5) for values in model(ASKED)]
    assert model(ASKED[:1])[0] == pytest.approx(model(ASKED)[0], rel=1e-5)


def test_an_option_without_a_token_is_refused(model: Likelihood) -> None:
    class Greedy:
        def encode(self, text: str) -> list[int]:
            return [1, 2]

    with pytest.raises(InputError, match="question 1: option 1 has no token of its own"):
        Likelihood(model.params, model.config, Greedy(), model.mesh)([("Why?", ("so",))])


def test_a_suite_by_a_local_model(model: Likelihood, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": f"Which of {n}?", "options": {"A": "velotrin", "B": "rest", "C": "40 mg daily"}, "answer_idx": "ABC"[n % 3]} for n in range(5)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = save(tmp_path / "model")
    flags = ["--suite", "medqa", "--data", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "out"), "--model", str(folder), "--batch", "4"]
    assert main(["bench", "run", *flags]) == 0 and "acc_norm" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    items = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text().splitlines()]
    values = np.array([item["reply"]["log_likelihoods"] for item in items])
    gold = np.array([n % 3 for n in range(5)])
    assert report["figures"]["acc"]["mean"] == np.mean(values.argmax(1) == gold)
    assert report["figures"]["acc_norm"]["mean"] == np.mean((values / [8, 4, 11]).argmax(1) == gold)
    assert report["answerer"].endswith("by log-likelihood") and report["judge"] is None and report["silent"] == 0
    (tmp_path / "c.jsonl").write_text("{}")
    assert main(["bench", "run", *flags[:1], "chidrug", *flags[2:]]) == 2 and "no item of ChiDrug" in capsys.readouterr().err
    assert main(["bench", "run", *flags[:1], "medec", "--data", str(tmp_path / "q.jsonl"), *flags[4:]]) == 2
