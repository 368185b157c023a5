"""The case as a tree of token sequences: instruction -> answers -> criteria, each node held once.

A batch of B trees is one [B, T] array. Its row holds the levels one after another, each level its nodes one after another:

    P instruction tokens | G answers of R tokens | G x K criteria of C tokens

A token attends to its ancestors and, causally, to its own node; its position continues from its parent's true end. Nodes are padded on the
right to the static size of their level, so one compiled function serves all ragged batches of a layout. A plain causal language model is
the layout with one level.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from promedical_jax.model.sharding import reshape


@dataclass(frozen=True)
class Level:
    """`nodes` sequences of `length` tokens a tree. Node i's parent is node i // (nodes / parent's nodes) of the level above."""

    nodes: int
    length: int


@dataclass(frozen=True)
class Layout:
    """The static shape of a tree: hashable, so jit compiles once for each."""

    levels: tuple[Level, ...]

    @property
    def tokens(self) -> int:
        """T, the row length."""
        return sum(level.nodes * level.length for level in self.levels)

    def spans(self) -> list[tuple[int, int]]:
        """[start, end) of each level in the row."""
        ends, end = [], 0
        for level in self.levels:
            ends.append((end, end + level.nodes * level.length))
            end = ends[-1][1]
        return ends


def tree(prompt: int, answers: tuple[int, int] | None = None, criteria: tuple[int, int] | None = None) -> Layout:
    """Layout of P instruction tokens, `answers` = (G, R) and `criteria` = (K a answer, C)."""
    levels = [Level(1, prompt)]
    if answers:
        levels.append(Level(*answers))
        if criteria:
            levels.append(Level(answers[0] * criteria[0], criteria[1]))
    return Layout(tuple(levels))


class TreeBatch(NamedTuple):
    """Rows of a layout, each [B, T]: token ids, RoPE positions, and which tokens are real. The padding stands on the right of each node."""

    tokens: jax.Array
    positions: jax.Array
    valid: jax.Array


def assemble(layout: Layout, tokens: list[jax.Array], lengths: list[jax.Array]) -> TreeBatch:
    """Packs the levels into rows. tokens[l]: [B, nodes, length], lengths[l]: [B, nodes] true lengths; [B, G, K, C] is accepted for criteria."""
    rows, positions, valid = [], [], []
    batch = tokens[0].shape[0]
    start = reshape(jnp.zeros_like(lengths[0]), (batch, 1))  # like: placed as the batch is
    for level, ids, true in zip(layout.levels, tokens, lengths, strict=True):
        ids, true = jnp.asarray(ids), reshape(jnp.asarray(true), (batch, level.nodes))
        children = level.nodes // start.shape[1]
        start = _to_children(start, children)
        offsets = jnp.arange(level.length)
        width = (batch, level.nodes * level.length)
        rows.append(reshape(ids, width))
        positions.append(reshape(start[..., None] + offsets, width))
        valid.append(reshape(offsets < true[..., None], width))
        start = start + true
    return TreeBatch(*(jnp.concatenate(parts, axis=1) for parts in (rows, positions, valid)))


def nodes_of(x: jax.Array, layout: Layout, level: int) -> jax.Array:
    """The part of a row-shaped array [B, T, ...] that belongs to one level, as [B, nodes, length, ...]."""
    start, end = layout.spans()[level]
    nodes, length = layout.levels[level].nodes, layout.levels[level].length
    return reshape(x[:, start:end], (x.shape[0], nodes, length, *x.shape[2:]), back=x.ndim - 2)


def last_valid(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """The entry of the last real token of each node. x: [B, nodes, length, D], lengths: [B, nodes] -> [B, nodes, D]; padding nodes give their first entry."""
    # A one-hot product instead of a gather: it partitions along every axis without help.
    onehot = jnp.arange(x.shape[2]) == jnp.maximum(lengths - 1, 0)[..., None]
    return jnp.einsum("bnt,bntd->bnd", onehot.astype(x.dtype), x)


def _to_children(x: jax.Array, children: int) -> jax.Array:
    """[B, nodes] -> [B, nodes * children], each entry repeated for its children."""
    return reshape(jnp.broadcast_to(x[:, :, None], (*x.shape, children)), (x.shape[0], x.shape[1] * children))
