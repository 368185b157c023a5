import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import ragged

from promedical_jax.model.layout import Layout, Level, assemble, last_valid, nodes_of, tree

B, P, G, R, K, C = 2, 5, 3, 4, 2, 3
TREE = tree(P, (G, R), (K, C))
packed = jax.jit(assemble, static_argnums=0)


def levels(seed: int):
    """Tokens and lengths of B ragged trees; answers and criteria may be padding, of length 0."""
    rng = np.random.default_rng(seed)
    parts = [ragged(rng, B, 1, P), ragged(rng, B, G, R, low=0), ragged(rng, B, G, K, C, low=0)]
    return [tokens for tokens, _ in parts], [lengths for _, lengths in parts]


def test_a_tree_is_its_levels_one_after_another() -> None:
    assert Layout((Level(1, 5), Level(3, 4), Level(6, 3))) == TREE
    assert TREE.tokens == 5 + 12 + 18
    assert TREE.spans() == [(0, 5), (5, 17), (17, 35)]
    assert tree(7) == Layout((Level(1, 7),))
    assert tree(7, (2, 3)).spans() == [(0, 7), (7, 13)]
    assert hash(TREE) == hash(tree(P, (G, R), (K, C)))  # jit caches by it


@given(st.integers(0, 2**32 - 1))
def test_positions_continue_from_the_parents_true_end(seed: int) -> None:
    tokens, lengths = levels(seed)
    batch = packed(TREE, tokens, lengths)
    assert all(x.shape == (B, TREE.tokens) for x in batch[:3])
    for b in range(B):
        want_tokens, want_positions, want_valid = [], [], []

        def node(ids, true: int, start: int) -> None:
            want_tokens.extend(ids)  # noqa: B023
            want_positions.extend(range(start, start + len(ids)))  # noqa: B023
            want_valid.extend(i < true for i in range(len(ids)))  # noqa: B023

        prompt_end = lengths[0][b, 0]
        node(tokens[0][b, 0], prompt_end, 0)
        for g in range(G):
            node(tokens[1][b, g], lengths[1][b, g], prompt_end)
        for g in range(G):
            for k in range(K):
                node(tokens[2][b, g, k], lengths[2][b, g, k], prompt_end + lengths[1][b, g])
        assert batch.tokens[b].tolist() == want_tokens
        assert batch.positions[b].tolist() == want_positions
        assert batch.valid[b].tolist() == want_valid


@given(st.integers(0, 2**32 - 1))
def test_the_spans_give_back_each_node(seed: int) -> None:
    tokens, lengths = levels(seed)
    row = packed(TREE, tokens, lengths).tokens
    for level, ids in enumerate(tokens):
        nodes = np.asarray(nodes_of(row, TREE, level))
        assert (nodes == ids.reshape(nodes.shape)).all()
    assert sum(end - start for start, end in TREE.spans()) == TREE.tokens


def test_criteria_may_come_folded_or_by_answer() -> None:
    tokens, lengths = levels(0)
    folded = [*tokens[:2], tokens[2].reshape(B, G * K, C)], [*lengths[:2], lengths[2].reshape(B, G * K)]
    for one, other in zip(packed(TREE, tokens, lengths)[:3], packed(TREE, *folded)[:3], strict=True):
        assert (one == other).all()


def test_levels_and_tokens_must_agree() -> None:
    tokens, lengths = levels(0)
    with pytest.raises(ValueError, match="zip"):
        assemble(TREE, tokens[:2], lengths[:2])


def test_last_valid_takes_the_last_real_token() -> None:
    x = np.random.default_rng(0).normal(size=(B, G, R, 2)).astype(np.float32)
    lengths = np.array([[1, 2, 3], [4, 0, 1]])
    picked = np.asarray(last_valid(x, lengths))
    for b in range(B):
        for g in range(G):
            assert (picked[b, g] == x[b, g, max(lengths[b, g] - 1, 0)]).all()
