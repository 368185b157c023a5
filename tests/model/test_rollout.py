"""The sampler: its log-probabilities are the trainer's, its draws are each case's own, and a mesh changes neither."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CONFIG, MESHES, close, policy, ragged

from promedical_jax.model import transformer
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
    """One that ends some answers early, one in its last place, and not all."""
    firsts = np.concatenate([np.unique(answer, return_index=True)[0] for answer in endless().tokens.reshape(-1, R)])
    at = np.concatenate([np.unique(answer, return_index=True)[1] for answer in endless().tokens.reshape(-1, R)])
    return next(int(token) for token in firsts[at == R - 1] if (at[firsts == token] < R - 1).any())


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
    ends = drawn.lengths[drawn.finished]
    assert ends.min() < R and ends.max() == R and not drawn.finished.all()


def test_an_answer_without_its_stop_token_is_cut() -> None:
    assert (endless().lengths == R).all() and not endless().finished.any()


def test_draws_do_not_depend_on_what_is_drawn_beside_them() -> None:
    order = np.random.default_rng(1).permutation(B)
    drawn, whole = rollout(stop_token(), rows=order), ended()
    assert (drawn.tokens == whole.tokens[order]).all() and (drawn.lengths == whole.lengths[order]).all()
    close(drawn.log_probs, whole.log_probs[order], 1e-5)
    fewer = rollout(rows=order[:2], answers=2, length=4)  # a smaller batch, fewer samples, less room
    assert (fewer.tokens == endless().tokens[order[:2], :2, :4]).all()
    close(fewer.log_probs, endless().log_probs[order[:2], :2, :4], 1e-5)


def test_samples_steps_and_cases_draw_apart() -> None:
    first = endless().tokens
    assert (rollout().tokens == first).all()
    assert not (rollout(step=1).tokens == first).all(-1).any()
    assert len(np.unique(first.reshape(-1, R), axis=0)) == B * G
    same_prompt = jax.device_get(sample(policy(), CONFIG, PROMPTS[[0] * B], LENGTHS[[0] * B], jax.random.key(0), CASES, answers=G, answer_tokens=R,
                                        stop=NEVER, temperature=1.0))  # fmt: skip
    assert len(np.unique(same_prompt.tokens.reshape(-1, R), axis=0)) == B * G


def test_temperature_zero_is_greedy() -> None:
    drawn = rollout(temperature=0.0)
    assert (drawn.tokens == drawn.tokens[:, :1]).all()
    layout = tree(P, (1, R))

    @jax.jit
    def best(params):
        batch = assemble(layout, [PROMPTS[:, None], drawn.tokens[:, :1]], [LENGTHS[:, None], jnp.full((B, 1), R)])
        hidden = transformer.forward(params, CONFIG, batch, layout)
        return jnp.argmax(hidden @ transformer.unembedding(params).T, -1)

    said = np.asarray(best(policy()))
    for b in range(B):
        assert drawn.tokens[b, 0].tolist() == [said[b, LENGTHS[b] - 1], *said[b, P : P + R - 1]]
    assert drawn.log_probs.max() < 0  # of the distribution at temperature 1


def test_tokens_come_as_often_as_their_probability_says() -> None:
    prompts, lengths = PROMPTS[[0] * B], LENGTHS[[0] * B]
    draw = partial(sample, policy(), CONFIG, prompts, lengths, cases=CASES, answers=G, answer_tokens=R, stop=NEVER, temperature=0.5)
    drawn = np.concatenate([np.asarray(draw(key=jax.random.key(i)).tokens)[..., 0].ravel() for i in range(150)])
    every = np.broadcast_to(np.arange(CONFIG.vocabulary)[:, None, None], (CONFIG.vocabulary, 1, R))
    batch = AnswerBatch(np.repeat(PROMPTS[:1], len(every), 0), np.repeat(LENGTHS[:1], len(every), 0), every, np.ones((len(every), 1), np.int32))
    p = np.exp(np.asarray(trainer(policy(), CONFIG, batch, 0.5)[0], np.float64))[:, 0, 0]
    assert np.isclose(p.sum(), 1, atol=1e-5)
    counts, wanted = np.bincount(drawn, minlength=len(p)), drawn.size * p
    rare = wanted < 5
    counts, wanted = (np.append(x[~rare], x[rare].sum()) for x in (counts, wanted))
    assert ((counts - wanted) ** 2 / wanted).mean() < 2 and len(wanted) > 20  # chi-square: 1 expected, 2 at p < 0.002


@pytest.mark.parametrize(("fsdp", "tp"), MESHES)
def test_a_mesh_changes_nothing(fsdp: int, tp: int) -> None:
    mesh = make_mesh(fsdp, tp)
    with jax.set_mesh(mesh):
        params = jax.device_put(policy(), shardings(mesh, transformer.axes(CONFIG)))
        placed = partial(jax.device_put, device=shardings(mesh, ("batch",)))
        key = jax.random.fold_in(jax.random.key(0), 0)
        drawn = sample(params, CONFIG, placed(PROMPTS), placed(LENGTHS), key, placed(CASES), answers=G, answer_tokens=R, stop=stop_token())
    alone = ended()
    assert (np.asarray(drawn.tokens) == alone.tokens).all()
    assert (np.asarray(drawn.lengths) == alone.lengths).all() and (np.asarray(drawn.finished) == alone.finished).all()
    close(drawn.log_probs, alone.log_probs, 1e-5)
