"""PPO's estimate, loss and bookkeeping against NumPy in float64, token by token from the papers."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CONFIG, close, policy, ragged

from promedical_jax.config import PpoConfig
from promedical_jax.train import ppo
from promedical_jax.train.policy import AnswerBatch, answer_log_probs, answer_log_probs_and_values

B, G, R = 2, 3, 5
WANTED = PpoConfig(out="o", cases="c", model="m", reward_model="r", kl=0.1, lam=0.9, gamma=0.97, value_weight=0.3, value_clip=0.15, clip_high=0.3)


def batch(seed: int) -> AnswerBatch:
    rng = np.random.default_rng(seed)
    answers, lengths = ragged(rng, B, G, R, low=1)
    return AnswerBatch(*ragged(rng, B, 7), answers, lengths)


def real(rows: AnswerBatch) -> np.ndarray:
    return np.arange(R) < np.asarray(rows.answer_lengths)[..., None]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0.5, 1))
def test_the_estimate_is_the_sum_of_discounted_differences(seed: int, lam: float, gamma: float) -> None:
    rng, mask = np.random.default_rng(seed), real(batch(seed))
    rewards, values = (rng.normal(size=mask.shape).astype(np.float32) for _ in range(2))
    advantages, returns = ppo.estimate(rewards, values, mask, gamma, lam)
    for b, g in np.ndindex(B, G):
        n = mask[b, g].sum()
        v = [*values[b, g, :n].astype(np.float64), 0.0]
        deltas = [rewards[b, g, t] + gamma * v[t + 1] - v[t] for t in range(n)]
        for t in range(n):
            wanted = sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:]))
            np.testing.assert_allclose([advantages[b, g, t], returns[b, g, t]], [wanted, wanted + v[t]], atol=2e-5)
        assert not np.any(advantages[b, g, n:]) and not np.any(returns[b, g, n:])


def test_with_lambda_one_the_return_is_what_really_came() -> None:
    mask = real(batch(1))
    rng = np.random.default_rng(1)
    rewards, values = (rng.normal(size=mask.shape).astype(np.float32) for _ in range(2))
    _, returns = ppo.estimate(rewards, values, mask, 1.0, 1.0)
    masked = np.where(mask, rewards, 0)
    np.testing.assert_allclose(returns, np.where(mask, masked[..., ::-1].cumsum(-1)[..., ::-1], 0), atol=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_the_reward_falls_on_the_last_token_the_kl_on_each_and_who_was_not_judged_teaches_nothing(seed: int) -> None:
    rng, rows = np.random.default_rng(seed), batch(seed)
    sampled, reference, values = (rng.normal(size=(B, G, R)).astype(np.float32) for _ in range(3))
    rewards = rng.choice([-1.7, 0.3, 1.1, np.nan], (B, G)).astype(np.float32)
    taken = ppo.take(values, rows, sampled, reference, rewards, WANTED)
    known = real(rows) & ~np.isnan(rewards)[..., None]
    np.testing.assert_array_equal(taken.mask, known)
    each = np.where(known, -WANTED.kl * (sampled - reference), 0)
    for b, g in np.argwhere(~np.isnan(rewards)):
        each[b, g, rows.answer_lengths[b, g] - 1] += rewards[b, g]
    advantages, returns = (np.asarray(x, np.float64) for x in ppo.estimate(each, values, known, WANTED.gamma, WANTED.lam))
    if known.any():
        whitened = (advantages - advantages[known].mean()) / (advantages[known].std() + 1e-8)
        np.testing.assert_allclose(taken.advantages, np.where(known, whitened, 0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(taken.returns, returns, atol=1e-6)
    other = ppo.take(values, rows, sampled, None, rewards, WANTED)
    bare = ppo.take(values, rows, sampled, sampled, rewards, WANTED)  # a reference that agrees charges nothing
    jax.tree.map(np.testing.assert_array_equal, other, bare)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_the_loss_is_the_clipped_gain_and_the_clipped_value_loss(seed: int) -> None:
    rng, rows = np.random.default_rng(seed), batch(seed)
    new, sampled, old_values, values, returns, gain = (rng.normal(size=(B, G, R)).astype(np.float32) for _ in range(6))
    sampled, values = new + 0.3 * sampled, old_values + 0.3 * values
    mask = real(rows) & (rng.random((B, G, 1)) < 0.8)
    taken = ppo.Taken(sampled, old_values, np.where(mask, gain, 0), np.where(mask, returns, 0), mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "answer_log_probs_and_values", lambda p, v, *_, **__: (p, np.ones_like(new), v))
        both = jax.value_and_grad(lambda given: ppo.loss(given, CONFIG, rows, taken, WANTED), has_aux=True)
        (value, metrics), slopes = both({"policy": new, "value": values})
    total, policy, critic, by_log_prob, by_value = max(mask.sum(), 1), 0.0, 0.0, np.zeros(new.shape), np.zeros(new.shape)
    for at in zip(*np.nonzero(mask), strict=True):
        ratio, a = np.exp(float(new[at]) - float(sampled[at])), float(gain[at])
        bounded = min(max(ratio, 1 - WANTED.clip_low), 1 + WANTED.clip_high)
        policy -= min(ratio * a, bounded * a) / total
        by_log_prob[at] = -(ratio * a if ratio * a <= bounded * a else 0) / total
        moved, target = float(values[at]) - float(old_values[at]), float(returns[at])
        near = float(old_values[at]) + min(max(moved, -WANTED.value_clip), WANTED.value_clip)
        free, held = (float(values[at]) - target) ** 2, (near - target) ** 2
        critic += 0.5 * max(free, held) / total
        by_value[at] = WANTED.value_weight * (float(values[at]) - target if free >= held or abs(moved) < WANTED.value_clip else 0) / total
    np.testing.assert_allclose([value, metrics["policy_loss"], metrics["value_loss"]], [policy + WANTED.value_weight * critic, policy, critic], atol=5e-6)
    np.testing.assert_allclose(slopes["policy"], by_log_prob, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(slopes["value"], by_value, rtol=1e-4, atol=1e-6)


def test_values_read_the_states_that_predict_the_tokens() -> None:
    """By finite differences of nothing: the same log-probs as without them, and the first value of an answer is of the instruction alone."""
    rows = batch(4)
    rng = np.random.default_rng(4)
    head = {"weight": rng.normal(size=(1, CONFIG.width)).astype(np.float32), "bias": np.ones(1, np.float32), "tie_bias": np.zeros(1, np.float32)}
    look = jax.jit(answer_log_probs_and_values, static_argnums=2)
    chosen, entropy, values = look(policy(), head, CONFIG, rows)
    plain = jax.jit(answer_log_probs, static_argnums=1)(policy(), CONFIG, rows)
    close((chosen, entropy), plain, 1e-6)
    np.testing.assert_allclose(values[:, 0, 0], values[:, 1, 0], rtol=1e-5)  # before an answer begins, its siblings are the same to it
    changed = np.asarray(rows.answers).copy()
    changed[:, :, 2] = (changed[:, :, 2] + 1) % CONFIG.vocabulary
    after = look(policy(), head, CONFIG, rows._replace(answers=changed))[2]
    long = np.asarray(rows.answer_lengths) > 3
    np.testing.assert_allclose(np.asarray(after)[..., :3], np.asarray(values)[..., :3], atol=1e-5)
    assert long.any() and (np.abs(np.asarray(after) - np.asarray(values))[long][:, 3] > 1e-3).all()
