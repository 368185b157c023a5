"""GRPO's loss and its variants against NumPy in float64, written from the papers: log-probabilities are given, so only the objective is at stake."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CONFIG, ragged

from promedical_jax.config import GrpoConfig
from promedical_jax.train import grpo_loss
from promedical_jax.train.grpo_loss import Before, Objective, loss, objective
from promedical_jax.train.policy import AnswerBatch

B, G, R = 3, 4, 5
PLAIN = Objective(clip_low=0.2, clip_high=0.3, kl=0.05)
both = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=(1, 5))


def batch(seed: int = 0) -> AnswerBatch:
    rng = np.random.default_rng(seed)
    answers, lengths = ragged(rng, B, G, R, low=0)
    return AnswerBatch(*ragged(rng, B, 7), answers, lengths)


def real(rows: AnswerBatch) -> np.ndarray:
    return np.arange(R) < np.asarray(rows.answer_lengths)[..., None]


def drawn(seed: int, spread: float = 0.5) -> dict[str, np.ndarray]:
    """Log-probs of the policy now, of the sampler, the reference and the trainer before the update, entropies, and advantages, one group's all 0."""
    rng = np.random.default_rng(seed)
    new = -rng.exponential(size=(B, G, R))
    others = {name: new + spread * rng.normal(size=new.shape) for name in ("sampled", "reference", "trainer")}
    advantages = rng.normal(size=(B, G)) * (np.arange(B) != seed % 4)[:, None]
    return {name: x.astype(np.float32) for name, x in ({"new": new, "entropy": rng.uniform(size=new.shape), "advantages": advantages} | others).items()}


@pytest.fixture(autouse=True)
def _log_probs_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a model's parameters the loss takes the log-probabilities themselves, and their entropies."""
    monkeypatch.setattr(grpo_loss, "answer_log_probs", lambda params, config, batch, *_, **__: (params[0], jax.lax.stop_gradient(params[1])))


def ours(x: dict[str, np.ndarray], rows: AnswerBatch, wanted: Objective, reference: bool = True, trainer: bool = True):
    before = Before(x["sampled"], x["reference"] if reference else None, x["trainer"] if trainer else None)
    (value, metrics), (gradient, _) = both((x["new"], x["entropy"]), CONFIG, rows, before, x["advantages"], wanted)
    return value, metrics, np.asarray(gradient)


def by_the_papers(x: dict[str, np.ndarray], mask: np.ndarray, wanted: Objective, trainer: bool):
    """Answer by answer and token by token: the value, the metrics, and the gradient by each log-probability."""
    new, sampled, reference, entropy, advantages = (np.asarray(x[name], np.float64) for name in ("new", "sampled", "reference", "entropy", "advantages"))
    own = np.asarray(x["trainer"], np.float64) if trainer else new
    live = [b for b in range(B) if not wanted.drop_dead or np.any(advantages[b])]
    counted = [(b, g) for b in live for g in range(G) if mask[b, g].any()]
    total = sum(mask[b, g].sum() for b, g in counted)
    value, gradient, share = 0.0, np.zeros(new.shape), np.zeros(new.shape)
    tokens = dict.fromkeys(("kl", "low", "high", "weight"), 0.0)
    for b, g in counted:
        real = np.flatnonzero(mask[b, g])
        share[b, g, real] = {"tokens": 1 / total, "answers": 1 / len(counted) / len(real), "constant": 1 / len(counted) / R}[wanted.aggregate]
        old = sampled[b, g] if wanted.importance_cap is None else own[b, g]
        a = advantages[b, g]
        apart = (new[b, g] - old)[real]
        for n, t in enumerate(real):
            weight = 1.0 if wanted.importance_cap is None else min(np.exp(own[b, g, t] - sampled[b, g, t]), wanted.importance_cap)
            ratio = np.exp(apart.mean() if wanted.ratio == "sequence" else apart[n])
            bounded = min(max(ratio, 1 - wanted.clip_low), 1 + wanted.clip_high)
            x_t = np.exp(reference[b, g, t] - new[b, g, t])
            k3 = x_t - np.log(x_t) - 1
            moved = {"token": [(t, 1.0)], "sequence": [(other, 1 / len(real)) for other in real]}[wanted.ratio]
            if wanted.kl_unbiased:
                for other, part in moved:
                    gradient[b, g, other] += share[b, g, t] * wanted.kl * k3 * ratio * part
                gradient[b, g, t] += share[b, g, t] * wanted.kl * ratio * (1 - x_t)
                k3 *= ratio
            else:
                gradient[b, g, t] += share[b, g, t] * wanted.kl * (1 - x_t)
            value += share[b, g, t] * (-min(ratio * a, bounded * a) * weight + wanted.kl * k3) - wanted.entropy * entropy[b, g, t] / total
            if ratio * a <= bounded * a:  # where the clipped branch is the smaller one, nothing flows
                for other, part in moved:
                    gradient[b, g, other] -= share[b, g, t] * ratio * a * weight * part
            tokens["kl"] += k3 / total
            tokens["weight"] += weight / total
            of_all = 1 / total if wanted.ratio == "token" else 1 / len(counted) / len(real)  # of tokens, or of answers
            tokens["low"] += (ratio < 1 - wanted.clip_low and a < 0) * of_all
            tokens["high"] += (ratio > 1 + wanted.clip_high and a > 0) * of_all
    return value, tokens, gradient


VARIANTS = [
    PLAIN._replace(ratio=ratio, aggregate=aggregate, importance_cap=cap, drop_dead=drop, entropy=entropy, kl_unbiased=drop == (cap is None))
    for (ratio, aggregate, cap), (drop, entropy) in zip(
        product(("token", "sequence"), ("tokens", "answers", "constant"), (None, 1.5)),
        [(False, 0.0), (True, 0.1), (True, 0.0), (False, 0.1)] * 3, strict=True,
    )
]  # fmt: skip


@pytest.mark.parametrize("wanted", VARIANTS, ids=lambda v: f"{v.ratio}-{v.aggregate}-{v.importance_cap}-{'drop' if v.drop_dead else 'all'}-{v.entropy:g}")
@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_variant_is_what_its_paper_says(wanted: Objective, seed: int) -> None:
    rows, x = batch(seed), drawn(seed)
    mask = real(rows)
    if not mask.any():
        return
    value, metrics, gradient = ours(x, rows, wanted)
    expected, tokens, slope = by_the_papers(x, mask, wanted, trainer=True)
    assert abs(value - expected) <= 1e-6 * max(1.0, abs(expected)) * 3  # a mean of terms of order one may cancel
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-6)
    assert np.isclose(metrics["kl"], tokens["kl"], rtol=1e-5) and metrics["kl"] >= 0
    for name in ("low", "high"):
        assert np.isclose(metrics[f"clip_ratio/{name}_mean"], tokens[name], rtol=1e-5)
    assert np.isclose(metrics["clip_ratio/region_mean"], tokens["low"] + tokens["high"], rtol=1e-5)
    if wanted.importance_cap is not None:
        assert np.isclose(metrics["sampling/importance_sampling_ratio/mean"], tokens["weight"], rtol=1e-5)
    gap = np.abs(x["trainer"].astype(np.float64) - x["sampled"])[mask]
    assert np.isclose(metrics["sampling/sampling_logp_difference/mean"], gap.mean(), rtol=1e-5)
    assert np.isclose(metrics["sampling/sampling_logp_difference/max"], gap.max(), rtol=1e-5)
    assert np.isclose(metrics["completions/mean_length"], rows.answer_lengths.mean()) and metrics["completions/max_length"] == rows.answer_lengths.max()


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_in_a_first_update_the_trainers_own_log_probs_are_those_that_are_differentiated(ratio: str) -> None:
    rows, x = batch(7), drawn(7)
    wanted = PLAIN._replace(importance_cap=2.0, ratio=ratio)
    value, metrics, gradient = ours(x, rows, wanted, trainer=False)
    same, others, slope = ours(x | {"trainer": x["new"]}, rows, wanted)
    assert value == same and metrics["clip_ratio/region_mean"] == 0 and metrics.keys() == others.keys()
    np.testing.assert_array_equal(gradient, slope)
    expected, _, by_hand = by_the_papers(x, real(rows), wanted, trainer=False)
    np.testing.assert_allclose([value], [expected], rtol=1e-5)
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-5, atol=1e-6)


def test_k3_is_never_negative_and_zero_only_where_they_agree() -> None:
    for spread in (0.0, 1e-3, 0.1, 3.0):
        x = drawn(1, spread)
        _, metrics, _ = ours(x, batch(), PLAIN)
        assert metrics["kl"] >= 0 and (metrics["kl"] > 0) == (spread > 1e-3 or not np.array_equal(x["new"], x["reference"]))


def test_without_a_reference_there_is_no_kl() -> None:
    x = drawn(3)
    value, metrics, gradient = ours(x, batch(), PLAIN, reference=False)
    wanted, others, same = ours(x, batch(), PLAIN._replace(kl=0.0))
    assert value == wanted and metrics.keys() == others.keys() - {"kl"}
    np.testing.assert_array_equal(gradient, same)


def test_on_policy_the_gradient_is_the_policy_gradient() -> None:
    """Before the first update all log-probs are the same: the loss is minus the mean advantage and its gradient minus the advantage, a token."""
    x, rows = drawn(2, spread=0.0), batch()
    value, metrics, gradient = ours(x, rows, PLAIN)
    mask = real(rows)
    each = np.where(mask, np.broadcast_to(x["advantages"][..., None], mask.shape), 0)
    assert np.isclose(value, -each.sum() / mask.sum(), rtol=1e-5) and metrics["kl"] == 0 and metrics["clip_ratio/region_mean"] == 0
    np.testing.assert_allclose(gradient, -each / mask.sum(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("advantage", "ratio", "flows"), [(1, 1.5, False), (1, 0.5, True), (-1, 0.5, False), (-1, 1.5, True), (1, 1.1, True), (-1, 0.9, True)])
def test_clipping_stops_only_what_has_gone_far_enough(advantage: float, ratio: float, flows: bool) -> None:
    one = jnp.zeros((1, 1, 1))
    rows = AnswerBatch(jnp.zeros((1, 1), int), jnp.ones(1, int), jnp.zeros((1, 1, 1), int), jnp.ones((1, 1), int))
    before, gain = Before(one - np.log(ratio), one), jnp.full((1, 1), float(advantage))
    _, (gradient, _) = both((one, one), CONFIG, rows, before, gain, PLAIN._replace(kl=0.0))
    assert np.isclose(gradient.item(), -advantage * ratio if flows else 0.0)


@pytest.mark.parametrize("aggregate", ["tokens", "answers", "constant"])
def test_a_dropped_group_changes_nothing_and_a_batch_of_them_is_no_division_by_zero(aggregate: str) -> None:
    x, rows, wanted = drawn(0), batch(5), PLAIN._replace(drop_dead=True, aggregate=aggregate)  # the first group's advantages are 0
    value, _, gradient = ours(x, rows, wanted)
    elsewhere = {name: np.concatenate([y[:1] - 1, y[1:]]) if name in ("sampled", "reference", "new") else y for name, y in x.items()}
    same, _, slope = ours(elsewhere, rows, wanted)
    assert value == same and not gradient[0].any()
    np.testing.assert_array_equal(gradient[1:], slope[1:])
    nothing, _, zero = ours(x | {"advantages": np.zeros((B, G), np.float32)}, rows, wanted)
    assert nothing == 0 and not zero.any()


def test_the_recipe_chooses_the_objective() -> None:
    config = GrpoConfig(out="o", cases="c", model="m", reward_model="r", kl=0.3, ratio="sequence", aggregate="constant", importance_cap=2.0, entropy=0.01)
    assert objective(config) == Objective(1.0, 0.2, 0.2, 0.3, False, "sequence", "constant", 0.01, 2.0, False)
