"""Supervised start: next-token cross-entropy on the answers, all answers of an instruction in one tree."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from promedical_jax.config import SftConfig
from promedical_jax.data.batches import to_devices, training_batches
from promedical_jax.data.encode import measure
from promedical_jax.data.load import answers_only
from promedical_jax.data.rows import answer_lengths, packer
from promedical_jax.model.lora import join
from promedical_jax.model.sharding import parts as parts_of
from promedical_jax.model.transformer import FLOAT32, Compute, ModelConfig, Params
from promedical_jax.selfcheck import check_tree
from promedical_jax.train.guards import sound_update
from promedical_jax.train.loop import run_steps
from promedical_jax.train.optimizer import GradientTransformation, TrainState, make_optimizer, narrowed, start
from promedical_jax.train.policy import AnswerBatch, answer_log_probs, masked_mean
from promedical_jax.train.resume import AUTO, Resume, finished
from promedical_jax.train.stage import backbone, begin, prepare, save_model


def loss(params: Params, config: ModelConfig, batch: AnswerBatch, compute: Compute = FLOAT32) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross-entropy over the batch's answer tokens, in nats."""
    log_probs, entropy = answer_log_probs(params, config, batch, compute=compute)
    value = -masked_mean(log_probs, batch.mask)
    return value, {"loss": value, "entropy": masked_mean(entropy, batch.mask), "num_tokens": jnp.sum(batch.mask)}


def make_step(model: ModelConfig, compute: Compute, optimizer: GradientTransformation, where: TrainState) -> Callable[..., Any]:
    """The jitted update: (state, frozen parameters, batch) -> (state, metrics)."""

    @partial(jax.jit, donate_argnums=0, out_shardings=(where, None))
    def step(state: TrainState, frozen: Params, batch: AnswerBatch) -> tuple[TrainState, dict[str, jax.Array]]:
        whole = lambda trained: loss(join(frozen, trained), model, batch, compute)  # noqa: E731
        gradients, metrics = jax.grad(whole, has_aux=True)(narrowed(state.params, compute.dtype))
        state, about = sound_update(state, gradients, optimizer, metrics["loss"])
        return state, metrics | about

    return step


def run(config: SftConfig, resume: Resume = AUTO) -> None:
    """Trains as the recipe says, or goes on where it was interrupted; leaves an HF folder at `out`/model."""
    setup = prepare(config)
    cases = answers_only(setup.cases, config.cases)
    sizes = measure(cases, config.shapes, str(config.cases))
    pack = packer(cases, answer_lengths, config.row, parts_of(setup.mesh, "batch"), str(config.cases))
    batches = training_batches(cases, sizes, config.batch, config.seed, str(config.cases), pack)
    if finished(config, "sft", resume):
        return
    optimizer = make_optimizer(config.optimizer, config.steps)
    with jax.set_mesh(setup.mesh):
        model, parts = backbone(config, setup, jax.random.key(config.seed))
        state, where = start(parts.trained, parts.axes, optimizer, setup.mesh, config.weights)
        check_tree("the model", join(parts.frozen, state.params), model, setup.compute, trains=True, packs=config.row is not None)
        begin(config, setup)
        step = make_step(model, setup.compute, optimizer, where)

        def advance(state: TrainState, batch: dict[str, Any], _: int) -> tuple[TrainState, dict[str, Any]]:
            placed = AnswerBatch(**to_devices({name: batch[name] for name in AnswerBatch._fields}))
            state, metrics = step(state, parts.frozen, placed)
            return state, metrics | {"fill": batch["fill"]}

        state = run_steps(config, "supervised start", state, where, batches, advance, shown=("loss",),
                          tokens=lambda batch: float(batch["answer_lengths"].sum() + batch["prompt_length"].sum()))
        save_model(config, model, join(parts.frozen, state.params))
