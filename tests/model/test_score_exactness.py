"""A score is of its own instruction, answer and criterion alone: nothing beside them changes it, and each of them does."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CONFIG, reward_batch, reward_params, steady

from promedical_jax.model.transformer import Compute, Dtype
from promedical_jax.reward import RewardBatch, jit_score

B, A, K = 2, 3, 3
# Of the largest score. In bfloat16 as much as it is away from float32 itself: of 100 batches like those below at most 0.017. A kernel that rounds other
# sums for another shape may move a score by that; on this CPU none does.
BOUNDS = {"float32": 1e-6, "bfloat16": 0.02}
ANSWERS, CRITERIA = ("answers", "answer_lengths"), ("criteria", "criterion_lengths", "tiers")  # the fields whose second axis counts them

# What may be done to a batch: (the batch, another, random numbers) -> the changed batch, and in it the places of the scores that stay, as an index into
# the scores before and one into those after.
Change = Callable[[RewardBatch, RewardBatch, np.random.Generator], tuple[RewardBatch, tuple, tuple]]


def scores(batch: RewardBatch, dtype: Dtype, seed: int) -> np.ndarray:
    return np.asarray(jit_score(reward_params(CONFIG, seed) | {"backbone": steady(seed)}, CONFIG, batch, compute=Compute(dtype)))


def changed(batch: RewardBatch, names: tuple[str, ...], change: Callable[..., np.ndarray], *others: RewardBatch) -> RewardBatch:
    return batch._replace(**{name: change(getattr(batch, name), *(getattr(other, name) for other in others)) for name in names})


def reorder_criteria(batch, other, rng):
    order = rng.permutation(K)
    return changed(batch, CRITERIA, lambda x: x[:, order]), np.s_[:, :, order], np.s_[:]


def remove_criteria(batch, other, rng):
    kept = np.sort(rng.permutation(K)[:2])
    return changed(batch, CRITERIA, lambda x: x[:, kept]), np.s_[:, :, kept], np.s_[:]


def add_criteria(batch, other, rng):
    return changed(batch, CRITERIA, lambda x, y: np.concatenate([y[:, :1], x], 1), other), np.s_[:], np.s_[:, :, 1:]


def reorder_answers(batch, other, rng):
    order = rng.permutation(A)
    return changed(batch, ANSWERS, lambda x: x[:, order]), np.s_[:, order], np.s_[:]


def other_siblings(batch, other, rng):
    return changed(batch, ANSWERS, lambda x, y: np.concatenate([x[:, :1], y[:, 1:]], 1), other), np.s_[:, :1], np.s_[:, :1]


def no_siblings(batch, other, rng):
    one = int(rng.integers(A))
    return changed(batch, ANSWERS, lambda x: x[:, one : one + 1]), np.s_[:, one : one + 1], np.s_[:]


def other_batch(batch, other, rng):
    row = int(rng.integers(B))
    return changed(batch, batch._fields[:-1], lambda x, y: np.stack([y[0], x[row]]), other), np.s_[row], np.s_[1]


def no_batch(batch, other, rng):
    row = int(rng.integers(B))
    return changed(batch, batch._fields[:-1], lambda x: x[row : row + 1]), np.s_[row : row + 1], np.s_[:]


def other_padding(batch, other, rng):
    def fill(ids, lengths):
        return np.where(np.arange(ids.shape[-1]) < lengths[..., None], ids, rng.integers(0, CONFIG.vocabulary, ids.shape, dtype=np.int32))

    return batch._replace(prompt=fill(batch.prompt, batch.prompt_length), answers=fill(batch.answers, batch.answer_lengths),
                          criteria=fill(batch.criteria, batch.criterion_lengths)), np.s_[:], np.s_[:]  # fmt: skip


CHANGES: list[Change] = [reorder_criteria, remove_criteria, add_criteria, reorder_answers, other_siblings, no_siblings, other_batch, no_batch, other_padding]


@pytest.mark.parametrize("dtype", BOUNDS)
@given(st.sampled_from(CHANGES), st.integers(0, 2**31), st.integers(0, 9))
@settings(max_examples=120)
def test_what_stands_beside_it_changes_no_score(dtype: Dtype, change: Change, seed: int, weights: int) -> None:
    rng = np.random.default_rng(seed)
    batch, other = (reward_batch(int(rng.integers(2**31)), a=A, k=K) for _ in range(2))
    after, kept, there = change(batch, other, rng)
    assert any(x is not None and (x.shape != y.shape or (x != y).any()) for x, y in zip(batch, after, strict=True)) or change.__name__.startswith("reorder")
    whole = scores(batch, dtype, weights)
    before, found, bound = whole[kept], scores(after, dtype, weights)[there], BOUNDS[dtype] * np.abs(whole).max()
    assert before.shape == found.shape and np.abs(found - before).max() <= bound
    assert (np.abs(before)[(before > 0) != (found > 0)] <= bound).all()  # a verdict flips only where the score is almost zero


@given(st.integers(0, 2**31), st.integers(0, 9))
@settings(max_examples=20)
def test_bfloat16_is_near_float32(seed: int, weights: int) -> None:
    wide, narrow = (scores(reward_batch(seed, a=A, k=K), dtype, weights) for dtype in ("float32", "bfloat16"))
    bound = 2 * BOUNDS["bfloat16"] * np.abs(wide).max()
    assert narrow.dtype == np.float32 and 0 < np.abs(narrow - wide).max() <= bound
    assert (np.abs(wide)[(wide > 0) != (narrow > 0)] <= bound).all()


def test_each_of_the_three_changes_it() -> None:
    batch = reward_batch()
    before = scores(batch, "float32", 0)
    for name in ("prompt", "answers", "criteria"):
        ids = np.array(getattr(batch, name))
        ids.reshape(-1)[0] = (ids.reshape(-1)[0] + 1) % CONFIG.vocabulary  # the first token of row 0
        after = scores(batch._replace(**{name: ids}), "float32", 0)
        assert abs(after[0, 0, 0] - before[0, 0, 0]) > 1e-4, name
        assert (after[1] == before[1]).all(), name
    tiers = (batch.tiers + 1) % 3
    assert np.abs(scores(batch._replace(tiers=tiers), "float32", 0) - before).min() > 1e-4
