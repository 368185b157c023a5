"""Tree attention on GPU: cuDNN's fused attention, level by level.

A level's nodes are folded into the batch, each with its ancestors' keys in front of its own. The first level is plain causal attention, for which
cuDNN needs no mask; below it a mask of [node, query, key] says what is padding, a few megabytes for answers of a thousand tokens.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from promedical_jax.model.layout import Layout, nodes_of
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
    b, _, kv, heads, size = q.shape
    rows = []
    for i, level in enumerate(layout.levels):
        n, t = level.nodes, level.length
        queries = nodes_of(q, layout, i).reshape(b * n, t, kv * heads, size)
        keys: list[jax.Array] = []
        values: list[jax.Array] = []
        seen: list[jax.Array] = []
        for j in range(i + 1):  # an ancestor's keys are repeated for each of its descendants: keys are few beside what else a row holds
            for parts, x in ((keys, k), (values, v), (seen, valid)):
                parts.append(jnp.repeat(nodes_of(x, layout, j), n // layout.levels[j].nodes, axis=1))
        joined = [jnp.concatenate(parts, axis=2).reshape(b * n, -1, *parts[0].shape[3:]) for parts in (keys, values, seen)]
        if i == 0:
            mixed = jax.nn.dot_product_attention(queries, joined[0], joined[1], is_causal=True, implementation=implementation)
        else:
            before = joined[2].shape[1] - t
            causal = jnp.tril(jnp.ones((t, joined[2].shape[1]), bool), before)
            mixed = jax.nn.dot_product_attention(queries, joined[0], joined[1], mask=(causal & joined[2][:, None])[:, None], implementation=implementation)
        rows.append(mixed.reshape(b, n * t, kv, heads, size))
    return jnp.concatenate(rows, axis=1)
