"""The losses against NumPy in float64, written from the papers: log-probabilities and scores are given, so only the objective is at stake."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CONFIG, close, one_rater, policy, ragged, reward_batch, reward_params

from promedical_jax.config import VerdictUse
from promedical_jax.model import transformer
from promedical_jax.model.layout import assemble, tree
from promedical_jax.rubric import Case, Tier, Verdict
from promedical_jax.rubric.labels import Labels, RaterWeights, labels_of
from promedical_jax.train import rewards, rm, sft
from promedical_jax.train.policy import AnswerBatch, answer_log_probs, masked_mean

B, G, R, K = 3, 4, 5, 6


def batch(seed: int = 0) -> AnswerBatch:
    rng = np.random.default_rng(seed)
    answers, lengths = ragged(rng, B, G, R, low=0)
    return AnswerBatch(*ragged(rng, B, 7), answers, lengths)


def real(batch: AnswerBatch) -> np.ndarray:
    return np.arange(R) < np.asarray(batch.answer_lengths)[..., None]


def given_log_probs(patch: pytest.MonkeyPatch, module, entropy: np.ndarray) -> None:
    """In place of a model's parameters, the losses then take the log-probabilities themselves."""
    patch.setattr(module, "answer_log_probs", lambda params, config, batch, *_, **__: (params, jnp.asarray(entropy)))


# Supervised start


def test_sft_is_the_mean_over_real_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows, log_probs, entropy = batch(), -rng.exponential(size=(B, G, R)).astype(np.float32), rng.uniform(size=(B, G, R)).astype(np.float32)
    given_log_probs(monkeypatch, sft, entropy)
    value, metrics = sft.loss(log_probs, CONFIG, rows)
    mask = real(rows)
    assert np.isclose(value, -log_probs.astype(np.float64)[mask].mean(), rtol=1e-6)
    assert np.isclose(metrics["entropy"], entropy[mask].mean(), rtol=1e-6)
    assert metrics["num_tokens"] == mask.sum() and metrics["loss"] == value


def test_a_batch_of_padding_alone_is_no_division_by_zero() -> None:
    assert masked_mean(jnp.full((2, 3), jnp.nan), jnp.zeros((2, 3), bool)) == 0


# The policy's log-probabilities


def test_answer_log_probs_are_next_token_log_probs_of_flat_rows() -> None:
    rows = batch()
    chosen, entropy = jax.jit(answer_log_probs, static_argnums=1)(policy(), CONFIG, rows, 0.7)
    p = np.asarray(rows.prompt_length)
    layout = tree(7 + R)
    flat = np.zeros((B * G, 1, layout.tokens), np.int32)
    ends = np.zeros((B * G, 1), np.int32)
    for b in range(B):
        for g in range(G):
            n = rows.answer_lengths[b, g]
            flat[b * G + g, 0, : p[b] + n] = [*rows.prompt[b, : p[b]], *rows.answers[b, g, :n]]
            ends[b * G + g] = p[b] + n

    @jax.jit
    def every(params):
        return jax.nn.log_softmax(transformer.forward(params, CONFIG, assemble(layout, [flat], [ends]), layout) @ transformer.unembedding(params).T / 0.7)

    whole = np.asarray(every(policy()), np.float64)
    for b in range(B):
        for g in range(G):
            n = rows.answer_lengths[b, g]
            said = whole[b * G + g, p[b] - 1 : p[b] - 1 + n]
            np.testing.assert_allclose(chosen[b, g, :n], said[np.arange(n), rows.answers[b, g, :n]], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(entropy[b, g, :n], -(np.exp(said) * said).sum(-1), rtol=1e-5, atol=1e-5)
            assert not np.any(chosen[b, g, n:]) and not np.any(entropy[b, g, n:])


# The reward model


def pair_reference(margin: float, theta: float, ties: str) -> tuple[float, float | None]:
    """Probabilities of win and tie by the models' own formulas: Bradley and Terry 1952, Davidson 1970, Rao and Kupper 1967."""
    strong, weak = np.exp(margin), 1.0
    if ties == "none":
        return strong / (strong + weak), None
    if ties == "davidson":
        total = strong + weak + np.exp(theta) * np.sqrt(strong * weak)
        return strong / total, np.exp(theta) * np.sqrt(strong * weak) / total
    t = np.exp(np.logaddexp(0, theta))
    win, loss = strong / (strong + t * weak), weak / (weak + t * strong)
    return win, 1 - win - loss


def rm_reference(scores, labels, theta, pair_weight, verdict_weight, ties):
    scores, labels = np.asarray(scores, np.float64), Labels(*(np.asarray(x, np.float64) for x in labels))
    softplus = lambda x: np.logaddexp(0, x)  # noqa: E731
    verdicts, heard, pairs, said, right, judged, right_pairs, pairs_judged = 0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0
    b_, a_, k_ = scores.shape
    for b, k, i in np.ndindex(b_, k_, a_):
        s, w = scores[b, i, k], labels.weight[b, i, k]
        if w > 0:
            y = labels.met[b, i, k]
            verdicts += w * (y * softplus(-s) + (1 - y) * softplus(s))
            heard += w
            right += (s > 0) == (y > 0.5)
            judged += 1
        for j in range(a_):
            margin, wins, tied = s - scores[b, j, k], labels.wins[b, i, j, k], labels.ties[b, i, j, k]
            win, tie = pair_reference(margin, theta[b, k], ties)
            pairs -= wins * np.log(win)
            said += wins
            if ties != "none" and j > i:
                pairs -= tied * np.log(tie)
                said += tied
            if wins > labels.wins[b, j, i, k]:
                right_pairs += margin > 0
                pairs_judged += 1
    share = lambda n, of: n / of if of else 0.0  # noqa: E731
    verdict, pair = share(verdicts, heard), share(pairs, said)
    return verdict_weight * verdict + pair_weight * pair, verdict, pair, share(right, judged), share(right_pairs, pairs_judged), judged


def given_scores(patch: pytest.MonkeyPatch) -> None:
    """The loss of scores that are given in place of a model."""
    patch.setattr(rm, "score", lambda params, *_: params["scores"])


def as_params(scores, theta=(0.3, -0.5, 1.0)) -> dict:
    return {"scores": scores, "heads": {"tie_bias": jnp.asarray(theta)}}


def several_raters(rng: np.random.Generator) -> Labels:
    """What labels_of makes of cases with humans and judge models who disagree, abstain and skip."""
    rows = []
    for case in range(B):
        raters = [("a", True), ("b", True), ("m", False)][: rng.integers(0, 4)]
        said = [(r, h, a, k, rng.choice(["met", "unmet", "abstain", None])) for r, h in raters for a in range(G) for k in range(K)]
        verdicts = [{"answer": f"a{a}", "criterion": f"c{k}", "verdict": v, "rater": r, "human": h} for r, h, a, k, v in said if v]
        rows.append(labels_of(Case.model_validate({
            "id": f"case-{case}", "instruction": [{"role": "user", "content": "?"}], "answers": [{"id": f"a{a}", "text": "."} for a in range(G)],
            "rubric": {"criteria": [{"id": f"c{k}", "text": ".", "tier": "proficiency", "weight": 1 / K} for k in range(K)]}, "verdicts": verdicts,
        }), RaterWeights(human=1.0, judge=0.25)))  # fmt: skip
    return Labels(*(np.stack(x).astype(np.float32) for x in zip(*rows, strict=True)))


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([0.0, 1.0]), st.sampled_from(["none", "davidson", "rao_kupper"]))
def test_rm_is_pairs_with_ties_and_cross_entropy_on_verdicts(seed: int, pair_weight: float, verdict_weight: float, ties: str) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(scale=3, size=(B, G, K)).astype(np.float32), several_raters(rng)
    theta, tiers = rng.normal(size=3).astype(np.float32), rng.integers(0, 3, (B, K), dtype=np.int32)
    with pytest.MonkeyPatch.context() as patch:
        given_scores(patch)
        loss = partial(rm.loss, pair_weight=pair_weight, verdict_weight=verdict_weight, ties=ties)
        batch = SimpleNamespace(tiers=tiers)
        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(as_params(scores, theta), CONFIG, batch, labels)
    wanted = rm_reference(scores, labels, theta[tiers], pair_weight, verdict_weight, ties)
    names = ("loss", "loss/verdict", "loss/pair", "accuracy", "accuracy/pair", "num_labels")
    np.testing.assert_allclose([value] + [metrics[name] for name in names[1:]], wanted, rtol=1e-5, atol=1e-6)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    assert not np.any(np.asarray(gradient["scores"])[~labels.said])
    assert (ties == "none") <= (not np.any(gradient["heads"]["tie_bias"]))


@pytest.mark.parametrize("ties", ["davidson", "rao_kupper"])
@pytest.mark.parametrize("margin", [0.0, 0.3, -7.0, 60.0, -200.0, 2e4])
@pytest.mark.parametrize("theta", [-3.0, 0.0, 30.0])
def test_win_tie_and_loss_are_all_that_can_happen(ties: str, margin: float, theta: float) -> None:
    log_probs = lambda x: jnp.stack(rm.pair_log_probs(x, jnp.float32(theta), ties))  # noqa: E731
    (win, tie), (loss, same) = np.exp(log_probs(jnp.float32(margin))), np.exp(log_probs(jnp.float32(-margin)))
    assert np.isclose(win + tie + loss, 1, atol=1e-5) and np.isclose(tie, same, atol=1e-6)
    assert np.isfinite(log_probs(jnp.float32(margin))).all() and np.isfinite(jax.jacobian(log_probs)(jnp.float32(margin))).all()


def test_one_pair_is_the_published_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    given_scores(monkeypatch)
    batch, labels = SimpleNamespace(tiers=np.array([[0]])), one_rater(np.array([[[1.0], [0.0]]]))
    scores = jnp.array([[[0.7], [-0.4]]])
    _, metrics = rm.loss(as_params(scores), CONFIG, batch, labels)
    assert np.isclose(metrics["loss/pair"], -np.log(1 / (1 + np.exp(-1.1))), rtol=1e-6)  # -log sigmoid(r(y_w) - r(y_l))
    moved = jax.grad(lambda s: rm.loss(as_params(s), CONFIG, batch, labels)[1]["loss/pair"])(scores)
    assert np.isclose(moved.sum(), 0, atol=1e-7) and moved[0, 0, 0] < 0 < moved[0, 1, 0]


def test_padding_answers_and_criteria_make_no_nan() -> None:
    """A case with fewer answers and criteria than its batch, and one without any verdict."""
    padded = reward_batch()
    padded.answer_lengths[0, 2], padded.criterion_lengths[0, 1] = 0, 0
    met = np.random.default_rng(0).integers(0, 2, (2, 3, 2)).astype(np.float32)
    met[0, 2], met[0, :, 1], met[1] = np.nan, np.nan, np.nan
    labels = one_rater(met)
    step = jax.jit(jax.value_and_grad(rm.loss, has_aux=True), static_argnums=1)
    (value, metrics), gradients = step(reward_params(), CONFIG, padded, labels)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((value, metrics, gradients)))
    assert metrics["num_labels"] == 2
    other = padded._replace(answers=padded.answers.copy(), criteria=padded.criteria.copy())
    other.answers[0, 2], other.criteria[0, 1] = 1, 2  # what stands in padding
    (same, _), same_gradients = step(reward_params(), CONFIG, other, labels)
    close((same, same_gradients), (value, gradients), 1e-6)
    (nothing, _), zero = step(reward_params(), CONFIG, padded, one_rater(np.full_like(met, np.nan)))
    assert nothing == 0 and not any(np.any(x) for x in jax.tree.leaves(zero))


# Judging


def test_judge_turns_scores_into_advantages_by_the_rubric(monkeypatch: pytest.MonkeyPatch) -> None:
    from promedical_jax.config import GrpoConfig
    from promedical_jax.reward import UNCALIBRATED, RewardModel

    case = Case.model_validate({
        "id": "c", "instruction": [{"role": "user", "content": "?"}],
        "rubric": {"criteria": [{"id": "p", "text": "P.", "tier": "proficiency", "weight": 1.0}, {"id": "e", "text": "E.", "tier": "excellence"},
                                {"id": "s", "text": "S.", "tier": "safety", "polarity": "forbidden"}]},
    })  # fmt: skip
    raw = np.array([[[2.0, 1.0, -3.0, 9.0], [2.0, -1.0, -3.0, 9.0], [2.0, 1.0, 3.0, -9.0]]])  # the last column is padding
    monkeypatch.setattr(rewards, "jit_score", lambda *_, **__: raw)
    config = GrpoConfig(out="o", cases="c", model="m", reward_model="r")
    batch = SimpleNamespace(tiers=np.array([[0, 1, 2, 0]]))
    judged = rewards.judge(RewardModel({}, CONFIG, UNCALIBRATED), batch, [case], config)
    np.testing.assert_allclose(judged.said[0].probability, 1 / (1 + np.exp(-raw[0, :, :3])))
    assert [" ".join(row) for row in judged.said[0].verdicts] == ["met met unmet", "met unmet unmet", "met met met"]
    assert judged.scores.s1.tolist() == [[1, 1, 1]] and judged.scores.s2.tolist() == [[1, 0, 1]] and judged.scores.s3.tolist() == [[0, 0, 1]]
    np.testing.assert_allclose(judged.reward, [[1.1, 1.0, -0.9]])
    assert judged.advantage[0, 0] > judged.advantage[0, 1] > judged.advantage[0, 2] and judged.advantage[0, 2] < 0
    scalar = rewards.judge(RewardModel({}, CONFIG, UNCALIBRATED), batch, [case], config.model_copy(update={"advantage": "scalar"}))
    np.testing.assert_allclose(scalar.advantage, (judged.reward - judged.reward.mean()) / (judged.reward.std() + 1e-4))
    softly = config.model_copy(update={"advantage": "scalar", "verdicts": VerdictUse(s1="soft", s3="soft")})
    p = 1 / (1 + np.exp(-raw[0]))
    soft = rewards.judge(RewardModel({}, CONFIG, UNCALIBRATED), batch, [case], softly)
    np.testing.assert_allclose([soft.scores.s1[0], soft.scores.s2[0], soft.scores.s3[0]], [p[:, 0], [1, 0, 1], p[:, 2]])


def test_a_second_judge_is_a_second_rater(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is the mean of those who do not abstain; where the second judge failed, all is as without it."""
    from promedical_jax.config import GrpoConfig
    from promedical_jax.reward import UNCALIBRATED, RewardModel

    case = Case.model_validate({
        "id": "c", "instruction": [{"role": "user", "content": "?"}],
        "rubric": {"criteria": [{"id": "p", "text": "P.", "tier": "proficiency", "weight": 0.25},
                                {"id": "q", "text": "Q.", "tier": "proficiency", "weight": 0.75},
                                {"id": "s", "text": "S.", "tier": "safety", "polarity": "forbidden"}]},
    })  # fmt: skip
    monkeypatch.setattr(rewards, "jit_score", lambda *_, **__: np.array([[[2.0, 2.0, -2.0], [2.0, -2.0, 2.0], [-2.0, 2.0, -2.0]]]))
    given = RewardModel({}, CONFIG, UNCALIBRATED), SimpleNamespace(tiers=None), [case], GrpoConfig(out="o", cases="c", model="m", reward_model="r")
    met, unmet, abstain = Verdict.MET, Verdict.UNMET, Verdict.ABSTAIN
    alone = rewards.judge(*given)
    failed = rewards.judge(*given, heard=[[(abstain,) * 3] * 3])
    for x, y in ((failed.scores.s1, alone.scores.s1), (failed.scores.s3, alone.scores.s3), (failed.advantage, alone.advantage)):
        np.testing.assert_array_equal(x, y)
    both = rewards.judge(*given, heard=[[(unmet, abstain, met), (met, met, met), (abstain, met, unmet)]])
    np.testing.assert_allclose(both.scores.s1, [[0.125 + 0.75, 0.25 + 0.375, 0.75]])
    np.testing.assert_allclose(both.scores.s3, [[0.5, 1.0, 0.0]])  # one rater of two sees a violation
    assert both.advantage[0, 2] > 0 > both.advantage[0, 0] > both.advantage[0, 1]
    assert both.said[0].verdicts == alone.said[0].verdicts and both.heard is not None  # the ledger has each judge's own word


def test_what_the_reward_model_abstains_on_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from promedical_jax.config import GrpoConfig
    from promedical_jax.reward import RewardModel, TierVerdicts, Verdicts

    case = Case.model_validate({
        "id": "c", "instruction": [{"role": "user", "content": "?"}],
        "rubric": {"criteria": [{"id": "p", "text": "P.", "tier": "proficiency", "weight": 1.0}, {"id": "s", "text": "S.", "tier": "safety"}]},
    })  # fmt: skip
    monkeypatch.setattr(rewards, "jit_score", lambda *_, **__: np.array([[[2.0, 2.0], [0.1, 2.0], [2.0, 0.1], [-2.0, 2.0]]]))
    doubtful = Verdicts(tiers={tier: TierVerdicts(low=0.4, high=0.6) for tier in Tier})
    config = GrpoConfig(out="o", cases="c", model="m", reward_model="r")
    judged = rewards.judge(RewardModel({}, CONFIG, doubtful), SimpleNamespace(tiers=None), [case], config)
    np.testing.assert_array_equal(judged.scores.s1, [[1, np.nan, 1, 0]])  # the second was not judged at all
    assert judged.scores.s3.tolist() == [[0, 0, 0, 0]] and judged.advantage[0, 1] == 0 and np.isnan(judged.reward[0, 1])


def test_an_order_cannot_be_made_of_soft_violations() -> None:
    from promedical_jax.config import GrpoConfig

    with pytest.raises(ValueError, match=r"verdicts\.s3 is soft; set verdicts\.s3 to hard"):
        GrpoConfig(out="o", cases="c", model="m", reward_model="r", verdicts=VerdictUse(s3="soft"))
