"""The loss of GRPO and its published variants, from log-probabilities and advantages: one clipped gain, four choices about it."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from promedical_jax.config import GrpoConfig
from promedical_jax.model.transformer import FLOAT32, Compute, ModelConfig, Params
from promedical_jax.train.policy import AnswerBatch, answer_log_probs, masked_mean


class Objective(NamedTuple):
    """What a recipe chooses about the loss.

    kl_unbiased: the KL of a token times its ratio, whose gradient is the KL's own (DeepSeek-V3.2, arXiv 2512.02556).
    ratio: of each token's probabilities, or of a sequence's geometric mean for all its tokens (GSPO, arXiv 2507.18071).
    aggregate: a mean over all tokens (DAPO, arXiv 2503.14476), over answers of their means (GRPO, arXiv 2402.03300), or a sum over tokens divided by
    answers times the longest answer that is sampled, which no answer's length changes (Dr. GRPO, arXiv 2503.20783).
    importance_cap: the ratio is taken to the trainer's own log-probs before the update, and each token is weighted by what these have over the sampler's,
    up to this (truncated importance sampling); None: the ratio is taken to the sampler's.
    drop_dead: groups in which all advantages are 0 teach nothing and are counted nowhere, not in the KL either.
    """

    temperature: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl: float = 0.0
    kl_unbiased: bool = False
    ratio: Literal["token", "sequence"] = "token"
    aggregate: Literal["tokens", "answers", "constant"] = "tokens"
    entropy: float = 0.0
    importance_cap: float | None = None
    drop_dead: bool = False


def objective(config: GrpoConfig) -> Objective:
    """What `config` chooses: its keys have the same names."""
    return Objective(*(getattr(config, name) for name in Objective._fields))


class Before(NamedTuple):
    """Log-probabilities [B, G, R] of the answers before the update, in nats."""

    sampled: jax.Array  # by the sampler, as it drew them
    reference: jax.Array | None = None  # by the frozen start; without it there is no KL
    trainer: jax.Array | None = None  # by the trainer; None: it has the weights that are differentiated, as in the first update of a rollout


def loss(params: Params, config: ModelConfig, batch: AnswerBatch, before: Before, advantages: jax.Array, wanted: Objective,
         compute: Compute = FLOAT32) -> tuple[jax.Array, dict[str, jax.Array]]:
    """-(clipped gain) + kl * k3, aggregated over the batch, - entropy * mean H of a token; and the metrics, under TRL's names. advantages: [B, G].

    The KL is the estimator k3 of GRPO's equation 4 to the reference.
    """
    log_probs, entropy = answer_log_probs(params, config, batch, wanted.temperature, compute)
    live = jnp.any(advantages != 0, -1)
    mask = batch.mask & live[:, None, None] if wanted.drop_dead else batch.mask
    own = jax.lax.stop_gradient(log_probs) if before.trainer is None else before.trainer
    old, weight = before.sampled, jnp.ones_like(log_probs)
    if wanted.importance_cap is not None:
        old, weight = own, jnp.minimum(jnp.exp(own - before.sampled), wanted.importance_cap)
    apart = log_probs - old
    if wanted.ratio == "sequence":
        apart = jnp.broadcast_to(jnp.sum(jnp.where(mask, apart, 0.0), -1, keepdims=True) / jnp.maximum(mask.sum(-1, keepdims=True), 1), apart.shape)
    ratio, gain = jnp.exp(apart), advantages[..., None]
    clipped = jnp.clip(ratio, 1 - wanted.clip_low, 1 + wanted.clip_high)
    each = -jnp.minimum(ratio * gain, clipped * gain) * weight
    metrics = {}
    if before.reference is not None:
        above = before.reference - log_probs
        k3 = (jnp.expm1(above) - above) * (ratio if wanted.kl_unbiased else 1.0)
        metrics["kl"] = masked_mean(k3, mask)
        each += wanted.kl * k3
    value = _aggregate(each, mask, wanted.aggregate) - wanted.entropy * masked_mean(entropy, mask)
    low, high = (ratio < 1 - wanted.clip_low) & (gain < 0), (ratio > 1 + wanted.clip_high) & (gain > 0)
    share = (lambda x: masked_mean(x[..., 0], jnp.any(mask, -1))) if wanted.ratio == "sequence" else (lambda x: masked_mean(x, mask))  # of what has a ratio
    gap = jnp.abs(own - before.sampled)
    if wanted.importance_cap is not None:
        metrics["sampling/importance_sampling_ratio/mean"] = masked_mean(weight, mask)
    return value, metrics | {
        "loss": value,
        "entropy": masked_mean(entropy, batch.mask),
        "clip_ratio/low_mean": share(low),
        "clip_ratio/high_mean": share(high),
        "clip_ratio/region_mean": share(low | high),
        # Before the first update sampler and trainer hold the same weights: a gap is stale weights or different arithmetic.
        "sampling/sampling_logp_difference/mean": masked_mean(gap, batch.mask),
        "sampling/sampling_logp_difference/max": jnp.max(jnp.where(batch.mask, gap, 0.0)),
        "completions/mean_length": jnp.mean(batch.answer_lengths.astype(jnp.float32)),
        "completions/max_length": jnp.max(batch.answer_lengths),
    }


def _aggregate(each: jax.Array, mask: jax.Array, how: str) -> jax.Array:
    """[B, G, R] -> a scalar over the tokens of `mask`."""
    answers = jnp.any(mask, -1)
    match how:
        case "tokens":
            return masked_mean(each, mask)
        case "answers":
            means = jnp.sum(jnp.where(mask, each, 0.0), -1) / jnp.maximum(mask.sum(-1), 1)
            return masked_mean(means, answers)
        case "constant":
            return jnp.sum(jnp.where(mask, each, 0.0)) / (jnp.maximum(answers.sum(), 1) * mask.shape[-1])
    raise AssertionError(how)
