"""Attention on the tree behind one function, and the kernel that each platform has for it.

On TPU splash attention with the tree as a mask that the kernel computes (splash.py), on GPU cuDNN's fused attention level by level (cudnn.py), elsewhere
and wherever a kernel does not take the shapes plain matrix products level by level (levels.py). All three give the same numbers.

Letters: B batch, T row tokens, P instruction, G answers, R answer tokens, K KV heads, Q query heads of a KV head, H head size.
"""

import jax
import jax.numpy as jnp

from promedical_jax.model import cudnn, splash
from promedical_jax.model.layout import Layout
from promedical_jax.model.levels import MASKED, fold, level_attention
from promedical_jax.model.sharding import platform


def attend(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array, layout: Layout) -> jax.Array:
    """q: [B, T, K, Q, H], k and v: [B, T, K, H], valid: [B, T] -> [B, T, K, Q, H]. Softmax in float32; what padding tokens attend to is not defined."""
    match platform():
        case "tpu":
            return splash.splash_attention(q, k, v, valid, layout)
        case "gpu" | "cuda" if cudnn.takes(q):
            return cudnn.cudnn_attention(q, k, v, valid, layout)
        case _:
            return level_attention(q, k, v, valid, layout)


def decode_attention(q: jax.Array, prefix: tuple[jax.Array, jax.Array], suffix: tuple[jax.Array, jax.Array], own: tuple[jax.Array, jax.Array],
                     prefix_valid: jax.Array, written: jax.Array) -> jax.Array:
    """One new token of each of G answers: attends to the shared instruction, to the answer so far, and to itself.

    q: [B, K, G, Q, H]; prefix keys, values: [B, K, P, H]; suffix: [B, K, G, R, H], of which slots below `written` (a scalar) are filled;
    own: [B, K, G, 1, H]; prefix_valid: [B, P]. Returns [B, K, G, Q, H].
    """
    b, kv, g, heads, size = q.shape
    to_prefix = jnp.matmul(fold(q, b, kv, g * heads, size), prefix[0].swapaxes(-1, -2), preferred_element_type=jnp.float32)
    to_prefix = fold(jnp.where(prefix_valid[:, None, None, :], to_prefix, MASKED), b, kv, g, heads, -1)
    to_suffix = jnp.matmul(q, suffix[0].swapaxes(-1, -2), preferred_element_type=jnp.float32)
    to_suffix = jnp.where(jnp.arange(suffix[0].shape[3]) < written, to_suffix, MASKED)
    to_own = jnp.matmul(q, own[0].swapaxes(-1, -2), preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.concatenate([to_prefix, to_suffix, to_own], axis=-1) * size**-0.5, axis=-1).astype(q.dtype)
    p, r = prefix[0].shape[2], suffix[0].shape[3]
    mixed = fold(jnp.matmul(fold(weights[..., :p], b, kv, g * heads, p), prefix[1]), *q.shape)
    return mixed + jnp.matmul(weights[..., p : p + r], suffix[1]) + weights[..., p + r :] * own[1]


