"""What our model computes of make_goldens.py's rows: shared by the tests on the golden files and those beside a live `transformers`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from promedical_jax.model import transformer
from promedical_jax.model.layout import TreeBatch, tree
from promedical_jax.rollout import sample


def logits(params, config, ids: np.ndarray, mask: np.ndarray, start: int) -> np.ndarray:
    """[real tokens, V]; the first real token of each row stands at `start`."""
    return np.asarray(_logits(params, config, _batch(ids, mask, start)))[mask]


def gradients(params, config, ids: np.ndarray, mask: np.ndarray, start: int):
    """Of the mean cross-entropy of the next tokens, in our tree."""
    return _gradients(params, config, _batch(ids, mask, start))


def _batch(ids: np.ndarray, mask: np.ndarray, start: int) -> TreeBatch:
    positions = start + np.maximum(np.cumsum(mask, 1) - 1, 0)
    return TreeBatch(*(jnp.asarray(x) for x in (ids, positions, mask)))


@partial(jax.jit, static_argnums=1)
def _logits(params, config, batch: TreeBatch) -> jax.Array:
    return transformer.forward(params, config, batch, tree(batch.tokens.shape[1])) @ transformer.unembedding(params).T


@partial(jax.jit, static_argnums=1)
@jax.grad
def _gradients(params, config, batch: TreeBatch) -> jax.Array:
    log_probs = jax.nn.log_softmax(_logits(params, config, batch)[:, :-1])
    chosen = jnp.take_along_axis(log_probs, batch.tokens[:, 1:, None], -1)[..., 0]
    both = batch.valid[:, 1:] & batch.valid[:, :-1]
    return -jnp.sum(jnp.where(both, chosen, 0.0)) / jnp.sum(both)


def greedy(params, config, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """64 greedy tokens after each row's real ones, which are moved to the left: [B, 64]."""
    prompts, lengths = np.zeros_like(ids), mask.sum(1)
    for prompt, row, real in zip(prompts, ids, mask, strict=True):
        prompt[: real.sum()] = row[real]
    rows = np.arange(len(ids))
    return np.asarray(sample(params, config, prompts, lengths, jax.random.key(0), rows, answers=1, answer_tokens=64, stop=-1, temperature=0.0).tokens)[:, 0]
