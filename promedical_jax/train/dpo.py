"""DPO and IPO: learn which of two answers is preferred as a whole, without a reward model. The baseline beside GRPO.

A case with A answers is one tree: each answer's log-probability is computed once, and all of the case's pairs are made of these. Which answer is preferred
is the lexicographic order of the raters' mean verdicts, so that DPO learns from the same word as the reward model does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from promedical_jax.config import DpoConfig
from promedical_jax.data.batches import to_devices, training_batches
from promedical_jax.data.encode import measure
from promedical_jax.data.load import preferences_only
from promedical_jax.data.rows import judged_answer_lengths, packer
from promedical_jax.model.lora import join
from promedical_jax.model.sharding import parts as parts_of
from promedical_jax.model.transformer import FLOAT32, Compute, ModelConfig, Params
from promedical_jax.selfcheck import check_tree
from promedical_jax.train.guards import sound_update
from promedical_jax.train.loop import run_steps
from promedical_jax.train.optimizer import GradientTransformation, TrainState, make_optimizer, narrowed, start
from promedical_jax.train.policy import AnswerBatch, answer_log_probs, frozen_log_probs
from promedical_jax.train.resume import AUTO, Resume, finished
from promedical_jax.train.stage import backbone, begin, frozen_start, prepare, save_model


def loss(params: Params, config: ModelConfig, batch: AnswerBatch, reference: jax.Array, wins: jax.Array, *, beta: float, kind: str = "sigmoid",
         compute: Compute = FLOAT32) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A mean over the pairs (i, j) in which i is preferred: wins[b, i, j] > 0, the pair's weight. reference: [B, A, R] log-probs by the frozen start.

    h(i) = log pi(i) - log pi_ref(i). sigmoid: -log sigmoid(beta (h(i) - h(j))) (DPO, arXiv 2305.18290, equation 7). ipo: (h(i) - h(j) - 1 / (2 beta))^2
    (IPO, arXiv 2310.12036, equation 17) with h per token, as its authors and TRL do, so that answers of any length have margins of one size.
    """
    log_probs, _ = answer_log_probs(params, config, batch, compute=compute)
    apart = jnp.sum(jnp.where(batch.mask, log_probs - reference, 0.0), -1)
    if kind == "ipo":
        apart /= jnp.maximum(batch.answer_lengths, 1)
    margin = apart[:, :, None] - apart[:, None]
    each = -jax.nn.log_sigmoid(beta * margin) if kind == "sigmoid" else (margin - 1 / (2 * beta)) ** 2
    mean = lambda x: jnp.sum(jnp.where(wins > 0, x, 0.0) * wins) / jnp.maximum(jnp.sum(wins), 1e-6)  # noqa: E731
    value, reward = mean(each), beta * apart
    return value, {
        "loss": value,
        "rewards/chosen": mean(jnp.broadcast_to(reward[:, :, None], wins.shape)),
        "rewards/rejected": mean(jnp.broadcast_to(reward[:, None], wins.shape)),
        "rewards/margins": mean(beta * margin),
        "rewards/accuracies": mean((margin > 0).astype(jnp.float32)),
        "pairs": jnp.sum(wins > 0),
    }


def make_step(config: DpoConfig, model: ModelConfig, compute: Compute, optimizer: GradientTransformation, where: TrainState) -> Callable[..., Any]:
    """The jitted update: (state, frozen parameters, batch, log-probs by the reference, wins [B, A, A]) -> (state, metrics)."""

    @partial(jax.jit, donate_argnums=0, out_shardings=(where, None))
    def step(state: TrainState, frozen: Params, batch: AnswerBatch, reference: jax.Array, wins: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        terms: dict[str, Any] = {"beta": config.beta, "kind": config.loss, "compute": compute}
        whole = lambda trained: loss(join(frozen, trained), model, batch, reference, wins, **terms)  # noqa: E731
        gradients, metrics = jax.grad(whole, has_aux=True)(narrowed(state.params, compute.dtype))
        state, about = sound_update(state, gradients, optimizer, metrics["loss"])
        return state, metrics | about

    return step


def run(config: DpoConfig, resume: Resume = AUTO) -> None:
    """Trains as the recipe says, or goes on where it was interrupted; leaves an HF folder at `out`/model."""
    setup = prepare(config, "implicit")  # which is told no criterion: one label a pair
    cases = preferences_only(setup.cases, config.cases)
    sizes = measure(cases, config.shapes, str(config.cases))
    pack = packer(cases, judged_answer_lengths, config.row, parts_of(setup.mesh, "batch"), str(config.cases))
    batches = training_batches(cases, sizes, config.batch, config.seed, str(config.cases), pack)
    if finished(config, "dpo", resume):
        return
    optimizer = make_optimizer(config.optimizer, config.steps)
    with jax.set_mesh(setup.mesh):
        model, parts = backbone(config, setup, jax.random.key(config.seed))
        reference = frozen_start(config, parts)
        state, where = start(parts.trained, parts.axes, optimizer, setup.mesh, config.weights)
        check_tree("the model", join(parts.frozen, state.params), model, setup.compute, trains=True, packs=config.row is not None)
        begin(config, setup)
        step = make_step(config, model, setup.compute, optimizer, where)

        def advance(state: TrainState, batch: dict[str, Any], _: int) -> tuple[TrainState, dict[str, Any]]:
            placed = AnswerBatch(**to_devices({name: batch[name] for name in AnswerBatch._fields}))
            wins = to_devices({"wins": batch["labels"].wins[..., 0]})["wins"]
            before = frozen_log_probs(reference, model, placed, compute=setup.compute)
            state, metrics = step(state, parts.frozen, placed, before, wins)
            return state, metrics | {"fill": batch["fill"]}

        state = run_steps(config, "DPO", state, where, batches, advance, shown=("loss", "rewards/accuracies"),
                          tokens=lambda batch: float(batch["answer_lengths"].sum() + batch["prompt_length"].sum()) * 2)
        save_model(config, model, join(parts.frozen, state.params))
