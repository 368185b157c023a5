"""Parity with `transformers` on the files that goldens/make_qwen3.py wrote."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import close

from promedical_jax.model import hf, transformer
from promedical_jax.model.layout import assemble, tree
from promedical_jax.model.rope import Rope


@pytest.fixture(scope="module", autouse=True)
def quickly() -> None:
    """In place of the room's: here the code is compiled as it is for training."""


GOLDENS = sorted((Path(__file__).parents[1] / "goldens").glob("qwen3_*.npz"))


@partial(jax.jit, static_argnums=1)
def logits_of(params, config, ids):
    layout = tree(ids.shape[1])
    hidden = transformer.forward(params, config, assemble(layout, [ids[:, None]], [jnp.full((ids.shape[0], 1), ids.shape[1])]), layout)
    return hidden @ transformer.unembedding(params).T


def read(file: Path, folder: Path):
    golden = dict(np.load(file))
    (folder / "config.json").write_text(str(golden.pop("config")))
    return golden.pop("ids"), golden.pop("logits"), hf.read_config(folder), golden


def test_the_goldens_span_what_differs_among_checkpoints(tmp_path: Path) -> None:
    configs = [read(file, tmp_path)[2] for file in GOLDENS]
    assert {c.tied for c in configs} == {True, False} and {c.rope.theta for c in configs} == {1e4, 1e6}
    assert {c.kv_heads for c in configs} == {1, 2, 4} and all(c.head * c.kv_heads * c.query_heads != c.width for c in configs)
    assert all(file.stat().st_size < 300_000 for file in GOLDENS)


@pytest.mark.parametrize("file", GOLDENS, ids=lambda file: file.stem)
def test_logits_equal_those_of_transformers(file: Path, tmp_path: Path) -> None:
    ids, wanted, config, tensors = read(file, tmp_path)
    params = hf.from_hf(tensors, config, file.name)
    assert set(params) == ({"embed", "layers", "norm"} if config.tied else {"embed", "layers", "norm", "unembed"})
    close(logits_of(params, config, ids), wanted, 1e-5)
    back = hf.to_hf(params, config)
    assert back.keys() == tensors.keys() and all((back[name] == tensors[name]).all() for name in tensors)


def test_a_wrong_constant_would_be_seen(tmp_path: Path) -> None:
    ids, wanted, config, tensors = read(GOLDENS[0], tmp_path)
    params = hf.from_hf(tensors, config, "golden")
    for wrong in (replace(config, rope=Rope(config.rope.theta * 1.1)), replace(config, norm_eps=1e-4)):
        assert np.abs(logits_of(params, wrong, ids) - wanted).max() > 1e-3 * np.abs(wanted).max()
    for name in tensors:
        changed = hf.from_hf(tensors | {name: tensors[name] + 0.01 * np.sin(np.arange(tensors[name].size)).reshape(tensors[name].shape)}, config, "golden")
        assert np.abs(logits_of(changed, config, ids) - wanted).max() > 1e-4 * np.abs(wanted).max(), name


def test_both_spellings_of_the_rope_base_are_read(tmp_path: Path) -> None:
    _, _, config, _ = read(GOLDENS[0], tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields.pop("rope_parameters")["rope_theta"] == config.rope.theta
    (tmp_path / "config.json").write_text(json.dumps(fields | {"rope_theta": config.rope.theta}))  # as the hub's files have it
    assert hf.read_config(tmp_path) == config
