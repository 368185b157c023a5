"""The tree computes what flat rows compute, and no node sees what it must not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from tiny import CONFIG, close, policy, ragged, reward_batch, reward_params

from promedical_jax.model import transformer
from promedical_jax.model.layout import assemble, tree
from promedical_jax.model.transformer import Compute
from promedical_jax.reward import jit_score

B, P, G, R, K, C = 2, 6, 3, 5, 2, 4
TREE = tree(P, (G, R), (K, C))
FLAT = tree(P + R + C)


def example():
    """Two ragged trees, one of them with a padding answer and a padding criterion."""
    rng = np.random.default_rng(0)
    tokens, lengths = zip(ragged(rng, B, 1, P), ragged(rng, B, G, R), ragged(rng, B, G, K, C), strict=True)
    lengths[1][1, 2] = 0
    lengths[2][0, 1, 1] = 0
    return tokens, lengths


def paths(tokens, lengths):
    """Each instruction + answer + criterion as a flat row with its true length, and for every real token of the row where in the tree it stands."""
    rows, ends, source = [], [], []
    starts = [start for start, _ in TREE.spans()]
    for b in range(B):
        for g in range(G):
            for k in range(K):
                parts = [(tokens[0][b, 0], lengths[0][b, 0], starts[0]), (tokens[1][b, g], lengths[1][b, g], starts[1] + g * R),
                         (tokens[2][b, g, k], lengths[2][b, g, k], starts[2] + (g * K + k) * C)]  # fmt: skip
                row = np.concatenate([ids[:n] for ids, n, _ in parts])
                place = np.concatenate([start + np.arange(n) for _, n, start in parts])
                rows.append(np.pad(row, (0, FLAT.tokens - len(row)), constant_values=7))
                ends.append(len(row))
                source.append((b, place))
    return np.stack(rows)[:, None], np.array(ends)[:, None], source


@partial(jax.jit, static_argnums=3)
def run(params, tokens, lengths, layout, weight):
    """Hidden states, and the gradient of their sum weighted by `weight` [rows, T, D]."""

    def weighted(params):
        hidden = transformer.forward(params, CONFIG, assemble(layout, tokens, lengths), layout)
        return jnp.sum(hidden * weight), hidden

    return jax.grad(weighted, has_aux=True)(params)


def test_a_tree_equals_flat_rows_in_outputs_and_gradients() -> None:
    tokens, lengths = example()
    rows, ends, source = paths(tokens, lengths)
    rng = np.random.default_rng(1)
    valid = np.asarray(assemble(TREE, list(tokens), list(lengths)).valid)
    weight = rng.normal(size=(B, TREE.tokens, CONFIG.width)).astype(np.float32) * valid[..., None]
    flat_weight, taken = np.zeros((len(rows), FLAT.tokens, CONFIG.width), np.float32), set()
    for i, (b, place) in enumerate(source):
        for t, where in enumerate(place):
            if (b, where) not in taken:  # the first path that holds a node is answerable for it
                taken.add((b, where))
                flat_weight[i, t] = weight[b, where]
    assert len(taken) == valid.sum()

    gradients, hidden = run(policy(), list(tokens), list(lengths), TREE, weight)
    flat_gradients, flat_hidden = run(policy(), [rows], [ends], FLAT, flat_weight)
    for i, (b, place) in enumerate(source):
        close(np.asarray(hidden)[b, place], np.asarray(flat_hidden)[i, : len(place)], 1e-5)
    close(gradients, flat_gradients, 1e-5)


def test_padding_is_never_seen() -> None:
    batch = reward_batch()
    rng = np.random.default_rng(5)

    def other_padding(ids, lengths):
        return np.where(np.arange(ids.shape[-1]) < lengths[..., None], ids, rng.integers(0, CONFIG.vocabulary, ids.shape, dtype=np.int32))

    changed = batch._replace(prompt=other_padding(batch.prompt, batch.prompt_length), answers=other_padding(batch.answers, batch.answer_lengths),
                             criteria=other_padding(batch.criteria, batch.criterion_lengths))  # fmt: skip
    assert any((x != y).any() for x, y in zip(batch, changed, strict=True))
    close(jit_score(reward_params(), CONFIG, changed), jit_score(reward_params(), CONFIG, batch), 1e-6)


def test_a_score_depends_on_its_own_instruction_answer_and_criterion_alone() -> None:
    batch, other = reward_batch(0), reward_batch(1)
    before = np.asarray(jit_score(reward_params(), CONFIG, batch))
    mixed = [np.array(x) for x in other]
    for ours, theirs in zip(mixed, batch, strict=True):
        ours[0, ...] = theirs[0]
    mixed = type(batch)(*mixed)  # row 0 as before, another row 1
    mixed.answers[0, 1:], mixed.answer_lengths[0, 1:] = other.answers[0, 1:], other.answer_lengths[0, 1:]  # other siblings of answer 0
    mixed.criteria[0, 1], mixed.criterion_lengths[0, 1], mixed.tiers[0, 1] = other.criteria[0, 1], 1, (batch.tiers[0, 1] + 1) % 3
    after = np.asarray(jit_score(reward_params(), CONFIG, mixed))
    noise = 2e-6 * np.abs(before).max()
    assert abs(after[0, 0, 0] - before[0, 0, 0]) <= noise
    assert not np.allclose(after[0, 1:], before[0, 1:]) and not np.allclose(after[1], before[1])  # the rest did change

    own = [x[:1, :1] if name in ("answers", "answer_lengths", "criteria", "criterion_lengths", "tiers") else x[:1] for name, x in batch._asdict().items()]
    assert abs(np.asarray(jit_score(reward_params(), CONFIG, type(batch)(*own)))[0, 0, 0] - before[0, 0, 0]) <= noise


def test_a_score_depends_on_each_of_the_three() -> None:
    batch = reward_batch()
    before = np.asarray(jit_score(reward_params(), CONFIG, batch))
    for name in ("prompt", "answers", "criteria"):
        ids = np.array(getattr(batch, name))
        ids.reshape(-1)[0] = (ids.reshape(-1)[0] + 1) % CONFIG.vocabulary  # the first token of row 0
        after = np.asarray(jit_score(reward_params(), CONFIG, batch._replace(**{name: ids})))
        assert abs(after[0, 0, 0] - before[0, 0, 0]) > 1e-6, name
        assert (after[1] == before[1]).all(), name
    tiers = (batch.tiers + 1) % 3
    assert np.abs(np.asarray(jit_score(reward_params(), CONFIG, batch._replace(tiers=tiers))) - before).min() > 1e-6


def test_bfloat16_is_near_float32() -> None:
    batch = reward_batch()
    wide, narrow = (np.asarray(jit_score(reward_params(), CONFIG, batch, compute=Compute(dtype))) for dtype in ("float32", "bfloat16"))
    assert narrow.dtype == np.float32
    assert 0 < np.abs(narrow - wide).max() < 0.15
