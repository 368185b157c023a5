"""Attention on packed rows: products over the dense row stay dense, and only here nodes are laid out one by one, each behind its ancestors.

For each level the queries, keys and values of the row are taken apart into nodes [n, t], padded to the level's longest; a node's keys are its
ancestors' and its own. That is an attention whose mask is the same for every node (everything before, own tokens causally, padding keys left out), which
each platform has a kernel for. What comes out is put back into the row.

Letters: B rows, T row tokens, n nodes of a level, t tokens of a node, K KV heads, Q query heads of a KV head, H head size.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from promedical_jax.model.layout import Layout, Nodes, owners
from promedical_jax.model.sharding import on_each_device, spec

# (queries [B, n, t, K, Q, H]; keys and values of ancestors from the top and, last, its own, each [B, n, s, K, H]; which keys are real, each [B, n, s])
NodeAttention = Callable[[jax.Array, list[jax.Array], list[jax.Array], list[jax.Array]], jax.Array]


def packed_attention(q: jax.Array, k: jax.Array, v: jax.Array, nodes: tuple[Nodes, ...], layout: Layout, attention: NodeAttention) -> jax.Array:
    """q: [B, T, K, Q, H], k and v: [B, T, K, H], nodes of a packed layout -> [B, T, K, Q, H], zero at padding. `attention` computes one level's nodes."""
    heads, rows = spec("batch", None, "kv_heads"), spec("batch")
    local = partial(_on_one_device, layout=layout, attention=attention)
    return on_each_device(local, (heads, heads, heads, rows), heads)(q, k, v, nodes)


def _on_one_device(q: jax.Array, k: jax.Array, v: jax.Array, nodes: tuple[Nodes, ...], layout: Layout, attention: NodeAttention) -> jax.Array:
    keys: list[jax.Array] = []
    values: list[jax.Array] = []
    seen: list[jax.Array] = []
    rows = []
    for i, (level, own, (start, end)) in enumerate(zip(layout.levels, nodes, layout.spans(), strict=True)):
        node, place, real = owners(own, level)
        offset = jnp.arange(level.length)
        inside = offset < own.length[..., None]  # [B, n, t]
        apart = jnp.where(inside, own.start[..., None] + offset, -1).reshape(len(q), -1)  # of each place of each node, its token in the row
        together = jnp.where(real, node * level.length + place, -1)  # of each token in the row, its place

        def split(x: jax.Array, apart=apart, together=together, span=(start, end), shape=(level.nodes, level.length)) -> jax.Array:
            return rearranged(x[:, span[0] : span[1]], apart, together).reshape(len(x), *shape, *x.shape[2:])

        if i:
            keys, values, seen = ([of_parents(x, own.parent) for x in above] for above in (keys, values, seen))
        keys, values, seen = [*keys, split(k)], [*values, split(v)], [*seen, inside]
        mixed = attention(split(q), keys, values, seen)
        rows.append(rearranged(mixed.reshape(len(q), -1, *q.shape[2:]), together, apart))
    return jnp.concatenate(rows, axis=1)


@jax.custom_vjp
def rearranged(x: jax.Array, source: jax.Array, target: jax.Array) -> jax.Array:
    """x: [B, m, ...] -> [B, n, ...], whose entry j is x[source[j]], zero where source [B, n] is -1. target: [B, m] is the inverse: where each entry of x goes,
    -1 for nowhere. So the gradient is the same operation the other way, where a gather's would be a scatter."""
    index = jnp.maximum(source, 0).reshape(*source.shape, *[1] * (x.ndim - 2))
    return jnp.where((source >= 0).reshape(index.shape), jnp.take_along_axis(x, index, 1), 0)


rearranged.defvjp(lambda x, source, target: (rearranged(x, source, target), (source, target)),
                  lambda kept, given: (rearranged(given, kept[1], kept[0]), None, None))  # fmt: skip


def of_parents(x: jax.Array, parent: jax.Array) -> jax.Array:
    """x: [B, nodes above, ...], parent: [B, n] -> [B, n, ...]: what each node's parent has."""
    return jax.vmap(lambda x, parent: x[parent])(x, parent)
