"""From a raw score to a probability: monotone maps fitted to labels that were kept apart from training (Platt, temperature, isotonic).

A map is a small record of numbers that can be read in calibration.json. Labels may be shares of raters, and weighted.
"""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field
from scipy.optimize import isotonic_regression

from promedical_jax.rubric.case import Record
from promedical_jax.rubric.scores import Array

Method = Literal["platt", "isotonic", "temperature"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
MOST = 50.0  # log-odds beyond it are this


class Platt(Record):
    """P = sigmoid(scale * score + shift) (Platt 1999)."""

    method: Literal["platt"] = "platt"
    scale: Finite = 1.0
    shift: Finite = 0.0

    def probability(self, scores: ArrayLike) -> Array:
        return _sigmoid(self.scale * np.asarray(scores, np.float64) + self.shift)


class Temperature(Record):
    """P = sigmoid(score / temperature): the model's own zero is kept (Guo et al., arXiv 1706.04599)."""

    method: Literal["temperature"] = "temperature"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    def probability(self, scores: ArrayLike) -> Array:
        return _sigmoid(np.asarray(scores, np.float64) / self.temperature)


class Isotonic(Record):
    """The least-squares monotone step function of the score (Zadrozny and Elkan 2002), linear between its steps. `scores` rise, `probabilities` never fall."""

    method: Literal["isotonic"] = "isotonic"
    scores: Annotated[tuple[Finite, ...], Field(min_length=1)]
    probabilities: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)]

    def probability(self, scores: ArrayLike) -> Array:
        return np.interp(np.asarray(scores, np.float64), self.scores, self.probabilities)


Map = Annotated[Platt | Temperature | Isotonic, Field(discriminator="method")]


def fit(method: Method, scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> Platt | Temperature | Isotonic:
    """The map from scores [n] to labels [n] in [0, 1], each of weight `weights` [n] (1 each where left out). Without labels: what changes nothing."""
    x, y = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    w = np.ones_like(y) if weights is None else np.asarray(weights, np.float64)
    if not len(x):
        return Platt() if method != "temperature" else Temperature()
    if method == "isotonic":
        return _isotonic(x, y, w)
    if method == "temperature":
        return Temperature(temperature=1 / max(_logistic(x[:, None], y, w, np.array([1.0]))[0], 1e-6))
    scale, shift = _logistic(np.stack([x, np.ones_like(x)], 1), y, w, np.array([1.0, 0.0]))
    return Platt(scale=float(scale), shift=float(shift))


def _isotonic(x: Array, y: Array, w: Array) -> Isotonic:
    """Equal scores are one point first; of a step its two ends are kept."""
    values, place = np.unique(x, return_inverse=True)
    total = np.bincount(place, w)
    heard = total > 0
    means = np.bincount(place, w * y)[heard] / total[heard]
    levels = np.clip(isotonic_regression(means, weights=total[heard]).x, 0, 1)
    values = values[heard]
    ends = np.ones(len(levels), bool)
    ends[1:-1] = (levels[1:-1] != levels[:-2]) | (levels[1:-1] != levels[2:])
    return Isotonic(scores=tuple(map(float, values[ends])), probabilities=tuple(map(float, levels[ends])))


def _logistic(features: Array, y: Array, w: Array, start: Array, prior: float = 1.0, iterations: int = 50) -> Array:
    """Logistic regression by Newton's method; `prior` is the weight of a pull towards `start` in units of labels, so that separable labels stay finite."""
    theta = start.copy()

    def loss(theta: Array) -> float:
        logit = features @ theta
        return float(np.sum(w * (np.logaddexp(0, logit) - y * logit)) + prior / 2 * np.sum((theta - start) ** 2))

    for _ in range(iterations):
        p = _sigmoid(features @ theta)
        gradient = features.T @ (w * (p - y)) + prior * (theta - start)
        hessian = (features * (w * p * (1 - p))[:, None]).T @ features + prior * np.eye(len(start))
        move, size = np.linalg.solve(hessian, gradient), 1.0
        while size > 1e-4 and loss(theta - size * move) > loss(theta):
            size /= 2  # Newton overshoots where the scores separate the labels
        theta = theta - size * move
        if np.abs(move).max() < 1e-9:
            break
    return theta


def _sigmoid(logit: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(logit, -MOST, MOST)))
