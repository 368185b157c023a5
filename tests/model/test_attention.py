"""Each platform's attention against plain level-by-level attention, which the goldens and the flat rows of test_tree_exactness.py hold to the truth."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import close

from promedical_jax.model import cudnn, sharding, splash
from promedical_jax.model import layout as layouts
from promedical_jax.model.attention import attend
from promedical_jax.model.layout import Layout, TreeBatch, assemble, tree
from promedical_jax.model.levels import level_attention

# Rows that fill no block, one block and several, and nodes that no block boundary meets.
LAYOUTS = {
    "chain": tree(20),
    "answers": tree(20, (3, 17)),
    "criteria": tree(20, (3, 17), (2, 5)),
    "several blocks": tree(150, (2, 70), (3, 20)),
}
KERNELS = {
    "splash": partial(splash.splash_attention, interpret=True),
    "cudnn": partial(cudnn.cudnn_attention, implementation="xla"),
}


def arrays(layout: Layout, seed: int, b: int = 2, kv: int = 2, heads: int = 3, size: int = 16):
    """Random q, k, v, the valid mask of ragged nodes, and random weights of the outputs, zero at padding."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(b, layout.tokens, kv, heads, size)).astype(np.float32)
    k, v = (rng.normal(size=(b, layout.tokens, kv, size)).astype(np.float32) for _ in range(2))
    lengths = [rng.integers(1, level.length + 1, (b, level.nodes)) for level in layout.levels]
    valid = assemble(layout, [np.zeros((b, level.nodes, level.length), np.int32) for level in layout.levels], lengths).valid
    return q, k, v, valid, rng.normal(size=q.shape).astype(np.float32)


def results(attention, layout: Layout, q, k, v, valid, weights):
    """The outputs at real tokens and the gradients of their weighted sum."""

    def value(q, k, v):
        mixed = jnp.where(valid[:, :, None, None, None], attention(q, k, v, valid, layout), 0.0)
        return jnp.sum(mixed * weights), mixed

    gradients, mixed = jax.jit(jax.grad(value, (0, 1, 2), has_aux=True))(q, k, v)
    return mixed, gradients


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_a_kernel_gives_the_numbers_of_plain_attention(kernel, layout: Layout) -> None:
    given = arrays(layout, len(LAYOUTS))
    close(results(kernel, layout, *given), results(level_attention, layout, *given), 2e-6)


@pytest.mark.parametrize("kernel", [level_attention, KERNELS["cudnn"]], ids=["levels", "cudnn"])
def test_a_long_node_is_a_chain_of_pieces(kernel, monkeypatch) -> None:
    layout = LAYOUTS["criteria"]
    given = arrays(layout, 6)
    wanted = results(level_attention, layout, *given)
    monkeypatch.setattr(layouts, "PIECE", 4)
    close(results(kernel, layout, *given), wanted, 2e-6)


LONG = [tree(8192), tree(1024, (7, 1024)), tree(1024, (1, 7168)), tree(4096, (1, 2048), (1, 2048))]


@pytest.mark.parametrize("layout", LONG, ids=str)
def test_no_array_of_all_pairs_exists_in_plain_attention(layout: Layout) -> None:
    """Neither a mask nor scores of 8k x 8k, forward or backward, in what is asked of the compiler."""
    sizes = [math.prod(map(int, shape.split("x"))) for shape in re.findall(r"tensor<([\dx]+)x(?:i1|f32)>", long_program(level_attention, layout))]
    assert 8192 * 1024 / 2 <= max(sizes) <= 8192 * layouts.PIECE


@pytest.mark.parametrize("layout", LONG, ids=str)
def test_no_mask_of_all_pairs_is_given_to_cudnn(layout: Layout, monkeypatch) -> None:
    given, attention = [0], jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *x, mask=None, **more: given.append(0 if mask is None else mask.size) or attention(*x, **more))
    long_program(KERNELS["cudnn"], layout)
    # Of siblings each has the instruction's keys before its own: a quarter of all pairs.
    assert max(given) <= 2 * 8192 * layouts.PIECE and (len(layout.levels) == 1) == (max(given) == 0)


def long_program(attention, layout: Layout) -> str:
    shapes = ((1, 8192, 1, 1, 8), (1, 8192, 1, 8), (1, 8192, 1, 8))
    value = lambda q, k, v, valid: jnp.sum(attention(q, k, v, valid, layout))  # noqa: E731
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(jax.grad(value, (0, 1, 2))).lower(*arrays, jax.ShapeDtypeStruct((1, 8192), bool)).as_text()


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_a_kernel_runs_on_a_mesh(kernel) -> None:
    layout = LAYOUTS["answers"]
    *given, valid, weights = arrays(layout, 5, b=4)
    wanted = results(level_attention, layout, *given, valid, weights)
    mesh = sharding.make_mesh(fsdp=2, tp=2, slices=2)
    with jax.set_mesh(mesh):
        places = sharding.shardings(mesh, {"q": ("batch", None, "kv_heads", None, None), "k": ("batch", None, "kv_heads", None), "row": ("batch", None)})
        placed = [jax.device_put(x, places["q" if x.ndim == 5 else "k"]) for x in given]
        found = results(kernel, layout, *placed, jax.device_put(valid, places["row"]), jax.device_put(weights, places["q"]))
    close(found, wanted, 2e-6)


def test_the_splash_mask_is_the_tree() -> None:
    """Against ancestry read off the layout token by token, over every pair."""
    layout = LAYOUTS["criteria"]
    owner = [(level, node, offset) for level, x in enumerate(layout.levels) for node in range(x.nodes) for offset in range(x.length)]

    def sees(q, k) -> bool:
        (level, node, offset), (above, other, place) = owner[q], owner[k]
        while level > above:
            node //= layout.levels[level].nodes // layout.levels[level - 1].nodes
            level -= 1
        return (level, node) == (above, other) and (place <= offset or owner[q][0] > above)

    mask = splash.TreeMask(layout, 256)[:, :]
    t = layout.tokens
    assert np.array_equal(mask[:t, :t], [[sees(q, k) for k in range(t)] for q in range(t)])
    assert mask[t:].any(axis=1).all()  # a row that saw nothing would divide by zero


def test_blocks_pad_little_and_are_whole() -> None:
    for tokens in range(1, 20_000, 37):
        block = splash.block_size(tokens)
        padded = -(-tokens // block) * block
        assert block % splash.LANES == 0 and block <= 512 and padded <= max(tokens * 17 / 16, tokens + splash.LANES - 1)


def test_the_platform_is_that_of_the_mesh_also_where_it_is_only_compiled_for(monkeypatch) -> None:
    called = []
    for platform in ("cpu", "tpu", "gpu"):
        monkeypatch.setattr("promedical_jax.model.attention.platform", lambda platform=platform: platform)
        monkeypatch.setattr(splash, "splash_attention", lambda *_: called.append("splash"))
        monkeypatch.setattr(cudnn, "cudnn_attention", lambda *_: called.append("cudnn"))
        monkeypatch.setattr("promedical_jax.model.attention.level_attention", lambda *_: called.append("levels"))
        for dtype in (jnp.float32, jnp.bfloat16):
            attend(jnp.zeros((1, 2, 1, 1, 64), dtype), None, None, TreeBatch(None, None, None), tree(2))
    assert called == ["levels", "levels", "splash", "splash", "levels", "cudnn"]  # cuDNN has no float32
