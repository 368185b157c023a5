"""Log-probabilities without the vocabulary: logits exist for one chunk of the vocabulary at a time, forward and backward.

Qwen3's vocabulary is 151,936 wide; the logits of one 9,216-token row would take 5.6 GB in float32. Here a loop walks over the rows of the unembedding.
Forward, it keeps a running maximum and sums for each token; backward, it computes a chunk's logits again and gives that chunk's gradient at once. Each
chunk is gathered along fsdp as it is used and its gradient scattered back: no device ever holds the whole matrix, nor its gradient.

Letters: n tokens of one device, D width, V vocabulary rows of one device, v rows of a chunk.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from promedical_jax.model.sharding import in_mesh, out, spec

LOGITS_IN_MEMORY = 2**25  # elements of one chunk's logits on a device: 128 MiB in float32


def log_probs(hidden: jax.Array, targets: jax.Array, unembed: jax.Array, temperature: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each target token and entropy of its distribution, in nats; gradients reach `hidden` and `unembed`.

    hidden: [B, T, D] (the state that predicts the target), targets: [B, T] in [0, V), unembed: [V, D], of any type: products are computed in the type
    of `hidden`, everything else in float32. Returns two float32 [B, T].
    """
    return _log_probs(hidden, unembed, targets, jnp.float32(1 / temperature))


def cross_entropy(hidden: jax.Array, targets: jax.Array, unembed: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of -log p(target) over the tokens where `mask` [B, T] is true, in nats; the other letters are those of `log_probs`."""
    chosen, _ = log_probs(hidden, targets, unembed)
    return -jnp.sum(jnp.where(mask, chosen, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


@jax.custom_vjp
def _log_probs(hidden: jax.Array, unembed: jax.Array, targets: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _forward(hidden, unembed, targets, scale)[0]


def _forward(hidden, unembed, targets, scale):
    tokens, states, rows = spec("batch"), spec("batch"), spec("vocabulary", "width")
    chosen, entropy, total = _on_devices(_forward_local, (states, rows, tokens, spec()), (tokens,) * 3)(hidden, unembed, targets, scale)
    return (chosen, entropy), (hidden, unembed, targets, scale, entropy, total)


def _backward(kept, given):
    hidden, unembed, targets, scale, entropy, total = kept
    tokens, states, rows = spec("batch"), spec("batch"), spec("vocabulary", "width")
    to_hidden, to_unembed = _on_devices(_backward_local, (states, rows, *[tokens] * 5, spec()), (states, rows))(
        hidden, unembed, targets, entropy, total, *given, scale
    )
    return to_hidden, to_unembed, None, None


_log_probs.defvjp(_forward, _backward)


def _on_devices(function: Callable[..., Any], taken: tuple, given: tuple) -> Callable[..., Any]:
    """`function` on each device's part of its arguments; it is told whether there are other devices to speak with."""
    if not in_mesh():
        return partial(function, meshed=False)
    return jax.shard_map(partial(function, meshed=True), in_specs=taken, out_specs=given, check_vma=False)


def _chunks(unembed: jax.Array, tokens: int) -> tuple[int, int]:
    """Rows of a chunk and number of chunks."""
    rows = min(unembed.shape[0], max(128, LOGITS_IN_MEMORY // tokens // 128 * 128))
    return rows, -(-unembed.shape[0] // rows)


def _chunk(unembed: jax.Array, i: jax.Array, rows: int, dtype: jnp.dtype, meshed: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Chunk i, gathered, [v, D]; the number of its first row; and which of its rows no chunk before it had: the last one reaches back to stay whole."""
    start = jnp.minimum(i * rows, unembed.shape[0] - rows)
    chunk = jax.lax.dynamic_slice_in_dim(unembed, start, rows).astype(dtype)
    if meshed:
        chunk = jax.lax.all_gather(chunk, "fsdp", axis=1, tiled=True)
    return chunk, start, jnp.arange(rows) + start >= i * rows


def _logits(hidden: jax.Array, chunk: jax.Array, scale: jax.Array) -> jax.Array:
    """[n, D] x [v, D] -> float32 [n, v]."""
    return jax.lax.dot_general(hidden, chunk, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32) * scale


def _targets_here(targets: jax.Array, unembed: jax.Array, meshed: bool) -> jax.Array:
    """Targets [n, 1] as rows of this device's part of the vocabulary; those of other devices fall outside it."""
    first = jax.lax.axis_index("tp") * unembed.shape[0] if meshed else 0
    return targets.reshape(-1, 1) - first


def _forward_local(hidden, unembed, targets, scale, meshed: bool):
    flat, mine = hidden.reshape(-1, hidden.shape[-1]), _targets_here(targets, unembed, meshed)
    n = flat.shape[0]
    rows, count = _chunks(unembed, n)

    def step(carry, i):
        top, total, weighted, picked = carry  # the maximum m; sums over the vocabulary of exp(x - m) and of exp(x - m) (x - m); the target's logit
        chunk, start, fresh = _chunk(unembed, i, rows, flat.dtype, meshed)
        logits = _logits(flat, chunk, scale)
        new = jnp.maximum(top, jnp.max(jnp.where(fresh, logits, -jnp.inf), -1))
        shifted = logits - new[:, None]
        weight = jnp.where(fresh, jnp.exp(shifted), 0.0)
        fade, moved = _moved(top, new)
        weighted = fade * weighted + moved * total + jnp.sum(jnp.where(fresh, weight * shifted, 0.0), -1)
        picked += jnp.sum(jnp.where(fresh & (jnp.arange(rows) + start == mine), logits, 0.0), -1)
        return (new, fade * total + jnp.sum(weight, -1), weighted, picked), None

    zero = jnp.zeros(n, jnp.float32)
    (top, total, weighted, picked), _ = jax.lax.scan(step, (jnp.full(n, -jnp.inf), zero, zero, zero), jnp.arange(count))
    if meshed:
        new = jax.lax.pmax(top, "tp")
        fade, moved = _moved(top, new)
        total, weighted, picked = jax.lax.psum((fade * total, fade * weighted + moved * total, picked), "tp")
        top = new
    whole = top + jnp.log(total)
    return tuple(x.reshape(targets.shape) for x in (picked - whole, jnp.log(total) - weighted / total, whole))


def _moved(top: jax.Array, new: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How sums relative to the maximum `top` read relative to `new`: weighted becomes fade weighted + moved total. 0, 0 for sums over nothing."""
    gap = jnp.where(jnp.isinf(top), 0.0, top - new)
    fade = jnp.where(jnp.isinf(top), 0.0, jnp.exp(gap))
    return fade, fade * gap


def _backward_local(hidden, unembed, targets, entropy, total, to_chosen, to_entropy, scale, meshed: bool):
    flat, mine = hidden.reshape(-1, hidden.shape[-1]), _targets_here(targets, unembed, meshed)
    entropy, total, to_chosen, to_entropy = (x.reshape(-1, 1) for x in (entropy, total, to_chosen, to_entropy))
    rows, count = _chunks(unembed, flat.shape[0])

    def step(carry, i):
        to_flat, to_unembed = carry
        chunk, start, fresh = _chunk(unembed, i, rows, flat.dtype, meshed)
        log_p = _logits(flat, chunk, scale) - total
        p = jnp.exp(log_p)
        # d chosen / d logit = [target] - p;  d entropy / d logit = -p (log p + entropy)
        to_logits = to_chosen * (jnp.arange(rows) + start == mine) - p * (to_chosen + to_entropy * (log_p + entropy))
        to_logits = (scale * to_logits).astype(flat.dtype)
        to_chunk = jax.lax.dot_general(to_logits, flat, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
        if meshed:
            to_chunk = jax.lax.psum_scatter(to_chunk, "fsdp", scatter_dimension=1, tiled=True)
        to_unembed = jax.lax.dynamic_update_slice_in_dim(to_unembed, to_chunk.astype(unembed.dtype), start, 0)  # rows of two chunks are written alike
        to_flat += jax.lax.dot_general(jnp.where(fresh, to_logits, 0), chunk, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)
        return (to_flat, to_unembed), None

    (to_flat, to_unembed), _ = jax.lax.scan(step, (jnp.zeros(flat.shape, jnp.float32), jnp.zeros_like(unembed)), jnp.arange(count))
    if meshed:
        to_flat, to_unembed = jax.lax.psum(to_flat, "tp"), jax.lax.psum(to_unembed, "slice")
    return to_flat.reshape(hidden.shape).astype(hidden.dtype), to_unembed


def to_logits(hidden: jax.Array, unembed: jax.Array, temperature: float) -> jax.Array:
    """[..., D] x [V, D] -> float32 [..., V], divided by the temperature: for the one token that a sampler needs."""
    placed = out("batch", *[None] * (hidden.ndim - 2), "vocabulary")
    return jnp.einsum("...d,vd->...v", hidden, unembed, out_sharding=placed, preferred_element_type=jnp.float32) / temperature


def chosen_log_prob(logits: jax.Array, chosen: jax.Array) -> jax.Array:
    """Log-probability of the chosen tokens. logits: [..., V], chosen: [...] -> float32 [...]."""
    shifted = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    # A masked sum instead of a gather: it partitions along the vocabulary without help.
    picked = jnp.sum(jnp.where(jnp.arange(logits.shape[-1]) == chosen[..., None], shifted, 0.0), -1)
    return picked - jnp.log(jnp.exp(shifted).sum(-1))
