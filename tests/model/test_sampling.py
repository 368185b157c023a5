"""What an evaluation asks of the sampler, and the long tail: cut distributions, several stop tokens, and answers that move while others have ended."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CONFIG, MESHES, close, policy, quick_compilation, ragged

from promedical_jax.model import transformer
from promedical_jax.model.draw import draw
from promedical_jax.model.sharding import make_mesh, shardings
from promedical_jax.rollout import Rollout, sample

B, P, G, R = 8, 5, 3, 70  # three blocks of memory, the last not whole
PROMPTS, LENGTHS = ragged(np.random.default_rng(3), B, P)
CASES = np.arange(50, 50 + B, dtype=np.int32)
LIMITS = np.minimum(np.random.default_rng(4).geometric(1 / 20, (B, G)), R).astype(np.int32)


def rolled(rows=slice(None), **changes) -> Rollout:
    asked = {"answers": G, "answer_tokens": R, "stop": -1, "limits": LIMITS[rows]} | changes
    return jax.device_get(sample(policy(), CONFIG, PROMPTS[rows], LENGTHS[rows], jax.random.key(7), CASES[rows], **asked))


def same(x: Rollout, y: Rollout) -> None:
    """Tokens to the last; log-probabilities but for rounding, for what is compiled quickly adds in another order for other shapes."""
    for name in ("tokens", "lengths", "finished"):
        assert (getattr(x, name) == getattr(y, name)).all(), name
    close(x.log_probs, y.log_probs, 2e-6)


def test_answers_that_move_stay_the_same() -> None:
    whole = rolled()
    assert (whole.lengths == LIMITS).all() and LIMITS.min() < 8 and LIMITS.max() > 40
    same(rolled(compact=False), whole)


@pytest.mark.parametrize("rows", [[3], [5, 0, 2]])
def test_an_answer_is_the_same_in_any_batch(rows: list[int]) -> None:
    same(rolled(rows), Rollout(*(x[rows] for x in rolled())))


@pytest.mark.parametrize("waves", [2, 8])
def test_waves_change_no_token(waves: int) -> None:
    same(rolled(waves=waves), rolled())


@cache
def measured() -> tuple[Rollout, Callable[..., Rollout]]:
    """A rollout of six cases by a model of sizes that no vector register divides, compiled as users have it; and what rolls out some of them again."""
    config = replace(CONFIG, vocabulary=333, width=64, kv_heads=2, head=32, feed_forward=192)
    rng = np.random.default_rng(5)
    prompts, lengths = ragged(rng, 6, 33, vocabulary=333)
    limits = np.minimum(rng.geometric(1 / 25, (6, 3)), R).astype(np.int32)

    def again(rows: list[int], **changes) -> Rollout:
        with quick_compilation(False):
            given = prompts[rows], lengths[rows], jax.random.key(5), np.array(rows) + 200
            return jax.device_get(sample(policy(config), config, *given, answers=3, answer_tokens=R, stop=-1, limits=limits[rows], **changes))

    return again(list(range(6))), again


SLOWER = [pytest.param([*range(6)], changes, marks=pytest.mark.slow) for changes in ({"compact": False}, {"waves": 3})]


@pytest.mark.parametrize(("rows", "changes"), [([4], {}), *SLOWER])
def test_an_answer_has_the_same_bits_in_any_batch(rows: list[int], changes: dict) -> None:
    whole, again = measured()
    for name, found, wanted in zip(Rollout._fields, again(rows, **changes), whole, strict=True):
        assert (found == wanted[rows]).all(), name


def test_any_of_several_tokens_stops() -> None:
    free = rolled(limits=None)
    stops = tuple(int(token) for token in np.unique(free.tokens[0, 0, 10:12]))
    ended = rolled(limits=None, stop=stops)
    for b, g in np.ndindex(B, G):
        first = next((i for i, token in enumerate(free.tokens[b, g]) if token in stops), R - 1)
        assert ended.lengths[b, g] == first + 1 and ended.finished[b, g] == (free.tokens[b, g, first] in stops)
        assert (ended.tokens[b, g, : first + 1] == free.tokens[b, g, : first + 1]).all() and not ended.tokens[b, g, first + 1 :].any()


@pytest.mark.slow  # the mesh of tests/train/test_runs.py samples, too
@pytest.mark.parametrize("waves", [1, 2])
def test_moving_on_a_mesh_changes_no_token(waves: int) -> None:
    mesh = make_mesh(*MESHES[1])
    with jax.set_mesh(mesh):
        params = jax.device_put(policy(), shardings(mesh, transformer.axes(CONFIG)))
        placed = partial(jax.device_put, device=shardings(mesh, ("batch",)))
        drawn = sample(params, CONFIG, placed(PROMPTS), placed(LENGTHS), jax.random.key(7), placed(CASES), answers=G, answer_tokens=R, stop=-1,
                       limits=placed(LIMITS), waves=waves)  # fmt: skip
        assert (np.asarray(drawn.tokens) == rolled().tokens).all()


def cut(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Log-probabilities of the cut distribution, in float64, minus infinity for what is cut away."""
    x = logits.astype(np.float64) / temperature
    if top_k:
        x = np.where(x >= np.sort(x, -1)[..., -min(top_k, x.shape[-1]), None], x, -np.inf)
    p = np.exp(x - x.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    if top_p < 1:
        falling = np.sort(p, -1)[..., ::-1]
        least = np.take_along_axis(falling, (falling.cumsum(-1) < top_p).sum(-1, keepdims=True), -1)
        p = np.where(p >= least, p, 0)
        p /= p.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.log(p)


drawn = jax.jit(draw, static_argnames=("greedy", "top_k", "top_p"))
KEYS = jax.vmap(jax.random.key)(np.arange(4 * 500)).reshape(4, 500)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.7), (12, 0.6)])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=4)
def test_draws_follow_the_cut_distribution(seed: int, top_k: int, top_p: float) -> None:
    rng, temperature = np.random.default_rng(seed), np.float32(0.8)
    logits = (2 * rng.normal(size=(4, 1, 96))).astype(np.float32)
    wanted = cut(logits[:, 0], 0.8, top_k, top_p)
    every = np.broadcast_to(logits, (4, 500, 96))
    tokens, log_probs = (np.asarray(x) for x in drawn(every, KEYS, np.int32(seed % 1000), temperature, top_k=top_k, top_p=top_p))
    said = np.take_along_axis(wanted, tokens, -1)
    assert np.abs(log_probs - said).max() < 1e-4  # of the distribution drawn from; what is cut away would be minus infinity
    for row, p in zip(tokens, np.exp(wanted), strict=True):
        counts, expected = np.bincount(row, minlength=96), 500 * p
        rare = expected < 5
        counts, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
        there = expected > 0
        assert ((counts - expected)[there] ** 2 / expected[there]).mean() < 4  # chi-square by its degrees of freedom: 1 expected


def test_greedy_takes_the_most_likely() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 3, 96)).astype(np.float32)
    tokens, log_probs = drawn(logits, KEYS[:2, :3], np.int32(0), np.float32(1), greedy=True)
    assert (np.asarray(tokens) == logits.argmax(-1)).all()
    assert np.abs(np.asarray(log_probs) - cut(logits, 1, 0, 1.0).max(-1)).max() < 1e-5
