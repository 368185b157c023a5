"""GRPO against a frozen criterion-conditioned reward model, with an advantage that keeps the veto.

A step: sample G answers of each instruction, score every criterion of every answer in one pass, turn scores into verdicts, verdicts into S1, S2, S3
and these into advantages (rubric/, on the host: a few numbers an answer), look up what the frozen start says of the answers, and update on the tree.
Weights never leave the devices.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from rich.console import Console

from promedical_jax.cluster import agree, chief, together
from promedical_jax.config import GrpoConfig
from promedical_jax.data.batches import to_devices, training_batches
from promedical_jax.data.encode import measure, stop_token
from promedical_jax.data.load import load_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.model import hf
from promedical_jax.model.lora import join
from promedical_jax.model.sharding import bytes_here
from promedical_jax.model.sharding import parts as parts_of
from promedical_jax.model.transformer import Compute, ModelConfig, Params
from promedical_jax.reward import RewardBatch, RewardModel, check_reward_model, load_reward_model
from promedical_jax.reward.endpoint import EndpointJudge
from promedical_jax.reward.folder import read_verdicts
from promedical_jax.rollout import Rollout, sample
from promedical_jax.rollout.memory import memory_of_a_device, waves
from promedical_jax.rubric import Case, Judge
from promedical_jax.selfcheck import check_tree
from promedical_jax.train.grpo_loss import Before, loss, objective
from promedical_jax.train.guards import Alarms, sound_update
from promedical_jax.train.ledger import Ledger
from promedical_jax.train.loop import finished, run_steps
from promedical_jax.train.optimizer import GradientTransformation, TrainState, make_optimizer, narrowed, start
from promedical_jax.train.policy import AnswerBatch, frozen_log_probs
from promedical_jax.train.rewards import Judged, ask, check_kind, judge
from promedical_jax.train.stage import Setup, backbone, begin, check_fits, frozen_start, prepare, save_model

# Of a rollout's updates the last is logged; what the sampler drew is compared with the first, before which both have the same weights.
OF_THE_FIRST = ("sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max", "entropy")


def run(config: GrpoConfig, truth: Judge | None = None) -> None:
    """Trains, or goes on where it was interrupted; leaves an HF folder at `out`/model, and the ledger of every rollout beside it.

    `truth`: a judge that knows, where there is one (the simulated clinic): its view of the training rollouts is logged as true/*, never trained on.
    """
    setup = prepare(config)
    judge_folder = hf.resolve(config.reward_model)
    judge_config = hf.read_config(judge_folder)
    check_fits(setup.mesh, judge_config, config.batch)
    check_reward_model(judge_folder)
    check_kind(config, read_verdicts(judge_folder).kind)
    if load_tokenizer(judge_folder, judge_config.vocabulary).get_vocab() != setup.tokenizer.get_vocab():
        raise InputError(f"{config.reward_model}: its tokenizer differs from that of {config.model}; both must read the same tokens")
    if not setup.source.has_weights():
        raise InputError(f"{config.model}: no weights; GRPO starts from a trained policy (see `promedical train sft`)")
    with together():
        endpoint = EndpointJudge(config.judge) if config.judge.url else None
    sizes = measure(setup.cases, config.shapes, str(config.cases))
    batches = training_batches(setup.cases, sizes, config.batch, config.seed, str(config.cases))
    if finished(config, "grpo"):
        return
    optimizer = make_optimizer(config.optimizer, config.steps * config.updates)
    with jax.set_mesh(setup.mesh):
        model, parts = backbone(config, setup, jax.random.key(config.seed))
        start_of_policy = frozen_start(config, parts) if config.kl else None
        state, where = start(parts.trained, parts.axes, optimizer, setup.mesh, config.weights)
        reward_model = load_reward_model(judge_folder, setup.mesh, config.dtype)
        check_tree("the policy", join(parts.frozen, state.params), model, setup.compute, trains=True, samples=True)
        check_tree("the reward model", reward_model.params["backbone"], reward_model.config, setup.compute)
        begin(config, setup)
        step = make_step(config, model, setup.compute, optimizer, where)
        in_waves = rollout_waves(config, model, setup.mesh, sizes.prompt, (state, parts.frozen, start_of_policy, reward_model.params))
        ledger, alarms = Ledger(config, setup.tokenizer, reward_model, truth), Alarms(config)

        def advance(state: TrainState, host: dict[str, Any], number: int) -> tuple[TrainState, dict[str, Any]]:
            cases = [setup.cases[i].case for i in host["index"]]
            policy = join(parts.frozen, state.params)
            placed, rollout, judged = roll_out(config, setup, model, policy, reward_model, host, cases, number, in_waves, endpoint)
            answers = AnswerBatch(placed["prompt"], placed["prompt_length"], rollout.tokens, rollout.lengths)
            advantages = to_devices({"advantage": judged.advantage.astype(np.float32)})["advantage"]
            look_up = lambda params: frozen_log_probs(params, model, answers, config.temperature, setup.compute)  # noqa: E731
            reference = None if start_of_policy is None else look_up(start_of_policy)
            own = look_up(policy) if config.updates > 1 and config.importance_cap is not None else None
            before = Before(rollout.log_probs, reference, own)
            state, metrics = step(state, parts.frozen, answers, before, advantages)
            first = {name: metrics[name] for name in OF_THE_FIRST}
            for _ in range(config.updates - 1):
                state, metrics = step(state, parts.frozen, answers, before, advantages)
            metrics |= first | ledger.record(number, cases, rollout, judged)
            if endpoint and chief():
                metrics |= {f"judge/{name}": float(count) for name, count in endpoint.counts.items()}
            return state, metrics | alarms.hear(number + 1, metrics)

        state = run_steps(config, "GRPO", state, where, batches, advance, shown=("reward", "s1", "safe", "kl"), begin=ledger.begin, before_save=ledger.flush,
                          tokens=lambda b: float(b["prompt_length"].sum() * 2) + ledger.tokens)
        ledger.close()
        save_model(config, model, join(parts.frozen, state.params))


def rollout_waves(config: GrpoConfig, model: ModelConfig, mesh: jax.sharding.Mesh, prompt: int, held: Any) -> int:
    """Into how many waves a batch's rollout is split on these devices, beside the arrays that the run holds; the same in every process."""
    memory = memory_of_a_device()
    free = None if memory is None else memory - bytes_here(held)
    cases = config.batch // parts_of(mesh, "batch")
    count = agree(waves(model, cases, prompt, config.answers, config.answer_tokens, config.dtype, mesh.shape["tp"], free))
    if count > 1:
        Console(stderr=True, quiet=not chief()).print(f"rollouts are sampled in {count} waves of {config.batch // count} cases, for want of memory")
    return count


def roll_out(config: GrpoConfig, setup: Setup, model: ModelConfig, policy: Params, reward_model: RewardModel, host: dict[str, Any], cases: Sequence[Case],
             number: int, in_waves: int, endpoint: EndpointJudge | None = None) -> tuple[dict[str, Any], Rollout, Judged]:
    """Samples (in so many waves) and judges the answers of one batch: the placed batch, the rollout and the judgements. A function of (seed, step, case)."""
    placed = to_devices({name: host[name] for name in ("prompt", "prompt_length", "criteria", "criterion_lengths", "tiers", "case")})
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    rollout = sample(policy, model, placed["prompt"], placed["prompt_length"], key, placed["case"], answers=config.answers,
                     answer_tokens=config.answer_tokens, stop=stop_token(setup.tokenizer), temperature=config.temperature, compute=setup.compute,
                     waves=in_waves)  # fmt: skip
    batch = RewardBatch(placed["prompt"], placed["prompt_length"], rollout.tokens, rollout.lengths, placed["criteria"], placed["criterion_lengths"],
                        placed["tiers"])
    heard = ask(endpoint, setup.tokenizer, rollout, cases) if endpoint else None
    return placed, rollout, judge(reward_model, batch, cases, config, setup.compute, heard)


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
