"""Log-probabilities without the vocabulary: logits exist for one chunk of tokens at a time, forward and backward.

Qwen3's vocabulary is 151,936 wide; the logits of one 9,216-token row would take 5.6 GB in float32.
"""

import jax
import jax.numpy as jnp

from promedical_jax.model.sharding import out, reshape

LOGITS_IN_MEMORY = 2**26  # elements of one chunk's logits over all devices: 256 MiB in float32


def log_probs(hidden: jax.Array, targets: jax.Array, unembed: jax.Array, temperature: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each target token and entropy of its distribution, in nats.

    hidden: [B, T, D] (the state that predicts the target), targets: [B, T], unembed: [D, V]. Returns two float32 [B, T].
    """
    b, t, d = hidden.shape
    chunk = max(1, min(t, LOGITS_IN_MEMORY // (b * unembed.shape[1])))
    count = -(-t // chunk)
    padding = count * chunk - t
    hidden = reshape(jnp.pad(hidden, ((0, 0), (0, padding), (0, 0))), (b, count, chunk, d), back=1).swapaxes(0, 1)
    targets = reshape(jnp.pad(targets, ((0, 0), (0, padding))), (b, count, chunk)).swapaxes(0, 1)

    @jax.checkpoint  # the backward pass computes a chunk's logits again
    def one(_, chunk_of):
        h, y = chunk_of
        return None, chosen_log_prob(to_logits(h, unembed, temperature), y)

    _, (chosen, entropy) = jax.lax.scan(one, None, (hidden, targets))
    join = lambda x: reshape(x.swapaxes(0, 1), (b, count * chunk))[:, :t]  # noqa: E731
    return join(chosen), join(entropy)


def to_logits(hidden: jax.Array, unembed: jax.Array, temperature: float) -> jax.Array:
    """[B, T, D] -> float32 [B, T, V], divided by the temperature."""
    placed = out("batch", *[None] * (hidden.ndim - 2), "vocabulary")
    return jnp.einsum("...d,dv->...v", hidden, unembed, out_sharding=placed, preferred_element_type=jnp.float32) / temperature


def chosen_log_prob(logits: jax.Array, chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-probability of the chosen tokens and the entropy. logits: [..., V], chosen: [...] -> two float32 [...]."""
    shifted = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    weights = jnp.exp(shifted)
    total = weights.sum(-1)
    # A masked sum instead of a gather: it partitions along the vocabulary without help.
    picked = jnp.sum(jnp.where(jnp.arange(logits.shape[-1]) == chosen[..., None], shifted, 0.0), -1)
    entropy = jnp.log(total) - jnp.sum(weights * shifted, -1) / total
    return picked - jnp.log(total), entropy
