"""Trees of random shapes, lengths, tokens and weights, however they stand in rows, give the hidden states and gradients of flat rows, one path a row."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CONFIG, MESHES, close, steady

from promedical_jax.model import attention, packing, splash, transformer
from promedical_jax.model.layout import Layout, Level, Rows, TreeBatch, assemble, place, tree
from promedical_jax.model.sharding import make_mesh, shardings

EXACT = 1e-5  # of the largest entry, in float32
SEEDS = st.integers(0, 2**32 - 1)
# Shapes are few, since each is compiled; everything else is drawn anew.
SHAPES = [tree(9), tree(6, (3, 5)), tree(3, (1, 8)), tree(5, (2, 4), (3, 3)), tree(4, (3, 6), (2, 5)), tree(8, (1, 3), (4, 2))]
DEEP = SHAPES[3]

Ragged = list[list[list[int]]]  # one tree: of each level the tokens of its nodes. Node i's parent is i // (n / n of the level above); [] is a node left out
Node = tuple[int, int, int]  # its tree, level and number
States = dict[Node, np.ndarray]  # [tokens, D], or weights of these
Homes = dict[Node, tuple[int, int]]  # in which row a node stands, and where its first token


# Trees and weights


def grow(layout: Layout, count: int, rng: np.random.Generator, orphans: bool = True) -> list[Ragged]:
    """Ragged trees that fit into the layout. Nodes of some draws are of any length, of others as short or long as may be; any but the first may be left out,
    and with `orphans` its children stay."""
    shortest, extreme = rng.integers(2), rng.random() < 0.3

    def node(level: int, most: int) -> list[int]:
        least = shortest if level else 2  # where each token is alone, queries and keys have no gradient but rounding
        return rng.integers(0, CONFIG.vocabulary, rng.choice([least, least + 1, most]) if extreme else rng.integers(least, most + 1)).tolist()

    trees = [[[node(i, level.length) for _ in range(level.nodes)] for i, level in enumerate(layout.levels)] for _ in range(count)]
    for one in () if orphans else trees:
        for above, below in pairwise(one):
            below[:] = [tokens if above[i * len(above) // len(below)] else [] for i, tokens in enumerate(below)]
    return trees


def nodes(trees: list[Ragged]) -> Iterator[tuple[Node, list[int]]]:
    """Those that have tokens."""
    yield from (((i, level, number), ids) for i, one in enumerate(trees) for level, row in enumerate(one) for number, ids in enumerate(row) if ids)


def weigh(trees: list[Ragged], rng: np.random.Generator) -> States:
    """Random weights of all hidden states: the gradients compared are those of their weighted sum."""
    return {node: rng.normal(size=(len(ids), CONFIG.width)).astype(np.float32) for node, ids in nodes(trees)}


# Rows of them


def padded(trees: list[Ragged], layout: Layout, rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray], Homes]:
    """Tokens [B, nodes, length] of each level, with garbage in the padding, and lengths [B, nodes]."""
    lengths = [np.array([[len(ids) for ids in one[i]] for one in trees], np.int32) for i in range(len(layout.levels))]
    tokens = [rng.integers(0, CONFIG.vocabulary, (len(trees), level.nodes, level.length), dtype=np.int32) for level in layout.levels]
    homes = {}
    for (i, level, number), ids in nodes(trees):
        tokens[level][i, number, : len(ids)] = ids
        homes[i, level, number] = i, layout.spans()[level][0] + number * layout.levels[level].length
    return tokens, lengths, homes


def packed(trees: list[Ragged], layout: Layout, devices: int, rng: np.random.Generator) -> tuple[Rows, Layout, Homes]:
    """The same in packed rows, and their layout: a row has room for two trees that fill theirs, and so for more that do not."""
    tokens, lengths, _ = padded(trees, layout, rng)
    room = Layout(tuple(Level(3 * level.nodes, level.length, 2 * level.nodes * level.length) for level in layout.levels))
    rows, _ = packing.pack(room, tokens, lengths, devices)
    homes = {}
    for (i, level, number), _ in nodes(trees):
        row, slot = divmod(int(rows.slots[level][i, number]), room.levels[level].nodes)
        row += i // (len(trees) // devices) * (len(rows.tokens[0]) // devices)
        homes[i, level, number] = row, room.spans()[level][0] + int(rows.nodes[level].start[row, slot])
    return rows, room, homes


def paths(trees: list[Ragged], length: int) -> tuple[np.ndarray, np.ndarray, Homes]:
    """Each path as a flat row: tokens [N, 1, length], lengths [N, 1]; a node's home is the first path that holds it."""
    rows, homes = [], {}
    for i, one in enumerate(trees):
        for path in range(len(one[-1])):
            row: list[int] = []
            for level, below in enumerate(one):
                number = path * len(below) // len(one[-1])
                homes.setdefault((i, level, number), (len(rows), len(row)))
                row += below[number]
            rows.append(row)
    return np.array([[row + [7] * (length - len(row))] for row in rows], np.int32), np.array([[len(row)] for row in rows], np.int32), homes


# What they give

Program = Callable[..., tuple[transformer.Params, jax.Array]]


def gradients(layout: Layout, make: Callable[..., TreeBatch]) -> Program:
    """(params, weight [rows, T, D], what `make` makes a batch of) -> gradients of the weighted sum of hidden states, and these [rows, T, D]."""

    def weighted(params, weight, *given):
        hidden = transformer.forward(params, CONFIG, make(layout, *given), layout)
        return jnp.sum(hidden * weight), hidden

    return jax.jit(jax.grad(weighted, has_aux=True))


# One for each attention and mesh: jit would not see them change.
on_padded = cache(lambda layout, kernel=None, mesh=None: gradients(layout, assemble))
on_packed = cache(lambda layout, mesh=None: gradients(layout, place))


def evaluate(program: Program, shape: tuple[int, int], homes: Homes, weights: States, params, *given, put=lambda x: x) -> tuple[States, transformer.Params]:
    """Hidden states of the nodes and gradients, by a program of rows of this shape in which the nodes have these homes."""
    weight = np.zeros((*shape, CONFIG.width), np.float32)
    for node, values in weights.items():
        row, start = homes[node]
        weight[row, start : start + len(values)] = values
    found, hidden = jax.device_get(program(params, put(weight), *map(put, given)))
    return {node: hidden[homes[node][0], homes[node][1] :][: len(values)] for node, values in weights.items()}, found


def flat(trees: list[Ragged], weights: States, params, layout: Layout) -> tuple[States, transformer.Params]:
    """The truth: each path in a row of its own, by plain causal attention on one device."""
    length = sum(level.length for level in layout.levels)
    tokens, lengths, homes = paths(trees, length)
    return evaluate(on_padded(tree(length)), (len(tokens), length), homes, weights, params, [tokens], [lengths])


def compare(layout: Layout, count: int, seed: int, shape: tuple[int, int] | None = None, kernel: str | None = None, pack: bool = False) -> None:
    """Draws `count` trees and holds their rows to flat ones; `shape`: of a mesh over which the rows are spread."""
    rng = np.random.default_rng(seed)
    trees, params = grow(layout, count, rng, orphans=not pack), steady(int(rng.integers(20)))
    weights, mesh = weigh(trees, rng), make_mesh(*shape) if shape else None
    wanted = flat(trees, weights, params, layout)
    put = partial(jax.device_put, device=shardings(mesh, ("batch",))) if mesh else lambda x: x
    placed = jax.device_put(params, shardings(mesh, transformer.axes(CONFIG))) if mesh else params
    with jax.set_mesh(mesh) if mesh else nullcontext():
        if pack:
            rows, room, homes = packed(trees, layout, shape[0] if shape else 1, rng)
            found = evaluate(on_packed(room, mesh), (len(rows.tokens[0]), room.tokens), homes, weights, placed, rows, put=put)
        else:
            tokens, lengths, homes = padded(trees, layout, rng)
            found = evaluate(on_padded(layout, kernel, mesh), (count, layout.tokens), homes, weights, placed, tokens, lengths, put=put)
    close(found, wanted, EXACT)


# 120 + 3 x 16 + 32 + 40 + 16 = 256 draws


@given(st.sampled_from(SHAPES), SEEDS)
@settings(max_examples=70)
def test_padded_rows(layout: Layout, seed: int) -> None:
    compare(layout, 2, seed)


@pytest.mark.parametrize("shape", MESHES, ids=str)
@given(SEEDS)
@settings(max_examples=16)
def test_padded_rows_on_eight_devices(shape: tuple[int, int], seed: int) -> None:
    compare(DEEP, 8, seed, shape)


@given(st.sampled_from([SHAPES[0], DEEP]), SEEDS)
@settings(max_examples=32)
def test_padded_rows_by_the_kernel_of_tpu(layout: Layout, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "level_attention", partial(splash.splash_attention, interpret=True))
        compare(layout, 2, seed, kernel="splash")


@given(st.sampled_from([SHAPES[1], DEEP]), SEEDS)
@settings(max_examples=40)
def test_packed_rows(layout: Layout, seed: int) -> None:
    compare(layout, 4, seed, pack=True)


@given(SEEDS)
@settings(max_examples=16)
def test_packed_rows_on_eight_devices(seed: int) -> None:
    compare(DEEP, 16, seed, (4, 2), pack=True)
