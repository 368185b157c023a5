"""Supervised start: next-token cross-entropy on the answers, all answers of an instruction in one tree."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from promedical_jax.config import SftConfig
from promedical_jax.data.batches import to_devices, training_batches
from promedical_jax.data.encode import measure
from promedical_jax.data.load import answers_only
from promedical_jax.model import hf, transformer
from promedical_jax.model.transformer import FLOAT32, Compute, ModelConfig, Params
from promedical_jax.train.loop import claim, run_steps
from promedical_jax.train.optimizer import TrainState, make_optimizer, start, update
from promedical_jax.train.policy import AnswerBatch, answer_log_probs, masked_mean
from promedical_jax.train.stage import prepare


def loss(params: Params, config: ModelConfig, batch: AnswerBatch, compute: Compute = FLOAT32) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross-entropy over the batch's answer tokens, in nats."""
    log_probs, entropy = answer_log_probs(params, config, batch, compute=compute)
    value = -masked_mean(log_probs, batch.mask)
    return value, {"loss": value, "entropy": masked_mean(entropy, batch.mask), "num_tokens": jnp.sum(batch.mask)}


def run(config: SftConfig) -> None:
    """Trains as the recipe says, or goes on where it was interrupted; leaves an HF folder at `out`/model."""
    setup = prepare(config)
    cases = answers_only(setup.cases, config.cases)
    sizes = measure(cases, config.shapes, str(config.cases))
    batches = training_batches(cases, sizes, config.batch, config.seed, str(config.cases))
    weights = hf.load(config.model, setup.model) or partial(transformer.init, setup.model, jax.random.key(config.seed))
    if claim(config, "sft"):
        return
    optimizer = make_optimizer(config.optimizer, config.steps)
    with jax.set_mesh(setup.mesh):
        state, where = start(weights, transformer.axes(setup.model), optimizer, setup.mesh)

        @partial(jax.jit, donate_argnums=0, out_shardings=(where, None))
        def step(state: TrainState, batch: AnswerBatch) -> tuple[TrainState, dict[str, jax.Array]]:
            gradients, metrics = jax.grad(loss, has_aux=True)(state.params, setup.model, batch, setup.compute)
            return update(state, gradients, optimizer), metrics

        def advance(state: TrainState, batch: dict[str, Any], _: int) -> tuple[TrainState, dict[str, Any]]:
            arrays = to_devices({name: batch[name] for name in AnswerBatch._fields})
            return step(state, AnswerBatch(**arrays))

        state = run_steps(config, "supervised start", state, where, batches, advance, shown=("loss",),
                          tokens=lambda batch: float(batch["answer_lengths"].sum() + batch["prompt_length"].sum()))
        hf.save(config.out / "model", state.params, setup.model, setup.tokenizer)
