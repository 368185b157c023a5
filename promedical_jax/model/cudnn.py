"""Tree attention on GPU: cuDNN's fused attention, level by level.

A level's nodes are folded into the batch, each with its ancestors' keys in front of its own. The first level is plain causal attention, for which
cuDNN needs no mask; below it a mask of [node, query, key] says what is padding, a few megabytes for answers of a thousand tokens. A longer node is a chain
of pieces of that length, so that no mask grows with its square.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from promedical_jax.model.layout import Layout, nodes_of, pieces
from promedical_jax.model.sharding import on_each_device, spec

Implementation = Literal["cudnn", "xla"]


def takes(q: jax.Array) -> bool:
    """Whether the kernel has this type and head size: half precision, up to 128 and a multiple of 8."""
    return q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128


def cudnn_attention(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array, layout: Layout, implementation: Implementation = "cudnn") -> jax.Array:
    """q: [B, T, K, Q, H], k and v: [B, T, K, H], valid: [B, T], padded on the right of each node -> [B, T, K, Q, H].

    `implementation` is that of `jax.nn.dot_product_attention`; "xla" computes the same without a GPU.
    """
    heads, rows = spec("batch", None, "kv_heads"), spec("batch")
    local = partial(_on_one_device, layout=layout, implementation=implementation)
    return on_each_device(local, (heads, heads, heads, rows), heads)(q, k, v, valid)


def _on_one_device(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array, layout: Layout, implementation: Implementation) -> jax.Array:
    rows = []
    for i, level in enumerate(layout.levels):
        # An ancestor's keys are repeated for each of its descendants: keys are few beside what else a row holds.
        above = [jnp.repeat(nodes_of(x, layout, j), level.nodes // layout.levels[j].nodes, axis=1) for x in (k, v, valid) for j in range(i + 1)]
        keys, values, seen = (above[j * (i + 1) : (j + 1) * (i + 1)] for j in range(3))
        mixed = nodes_attention(nodes_of(q, layout, i), keys, values, seen, implementation)
        rows.append(mixed.reshape(q.shape[0], level.tokens, *q.shape[2:]))
    return jnp.concatenate(rows, axis=1)


def nodes_attention(q: jax.Array, keys: list[jax.Array], values: list[jax.Array], seen: list[jax.Array],
                    implementation: Implementation = "cudnn") -> jax.Array:  # fmt: skip
    """One level's nodes, each behind its ancestors. q: [B, n, t, K, Q, H]; keys, values: ancestors' from the top and its own, each [B, n, s, K, H]; seen: which
    keys are real, each [B, n, s] -> [B, n, t, K, Q, H]."""
    if len(keys) == 1:
        return _attend(q, keys, values, seen, True, implementation)
    mixed = [_attend(q[:, :, start:end], k, v, real, False, implementation) for (start, end), (k, v, real) in pieces(q.shape[2], 2, keys, values, seen)]
    return jnp.concatenate(mixed, axis=2)


def _attend(q: jax.Array, keys: list[jax.Array], values: list[jax.Array], seen: list[jax.Array], plain: bool, implementation: Implementation) -> jax.Array:
    """`nodes_attention`; `plain`, where nothing stands before a node and its padding on its right, asks for no mask."""
    b, n, t, kv, heads, size = q.shape
    k, v, real = (jnp.concatenate(parts, axis=2).reshape(b * n, -1, *parts[0].shape[3:]) for parts in (keys, values, seen))
    queries = q.reshape(b * n, t, kv * heads, size)
    if plain:
        mixed = jax.nn.dot_product_attention(queries, k, v, is_causal=True, implementation=implementation)
    else:
        causal = jnp.tril(jnp.ones((t, k.shape[1]), bool), k.shape[1] - t)
        mixed = jax.nn.dot_product_attention(queries, k, v, mask=(causal & real[:, None])[:, None], implementation=implementation)
    return checkpoint_name(mixed.reshape(q.shape), "attention")  # its backward pass wants more, so that remat runs the forward kernel again
