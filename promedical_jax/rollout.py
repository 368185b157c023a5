"""Sampling on the tree: each instruction is prefilled once, its G answers share the keys and values, and all decode in one jit.

The sampler runs the trainer's own forward (model/transformer.py) on the trainer's own weights. It samples at a temperature only: top-k and top-p
would change the distribution that the policy gradient believes in. The draw of a token is a function of (seed, step, case, sample, position).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from promedical_jax.model import transformer
from promedical_jax.model.layout import assemble, last_valid, nodes_of, tree
from promedical_jax.model.logprob import chosen_log_prob, to_logits
from promedical_jax.model.sharding import out, pin
from promedical_jax.model.transformer import FLOAT32, Compute, ModelConfig, Params


class Rollout(NamedTuple):
    """G sampled answers of B instructions. An answer ends with its stop token; one of R tokens without it was cut (see `finished`)."""

    tokens: jax.Array  # [B, G, R], zero after the end
    lengths: jax.Array  # [B, G], stop token included
    log_probs: jax.Array  # [B, G, R] of the distribution sampled, zero after the end
    finished: jax.Array  # [B, G] whether the stop token came


@partial(jax.jit, static_argnames=("config", "answers", "answer_tokens", "stop", "compute"))
def sample(params: Params, config: ModelConfig, prompts: jax.Array, lengths: jax.Array, key: jax.Array, cases: jax.Array, *, answers: int,
           answer_tokens: int, stop: int, temperature: float = 1.0, compute: Compute = FLOAT32) -> Rollout:
    """prompts: [B, P] and their true lengths [B]; key: of (seed, step); cases: [B] numbers that set the cases' draws apart, whatever their batch.

    temperature 0 is greedy. Returns a Rollout of G = `answers`, R = `answer_tokens`.
    """
    prompts, lengths = pin(prompts, "batch", None), pin(lengths, "batch")
    b, p = prompts.shape
    params = transformer.settled(params, jnp.dtype(compute.dtype))
    layout = tree(p)
    batch = assemble(layout, [prompts[:, None]], [lengths[:, None]])
    hidden, prefix = transformer.forward(params, config, batch, layout, compute, cache=True)
    unembed = transformer.unembedding(params)
    first = last_valid(nodes_of(hidden, layout, 0), lengths[:, None])  # [B, 1, D]
    first = jnp.broadcast_to(first, (b, answers, config.width))

    # JAX loses the placement of a batch of one inside vmap; it lives on one device, so it needs none.
    cases = pin(cases, "batch" if b > 1 else None)
    draws = jax.vmap(lambda case: jax.vmap(lambda g: jax.random.fold_in(jax.random.fold_in(key, case), g))(jnp.arange(answers)))(cases)
    empty = jnp.zeros((config.depth, b, config.kv_heads, answers, answer_tokens, config.head), compute.dtype)
    suffix = tuple(pin(empty, None, "batch", "kv_heads", None, None, None) for _ in range(2))
    blank = pin(jnp.zeros((b, answers, answer_tokens)), "batch", None, None)
    running = lengths[:, None] + jnp.zeros((1, answers), jnp.int32) >= 0  # all true, placed as the batch is

    def unfinished(state):
        t, _, _, running, *_ = state
        return (t < answer_tokens) & jnp.any(running)

    def step(state):
        t, hidden, suffix, running, tokens, chosen, count = state
        logits = to_logits(hidden, unembed, 1.0)  # split along the vocabulary, as the noise is: each device draws and compares its part
        draw = lambda k: jax.random.gumbel(jax.random.fold_in(k, t), logits.shape[-1:], out_sharding=out("vocabulary"))  # noqa: E731
        noise = pin(jax.vmap(jax.vmap(draw))(draws), "batch", None, "vocabulary")
        token = jnp.argmax(logits + temperature * noise, -1)  # the Gumbel-max trick; at temperature 0 the arg max
        log_prob = chosen_log_prob(logits / jnp.where(temperature > 0, temperature, 1.0), token)
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, jnp.where(running, token, 0), t, 2)
        chosen = jax.lax.dynamic_update_index_in_dim(chosen, jnp.where(running, log_prob, 0.0), t, 2)
        count = count + running
        running = running & (token != stop)
        hidden, own = transformer.decode(params, config, token, lengths[:, None] + t, prefix, batch.valid, suffix, t, compute)
        suffix = tuple(jax.lax.dynamic_update_slice_in_dim(cache, new, t, 4) for cache, new in zip(suffix, own, strict=True))
        return t + 1, hidden, suffix, running, tokens, chosen, count

    start = (jnp.zeros((), jnp.int32), first, suffix, running, blank.astype(jnp.int32), blank, jnp.zeros_like(running, jnp.int32))
    _, _, _, running, tokens, chosen, count = jax.lax.while_loop(unfinished, step, start)
    return Rollout(tokens, count, chosen, ~running)
