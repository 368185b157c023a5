"""The case as a tree of token sequences: instruction -> answers -> criteria, each node held once.

A batch of B trees is one [B, T] array. Its row holds the levels one after another, each level its nodes one after another:

    P instruction tokens | G answers of R tokens | G x K criteria of C tokens

A token attends to its ancestors and, causally, to its own node; its position continues from its parent's true end. A plain causal language model
is the layout with one level.

Nodes come in one of two ways. In a padded layout a row is one tree, and each node is padded on the right to the static size of its level. In a packed
layout a row holds several small trees: within a level's span the nodes of all of them stand back to back, and `Nodes` says where each begins and whose
child it is (packing.py makes these on the host). Either way one compiled function serves all ragged batches of a layout.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from promedical_jax.model.sharding import on_each_device, reshape, spec

PIECE = 1024  # tokens of a node that attend at a time, where scores or masks are arrays


@dataclass(frozen=True)
class Level:
    """`nodes` sequences of at most `length` tokens a row. Padded, each takes `length` tokens, and node i's parent is node i // (nodes / parent's nodes) of the
    level above. Packed, all of a row's share `room` tokens, and the batch's `Nodes` name the parents."""

    nodes: int
    length: int
    room: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the row that belong to this level."""
        return self.nodes * self.length if self.room is None else self.room


@dataclass(frozen=True)
class Layout:
    """The static shape of a tree: hashable, so jit compiles once for each."""

    levels: tuple[Level, ...]

    @property
    def tokens(self) -> int:
        """T, the row length."""
        return sum(level.tokens for level in self.levels)

    @property
    def packed(self) -> bool:
        """Whether nodes stand back to back, where the batch's `Nodes` say."""
        return any(level.room is not None for level in self.levels)

    def spans(self) -> list[tuple[int, int]]:
        """[start, end) of each level in the row."""
        ends, end = [], 0
        for level in self.levels:
            ends.append((end, end + level.tokens))
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


class Nodes(NamedTuple):
    """Where the nodes of one level of a packed layout are, each [B, nodes]. Those in use come first, back to back from 0 on; the rest have length 0."""

    start: Any  # within the level's span
    length: Any
    parent: Any  # its number in the level above; 0 in the first level


class TreeBatch(NamedTuple):
    """Rows of a layout, each [B, T]: token ids, RoPE positions, and which tokens are real; and of a packed layout the nodes, level by level."""

    tokens: jax.Array
    positions: jax.Array
    valid: jax.Array
    nodes: tuple[Nodes, ...] = ()


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
    return TreeBatch(jnp.concatenate(rows, axis=1), jnp.concatenate(positions, axis=1), jnp.concatenate(valid, axis=1))


class Rows(NamedTuple):
    """The rows of one packed batch (see packing.py), NumPy or JAX arrays, all split along their first axis over the devices that share the batch: M rows."""

    tokens: tuple[Any, ...]  # of each level, [M, room]
    nodes: tuple[Nodes, ...]  # of each level, each [M, nodes]
    slots: tuple[Any, ...]  # of each level [B, nodes of a case]: where a case's node is, row x nodes + node, counted on its own device; -1 for nowhere

    def layout(self, lengths: Sequence[int]) -> Layout:
        """The packed layout of these arrays, given the longest node of each level."""
        return Layout(tuple(Level(own.start.shape[1], n, ids.shape[1]) for own, n, ids in zip(self.nodes, lengths, self.tokens, strict=True)))


def place(layout: Layout, rows: Rows) -> TreeBatch:
    """Packed rows as a batch [M, T]: positions and validity follow from the nodes."""
    where = spec("batch")
    positions, valid = on_each_device(partial(_places, layout), (where,), (where, where))(rows.nodes)
    return TreeBatch(jnp.concatenate(rows.tokens, axis=1), positions, valid, rows.nodes)


def _places(layout: Layout, nodes: tuple[Nodes, ...]) -> tuple[jax.Array, jax.Array]:
    positions, valid = [], []
    end = None
    for level, own in zip(layout.levels, nodes, strict=True):
        begin = jnp.zeros_like(own.start) if end is None else jnp.take_along_axis(end, own.parent, 1)
        end = begin + own.length
        node, offset, real = owners(own, level)
        positions.append(jnp.take_along_axis(begin, node, 1) + offset)
        valid.append(real)
    return jnp.concatenate(positions, axis=1), jnp.concatenate(valid, axis=1)


def owners(own: Nodes, level: Level) -> tuple[jax.Array, jax.Array, jax.Array]:
    """For each token of a packed level's span, [B, room]: the number of its node, its place in it, and whether it is a node's token at all."""
    token = jnp.arange(level.tokens)
    node = jnp.sum((own.start + own.length)[:, None] <= token[:, None], -1)  # as many nodes have ended before it
    real = node < level.nodes
    node = jnp.where(real, node, 0)
    return node, jnp.where(real, token - jnp.take_along_axis(own.start, node, 1), 0), real


def nodes_of(x: jax.Array, layout: Layout, level: int) -> jax.Array:
    """The part of a row-shaped array [B, T, ...] that belongs to one level of a padded layout, as [B, nodes, length, ...]."""
    start, end = layout.spans()[level]
    nodes, length = layout.levels[level].nodes, layout.levels[level].length
    return reshape(x[:, start:end], (x.shape[0], nodes, length, *x.shape[2:]), back=x.ndim - 2)


def pieces(tokens: int, axis: int, *parts: list[jax.Array]) -> Iterator[tuple[tuple[int, int], list[list[jax.Array]]]]:
    """A level's nodes of so many tokens as chains of pieces, each behind those before it: for attention that would else hold a long node's scores, or a mask
    of them, all at once. `parts`: lists of what belongs to the keys, of ancestors from the top and, last, the nodes' own, whose tokens stand along `axis`.
    Gives each piece's [start, end), and the lists as it sees them: its own part last, and before that the node's earlier tokens as one ancestor more."""
    for start in range(0, tokens, PIECE):
        end = min(start + PIECE, tokens)
        cut = partial(jax.lax.slice_in_dim, axis=axis)
        yield (start, end), [[*part[:-1], *([cut(part[-1], 0, start)] if start else []), cut(part[-1], start, end)] for part in parts]


def last_valid(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """The entry of the last real token of each node. x: [B, nodes, length, D], lengths: [B, nodes] -> [B, nodes, D]; padding nodes give their first entry."""
    # A one-hot product instead of a gather: it partitions along every axis without help.
    onehot = jnp.arange(x.shape[2]) == jnp.maximum(lengths - 1, 0)[..., None]
    return jnp.einsum("bnt,bntd->bnd", onehot.astype(x.dtype), x)


def last_states(hidden: jax.Array, layout: Layout, rows: Rows, level: int) -> jax.Array:
    """The state of the last token of each case's nodes of a level, out of packed rows. hidden: [M, T, D] -> [B, nodes of a case, D]; a node that is nowhere
    has some other node's state."""
    where = spec("batch")
    local = partial(_last_states, begin=layout.spans()[level][0])
    return on_each_device(local, (where, where, where), where)(hidden, rows.nodes[level], rows.slots[level])


def _last_states(hidden: jax.Array, own: Nodes, slots: jax.Array, begin: int) -> jax.Array:
    flat = hidden.reshape(-1, hidden.shape[-1])
    return flat[(jnp.arange(len(hidden))[:, None] * hidden.shape[1] + begin + ends(own)).reshape(-1)[jnp.maximum(slots, 0)]]


def states_before(hidden: jax.Array, layout: Layout, nodes: tuple[Nodes, ...]) -> jax.Array:
    """The states that predict the tokens of the second level of packed rows: the token before, and before a node's first its parent's last.
    hidden: [M, T, D] -> [M, room of the second level, D]."""
    where = spec("batch")
    return on_each_device(partial(_states_before, layout), (where, where), where)(hidden, nodes)


def _states_before(layout: Layout, hidden: jax.Array, nodes: tuple[Nodes, ...]) -> jax.Array:
    begin, end = layout.spans()[1]
    node, offset, _ = owners(nodes[1], layout.levels[1])
    parents = jnp.take_along_axis(ends(nodes[0]), nodes[1].parent, 1)  # the last tokens of the nodes' parents, whose level begins the row
    before = jnp.where(offset == 0, jnp.take_along_axis(parents, node, 1), jnp.arange(begin, end) - 1)
    return jnp.take_along_axis(hidden, before[..., None], 1)


def node_tokens(x: jax.Array, layout: Layout, rows: Rows, level: int) -> jax.Array:
    """What packed rows hold for each token of each case's nodes of a level. x: [M, room] -> [B, nodes of a case, length], anything where there is no token."""
    where = spec("batch")
    local = partial(_node_tokens, length=layout.levels[level].length)
    return on_each_device(local, (where, where, where), where)(x, rows.nodes[level], rows.slots[level])


def _node_tokens(x: jax.Array, own: Nodes, slots: jax.Array, length: int) -> jax.Array:
    starts = (jnp.arange(len(x))[:, None] * x.shape[1] + own.start).reshape(-1)[jnp.maximum(slots, 0)]
    return x.reshape(-1)[jnp.minimum(starts[..., None] + jnp.arange(length), x.size - 1)]


def ends(own: Nodes) -> jax.Array:
    """The place of each node's last token in its level's span, [B, nodes]; of unused slots some place that exists."""
    return jnp.maximum(own.start + own.length - 1, 0)


def _to_children(x: jax.Array, children: int) -> jax.Array:
    """[B, nodes] -> [B, nodes * children], each entry repeated for its children."""
    return reshape(jnp.broadcast_to(x[:, :, None], (*x.shape, children)), (x.shape[0], x.shape[1] * children))
