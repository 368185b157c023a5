"""Parity with `transformers` on the files that goldens/make_goldens.py wrote."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from goldens.parity import gradients, greedy, logits
from tiny import close, quick_compilation

from promedical_jax.model import hf
from promedical_jax.model.hf.config import parse_config
from promedical_jax.model.rope import Llama3, Rope, Yarn, frequencies
from promedical_jax.model.transformer import ModelConfig

GOLDENS = sorted((Path(__file__).parents[1] / "goldens").glob("*_*.npz"))
each = pytest.mark.parametrize("file", GOLDENS, ids=lambda file: file.stem)


@pytest.fixture(scope="module", autouse=True)
def quickly() -> None:
    """In place of the room's: here the code is compiled as it is for training."""


@cache
def read(file: Path) -> SimpleNamespace:
    """A golden file, its weights as our parameters."""
    golden = dict(np.load(file))
    part = {kind: {name.removeprefix(kind): x for name, x in golden.items() if name.startswith(kind)} for kind in ("weight/", "gradient/")}
    fields, weights = json.loads(str(golden["config"])), {name: x.astype(np.float32) for name, x in part["weight/"].items()}
    config = parse_config(fields, file.name)
    rest = {name: golden[name] for name in ("ids", "mask", "near", "far", "greedy")}
    params = hf.from_hf(weights, config, file.name)
    return SimpleNamespace(fields=fields, config=config, params=params, weights=weights, gradients=part["gradient/"], start=int(golden["start"]), **rest)


def test_the_goldens_span_what_differs_among_checkpoints() -> None:
    goldens = [read(file) for file in GOLDENS]
    configs = [golden.config for golden in goldens]
    assert {(c.tied, c.qk_norm) for c in configs} == {(tied, norm) for tied in (True, False) for norm in (True, False)}
    assert {c.rope.theta for c in configs} == {1e4, 5e5, 1e6, 5e6} and {type(c.rope.scaling) for c in configs} == {type(None), Yarn, Llama3}
    assert {(c.kv_heads, c.query_heads) for c in configs} == {(1, 4), (2, 2), (4, 1)}
    assert {c.head * c.kv_heads * c.query_heads == c.width for c in configs} == {True, False}
    for file, golden in zip(GOLDENS, goldens, strict=True):
        whole, left, right = golden.mask
        assert golden.start > 32_768 and whole.all() and not left[0] and left[-1] and right[0] and not right[-1]
        assert file.stat().st_size < 60_000


@each
@pytest.mark.parametrize("where", ["near", "far"])
def test_logits_equal_those_of_transformers(where: str, file: Path) -> None:
    golden = read(file)
    found = logits(golden.params, golden.config, golden.ids, golden.mask, golden.start if where == "far" else 0)
    ends = np.cumsum(golden.mask.sum(1))[:-1]
    for row, wanted in zip(np.split(found, ends), np.split(getattr(golden, where), ends), strict=True):  # whole, padded left, padded right
        close(row, wanted, 1e-5)


@each
def test_gradients_equal_those_of_transformers(file: Path) -> None:
    golden = read(file)
    found = hf.to_hf(gradients(golden.params, golden.config, golden.ids, golden.mask, 0), golden.config)
    assert golden.gradients.keys() == {name for name in golden.weights if ".layers." not in name or ".layers.0." in name}
    for name, wanted in golden.gradients.items():
        close({name: found[name]}, {name: wanted}, 1e-4)


@each
def test_sixty_four_greedy_tokens_equal_those_of_transformers(file: Path) -> None:
    golden = read(file)
    assert golden.greedy.shape == (3, 64)
    assert (greedy(golden.params, golden.config, golden.ids, golden.mask) == golden.greedy).all()


@each
def test_weights_survive_the_round_trip(file: Path) -> None:
    golden = read(file)
    back = hf.to_hf(golden.params, golden.config)
    assert back.keys() == golden.weights.keys() and all((back[name] == golden.weights[name]).all() for name in back)
    assert parse_config(hf.hf_config(golden.config, golden.fields), "back") == golden.config == parse_config(hf.hf_config(golden.config), "anew")


def test_what_padding_holds_says_nothing() -> None:
    golden = read(GOLDENS[0])
    other = np.where(golden.mask, golden.ids, (golden.ids + 7) % golden.config.vocabulary)
    first, second = (logits(golden.params, golden.config, ids, golden.mask, 0) for ids in (golden.ids, other))
    assert (other != golden.ids).any() and (first == second).all()


def named(name: str) -> SimpleNamespace:
    return read(next(file for file in GOLDENS if file.stem == name))


def moved(golden: SimpleNamespace, config: ModelConfig, start: int) -> float:
    """How far another config takes the logits from those of `transformers`, as a part of the largest."""
    wanted = golden.far if start else golden.near
    with quick_compilation():
        return float(np.abs(logits(golden.params, config, golden.ids, golden.mask, start) - wanted).max() / np.abs(wanted).max())


def test_a_wrong_constant_would_be_seen() -> None:
    for golden in (named("qwen3_yarn"), named("llama_scaled_kv1")):
        assert moved(golden, replace(golden.config, rope=Rope(golden.config.rope.theta)), golden.start) > 1e-3
    golden = named("qwen3_untied_kv2")
    assert moved(golden, replace(golden.config, norm_eps=1e-4), 0) > 3e-5


def test_one_bit_of_the_frequencies_would_be_seen_far_along() -> None:
    """So they are made on the host, and each rounding where the models were trained with it."""
    golden = named("qwen3_untied_kv2")
    bit = replace(golden.config, rope=Rope(1.0000001e6))
    assert 0 < np.abs(frequencies(bit.rope, 10)[0] / frequencies(golden.config.rope, 10)[0] - 1).max() < 2**-22
    assert moved(golden, bit, 0) < 1e-5 < moved(golden, bit, golden.start)


def test_a_wrong_weight_would_be_seen() -> None:
    golden = read(GOLDENS[0])
    for name, weight in golden.weights.items():
        noise = 0.01 * np.sin(np.arange(weight.size, dtype=np.float32)).reshape(weight.shape)
        changed = hf.from_hf(golden.weights | {name: weight + noise}, golden.config, "changed")
        found = logits(changed, golden.config, golden.ids, golden.mask, 0)
        assert np.abs(found - golden.near).max() > 1e-4 * np.abs(golden.near).max(), name


def test_parameters_have_norms_over_heads_only_in_qwen3() -> None:
    for file in GOLDENS:
        golden = read(file)
        assert ("q_norm" in golden.params["layers"]) == ("k_norm" in golden.params["layers"]) == (golden.fields["model_type"] == "qwen3")
        assert ("unembed" in golden.params) != golden.config.tied
        assert jax.tree.all(jax.tree.map(lambda x: x.dtype == np.float32, golden.params))
