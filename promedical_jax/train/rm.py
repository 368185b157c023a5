"""The reward model's stage: Bradley-Terry on pairs of answers per criterion, ties among them, and single verdicts that anchor the zero.

ProMedical's loss is L = -E log sigmoid(r(x, y_w, c) - r(x, y_l, c)) over the criteria on which two answers differ. A pairwise score has no zero, so we train
a binary cross-entropy on the verdicts beside it; and pairs that raters call equal may teach a model of ties. What comes out is calibrated per tier on cases
kept apart. The models that it is compared with, which are told no criterion, learn from the same cases by the same loss.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from rich.console import Console

from promedical_jax.cluster import chief, together
from promedical_jax.config import RmConfig
from promedical_jax.data import long
from promedical_jax.data.batches import to_devices, training_batches
from promedical_jax.data.rows import judged_answer_lengths, judged_lengths, packer
from promedical_jax.model.heads import HEADS_AXES, init_heads
from promedical_jax.model.lora import join
from promedical_jax.model.sharding import parts as parts_of
from promedical_jax.model.transformer import FLOAT32, Compute, ModelConfig, Params
from promedical_jax.reward import RewardBatch, calibrate, head_count, reward_files, score, score_cases
from promedical_jax.rubric import write_cases
from promedical_jax.rubric.labels import Labels
from promedical_jax.selfcheck import check_tree
from promedical_jax.train.guards import sound_update
from promedical_jax.train.loop import run_steps
from promedical_jax.train.optimizer import GradientTransformation, TrainState, make_optimizer, narrowed, start
from promedical_jax.train.resume import AUTO, Resume, finished
from promedical_jax.train.rm_data import Data, split
from promedical_jax.train.stage import backbone, begin, prepare, save_model

Ties = Literal["none", "davidson", "rao_kupper"]


def loss(params: Params, config: ModelConfig, batch: RewardBatch, labels: Labels, *, pair_weight: float = 1.0, verdict_weight: float = 1.0,
         ties: Ties = "none", compute: Compute = FLOAT32) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Pairwise and verdict loss, in nats, means over what raters said by its weight. labels: of [B, A, K] answers and criteria."""
    scores = score(params, config, batch, compute)
    judged = labels.weight > 0
    met = jnp.where(judged, labels.met, 0.0)
    verdict = _mean(jax.nn.softplus(scores) - met * scores, labels.weight)

    margin = scores[:, :, None] - scores[:, None]  # [B, A, A, K]: of every ordered pair
    win, tie = pair_log_probs(margin, _of_heads(params["heads"]["tie_bias"], batch.tiers)[:, None, None], ties)
    wins, tied = labels.wins, labels.ties / 2  # a tie stands in both orders
    total = jnp.sum(wins) + (0.0 if tie is None else jnp.sum(tied))
    pair = -(jnp.sum(wins * win) + (0.0 if tie is None else jnp.sum(tied * tie))) / jnp.maximum(total, 1e-6)

    value = verdict_weight * verdict + pair_weight * pair
    metrics = {
        "loss": value,
        "loss/verdict": verdict,
        "loss/pair": pair,
        "accuracy": _mean((scores > 0) == (met > 0.5), judged),
        "accuracy/pair": _mean(margin > 0, wins > jnp.swapaxes(wins, 1, 2)),
        "num_labels": jnp.sum(judged),
    }
    return value, metrics


def pair_log_probs(margin: jax.Array, tie_bias: jax.Array, ties: Ties) -> tuple[jax.Array, jax.Array | None]:
    """Log-probabilities that the first of a pair wins, and that it is a tie (None where ties are not modelled), given the margin of its score.

    davidson: win, tie and loss are as exp(margin / 2), nu, exp(-margin / 2) with nu = exp(tie_bias) (Davidson 1970). rao_kupper: a win needs a margin of
    more than eta = softplus(tie_bias), P(win) = sigmoid(margin - eta), and what is left is the tie (Rao and Kupper 1967).
    """
    if ties == "none":
        return jax.nn.log_sigmoid(margin), None
    if ties == "davidson":
        tie = jnp.broadcast_to(tie_bias, margin.shape)
        total = jnp.logaddexp(jnp.logaddexp(margin / 2, -margin / 2), tie)
        return margin / 2 - total, tie - total
    eta = jax.nn.softplus(tie_bias)
    return jax.nn.log_sigmoid(margin - eta), 2 * eta + jnp.log(-jnp.expm1(-2 * eta)) + jax.nn.log_sigmoid(margin - eta) + jax.nn.log_sigmoid(-margin - eta)


def _of_heads(values: jax.Array, which: jax.Array) -> jax.Array:
    """values [heads], which [B, K] -> [B, K]."""
    return jnp.sum(jnp.where(jnp.arange(values.shape[0]) == which[..., None], values, 0.0), -1)


def _mean(x: jax.Array, weight: jax.Array) -> jax.Array:
    """By weight, or over a mask; 0 where there is nothing."""
    weight = weight.astype(jnp.float32)
    return jnp.sum(jnp.where(weight > 0, x, 0.0) * weight) / jnp.maximum(jnp.sum(weight), 1e-6)


def make_step(config: RmConfig, model: ModelConfig, compute: Compute, optimizer: GradientTransformation, where: TrainState) -> Callable[..., Any]:
    """The jitted update: (state, frozen parameters, batch, labels) -> (state, metrics)."""
    terms: dict[str, Any] = {"pair_weight": config.pair_weight, "verdict_weight": config.verdict_weight, "ties": config.ties, "compute": compute}

    @partial(jax.jit, donate_argnums=0, out_shardings=(where, None))
    def step(state: TrainState, frozen: Params, batch: RewardBatch, labels: Labels) -> tuple[TrainState, dict[str, jax.Array]]:
        whole = lambda trained: loss(join(frozen, trained), model, batch, labels, **terms)  # noqa: E731
        gradients, metrics = jax.grad(whole, has_aux=True)(narrowed(state.params, compute.dtype))
        state, about = sound_update(state, gradients, optimizer, metrics["loss"])
        return state, metrics | about

    return step


def run(config: RmConfig, resume: Resume = AUTO) -> Path | None:
    """Trains and calibrates, or goes on where it was interrupted; leaves a reward model folder at `out`/model.

    Returns the file of cases that were held out: the recipe's, or `out`/held_out.jsonl with the share it asks for; None where it asks for neither.
    """
    setup = prepare(config, config.kind, config.raters)
    data = split(config, setup.tokenizer, list(setup.cases))
    config, sizes = data.config, data.sizes
    lengths = judged_lengths if config.kind == "explicit" else judged_answer_lengths
    pack = packer(data.train, lengths, config.row, parts_of(setup.mesh, "batch"), str(config.cases))
    batches = training_batches(data.train, sizes, config.batch, config.seed, str(config.cases), pack)
    file = config.out / "held_out.jsonl" if data.kept else config.held_out
    if finished(config, "rm", resume):
        return file

    optimizer = make_optimizer(config.optimizer, config.steps)
    with jax.set_mesh(setup.mesh):
        keys = jax.random.split(jax.random.key(config.seed))
        model, parts = backbone(config, setup, keys[0])
        frozen = {"backbone": parts.frozen} if parts.frozen else {}
        heads = partial(init_heads, head_count(config.kind), model.width, keys[1])
        make = parts.trained
        trained = (lambda: {"backbone": make(), "heads": heads()}) if callable(make) else {"backbone": make, "heads": heads()}
        state, where = start(trained, {"backbone": parts.axes, "heads": HEADS_AXES}, optimizer, setup.mesh, config.weights)
        check_tree("the model", join(frozen, state.params)["backbone"], model, setup.compute, trains=True, packs=config.row is not None)
        begin(config, setup)
        with together():
            _write_lists(config, data)
        step = make_step(config, model, setup.compute, optimizer, where)

        def advance(state: TrainState, batch: dict[str, Any], _: int) -> tuple[TrainState, dict[str, Any]]:
            placed = to_devices({name: batch[name] for name in (*RewardBatch._fields, "labels")})
            labels = placed.pop("labels")
            state, metrics = step(state, frozen, RewardBatch(**placed), labels)
            return state, metrics | {"fill": batch["fill"]}

        state = run_steps(config, "reward model", state, where, batches, advance, shown=("loss", "accuracy"),
                          tokens=lambda b: float(b["prompt_length"].sum() + b["answer_lengths"].sum() + b["criterion_lengths"].sum() * sizes.answers))
        params = join(frozen, state.params)
        scores = score_cases(params, model, data.apart, sizes, config.batch, setup.compute)
        fitted = [(case.case.rubric.criteria, held, case.labels) for case, held in zip(data.apart, scores, strict=True)]
        verdicts, said = calibrate(fitted, config.calibration, config.kind)
        _say(said)
        save_model(config, model, params["backbone"], reward_files(params["heads"], verdicts))
    return file


def _write_lists(config: RmConfig, data: Data) -> None:
    """The cases that are held out, and those that were too long, as files of the run folder."""
    if not chief():
        return
    if data.kept:
        write_cases(config.out / "held_out.jsonl", [case.case for case in data.held_out])
    if data.too_long:
        listed, action = config.out / "too_long.jsonl", config.long.action
        long.write_list(listed, [one for _, _, found in data.too_long for one in found], action)
        _say([long.sentence(found, count, str(path), action, listed) for path, count, found in data.too_long])


def _say(sentences: list[str]) -> None:
    for sentence in sentences:
        Console(stderr=True, quiet=not chief()).print(sentence, soft_wrap=True)
