"""DPO and IPO against NumPy in float64, pair by pair from the papers; and what the stage does with cases."""

from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CONFIG, close, policy, ragged

from promedical_jax.clinic.cases import make_cases
from promedical_jax.clinic.tokenizer import build_tokenizer
from promedical_jax.config import DpoConfig
from promedical_jax.data.encode import encode
from promedical_jax.data.load import preferences_only
from promedical_jax.errors import InputError
from promedical_jax.rubric import Case, prefer, satisfied_matrix, score
from promedical_jax.train import dpo
from promedical_jax.train.policy import AnswerBatch, frozen_log_probs

B, A, R = 3, 4, 5
both = jax.jit(jax.value_and_grad(dpo.loss, has_aux=True), static_argnames=("config", "beta", "kind"))


def batch(seed: int) -> AnswerBatch:
    rng = np.random.default_rng(seed)
    answers, lengths = ragged(rng, B, A, R, low=1)
    return AnswerBatch(*ragged(rng, B, 7), answers, lengths)


def wins_of(seed: int) -> np.ndarray:
    """Which of each two answers is preferred, by a random order with ties; the last case has no pair."""
    rank = np.random.default_rng(seed + 1).integers(0, 3, (B, A))
    wins = (rank[:, :, None] > rank[:, None]).astype(np.float32)
    wins[-1] = 0
    return wins


@pytest.mark.parametrize(("kind", "beta"), [("sigmoid", 0.1), ("sigmoid", 2.0), ("ipo", 0.1), ("ipo", 1.0)])
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_it_is_the_mean_over_pairs(kind: str, beta: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, wins = batch(seed), wins_of(seed)
    new = -rng.exponential(size=(B, A, R)).astype(np.float32)
    reference = (new + 0.5 * rng.normal(size=new.shape)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpo, "answer_log_probs", lambda params, *_, **__: (params, None))
        (value, metrics), gradient = jax.value_and_grad(dpo.loss, has_aux=True)(new, CONFIG, rows, reference, wins, beta=beta, kind=kind)

    losses, chosen, rejected, right, slope = [], [], [], [], np.zeros(new.shape)
    n = [[int(x) for x in row] for row in rows.answer_lengths]
    apart = [[float((new[b, i, : n[b][i]].astype(np.float64) - reference[b, i, : n[b][i]]).sum()) for i in range(A)] for b in range(B)]
    for b, i, j in zip(*np.nonzero(wins), strict=True):
        scale = [1 / n[b][i], 1 / n[b][j]] if kind == "ipo" else [1.0, 1.0]
        h = apart[b][i] * scale[0], apart[b][j] * scale[1]
        margin = h[0] - h[1]
        if kind == "sigmoid":
            losses.append(np.log1p(np.exp(-beta * margin)))
            down = -beta / (1 + np.exp(beta * margin))
        else:
            losses.append((margin - 1 / (2 * beta)) ** 2)
            down = 2 * (margin - 1 / (2 * beta))
        slope[b, i, : n[b][i]] += down * scale[0]
        slope[b, j, : n[b][j]] -= down * scale[1]
        chosen.append(beta * h[0])
        rejected.append(beta * h[1])
        right.append(margin > 0)
    if not losses:
        assert value == 0 and not np.any(gradient)
        return
    assert np.isclose(value, np.mean(losses), rtol=1e-5) and metrics["pairs"] == len(losses)
    scale = np.abs(slope).max() / len(losses)
    np.testing.assert_allclose(gradient, slope / len(losses), rtol=1e-4, atol=1e-5 * scale)
    for name, wanted in (("chosen", chosen), ("rejected", rejected), ("accuracies", right)):
        assert np.isclose(metrics[f"rewards/{name}"], np.mean(wanted), rtol=1e-4, atol=1e-6), name


def test_answers_of_a_tree_teach_what_pairs_of_flat_rows_teach() -> None:
    """Value and gradient by the parameters: a case's answers once, beside each pair as a tree of two."""
    rows, wins = batch(3), wins_of(3)
    reference = np.asarray(frozen_log_probs(policy(seed=1), CONFIG, rows))
    (value, _), gradient = both(policy(), CONFIG, rows, reference, wins, beta=0.5)
    b, i, j = np.nonzero(wins)
    pick = lambda x: np.stack([np.asarray(x)[b, i], np.asarray(x)[b, j]], 1)  # noqa: E731
    pairs = AnswerBatch(np.asarray(rows.prompt)[b], np.asarray(rows.prompt_length)[b], pick(rows.answers), pick(rows.answer_lengths))
    first = np.broadcast_to(np.array([[0, 1], [0, 0]], np.float32), (len(b), 2, 2))
    (flat, _), slope = both(policy(), CONFIG, pairs, pick(reference), first, beta=0.5)
    close({"loss": value}, {"loss": flat}, 1e-5)
    close(gradient, slope, 1e-5)


def test_the_preferred_answer_is_the_better_one_by_the_rubric() -> None:
    tokenizer = build_tokenizer()
    cases = make_cases(12, seed=3)
    for case, encoded in zip(cases, [encode(case, tokenizer, kind="implicit") for case in cases], strict=True):
        scores = score(case.rubric.criteria, satisfied_matrix(case))
        np.testing.assert_array_equal(encoded.labels.wins[..., 0], prefer(scores[:, None], scores[None]) > 0)


def test_cases_without_a_preference_are_counted_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = build_tokenizer()
    one, two = make_cases(2, seed=0)
    alone = Case.model_validate(one.model_dump() | {"answers": one.answers[:1], "verdicts": [v for v in one.verdicts if v.answer == one.answers[0].id]})
    kept = preferences_only([encode(case, tokenizer, kind="implicit") for case in (alone, two)], Path("cases.jsonl"))
    assert [case.case.id for case in kept] == [two.id] and "1 of 2 cases have no two answers" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"cases.jsonl: none of the 1 cases has two answers of which the raters prefer one"):
        preferences_only([encode(alone, tokenizer, kind="implicit")], Path("cases.jsonl"))


def test_its_recipe_refuses_what_it_does_not_know() -> None:
    for wrong in ({"beta": 0}, {"loss": "hinge"}, {"kl": 0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            DpoConfig(out="o", cases="c", model="m", **wrong)
