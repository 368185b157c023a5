"""The criterion-conditioned reward model: P(criterion c holds of answer y to instruction x), all criteria and answers of a case in one pass.

ProMedical's explicit criteria injection: the criterion's text follows the answer in the sequence, and the score r(x, y, c) is read at its last
token by the head of its tier. The score's sigmoid, after calibration per tier on labels kept apart, is the probability of the verdict `met`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from promedical_jax.data.batches import evaluation_batches, to_devices, to_host
from promedical_jax.data.encode import Encoded, Sizes
from promedical_jax.errors import InputError
from promedical_jax.model import hf, transformer
from promedical_jax.model.heads import HEADS_AXES, head_scores
from promedical_jax.model.layout import Rows, assemble, last_states, last_valid, nodes_of, place, tree
from promedical_jax.model.sharding import reshape, shardings
from promedical_jax.model.transformer import FLOAT32, Compute, Dtype, ModelConfig, Params
from promedical_jax.rubric import Tier

TIERS = tuple(Tier)  # the order of the heads


class RewardBatch(NamedTuple):
    """B cases of A answers and K criteria, padded on the right; a padding answer or criterion has length 0."""

    prompt: jax.Array  # [B, P]
    prompt_length: jax.Array  # [B]
    answers: jax.Array  # [B, A, R]
    answer_lengths: jax.Array  # [B, A]
    criteria: jax.Array  # [B, K, C] tokens of each criterion's text in its template
    criterion_lengths: jax.Array  # [B, K]
    tiers: jax.Array  # [B, K] index into TIERS
    rows: Rows | None = None  # the same cases packed into shared rows, and only what is wanted of them: then only these are computed


def axes(config: ModelConfig) -> Params:
    """The names of the axes of the parameters {"backbone": of a Qwen3, "heads": one a tier}."""
    return {"backbone": transformer.axes(config), "heads": HEADS_AXES}


def score(params: Params, config: ModelConfig, batch: RewardBatch, compute: Compute = FLOAT32) -> jax.Array:
    """Raw scores r(x, y, c), float32 [B, A, K]: comparable between answers on one criterion (Bradley-Terry), a log-odds after calibration. In all of a case's
    answers and criteria each token is computed once. A criterion, answer or packed node that is not there has some number that means nothing."""
    (p,), (a, r), (b, k, c) = batch.prompt.shape[1:], batch.answers.shape[1:], batch.criteria.shape
    if batch.rows is None:
        layout = tree(p, (a, r), (k, c))
        criteria = jnp.broadcast_to(batch.criteria[:, None], (b, a, k, c))
        lengths = reshape(jnp.broadcast_to(batch.criterion_lengths[:, None], (b, a, k)), (b, a * k))
        rows = assemble(layout, [batch.prompt, batch.answers, criteria], [batch.prompt_length, batch.answer_lengths, lengths])
        hidden = transformer.forward(params["backbone"], config, rows, layout, compute)
        states = last_valid(nodes_of(hidden, layout, 2), lengths)
    else:
        layout = batch.rows.layout((p, r, c))
        hidden = transformer.forward(params["backbone"], config, place(layout, batch.rows), layout, compute)
        states = last_states(hidden, layout, batch.rows, 2)
    tiers = reshape(jnp.broadcast_to(batch.tiers[:, None], (b, a, k)), (b, a * k))
    return reshape(head_scores(params["heads"], states, tiers), (b, a, k))


jit_score = jax.jit(score, static_argnames=("config", "compute"))


class Calibration(NamedTuple):
    """Platt scaling per tier: P(met) = sigmoid(scale[tier] * score + shift[tier])."""

    scale: np.ndarray  # [3]
    shift: np.ndarray  # [3]

    def probability(self, scores: np.ndarray, tiers: np.ndarray) -> np.ndarray:
        """scores: [B, A, K], tiers: [B, K] -> P(met) [B, A, K]."""
        tiers = np.asarray(tiers)[:, None]
        return 1 / (1 + np.exp(-np.clip(self.scale[tiers] * np.asarray(scores, np.float64) + self.shift[tiers], -50, 50)))


UNCALIBRATED = Calibration(np.ones(len(TIERS)), np.zeros(len(TIERS)))


def calibrate(scores: np.ndarray, tiers: np.ndarray, labels: np.ndarray) -> Calibration:
    """Fits Platt scaling on labels kept apart from training, each tier alone, by Newton's method with a weak prior towards scale 1, shift 0.

    scores, labels: [B, A, K], labels in [0, 1] (a share of raters) or NaN where nobody judged; tiers: [B, K]. A tier without labels stays as it is.
    """
    every = np.broadcast_to(np.asarray(tiers)[:, None], scores.shape)
    scale, shift = np.ones(len(TIERS)), np.zeros(len(TIERS))
    for tier in range(len(TIERS)):
        chosen = (every == tier) & ~np.isnan(labels)
        x, y = np.asarray(scores, np.float64)[chosen], np.asarray(labels, np.float64)[chosen]
        if x.size:
            scale[tier], shift[tier] = _platt(x, y)
    return Calibration(scale, shift)


def _platt(x: np.ndarray, y: np.ndarray, prior: float = 1.0, iterations: int = 50) -> tuple[float, float]:
    """Logistic regression of y on (x, 1); `prior` is the weight of the pull towards (1, 0) in units of labels."""
    features = np.stack([x, np.ones_like(x)], 1)
    start = np.array([1.0, 0.0])
    theta = start.copy()

    def loss(theta: np.ndarray) -> float:
        logit = features @ theta
        return float(np.sum(np.logaddexp(0, logit) - y * logit) + prior / 2 * np.sum((theta - start) ** 2))

    for _ in range(iterations):
        p = 1 / (1 + np.exp(-np.clip(features @ theta, -50, 50)))
        gradient = features.T @ (p - y) + prior * (theta - start)
        hessian = (features * (p * (1 - p))[:, None]).T @ features + prior * np.eye(2)
        move, size = np.linalg.solve(hessian, gradient), 1.0
        while size > 1e-4 and loss(theta - size * move) > loss(theta):
            size /= 2  # Newton overshoots where the scores separate the labels
        theta = theta - size * move
        if np.abs(move).max() < 1e-9:
            break
    return float(theta[0]), float(theta[1])


@dataclass(frozen=True)
class RewardModel:
    """Parameters {"backbone", "heads"}, the backbone's config, and the calibration of its scores."""

    params: Params
    config: ModelConfig
    calibration: Calibration


def reward_files(heads: dict[str, jax.Array], calibration: Calibration | None) -> dict[str, bytes]:
    """What a reward model's folder holds beside its backbone: heads.safetensors, and calibration.json where it is calibrated."""
    files = {"heads.safetensors": hf.packed({name: to_host(array) for name, array in heads.items()})}
    if calibration:
        fitted = zip(TIERS, calibration.scale, calibration.shift, strict=True)
        values = {tier.value: {"scale": float(scale), "shift": float(shift)} for tier, scale, shift in fitted}
        files["calibration.json"] = json.dumps(values, indent=2).encode()
    return files


def is_reward_model(folder: Path) -> bool:
    """Whether a model folder has heads and calibration beside its weights."""
    return (folder / "heads.safetensors").is_file() and (folder / "calibration.json").is_file()


def check_reward_model(folder: Path) -> None:
    """Raises InputError for a folder that holds no reward model."""
    if not (is_reward_model(folder) and hf.has_weights(folder)):
        needs = "weights, heads.safetensors and calibration.json"
        raise InputError(f"{folder}: not a reward model (it needs {needs}); give the folder that `promedical train rm` wrote")


def read_heads(file: Path, config: ModelConfig) -> dict[str, np.ndarray]:
    """The heads of a reward model on this backbone. Raises InputError for a file that holds others."""
    heads = hf.unpacked(file)
    shapes, wanted = {name: x.shape for name, x in heads.items()}, {"weight": (len(TIERS), config.width), "bias": (len(TIERS),)}
    if shapes != wanted:
        raise InputError(f"{file}: has tensors {shapes}; config.json asks for {wanted}")
    return heads


def load_reward_model(folder: Path, mesh: jax.sharding.Mesh, dtype: Dtype = "float32") -> RewardModel:
    """A reward model from its folder, its backbone in `dtype`, on the mesh. Raises InputError for a folder that holds no reward model."""
    check_reward_model(folder)
    config = hf.read_config(folder)
    backbone = hf.load(folder, config, shardings(mesh, transformer.axes(config)), dtype)
    heads = read_heads(folder / "heads.safetensors", config)
    try:
        fitted = json.loads((folder / "calibration.json").read_text())
        calibration = Calibration(*(np.array([fitted[tier.value][name] for tier in TIERS], np.float64) for name in ("scale", "shift")))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'calibration.json'}: cannot be read ({error!r}); train the reward model again") from error
    placed = jax.device_put(heads, shardings(mesh, HEADS_AXES))
    return RewardModel({"backbone": backbone, "heads": placed}, config, calibration)


def score_cases(params: Params, config: ModelConfig, cases: Sequence[Encoded], sizes: Sizes, batch: int,
                compute: Compute = FLOAT32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw scores [N, A, K] of the cases' own answers, tiers [N, K] and the raters' labels [N, A, K], in the order of the cases."""
    rows: list[tuple[np.ndarray, ...]] = []
    for indices, arrays in evaluation_batches(cases, sizes, batch):
        inputs = RewardBatch(**to_devices({name: arrays[name] for name in RewardBatch._fields if name != "rows"}))
        scores = to_host(jit_score(params, config, inputs, compute=compute))
        rows.append(tuple(x[: len(indices)] for x in (scores, arrays["tiers"], arrays["labels"])))
    scores, tiers, labels = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    return scores, tiers, labels
