"""How many waves a rollout takes: one, unless the keys and values of all its answers do not fit beside what a run holds.

Decided from sizes before anything is sampled, and not from what is free at the time: the same run takes the same waves wherever it goes on.
"""

import jax
import jax.numpy as jnp

from promedical_jax.model.transformer import ModelConfig, shapes

SPARE = 0.1  # of the free memory, left for what a rollout holds beside weights, keys and values


def waves(config: ModelConfig, cases: int, prompt: int, answers: int, answer_tokens: int, dtype: str, tp: int, free: float | None) -> int:
    """Into how many equal parts the `cases` of a device are split, to be sampled one after the other: as few as fit into `free` bytes of it, and where not
    even one case fits, all of them alone. None: nobody knows how many are free, and it is one part. P, G and R are `prompt`, `answers`, `answer_tokens`."""
    if free is None:
        return 1
    item = jnp.dtype(dtype).itemsize
    weights = item * sum(x.size for x in jax.tree.leaves(shapes(config))) / tp
    token = 2 * item * config.depth * config.kv_heads * config.head / tp
    room = (1 - SPARE) * free - weights
    parts = [parts for parts in range(1, cases + 1) if cases % parts == 0]
    return next((n for n in parts if cases // n * (prompt + answers * answer_tokens) * token <= room), cases)


def memory_of_a_device() -> float | None:
    """Bytes that JAX may use on one device; None where it does not say, as on a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    return None if stats is None else stats.get("bytes_limit")
