"""Packed rows: every node of every case stands in them once, behind its own ancestors, and what is computed there is what padded rows compute."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CONFIG, MESHES, close, policy, ragged, reward_batch, reward_params

from promedical_jax import reward
from promedical_jax.model import cudnn, levels, packing, splash
from promedical_jax.model.layout import Layout, Level, place
from promedical_jax.model.packed import rearranged
from promedical_jax.model.sharding import make_mesh, shardings
from promedical_jax.reward import RewardBatch, score
from promedical_jax.train.policy import AnswerBatch, answer_log_probs

B, P, A, R, K, C = 8, 9, 3, 12, 4, 6
# Room for a batch in one row, in several, and with one level the first to be full.
LAYOUTS = {
    "wide": Layout((Level(8, P, 72), Level(24, R, 200), Level(96, C, 400))),
    "narrow": Layout((Level(3, P, 24), Level(8, R, 80), Level(30, C, 136))),
    "few slots": Layout((Level(2, P, 40), Level(6, R, 80), Level(24, C, 200))),
}


def grid(rng: np.random.Generator, b: int = B) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tokens and lengths of b ragged cases; any answer or criterion may be missing, and a missing answer has no criteria."""
    parts = ragged(rng, b, 1, P), ragged(rng, b, A, R, low=0), ragged(rng, b, A, K, C, low=0)
    tokens, lengths = [list(x) for x in zip(*parts, strict=True)]
    lengths[2] = np.where(lengths[1][..., None] > 0, lengths[2], 0)
    return [tokens[0], tokens[1], tokens[2].reshape(b, A * K, C)], [lengths[0], lengths[1], lengths[2].reshape(b, A * K)]


@given(st.integers(0, 2**32 - 1), st.sampled_from(list(LAYOUTS)), st.sampled_from([1, 2, 4]))
def test_every_node_stands_once_in_a_row_of_its_device_behind_its_parent(seed: int, name: str, devices: int) -> None:
    layout, (tokens, lengths) = LAYOUTS[name], grid(np.random.default_rng(seed))
    rows, fill = packing.pack(layout, tokens, lengths, devices)
    count = len(rows.tokens[0])
    here = count // devices  # rows of one device
    assert count % devices == 0 and fill == pytest.approx(sum(x.sum() for x in lengths) / (count * layout.tokens))
    for i, (level, own, ids, slots) in enumerate(zip(layout.levels, rows.nodes, rows.tokens, rows.slots, strict=True)):
        assert ids.shape == (count, level.tokens) and own.start.shape == (count, level.nodes)
        taken = own.length.cumsum(1)
        assert (own.start == np.pad(taken, ((0, 0), (1, 0)))[:, :-1]).all() and taken.max() <= level.tokens  # back to back, and within the room
        assert (np.diff((own.length > 0).astype(int), axis=1) <= 0).all()  # those in use come first
        used = 0
        for b, node in np.ndindex(*lengths[i].shape):
            slot = slots[b, node]
            assert (slot >= 0) == (lengths[i][b, node] > 0)
            if slot < 0:
                continue
            used += 1
            row, slot = b // (B // devices) * here + slot // level.nodes, slot % level.nodes
            start, length = own.start[row, slot], own.length[row, slot]
            assert ids[row, start : start + length].tolist() == tokens[i][b, node, : lengths[i][b, node]].tolist()
            if i:
                above = rows.slots[i - 1][b, node // (lengths[i].shape[1] // lengths[i - 1].shape[1])]
                assert above // layout.levels[i - 1].nodes == row % here and own.parent[row, slot] == above % layout.levels[i - 1].nodes
        assert used == (own.length > 0).sum() == len(np.unique(slots[slots >= 0])) if devices == 1 else used == (own.length > 0).sum()


@given(st.integers(0, 2**32 - 1), st.integers(120, 600))
def test_a_fitted_row_holds_the_largest_case_and_is_no_longer_than_asked(seed: int, row: int) -> None:
    tokens, lengths = grid(np.random.default_rng(seed))
    layout = packing.fit(lengths, row)
    assert row - 3 * packing.UNIT - 1 <= layout.tokens <= row and layout.packed
    rows, _ = packing.pack(layout, tokens, lengths)
    assert len(rows.tokens[0]) <= B + B // 2  # never worse than a row a case, but for the rounding to few sizes


def test_rows_fill() -> None:
    """Where lengths spread as they do in real data, a packed row holds few tokens of padding and a padded one mostly padding."""
    rng = np.random.default_rng(0)
    lengths = [np.minimum(rng.lognormal(mean, 0.7, (256, n)).astype(np.int64) + 8, most) for mean, n, most in ((4, 1, 256), (5, 2, 512), (3, 16, 64))]
    lengths[2] = lengths[2] * (np.arange(16) % 8 < rng.integers(3, 9, (256, 1)))  # three to eight criteria an answer
    tokens = [np.zeros((*length.shape, length.max()), np.int32) for length in lengths]
    _, fill = packing.pack(packing.fit(lengths, 4096), tokens, lengths)
    padded = sum(length.sum() for length in lengths) / sum(x.size for x in tokens)
    assert fill > 0.8 > 2 * padded


def test_what_does_not_fit_is_said() -> None:
    _, lengths = grid(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"a row of 50 tokens is too short for the largest case; it needs \d+"):
        packing.fit(lengths, 50)
    with pytest.raises(ValueError, match="the longest node"):
        packing.pack(Layout((Level(8, P, 72), Level(24, R - 3, 200), Level(96, C, 400))), *grid(np.random.default_rng(0)))


def test_few_numbers_of_rows_are_compiled() -> None:
    assert sorted({packing._few(rows) for rows in range(1, 100)}) == [*range(1, 16), *range(16, 32, 2), *range(32, 64, 4), *range(64, 105, 8)]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_positions_go_on_from_the_parents_end(seed: int) -> None:
    layout, (tokens, lengths) = LAYOUTS["wide"], grid(np.random.default_rng(seed))
    rows, _ = packing.pack(layout, tokens, lengths)
    batch = jax.jit(place, static_argnums=0)(layout, rows)
    ends: list[np.ndarray] = []
    for (begin, _), own in zip(layout.spans(), rows.nodes, strict=True):
        first = np.take_along_axis(ends[-1], own.parent, 1) if ends else np.zeros_like(own.start)
        for row, slot in zip(*np.nonzero(own.length), strict=True):
            span = slice(begin + own.start[row, slot], begin + own.start[row, slot] + own.length[row, slot])
            assert batch.positions[row, span].tolist() == [*range(first[row, slot], first[row, slot] + own.length[row, slot])]
            assert batch.valid[row, span].all()
        ends.append(first + own.length)
    assert np.asarray(batch.valid).sum() == sum(x.sum() for x in lengths)


def weighted(params, batch: RewardBatch, weight):
    scores = jnp.where(weight != 0, score(params, CONFIG, batch), 0.0)
    return jnp.sum(scores * weight), scores


scored = jax.jit(jax.grad(weighted, has_aux=True))


def judged(seed: int) -> tuple[RewardBatch, tuple, np.ndarray]:
    """Cases of which some answers and criteria are not wanted, tokens and lengths of their levels, and random weights of the scores that are."""
    rng = np.random.default_rng(seed)
    batch = reward_batch(seed, b=B, p=P, a=A, r=R, k=K, c=C)
    wanted = rng.random((B, A, K)) < 0.7
    answers = np.where(wanted.any(2), batch.answer_lengths, 0)
    criteria = np.where(wanted, batch.criterion_lengths[:, None], 0).reshape(B, -1)
    every = np.broadcast_to(batch.criteria[:, None], (B, A, K, C)).reshape(B, A * K, C)
    tokens, lengths = [batch.prompt[:, None], batch.answers, every], [batch.prompt_length[:, None], answers, criteria]
    return batch, (tokens, lengths), np.where(wanted, rng.normal(size=wanted.shape), 0).astype(np.float32)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_packed_scores_and_gradients_are_those_of_padded_rows(seed: int) -> None:
    batch, (tokens, lengths), weight = judged(seed)
    rows, _ = packing.pack(LAYOUTS["wide"], tokens, lengths)
    (gradients, scores), (wanted_gradients, wanted) = (scored(reward_params(), one, weight) for one in (batch._replace(rows=rows), batch))
    close(scores, wanted, 1e-5)
    close(gradients, wanted_gradients, 1e-5)


@pytest.mark.parametrize(("fsdp", "tp"), MESHES[:2])
def test_packed_rows_on_a_mesh(fsdp: int, tp: int) -> None:
    batch, (tokens, lengths), weight = judged(1)
    wanted = scored(reward_params(), batch, weight)
    mesh = make_mesh(fsdp, tp)
    with jax.set_mesh(mesh):
        rows, _ = packing.pack(LAYOUTS["narrow"], tokens, lengths, fsdp)
        placed = jax.device_put((batch._replace(rows=rows), weight), shardings(mesh, ("batch",)))
        found = scored(jax.device_put(reward_params(), shardings(mesh, reward.axes(CONFIG))), *placed)
    close(found, wanted, 1e-5)


@pytest.mark.parametrize("name", ["wide", "narrow"])
def test_packed_answers_have_the_log_probs_of_padded_rows(name: str) -> None:
    rng = np.random.default_rng(3)
    tokens, lengths = (parts[:2] for parts in grid(rng))
    batch = AnswerBatch(tokens[0][:, 0], lengths[0][:, 0], tokens[1], lengths[1])
    rows, _ = packing.pack(Layout(LAYOUTS[name].levels[:2]), tokens, lengths)
    weight = rng.normal(size=(2, B, A, R)).astype(np.float32)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def run(params, batch):
        said = answer_log_probs(params, CONFIG, batch, 0.7)
        return sum(jnp.sum(x * w) for x, w in zip(said, weight, strict=True)), said

    (gradients, said), (wanted_gradients, wanted) = run(policy(), batch._replace(rows=rows)), run(policy(), batch)
    close(said, wanted, 1e-5)
    close(gradients, wanted_gradients, 1e-5)


KERNELS = {"splash": partial(splash.nodes_attention, interpret=True), "cudnn": partial(cudnn.nodes_attention, implementation="xla")}


@pytest.mark.parametrize("above", [0, 2])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_a_kernel_attends_from_nodes_as_plain_attention_does(kernel, above: int) -> None:
    rng = np.random.default_rng(above)
    b, n, t, kv, heads, size = 1, 2, 20, 2, 1, 16
    spans = [*(30, 7)[:above], t]
    q, *kv_parts = (rng.normal(size=shape).astype(np.float32) for shape in [(b, n, t, kv, heads, size)] + [(b, n, s, kv, size) for s in spans * 2])
    seen = [np.arange(s) < rng.integers(1, s + 1, (b, n, 1)) for s in spans]
    weight = rng.normal(size=q.shape).astype(np.float32) * seen[-1][..., None, None, None]

    def results(attention):
        def value(q, parts):
            mixed = attention(q, parts[: len(spans)], parts[len(spans) :], seen)
            return jnp.sum(mixed * weight), mixed * (weight != 0)

        return jax.jit(jax.grad(value, (0, 1), has_aux=True))(q, kv_parts)

    close(results(kernel), results(levels.nodes_attention), 2e-6)


def test_the_gradient_of_a_rearrangement_goes_back_the_way_it_came() -> None:
    x = np.arange(1.0, 7).reshape(1, 3, 2).astype(np.float32)
    source, target = np.array([[2, -1, 0, -1]]), np.array([[2, -1, 0]])
    moved, back = jax.vjp(lambda x: rearranged(x, source, target), x)
    assert moved.tolist() == [[[5, 6], [0, 0], [1, 2], [0, 0]]]
    assert back(np.arange(1.0, 9).reshape(1, 4, 2).astype(np.float32))[0].tolist() == [[[5, 6], [0, 0], [1, 2]]]
