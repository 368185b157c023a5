"""Counted operations against those that XLA counts in the compiled program, for one layer: it counts a loop's body once."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from tiny import CONFIG

from promedical_jax.model import transformer
from promedical_jax.model.layout import TreeBatch, tree
from promedical_jax.model.transformer import Compute
from promedical_jax.plan import flops

# Wide enough that matrices drown norms, RoPE and softmax, which are not counted.
MODEL = replace(CONFIG, depth=1, width=128, head=64, feed_forward=512, vocabulary=2048)
LAYOUT = tree(64, (2, 32))
TWO = replace(MODEL, depth=2)  # what is compiled: a loop of one layer would be no loop, and what is computed again in it merged with the first time


def counted(function, *arguments) -> float:
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def inputs():
    row = jax.ShapeDtypeStruct((2, LAYOUT.tokens), jnp.int32)
    return transformer.shapes(TWO), TreeBatch(row, row, jax.ShapeDtypeStruct(row.shape, bool))


def hidden(remat):
    return lambda params, batch: transformer.forward(params, TWO, batch, LAYOUT, Compute(remat=remat)).sum()


def dense_attention() -> float:
    """What level-by-level attention computes without a kernel: whole squares, of which a kernel leaves out the upper half."""
    return flops.attention_forward(MODEL, LAYOUT) * (64 * 64 + 2 * 32 * (64 + 32)) / (64 * 65 / 2 + 2 * (32 * 33 / 2 + 32 * 64))


def test_forward() -> None:
    work = flops.forward(MODEL, LAYOUT, 2)
    assert counted(hidden("none"), *inputs()) == pytest.approx(work.model - work.attention + 2 * dense_attention(), rel=0.03)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_update(remat) -> None:
    params, batch = inputs()
    work = flops.update(MODEL, LAYOUT, 2, 0, remat, lora=False)
    kernels = flops.attention_forward(MODEL, LAYOUT) * 2
    plain = work.computed - work.attention + 2 * dense_attention() * (4 if remat == "full" else 3)  # without a kernel the backward pass is two forwards
    assert kernels * (4.5 if remat == "full" else 3.5) == work.attention
    assert counted(jax.grad(hidden(remat)), params, batch) == pytest.approx(plain, rel=0.05)


def test_frozen_weights_cost_two_thirds() -> None:
    whole, frozen = (flops.update(MODEL, LAYOUT, 2, 64, "none", lora) for lora in (False, True))
    matrices = 2.0 * 2 * (LAYOUT.tokens * flops.matrix_weights(MODEL) + 64 * MODEL.width * MODEL.vocabulary)
    assert whole.model - frozen.model == matrices


def test_a_tree_costs_less_than_its_paths() -> None:
    """At 300, 1000 and 40 tokens, 8 answers and 7 criteria each, the tree has 7.1 times fewer tokens than a row a criterion."""
    shared, alone = tree(300, (8, 1000), (7, 40)), tree(1340)
    assert 56 * alone.tokens / shared.tokens == pytest.approx(7.1, abs=0.1)
    assert 56 * flops.forward(MODEL, alone, 1).model / flops.forward(MODEL, shared, 1).model > 5  # attention in an answer is what it was


def test_a_rollout_reads_weights_and_caches_for_every_token() -> None:
    one, more = (flops.rollout(MODEL, rows, 64, 2, 32, 1) for rows in (1, 3))
    weights = 2 * (flops.matrix_weights(MODEL) + MODEL.width * MODEL.vocabulary)
    assert more.model == 3 * one.model and more.traffic < 3 * one.traffic
    assert one.traffic - 32 * weights == (more.traffic - 32 * weights) / 3
