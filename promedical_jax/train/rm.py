"""The criterion-conditioned reward model: Bradley-Terry on pairs of answers per criterion, and single verdicts that anchor the zero.

ProMedical's loss is L = -E log sigmoid(r(x, y_w, c) - r(x, y_l, c)) over the criteria on which two answers differ. A pairwise score has no zero,
so we train a binary cross-entropy on the verdicts beside it, and calibrate per tier on cases kept apart.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from promedical_jax.cluster import chief, together
from promedical_jax.config import RmConfig
from promedical_jax.data.batches import to_devices, training_batches
from promedical_jax.data.encode import measure
from promedical_jax.data.load import answers_only, encode_file
from promedical_jax.data.rows import judged_lengths, packer
from promedical_jax.errors import InputError
from promedical_jax.model.heads import HEADS_AXES, init_heads
from promedical_jax.model.lora import join
from promedical_jax.model.sharding import parts as parts_of
from promedical_jax.model.transformer import FLOAT32, Compute, ModelConfig, Params
from promedical_jax.reward import RewardBatch, calibrate, reward_files, score, score_cases
from promedical_jax.rubric import Tier, write_cases
from promedical_jax.selfcheck import check_tree
from promedical_jax.train.loop import finished, run_steps
from promedical_jax.train.optimizer import GradientTransformation, TrainState, make_optimizer, narrowed, start, update
from promedical_jax.train.stage import backbone, begin, prepare, save_model


def loss(params: Params, config: ModelConfig, batch: RewardBatch, labels: jax.Array, pair_weight: float = 1.0,
         compute: Compute = FLOAT32) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Pairwise and verdict loss, in nats. labels: [B, A, K], the share of raters who say that the criterion's text holds, NaN where nobody judged.

    A pair counts with the difference of its labels, so that answers on which raters are split teach less and ties nothing.
    """
    scores = score(params, config, batch, compute)
    judged = ~jnp.isnan(labels)
    labels = jnp.where(judged, labels, 0.0)
    verdict = _mean(jax.nn.softplus(scores) - labels * scores, judged)

    margin = scores[:, :, None] - scores[:, None]  # [B, A, A, K]: every ordered pair; the one with the larger label first counts
    gap = jnp.where(judged[:, :, None] & judged[:, None], labels[:, :, None] - labels[:, None], 0.0)
    weight = jnp.maximum(gap, 0.0)
    pair = jnp.sum(weight * jax.nn.softplus(-margin)) / jnp.maximum(jnp.sum(weight), 1e-6)

    value = verdict + pair_weight * pair
    metrics = {
        "loss": value,
        "loss/verdict": verdict,
        "loss/pair": pair,
        "accuracy": _mean((scores > 0) == (labels > 0.5), judged),
        "accuracy/pair": _mean(margin > 0, weight > 0),
        "num_labels": jnp.sum(judged),
    }
    return value, metrics


def _mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def make_step(model: ModelConfig, compute: Compute, pair_weight: float, optimizer: GradientTransformation, where: TrainState) -> Callable[..., Any]:
    """The jitted update: (state, frozen parameters, batch, labels [B, A, K]) -> (state, metrics)."""

    @partial(jax.jit, donate_argnums=0, out_shardings=(where, None))
    def step(state: TrainState, frozen: Params, batch: RewardBatch, labels: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        whole = lambda trained: loss(join(frozen, trained), model, batch, labels, pair_weight, compute)  # noqa: E731
        gradients, metrics = jax.grad(whole, has_aux=True)(narrowed(state.params, compute.dtype))
        return update(state, gradients, optimizer), metrics

    return step


def run(config: RmConfig) -> Path | None:
    """Trains and calibrates, or goes on where it was interrupted; leaves a reward model folder at `out`/model.

    Returns the file of cases that were held out: the recipe's, or `out`/held_out.jsonl with the share it asks for; None where it asks for neither.
    """
    setup = prepare(config)
    cases = answers_only(setup.cases, config.cases, judged=True)
    if config.held_out and config.held_out_share:
        raise InputError(f"held_out={config.held_out} and held_out_share={config.held_out_share:g} are both given; give one of them")
    held_out = answers_only(encode_file(config.held_out, setup.tokenizer), config.held_out, judged=True) if config.held_out else []
    both = {case.case.id for case in cases} & {case.case.id for case in held_out}
    if both:
        raise InputError(f"{config.held_out}: case {min(both)!r} is also a training case in {config.cases}; take it out of one of them")
    order = np.random.default_rng(config.seed).permutation(len(cases))
    shares = [round(config.held_out_share * len(cases)), max(1, round(config.calibration * len(cases)))]
    kept, apart, cases = ([cases[i] for i in part] for part in np.split(order, np.cumsum(shares)))
    held_out = kept or held_out
    sizes = measure([*cases, *apart, *held_out], config.shapes, str(config.cases))
    pack = packer(cases, judged_lengths, config.row, parts_of(setup.mesh, "batch"), str(config.cases))
    batches = training_batches(cases, sizes, config.batch, config.seed, str(config.cases), pack)
    file = config.out / "held_out.jsonl" if kept else config.held_out
    if finished(config, "rm"):
        return file

    optimizer = make_optimizer(config.optimizer, config.steps)
    with jax.set_mesh(setup.mesh):
        keys = jax.random.split(jax.random.key(config.seed))
        model, parts = backbone(config, setup, keys[0])
        frozen = {"backbone": parts.frozen} if parts.frozen else {}
        heads = partial(init_heads, len(Tier), model.width, keys[1])
        make = parts.trained
        trained = (lambda: {"backbone": make(), "heads": heads()}) if callable(make) else {"backbone": make, "heads": heads()}
        state, where = start(trained, {"backbone": parts.axes, "heads": HEADS_AXES}, optimizer, setup.mesh, config.weights)
        check_tree("the model", join(frozen, state.params)["backbone"], model, setup.compute, trains=True, packs=config.row is not None)
        begin(config, setup)
        with together():
            if kept and chief():
                write_cases(config.out / "held_out.jsonl", [case.case for case in kept])
        step = make_step(model, setup.compute, config.pair_weight, optimizer, where)

        def advance(state: TrainState, batch: dict[str, Any], _: int) -> tuple[TrainState, dict[str, Any]]:
            placed = to_devices({name: batch[name] for name in (*RewardBatch._fields, "labels")})
            labels = placed.pop("labels")
            state, metrics = step(state, frozen, RewardBatch(**placed), labels)
            return state, metrics | {"fill": batch["fill"]}

        state = run_steps(config, "reward model", state, where, batches, advance, shown=("loss", "accuracy"),
                          tokens=lambda b: float(b["prompt_length"].sum() + b["answer_lengths"].sum() + b["criterion_lengths"].sum() * sizes.answers))
        params = join(frozen, state.params)
        calibration = calibrate(*score_cases(params, model, apart, sizes, config.batch, setup.compute))
        save_model(config, model, params["backbone"], reward_files(params["heads"], calibration))
    return file
