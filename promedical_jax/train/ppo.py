"""PPO against the reward model's scalar reward: each token's advantage comes from a value head, and not from its group. A baseline beside GRPO.

The value head reads the policy's own states, so that policy and values are one pass over the tree. The reward falls on an answer's last token, and the
KL to the start is charged token by token (InstructGPT, arXiv 2203.02155); an answer of which the judges know nothing teaches nothing.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from promedical_jax.config import PpoConfig
from promedical_jax.data.batches import to_devices, training_batches
from promedical_jax.data.encode import measure
from promedical_jax.model.heads import HEADS_AXES, init_heads
from promedical_jax.model.lora import join
from promedical_jax.model.transformer import FLOAT32, Compute, ModelConfig, Params
from promedical_jax.rubric import Judge
from promedical_jax.selfcheck import check_tree
from promedical_jax.train.guards import sound_update
from promedical_jax.train.loop import run_steps
from promedical_jax.train.optimizer import GradientTransformation, TrainState, make_optimizer, narrowed, start
from promedical_jax.train.policy import AnswerBatch, answer_log_probs_and_values, frozen_log_probs, masked_mean
from promedical_jax.train.resume import AUTO, Resume, finished
from promedical_jax.train.rollouts import Rollouts, find_judges
from promedical_jax.train.stage import backbone, begin, frozen_start, prepare, save_model

OF_THE_FIRST = ("sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max", "entropy", "kl")


class Taken(NamedTuple):
    """What a rollout came to before its updates: fixed while they go on."""

    sampled: jax.Array  # [B, G, R] log-probs by the sampler
    values: jax.Array  # [B, G, R] before the update
    advantages: jax.Array  # [B, G, R], whitened over the batch's tokens
    returns: jax.Array  # [B, G, R], what values are to come to
    mask: jax.Array  # [B, G, R], the tokens of answers that have a reward


def estimate(rewards: jax.Array, values: jax.Array, mask: jax.Array, gamma: float, lam: float) -> tuple[jax.Array, jax.Array]:
    """Generalised advantages and returns [B, G, R] of rewards and values [B, G, R] of each token (arXiv 1506.02438, equation 16); 0 where mask is False.

    delta_t = r_t + gamma V_t+1 - V_t and A_t = delta_t + gamma lam A_t+1; behind an answer's last token both are 0. The return is A_t + V_t.
    """
    rewards, values = jnp.where(mask, rewards, 0.0), jnp.where(mask, values, 0.0)
    following = jnp.concatenate([values[..., 1:], jnp.zeros_like(values[..., :1])], -1)
    deltas = rewards + gamma * following - values

    def back(later: jax.Array, delta: jax.Array) -> tuple[jax.Array, jax.Array]:
        now = delta + gamma * lam * later
        return now, now

    _, advantages = jax.lax.scan(back, jnp.zeros_like(deltas[..., 0]), jnp.moveaxis(deltas, -1, 0), reverse=True)
    advantages = jnp.where(mask, jnp.moveaxis(advantages, 0, -1), 0.0)
    return advantages, jnp.where(mask, advantages + values, 0.0)


def take(values: jax.Array, batch: AnswerBatch, sampled: jax.Array, reference: jax.Array | None, rewards: jax.Array, config: PpoConfig) -> Taken:
    """The rollout's advantages and returns. values, sampled, reference: [B, G, R]; rewards: [B, G], NaN where the judges know nothing."""
    known = ~jnp.isnan(rewards)
    mask = batch.mask & known[..., None]
    last = jnp.arange(batch.answers.shape[2]) == batch.answer_lengths[..., None] - 1
    each = jnp.where(last, jnp.where(known, rewards, 0.0)[..., None], 0.0)
    if reference is not None:
        each -= config.kl * (sampled - reference)
    advantages, returns = estimate(each, values, mask, config.gamma, config.lam)
    mean = masked_mean(advantages, mask)
    std = jnp.sqrt(masked_mean((advantages - mean) ** 2, mask))
    return Taken(sampled, values, jnp.where(mask, (advantages - mean) / (std + 1e-8), 0.0), returns, mask)


def loss(params: Params, config: ModelConfig, batch: AnswerBatch, taken: Taken, wanted: PpoConfig,
         compute: Compute = FLOAT32) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The clipped policy gain and the clipped value loss (PPO, arXiv 1707.06347), means over the tokens. params: {"policy", "value"}."""
    log_probs, entropy, values = answer_log_probs_and_values(params["policy"], params["value"], config, batch, wanted.temperature, compute)
    mask = taken.mask
    ratio = jnp.exp(log_probs - taken.sampled)
    clipped = jnp.clip(ratio, 1 - wanted.clip_low, 1 + wanted.clip_high)
    policy = masked_mean(-jnp.minimum(ratio * taken.advantages, clipped * taken.advantages), mask)
    near = taken.values + jnp.clip(values - taken.values, -wanted.value_clip, wanted.value_clip)
    value = 0.5 * masked_mean(jnp.maximum((values - taken.returns) ** 2, (near - taken.returns) ** 2), mask)
    whole = policy + wanted.value_weight * value
    gap = jnp.abs(log_probs - taken.sampled)
    return whole, {
        "loss": whole,
        "policy_loss": policy,
        "value_loss": value,
        "value": masked_mean(values, mask),
        "entropy": masked_mean(entropy, batch.mask),
        "clip_ratio/region_mean": masked_mean(clipped != ratio, mask),
        "sampling/sampling_logp_difference/mean": masked_mean(gap, batch.mask),
        "sampling/sampling_logp_difference/max": jnp.max(jnp.where(batch.mask, gap, 0.0)),
        "completions/mean_length": jnp.mean(batch.answer_lengths.astype(jnp.float32)),
        "completions/max_length": jnp.max(batch.answer_lengths),
    }


def make_steps(config: PpoConfig, model: ModelConfig, compute: Compute, optimizer: GradientTransformation, where: TrainState) -> tuple[Callable[..., Any], ...]:
    """Two jitted functions: (state, frozen parameters, answers, log-probs by sampler and reference, rewards) -> Taken and the KL, and the update,
    (state, frozen parameters, answers, Taken) -> (state, metrics)."""

    def whole(trained: Params, frozen: Params) -> Params:
        return {"policy": join(frozen, trained["policy"]), "value": trained["value"]}

    @jax.jit
    def look(state: TrainState, frozen: Params, answers: AnswerBatch, sampled: jax.Array, reference: jax.Array | None, rewards: jax.Array) -> Any:
        params = whole(state.params, frozen)
        _, _, values = answer_log_probs_and_values(params["policy"], params["value"], model, answers, config.temperature, compute)
        kl = {} if reference is None else {"kl": masked_mean(jnp.expm1(reference - sampled) - (reference - sampled), answers.mask)}
        return take(values, answers, sampled, reference, rewards, config), kl

    @partial(jax.jit, donate_argnums=0, out_shardings=(where, None))
    def step(state: TrainState, frozen: Params, answers: AnswerBatch, taken: Taken) -> tuple[TrainState, dict[str, jax.Array]]:
        of = lambda trained: loss(whole(trained, frozen), model, answers, taken, config, compute)  # noqa: E731
        gradients, metrics = jax.grad(of, has_aux=True)(narrowed(state.params, compute.dtype))
        state, about = sound_update(state, gradients, optimizer, metrics["loss"])
        return state, metrics | about

    return look, step


def run(config: PpoConfig, truth: Judge | None = None, resume: Resume = AUTO) -> None:
    """As grpo.run. The value head lives in the checkpoints; the model folder has the policy alone."""
    setup = prepare(config)
    judges = find_judges(config, setup, truth)
    sizes = measure(setup.cases, config.shapes, str(config.cases))
    batches = training_batches(setup.cases, sizes, config.batch, config.seed, str(config.cases))
    if finished(config, "ppo", resume):
        return
    optimizer = make_optimizer(config.optimizer, config.steps * config.updates)
    with jax.set_mesh(setup.mesh):
        model, parts = backbone(config, setup, jax.random.key(config.seed))
        start_of_policy = frozen_start(config, parts) if config.kl else None
        value = partial(init_heads, 1, model.width, jax.random.key(config.seed + 1))
        make = parts.trained
        trained = (lambda: {"policy": make(), "value": value()}) if callable(make) else {"policy": make, "value": value()}
        state, where = start(trained, {"policy": parts.axes, "value": HEADS_AXES}, optimizer, setup.mesh, config.weights)
        check_tree("the policy", join(parts.frozen, state.params["policy"]), model, setup.compute, trains=True, samples=True)
        rollouts = Rollouts(config, setup, model, judges, sizes.prompt, parts.frozen, (state, start_of_policy), truth)
        begin(config, setup)
        look, step = make_steps(config, model, setup.compute, optimizer, where)

        def advance(state: TrainState, host: dict[str, Any], number: int) -> tuple[TrainState, dict[str, Any]]:
            answers, sampled, judged = rollouts(join(parts.frozen, state.params["policy"]), host, number)
            rewards = to_devices({"reward": judged.reward.astype(np.float32)})["reward"]
            known = None
            if start_of_policy is not None:
                known = frozen_log_probs(start_of_policy, model, answers, config.temperature, setup.compute)
            taken, first = look(state, parts.frozen, answers, sampled.rollout.log_probs, known, rewards)
            state, metrics = step(state, parts.frozen, answers, taken)
            first |= {name: metrics[name] for name in OF_THE_FIRST if name in metrics}
            for _ in range(config.updates - 1):
                state, metrics = step(state, parts.frozen, answers, taken)
            metrics |= first | rollouts.record(host, number, sampled, judged)
            return state, metrics | rollouts.alarms.hear(number + 1, metrics)

        state = run_steps(config, "PPO", state, where, batches, advance, shown=("reward", "s1", "safe", "kl"), tokens=rollouts.tokens,
                          beside=rollouts, policy=lambda state: join(parts.frozen, state.params["policy"]))
        rollouts.close()
        save_model(config, model, join(parts.frozen, state.params["policy"]), step=rollouts.go_back())
