"""Models and token arrays small enough to compile in seconds, made once and shared by the tests of model, data and train."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

import jax
import numpy as np

from promedical_jax.model import transformer
from promedical_jax.model.rope import Rope
from promedical_jax.model.transformer import ModelConfig, Params
from promedical_jax.reward import RewardBatch
from promedical_jax.rubric.labels import Labels

MESHES = [(8, 1), (4, 2), (2, 4)]  # fsdp x tp over the eight simulated devices
# Divisible by every mesh above, with sizes that no two axes share: a transposition cannot go unseen.
CONFIG = ModelConfig(vocabulary=96, width=16, depth=2, kv_heads=4, query_heads=2, head=6, feed_forward=24, rope=Rope(1e4))


@cache
def policy(config: ModelConfig = CONFIG, seed: int = 0) -> Params:
    """Parameters with every array random, also those that start at one: a norm left out would else go unseen. By numpy, which has nothing to compile."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(partial(transformer.init, config), jax.random.key(0))

    def fill(path, x) -> np.ndarray:
        noise = rng.normal(size=x.shape)
        return (1 + 0.1 * noise if "norm" in jax.tree_util.keystr(path) else 0.3 * noise).astype(np.float32)

    return jax.tree.map_with_path(fill, shapes)


@cache
def steady(seed: int = 0) -> Params:
    """`policy` with larger embeddings and smaller layers, for the finest comparisons: with its own, one draw in a thousand cancels down to its rounding."""

    def scaled(path, x: np.ndarray) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        return x if "norm" in name else 3 * x if "'embed'" in name else x / 2

    return jax.tree.map_with_path(scaled, policy(CONFIG, seed))


@cache
def reward_params(config: ModelConfig = CONFIG, seed: int = 0) -> Params:
    rng = np.random.default_rng(seed + 1)
    heads = {"weight": rng.normal(size=(3, config.width)) * config.width**-0.5, "bias": np.array([0.3, -0.2, 0.1]), "tie_bias": np.array([0.2, -0.4, 0.7])}
    return {"backbone": policy(config, seed), "heads": {name: x.astype(np.float32) for name, x in heads.items()}}


def ragged(rng: np.random.Generator, *shape: int, low: int = 1, vocabulary: int = CONFIG.vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Random token ids [..., length], garbage also in the padding, and true lengths [...] from `low` on."""
    return rng.integers(0, vocabulary, shape, dtype=np.int32), rng.integers(low, shape[-1] + 1, shape[:-1], dtype=np.int32)


def reward_batch(seed: int = 0, b: int = 2, p: int = 5, a: int = 3, r: int = 4, k: int = 2, c: int = 3) -> RewardBatch:
    rng = np.random.default_rng(seed)
    prompt, answers, criteria = ragged(rng, b, p), ragged(rng, b, a, r), ragged(rng, b, k, c)
    return RewardBatch(*prompt, *answers, *criteria, rng.integers(0, 3, (b, k), dtype=np.int32))


def one_rater(met: np.ndarray) -> Labels:
    """The labels of one rater who says of [B, A, K] that the text holds (1), does not (0), or nothing (NaN)."""
    judged, holds = ~np.isnan(met), np.nan_to_num(met)
    both = judged[:, :, None] & judged[:, None] & ~np.eye(met.shape[1], dtype=bool)[..., None]
    wins = both * holds[:, :, None] * (1 - holds[:, None])
    return Labels(*(x.astype(np.float32) for x in (met, judged, wins, both - wins - np.swapaxes(wins, 1, 2))))


def close(actual, wanted, tolerance: float) -> None:
    """Equal trees, within `tolerance` of each array's largest entry: the relative error of a sum that may cancel means nothing entry by entry."""
    for (path, x), y in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(wanted), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert x.shape == y.shape, f"{jax.tree_util.keystr(path)}: {x.shape} is not {y.shape}"
        assert np.abs(x - y).max(initial=0) <= tolerance * np.abs(y).max(initial=1e-30), f"{jax.tree_util.keystr(path)}: {np.abs(x - y).max()} apart"


@contextmanager
def quick_compilation(on: bool = True) -> Iterator[None]:
    """Compiles two to six times faster, to code that runs slower: what tests with many shapes and few steps want. Off: as users have it."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", on)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
