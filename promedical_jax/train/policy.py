"""The policy's view of a tree: log-probabilities of the G answers of each instruction, which is computed once for all of them."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from promedical_jax.model import transformer
from promedical_jax.model.heads import head_scores
from promedical_jax.model.layout import Rows, assemble, last_valid, node_tokens, nodes_of, place, states_before, tree
from promedical_jax.model.logprob import log_probs
from promedical_jax.model.sharding import reshape
from promedical_jax.model.transformer import FLOAT32, Compute, ModelConfig, Params


class AnswerBatch(NamedTuple):
    """B instructions with G answers each, padded on the right; a padding answer has length 0."""

    prompt: jax.Array  # [B, P]
    prompt_length: jax.Array  # [B]
    answers: jax.Array  # [B, G, R]
    answer_lengths: jax.Array  # [B, G]
    rows: Rows | None = None  # the same packed into shared rows: then these are computed

    @property
    def mask(self) -> jax.Array:
        """[B, G, R]: the real tokens."""
        return jnp.arange(self.answers.shape[2]) < self.answer_lengths[..., None]


def answer_log_probs(params: Params, config: ModelConfig, batch: AnswerBatch, temperature: float = 1.0,
                     compute: Compute = FLOAT32) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each answer token given what stands before it, and the entropy there, both [B, G, R], 0 at padding; in nats."""
    states, targets, back = _states(params, config, batch, compute)
    chosen, entropy = (jnp.where(batch.mask, back(x), 0.0) for x in log_probs(states, targets, transformer.unembedding(params), temperature))
    return chosen, entropy


def answer_log_probs_and_values(params: Params, value: dict[str, jax.Array], config: ModelConfig, batch: AnswerBatch, temperature: float = 1.0,
                                compute: Compute = FLOAT32) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same, and what a value head (one of `heads.init_heads`) makes of the states before each answer token: all [B, G, R], 0 at padding."""
    states, targets, back = _states(params, config, batch, compute)
    said = *log_probs(states, targets, transformer.unembedding(params), temperature), head_scores(value, states, jnp.zeros_like(targets))
    chosen, entropy, values = (jnp.where(batch.mask, back(x), 0.0) for x in said)
    return chosen, entropy, values


def _states(params: Params, config: ModelConfig, batch: AnswerBatch, compute: Compute) -> tuple[jax.Array, jax.Array, Callable[[jax.Array], jax.Array]]:
    """The states that predict answer tokens [B, n, D], these tokens [B, n], and what brings values of theirs [B, n] to [B, G, R]."""
    b, g, r = batch.answers.shape
    if batch.rows is None:
        layout = tree(batch.prompt.shape[1], (g, r))
        rows = assemble(layout, [batch.prompt[:, None], batch.answers], [batch.prompt_length[:, None], batch.answer_lengths])
        hidden = transformer.forward(params, config, rows, layout, compute)
        # The instruction's last state predicts each answer's first token; an answer's states predict its next ones.
        first = last_valid(nodes_of(hidden, layout, 0), batch.prompt_length[:, None])[:, :, None]
        before = jnp.concatenate([jnp.broadcast_to(first, (b, g, 1, config.width)), nodes_of(hidden, layout, 1)[:, :, :-1]], axis=2)
        return reshape(before, (b, g * r, config.width), back=1), reshape(batch.answers, (b, g * r)), lambda x: reshape(x, (b, g, r))
    packed = batch.rows
    layout = packed.layout((batch.prompt.shape[1], r))
    hidden = transformer.forward(params, config, place(layout, packed), layout, compute)
    return states_before(hidden, layout, packed.nodes), packed.tokens[1], lambda x: node_tokens(x, layout, packed, 1)


@partial(jax.jit, static_argnames=("config", "compute"))
def frozen_log_probs(params: Params, config: ModelConfig, batch: AnswerBatch, temperature: float = 1.0, compute: Compute = FLOAT32) -> jax.Array:
    """[B, G, R] log-probabilities of the answers by weights that the updates on this batch do not change. Once a batch, with no gradient."""
    return answer_log_probs(params, config, batch, temperature, compute)[0]


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the whole batch's real tokens."""
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1)
