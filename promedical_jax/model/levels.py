"""Tree attention in plain XLA: level by level, each ancestor's keys read once for all its descendants.

Plain batched matrix products of [rows, H] x [H, keys], with batch, KV heads and nodes in front and everything that shares the keys (children,
tokens, the query heads of a KV head) folded into the rows: XLA runs this ten times faster on CPU than an einsum over interleaved axes, and
no [T, T] mask exists. One softmax spans the scores against the ancestors and the own node, which are never joined into one array. A long node is a chain of
pieces, each behind those before it: so there is no array of all its pairs of tokens either, and half of them are not computed.

The gradient is written out. It keeps queries, keys, values and two numbers a row, and computes the weights again: what autodiff keeps is larger than all
else in a layer. And in the gradients of keys and values the narrow factor stands first, for XLA on the CPU writes the first one out turned.

Letters: B batch, T row tokens, n nodes of a level, t tokens of a node, K KV heads, Q query heads of a KV head, H head size. A part is what one level's
queries meet of one level's keys: m nodes of s keys, and the r queries below or in each.
"""

import math
from functools import reduce

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from promedical_jax.model.layout import Layout, nodes_of, pieces
from promedical_jax.model.sharding import out, reshape

MASKED = -1e30  # finite, so that a padding query with no visible key stays a number

Arrays = list[jax.Array]


def level_attention(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array, layout: Layout) -> jax.Array:
    """q: [B, T, K, Q, H], k and v: [B, T, K, H], valid: [B, T] -> [B, T, K, Q, H]. Scores and softmax in float32."""
    levels = range(len(layout.levels))
    keys, values = ([nodes_of(x, layout, i).transpose(0, 3, 1, 4, 2) for i in levels] for x in (k, v))  # [B, K, n, H, t]
    real = [nodes_of(valid, layout, i)[:, None, :, None, :] for i in levels]  # [B, 1, n, 1, t]
    rows = []
    for i in levels:
        queries = nodes_of(q, layout, i).transpose(0, 3, 1, 2, 4, 5)  # [B, K, n, t, Q, H]
        mixed = _attend_in_pieces(queries, keys[: i + 1], values[: i + 1], real[: i + 1])
        width = layout.levels[i].nodes * layout.levels[i].length
        rows.append(reshape(mixed.transpose(0, 2, 3, 1, 4, 5), (q.shape[0], width, *q.shape[2:]), back=3))
    return jnp.concatenate(rows, axis=1)


def nodes_attention(q: jax.Array, keys: Arrays, values: Arrays, seen: Arrays) -> jax.Array:
    """One level's nodes, each behind its ancestors. q: [B, n, t, K, Q, H]; keys, values: ancestors' from the top and its own, each [B, n, s, K, H]; seen: which
    keys are real, each [B, n, s] -> [B, n, t, K, Q, H]."""
    keys, values = ([x.transpose(0, 3, 1, 4, 2) for x in each] for each in (keys, values))
    mixed = _attend_in_pieces(q.transpose(0, 3, 1, 2, 4, 5), keys, values, [real[:, None, :, None, :] for real in seen])
    return mixed.transpose(0, 2, 3, 1, 4, 5)


def _attend_in_pieces(q: jax.Array, keys: Arrays, values: Arrays, real: Arrays) -> jax.Array:
    """`_attend`, some tokens of each node at a time."""
    mixed = [_attend(q[:, :, :, start:end], k, v, seen) for (start, end), (k, v, seen) in pieces(q.shape[3], -1, keys, values, real)]
    return jnp.concatenate(mixed, axis=3)


@jax.custom_vjp
def _attend(q: jax.Array, keys: Arrays, values: Arrays, real: Arrays) -> jax.Array:
    """One level's queries against its ancestors' keys and, last in the lists, its own. q: [B, K, n, t, Q, H]; keys, values: [B, K, m, H, s] of each part;
    real: [B, 1, m, 1, s] -> the shape of q."""
    return _forward(q, keys, values, real)[0]


def _forward(q: jax.Array, keys: Arrays, values: Arrays, real: Arrays):
    scores = _scores(q, keys, real)
    top = reduce(jnp.maximum, [_to_rows(jnp.max(score, -1, keepdims=True), q) for score in scores])
    weights = [jnp.exp(score - _to_part(top, score)) for score in scores]
    total = reduce(jnp.add, [_to_rows(jnp.sum(weight, -1, keepdims=True), q) for weight in weights])
    parts = [_product(weight.astype(q.dtype), value.swapaxes(-1, -2)) for weight, value in zip(weights, values, strict=True)]
    mixed = (reduce(jnp.add, [_to_rows(part, q) for part in parts]) / total).astype(q.dtype)
    mixed, top, total = (checkpoint_name(x, "attention") for x in (mixed, top, total))  # with all three kept, remat computes no attention twice
    return fold(mixed, *q.shape), (q, keys, values, real, top, total)


def _backward(kept, given: jax.Array):
    q, keys, values, real, top, total = kept
    given = (_to_rows(given, q) / total).astype(q.dtype)
    scores = _scores(q, keys, real)
    weights = [jnp.exp(score - _to_part(top, score)) for score in scores]
    to_weights = [_product(_to_part(given, score), value) for score, value in zip(scores, values, strict=True)]
    # A softmax takes from what comes to each weight the mean by the row's weights: of these very numbers, for where one weight is nearly 1 they cancel.
    sums = [jnp.einsum("bkmrs,bkmrs->bkmr", weight, to_weight, precision="highest")[..., None] for weight, to_weight in zip(weights, to_weights, strict=True)]
    mean = reduce(jnp.add, [_to_rows(x, q) for x in sums]) / total
    to_q, to_keys, to_values = [], [], []
    for score, weight, to_weight, key, value in zip(scores, weights, to_weights, keys, values, strict=True):
        queries, part = _to_part(q, score), _to_part(given, score)
        to_score = (weight * (to_weight - _to_part(mean, score)) * q.shape[-1] ** -0.5).astype(q.dtype)
        to_values.append(_product(part.swapaxes(-1, -2), weight.astype(q.dtype)).astype(value.dtype))
        to_keys.append(_product(queries.swapaxes(-1, -2), to_score).astype(key.dtype))
        to_q.append(_to_rows(_product(to_score, key.swapaxes(-1, -2)), q))
    return fold(reduce(jnp.add, to_q).astype(q.dtype), *q.shape), to_keys, to_values, None


_attend.defvjp(_forward, _backward)


def _scores(q: jax.Array, keys: Arrays, real: Arrays) -> Arrays:
    """Of each part, float32 [B, K, m, r, s]."""
    t, heads, size = q.shape[3:]
    causal = jnp.repeat(jnp.tril(jnp.ones((t, t), bool)), heads, axis=0)  # [t Q, t]
    seen = [*real[:-1], real[-1] & causal]
    scores = [_product(fold(q, *key.shape[:3], -1, size), key) * size**-0.5 for key in keys]
    return [jnp.where(see, score, MASKED) for see, score in zip(seen, scores, strict=True)]


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


def _to_rows(x: jax.Array, q: jax.Array) -> jax.Array:
    """What belongs to the queries, in any folding, as [B, K, n, t Q, last axis]."""
    b, kv, n, t, heads, _ = q.shape
    return fold(x, b, kv, n, t * heads, x.shape[-1])


def _to_part(x: jax.Array, score: jax.Array) -> jax.Array:
    """The same as the rows of the part with these scores, [B, K, m, r, last axis]."""
    return fold(x, *score.shape[:4], x.shape[-1])


def fold(x: jax.Array, *shape: int) -> jax.Array:
    """Folds axes behind batch and KV heads, which keep their placement."""
    shape = tuple(x.size // -math.prod(shape) if n == -1 else n for n in shape)
    return jax.lax.reshape(x, shape, out_sharding=out("batch", "kv_heads", *[None] * (len(shape) - 2)))
