"""The sampler: its log-probabilities are the trainer's, its draws are each case's own, and a mesh changes neither."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CONFIG, MESHES, close, policy, ragged

from promedical_jax.model import qwen3
from promedical_jax.model.layout import assemble, tree
from promedical_jax.model.sharding import make_mesh, shardings
from promedical_jax.rollout import Rollout, sample
from promedical_jax.train.policy import AnswerBatch, answer_log_probs

B, P, G, R = 8, 5, 3, 10
PROMPTS, LENGTHS = ragged(np.random.default_rng(0), B, P)
CASES = np.arange(100, 100 + B, dtype=np.int32)
NEVER = -1


def rollout(stop: int = NEVER, temperature: float = 1.0, rows=slice(None), step: int = 0, answers: int = G, length: int = R) -> Rollout:
    key = jax.random.fold_in(jax.random.key(0), step)
    return jax.device_get(sample(policy(), CONFIG, PROMPTS[rows], LENGTHS[rows], key, CASES[rows], answers=answers, answer_tokens=length, stop=stop,
                                 temperature=temperature))  # fmt: skip


@cache
def endless() -> Rollout:
    return rollout()


@cache
def stop_token() -> int:
    """One that ends some answers early, and not all."""
    return int(np.bincount(endless().tokens.ravel()).argmax())


@cache
def ended() -> Rollout:
    return rollout(stop_token())


trainer = jax.jit(answer_log_probs, static_argnums=1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_those_of_the_trainer(temperature: float) -> None:
    drawn = rollout(stop_token(), temperature)
    chosen, entropy = trainer(policy(), CONFIG, AnswerBatch(PROMPTS, LENGTHS, drawn.tokens, drawn.lengths), temperature)
    close(drawn.log_probs, chosen, 1e-5)
    assert (np.asarray(entropy)[np.arange(R) >= drawn.lengths[..., None]] == 0).all()


def test_a_stop_token_ends_an_answer_and_nothing_else() -> None:
    stop, whole = stop_token(), endless()
    drawn = ended()
    for b in range(B):
        for g in range(G):
            free = whole.tokens[b, g].tolist()
            length = free.index(stop) + 1 if stop in free else R  # the stop token is counted
            assert drawn.lengths[b, g] == length and drawn.finished[b, g] == (stop in free)
            assert drawn.tokens[b, g].tolist() == free[:length] + [0] * (R - length)
            assert (drawn.log_probs[b, g, length:] == 0).all() and (drawn.log_probs[b, g, :length] < 0).all()
    assert drawn.finished.any() and not drawn.finished.all() and drawn.lengths[drawn.finished].min() < R


def test_an_answer_without_its_stop_token_is_cut() -> None:
    whole = endless()
    assert (whole.lengths == R).all() and not whole.finished.any()
    short = rollout(length=4)
    assert (short.tokens == whole.tokens[..., :4]).all()  # and its tokens do not depend on the room
    assert short.tokens.shape == (B, G, 4)


def test_the_stop_token_as_the_last_one_is_finished() -> None:
    """Of the tokens drawn in the last place, one that comes there first."""
    tokens = endless().tokens
    b, g = next((b, g) for b in range(B) for g in range(G) if tokens[b, g, -1] not in tokens[b, g, :-1])
    drawn = rollout(int(tokens[b, g, -1]))
    assert drawn.finished[b, g] and drawn.lengths[b, g] == R


def test_draws_do_not_depend_on_the_batch_around() -> None:
    whole = ended()
    order = np.random.default_rng(1).permutation(B)
    for rows in (order, order[:2]):
        drawn = rollout(stop_token(), rows=rows)
        assert (drawn.tokens == whole.tokens[rows]).all() and (drawn.lengths == whole.lengths[rows]).all()
        close(drawn.log_probs, whole.log_probs[rows], 1e-5)


def test_fewer_samples_are_the_first_samples() -> None:
    assert (rollout(answers=2).tokens == endless().tokens[:, :2]).all()


def test_samples_steps_and_cases_draw_apart() -> None:
    first = endless().tokens
    assert (rollout().tokens == first).all()
    assert not (rollout(step=1).tokens == first).all(-1).any()
    assert len(np.unique(first.reshape(-1, R), axis=0)) == B * G
    same_prompt = jax.device_get(sample(policy(), CONFIG, PROMPTS[[0] * B], LENGTHS[[0] * B], jax.random.key(0), CASES, answers=G, answer_tokens=R, stop=NEVER))
    assert len(np.unique(same_prompt.tokens.reshape(-1, R), axis=0)) == B * G


def test_temperature_zero_is_greedy() -> None:
    drawn = rollout(temperature=0.0)
    assert (drawn.tokens == drawn.tokens[:, :1]).all()
    layout = tree(P, (1, R))

    @jax.jit
    def best(params):
        batch = assemble(layout, [PROMPTS[:, None], drawn.tokens[:, :1]], [LENGTHS[:, None], jnp.full((B, 1), R)])
        hidden = qwen3.forward(params, CONFIG, batch, layout)
        return jnp.argmax(hidden @ qwen3.unembedding(params, jnp.float32), -1)

    said = np.asarray(best(policy()))
    for b in range(B):
        assert drawn.tokens[b, 0].tolist() == [said[b, LENGTHS[b] - 1], *said[b, P : P + R - 1]]
    assert drawn.log_probs.max() < 0  # of the distribution at temperature 1


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_come_as_often_as_their_probability_says(temperature: float) -> None:
    n = 20_000
    drawn = rollout(answers=n, length=1, rows=slice(1), temperature=temperature)
    every = np.arange(CONFIG.vocabulary)[None, :, None]
    log_probs, _ = trainer(policy(), CONFIG, AnswerBatch(PROMPTS[:1], LENGTHS[:1], every, np.ones_like(every[..., 0])), temperature)
    p = np.exp(np.asarray(log_probs, np.float64)).ravel()
    assert np.isclose(p.sum(), 1, atol=1e-5)
    counts = np.bincount(drawn.tokens.ravel(), minlength=CONFIG.vocabulary)
    surprise = (counts - n * p) / np.sqrt(n * p * (1 - p))
    assert np.abs(surprise).max() < 5
    assert (surprise**2).mean() < 1.6  # chi-square of 95 degrees of freedom: 1 expected, 1.6 at p < 0.001


@pytest.mark.parametrize(("fsdp", "tp"), MESHES)
def test_a_mesh_changes_nothing(fsdp: int, tp: int) -> None:
    mesh = make_mesh(fsdp, tp)
    with jax.set_mesh(mesh):
        params = jax.device_put(policy(), shardings(mesh, qwen3.axes(CONFIG)))
        placed = partial(jax.device_put, device=shardings(mesh, ("batch",)))
        drawn = sample(params, CONFIG, placed(PROMPTS), placed(LENGTHS), jax.random.key(0), placed(CASES), answers=G, answer_tokens=R, stop=stop_token())
    alone = jax.device_get(sample(policy(), CONFIG, PROMPTS, LENGTHS, jax.random.key(0), CASES, answers=G, answer_tokens=R, stop=stop_token()))
    assert (np.asarray(drawn.tokens) == alone.tokens).all()
    assert (np.asarray(drawn.lengths) == alone.lengths).all() and (np.asarray(drawn.finished) == alone.finished).all()
    close(drawn.log_probs, alone.log_probs, 1e-5)
