"""Rotary position embeddings: plain, YaRN (Qwen3 beyond 32,768 tokens) and Llama 3.1's scaling.

The frequencies are constants of the model, computed on the host: at position 100,000 the last bit of a float32 frequency turns a head by 0.006
radians, so each rounding is made where the models were trained with it: power, reciprocal and blend in float32.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Yarn:
    """YaRN (arXiv 2309.00071): slow dimensions are interpolated by `factor`, fast ones kept, with a ramp between.

    `attention` scales sin and cos; None takes the paper's 0.1 ln(factor) + 1.
    """

    factor: float
    original: int  # positions the model was trained for
    fast: float = 32.0  # rotations over `original` above which a dimension is kept
    slow: float = 1.0  # and below which it is interpolated
    attention: float | None = None
    truncate: bool = True  # the ramp's ends to whole dimensions


@dataclass(frozen=True)
class Llama3:
    """Llama 3.1's scaling: wavelengths longer than original / low are divided by `factor`, those shorter than original / high kept, smooth between."""

    factor: float
    low: float
    high: float
    original: int


@dataclass(frozen=True)
class Rope:
    """The base of the frequencies, and how they are scaled to longer contexts."""

    theta: float = 1e6
    scaling: Yarn | Llama3 | None = None


def frequencies(rope: Rope, head: int) -> tuple[np.ndarray, float]:
    """Radians a position of each pair of a head's dimensions, float32 [H / 2], and the factor on sin and cos."""
    one = np.float32(1)
    exponents = np.arange(0, head, 2, dtype=np.float32) / np.float32(head)
    # Rounded to the nearest. Torch rounds about one power in a hundred to its neighbour, and which ones depends on the processor's vector instructions.
    periods = np.power(rope.theta, exponents.astype(np.float64)).astype(np.float32)
    match rope.scaling:
        case None:
            return one / periods, 1.0
        case Yarn() as yarn:
            kept = one - _ramp(yarn, rope.theta, head)
            slowed, plain = one / (np.float32(yarn.factor) * periods), one / periods
            factor = yarn.attention if yarn.attention is not None else 1.0 if yarn.factor <= 1 else 0.1 * math.log(yarn.factor) + 1.0
            return slowed * (one - kept) + plain * kept, factor
        case Llama3() as llama:
            plain = one / periods
            wavelength = np.float32(2 * math.pi) * (one / plain)
            divided = plain / np.float32(llama.factor)
            smooth = (np.float32(llama.original) * (one / wavelength) - np.float32(llama.low)) / np.float32(llama.high - llama.low)
            blend = (one - smooth) * plain / np.float32(llama.factor) + smooth * plain
            long, short = wavelength > llama.original / llama.low, wavelength < llama.original / llama.high
            return np.where(long, divided, np.where(short, plain, blend)), 1.0


def _ramp(yarn: Yarn, theta: float, head: int) -> np.ndarray:
    """0 for dimensions that keep their frequency, 1 for those that are interpolated, float32 [H / 2]."""
    ends = [head * math.log(yarn.original / (turns * 2 * math.pi)) / (2 * math.log(theta)) for turns in (yarn.fast, yarn.slow)]
    if yarn.truncate:
        ends = [math.floor(ends[0]), math.ceil(ends[1])]
    low, high = max(ends[0], 0), min(ends[1], head - 1)
    high = high + 0.001 if low == high else high
    return np.clip((np.arange(head // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)


def rope_angles(positions: jax.Array, rope: Rope, head: int) -> tuple[jax.Array, jax.Array]:
    """sin and cos for positions [B, T], float32 [B, T, H / 2]."""
    radians, factor = frequencies(rope, head)
    angles = positions[..., None].astype(jnp.float32) * radians
    return jnp.sin(angles) * factor, jnp.cos(angles) * factor


def rotate(x: jax.Array, sin: jax.Array, cos: jax.Array) -> jax.Array:
    """Rotates the two halves of the head (HF's convention) in float32. x: [..., H], sin and cos broadcast over [..., H / 2]."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
