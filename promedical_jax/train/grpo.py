"""GRPO against a frozen criterion-conditioned reward model, with an advantage that keeps the veto.

A step: sample G answers of each instruction, score every criterion of every answer in one pass, turn scores into verdicts, verdicts into S1, S2, S3
and these into advantages (rubric/, on the host: a few numbers an answer), look up what the frozen start says of the answers, and update on the tree.
Weights never leave the devices.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from promedical_jax.config import GrpoConfig
from promedical_jax.data.batches import to_devices, training_batches
from promedical_jax.data.encode import measure
from promedical_jax.model.lora import join
from promedical_jax.model.transformer import Compute, ModelConfig, Params
from promedical_jax.rubric import Judge
from promedical_jax.selfcheck import check_tree
from promedical_jax.train.grpo_loss import Before, loss, objective
from promedical_jax.train.guards import sound_update
from promedical_jax.train.loop import run_steps
from promedical_jax.train.optimizer import GradientTransformation, TrainState, make_optimizer, narrowed, start
from promedical_jax.train.policy import AnswerBatch, frozen_log_probs
from promedical_jax.train.resume import AUTO, Resume, finished
from promedical_jax.train.rollouts import Rollouts, find_judges
from promedical_jax.train.stage import backbone, begin, frozen_start, prepare, save_model

# Of a rollout's updates the last is logged; what the sampler drew is compared with the first, before which both have the same weights.
OF_THE_FIRST = ("sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max", "entropy")


def run(config: GrpoConfig, truth: Judge | None = None, resume: Resume = AUTO) -> None:
    """Trains, or goes on where it was interrupted; leaves an HF folder at `out`/model, and the ledger of every rollout beside it.

    `truth`: a judge that knows, where there is one (the simulated clinic): its view of the training rollouts is logged as true/*, never trained on.
    """
    setup = prepare(config)
    judges = find_judges(config, setup, truth)
    sizes = measure(setup.cases, config.shapes, str(config.cases))
    batches = training_batches(setup.cases, sizes, config.batch, config.seed, str(config.cases))
    if finished(config, "grpo", resume):
        return
    optimizer = make_optimizer(config.optimizer, config.steps * config.updates)
    with jax.set_mesh(setup.mesh):
        model, parts = backbone(config, setup, jax.random.key(config.seed))
        start_of_policy = frozen_start(config, parts) if config.kl else None
        state, where = start(parts.trained, parts.axes, optimizer, setup.mesh, config.weights)
        check_tree("the policy", join(parts.frozen, state.params), model, setup.compute, trains=True, samples=True)
        rollouts = Rollouts(config, setup, model, judges, sizes.prompt, parts.frozen, (state, start_of_policy), truth)
        begin(config, setup)
        step = make_step(config, model, setup.compute, optimizer, where)

        def advance(state: TrainState, host: dict[str, Any], number: int) -> tuple[TrainState, dict[str, Any]]:
            policy = join(parts.frozen, state.params)
            answers, sampled, judged = rollouts(policy, host, number)
            advantages = to_devices({"advantage": judged.advantage.astype(np.float32)})["advantage"]
            look_up = lambda params: frozen_log_probs(params, model, answers, config.temperature, setup.compute)  # noqa: E731
            reference = None if start_of_policy is None else look_up(start_of_policy)
            own = look_up(policy) if config.updates > 1 and config.importance_cap is not None else None
            before = Before(sampled.rollout.log_probs, reference, own)
            state, metrics = step(state, parts.frozen, answers, before, advantages)
            first = {name: metrics[name] for name in OF_THE_FIRST}
            for _ in range(config.updates - 1):
                state, metrics = step(state, parts.frozen, answers, before, advantages)
            metrics |= first | rollouts.record(host, number, sampled, judged)
            return state, metrics | rollouts.alarms.hear(number + 1, metrics)

        state = run_steps(config, "GRPO", state, where, batches, advance, shown=("reward", "s1", "safe", "kl"), tokens=rollouts.tokens,
                          beside=rollouts, policy=lambda state: join(parts.frozen, state.params))
        rollouts.close()
        save_model(config, model, join(parts.frozen, state.params), step=rollouts.go_back())


def make_step(config: GrpoConfig, model: ModelConfig, compute: Compute, optimizer: GradientTransformation, where: TrainState) -> Callable[..., Any]:
    """The jitted update: (state, frozen parameters, answers, their log-probs before it, advantages [B, G]) -> (state, metrics)."""
    wanted = objective(config)

    @partial(jax.jit, donate_argnums=0, out_shardings=(where, None))
    def step(state: TrainState, frozen: Params, answers: AnswerBatch, before: Before, advantages: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        whole = lambda trained: loss(join(frozen, trained), model, answers, before, advantages, wanted, compute)  # noqa: E731
        gradients, metrics = jax.grad(whole, has_aux=True)(narrowed(state.params, compute.dtype))
        state, about = sound_update(state, gradients, optimizer, metrics["loss"])
        return state, metrics | about

    return step
