"""Log-probabilities without the vocabulary: logits exist for one chunk of the vocabulary at a time, forward and backward.

Qwen3's vocabulary is 151,936 wide; the logits of one 9,216-token row would take 5.6 GB in float32. Here a loop walks over the rows of the unembedding.
Forward, it keeps a running maximum and sums for each token; backward, it computes a chunk's logits again and gives that chunk's gradient at once. Each
chunk is gathered along fsdp as it is used and its gradient scattered back: no device ever holds the whole matrix, nor its gradient. Where nobody asks
for the unembedding's gradient (LoRA), the compiler drops all that computes it.

Letters: n tokens of one device, D width, V vocabulary rows of one device, v rows of a chunk.
"""

from functools import partial

import jax
import jax.numpy as jnp

from promedical_jax.model.sharding import gather, in_mesh, on_each_device, out, pin, spec

LOGITS_IN_MEMORY = 2**24  # elements of one chunk's logits on a device: 64 MiB in float32
LEAST_ROWS = 1024  # of a chunk, however many tokens: with fewer, reading and writing the hidden states' gradient takes longer than the products do
LOWEST = -1e30  # the logit of what is not there; unlike minus infinity it makes no 0 x infinity


def log_probs(hidden: jax.Array, targets: jax.Array, unembed: jax.Array, temperature: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each target token and entropy of its distribution, in nats; gradients reach `hidden` and `unembed`.

    hidden: [B, T, D] (the state that predicts the target), targets: [B, T], unembed: [V, D], of any type: products are computed in the type of
    `hidden`, everything else in float32. `temperature` > 0 divides the logits; it may be traced, but no gradient reaches it. Returns two float32
    [B, T]. A target outside [0, V), as some mark padding, has the log-probability NaN and no gradient: mask it with `where`.
    """
    hidden, targets, unembed = pin(hidden, "batch", None, None), pin(jnp.asarray(targets), "batch", None), pin(unembed, "vocabulary", "width")
    chosen, entropy = _log_probs(hidden, unembed, targets, jnp.float32(1 / temperature))
    return jnp.where((targets >= 0) & (targets < unembed.shape[0]), chosen, jnp.nan), entropy


def cross_entropy(hidden: jax.Array, targets: jax.Array, unembed: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of -log p(target) over the tokens where `mask` [B, T] is true, in nats; the other letters are those of `log_probs`."""
    chosen, _ = log_probs(hidden, targets, unembed)
    return -jnp.sum(jnp.where(mask, chosen, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


@jax.custom_vjp
def _log_probs(hidden: jax.Array, unembed: jax.Array, targets: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _forward(hidden, unembed, targets, scale)[0]


def _forward(hidden, unembed, targets, scale):
    tokens, states, rows = spec("batch"), spec("batch"), spec("vocabulary", "width")
    local = on_each_device(partial(_forward_local, meshed=in_mesh()), (states, rows, tokens, spec()), (tokens,) * 4)
    chosen, entropy, *normaliser = local(hidden, unembed, targets, scale)
    return (chosen, entropy), (hidden, unembed, targets, scale, entropy, *normaliser)


def _backward(kept, given):
    hidden, unembed, targets, scale, *known = kept
    tokens, states, rows = spec("batch"), spec("batch"), spec("vocabulary", "width")
    local = on_each_device(partial(_backward_local, meshed=in_mesh()), (states, rows, *[tokens] * 6, spec()), (states, rows))
    to_hidden, to_unembed = local(hidden, unembed, targets, *known, *given, scale)
    return to_hidden, to_unembed, None, None


_log_probs.defvjp(_forward, _backward)


def _chunks(unembed: jax.Array, tokens: int) -> tuple[int, int]:
    """Rows of a chunk and number of chunks: as few as memory allows, as even as whole tiles of 128 rows allow.

    At least four of a large vocabulary, however few the tokens: a single one would gather the whole matrix at once.
    """
    have = unembed.shape[0]
    count = max(-(-have // max(LEAST_ROWS, LOGITS_IN_MEMORY // max(tokens, 1))), min(4, have // LEAST_ROWS), 1)
    rows = min(have, -(-have // count // 128) * 128)
    return rows, -(-have // rows)


def _chunk(unembed: jax.Array, i: jax.Array, rows: int, dtype: jnp.dtype, meshed: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Chunk i, gathered, [v, D]; the number of its first row; and which of its rows no chunk before it had: the last one reaches back to stay whole."""
    start = jnp.minimum(i * rows, unembed.shape[0] - rows)
    chunk = jax.lax.dynamic_slice_in_dim(unembed, start, rows).astype(dtype)
    if meshed:
        chunk = jax.lax.all_gather(chunk, "fsdp", axis=1, tiled=True)
    return chunk, start, jnp.arange(rows) + start >= i * rows


def _sum(x: jax.Array, axis: str, meshed: bool) -> jax.Array:
    """Over the devices along a mesh axis; one that is alone there keeps x, where XLA on the CPU would copy it."""
    return jax.lax.psum(x, axis) if meshed and jax.lax.axis_size(axis) > 1 else x


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
        logits = jnp.where(fresh, _logits(flat, chunk, scale), LOWEST)
        new = jnp.maximum(top, jnp.max(logits, -1))
        shifted = logits - new[:, None]
        weight = jnp.exp(shifted)
        fade, moved = _moved(top, new)
        weighted = fade * weighted + moved * total + jnp.sum(weight * shifted, -1)
        picked += jnp.sum(jnp.where(fresh & (jnp.arange(rows) + start == mine), logits, 0.0), -1)
        return (new, fade * total + jnp.sum(weight, -1), weighted, picked), None

    zero = jnp.zeros(n, jnp.float32)
    (top, total, weighted, picked), _ = jax.lax.scan(step, (jnp.full(n, LOWEST, jnp.float32), zero, zero, zero), jnp.arange(count))
    if meshed:
        new = jax.lax.pmax(top, "tp")
        fade, moved = _moved(top, new)
        total, weighted, picked = jax.lax.psum((fade * total, fade * weighted + moved * total, picked), "tp")
        top = new
    # The logarithm of the normaliser stays in two parts: rounded as one, a large maximum would swallow digits of the logarithm.
    log_total = jnp.log(total)
    return tuple(x.reshape(targets.shape) for x in (picked - top - log_total, log_total - weighted / total, top, log_total))


def _moved(top: jax.Array, new: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How sums relative to the maximum `top` read relative to `new`: total becomes fade total, weighted becomes fade weighted + moved total."""
    fade = jnp.exp(top - new)
    return fade, fade * (top - new)


def _backward_local(hidden, unembed, targets, entropy, top, log_total, to_chosen, to_entropy, scale, meshed: bool):
    flat, mine = hidden.reshape(-1, hidden.shape[-1]), _targets_here(targets, unembed, meshed)
    entropy, top, log_total, to_chosen, to_entropy = (x.reshape(-1, 1) for x in (entropy, top, log_total, to_chosen, to_entropy))
    rows, count = _chunks(unembed, flat.shape[0])

    def step(carry, i):
        to_flat, to_unembed = carry
        chunk, start, fresh = _chunk(unembed, i, rows, flat.dtype, meshed)
        log_p = _logits(flat, chunk, scale) - top - log_total
        p = jnp.exp(log_p)
        # d chosen / d logit = [target] - p;  d entropy / d logit = -p (log p + entropy)
        to_logits = to_chosen * (jnp.arange(rows) + start == mine) - p * (to_chosen + to_entropy * (log_p + entropy))
        to_logits = jnp.where(fresh, scale * to_logits, 0.0).astype(flat.dtype)
        to_chunk = jax.lax.dot_general(to_logits, flat, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
        if meshed:
            to_chunk = jax.lax.psum_scatter(to_chunk, "fsdp", scatter_dimension=1, tiled=True)
        to_chunk += jax.lax.dynamic_slice_in_dim(to_unembed, start, rows)  # what an earlier chunk wrote where this one reaches back, else zero
        to_unembed = jax.lax.dynamic_update_slice_in_dim(to_unembed, to_chunk.astype(unembed.dtype), start, 0)
        to_flat += jax.lax.dot_general(to_logits, chunk, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)
        return (to_flat, to_unembed), None

    (to_flat, to_unembed), _ = jax.lax.scan(step, (jnp.zeros(flat.shape, jnp.float32), jnp.zeros_like(unembed)), jnp.arange(count))
    return _sum(to_flat, "tp", meshed).reshape(hidden.shape).astype(hidden.dtype), _sum(to_unembed, "slice", meshed)


def to_logits(hidden: jax.Array, unembed: jax.Array, temperature: float) -> jax.Array:
    """[B, ..., D] x [V, D] -> float32 [B, ..., V], divided by the temperature: for the one token that a sampler needs. In the type of `hidden`, as
    `log_probs`; a matrix that is split along fsdp is gathered, which a sampler does once (see `settle` in decode.py)."""
    whole, placed = gather(unembed.astype(hidden.dtype), ("vocabulary", "width")), out("batch", *(None,) * (hidden.ndim - 2), "vocabulary")
    return jnp.einsum("...d,vd->...v", hidden, whole, out_sharding=placed, preferred_element_type=jnp.float32) / temperature


def chosen_log_prob(logits: jax.Array, chosen: jax.Array) -> jax.Array:
    """Log-probability of the chosen tokens. logits: [..., V], chosen: [...] -> float32 [...]."""
    shifted = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    # A masked sum instead of a gather: it partitions along the vocabulary without help.
    picked = jnp.sum(jnp.where(jnp.arange(logits.shape[-1]) == chosen[..., None], shifted, 0.0), -1)
    return picked - jnp.log(jnp.exp(shifted).sum(-1))
