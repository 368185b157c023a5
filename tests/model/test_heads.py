import jax
import jax.numpy as jnp
import numpy as np

from promedical_jax.model.heads import HEADS_AXES, head_scores, init_heads


def test_each_state_is_scored_by_the_head_named_for_it() -> None:
    rng = np.random.default_rng(0)
    heads = {"weight": rng.normal(size=(3, 8)).astype(np.float32), "bias": np.array([1.0, -2.0, 3.0], np.float32)}
    states, which = rng.normal(size=(2, 5, 8)).astype(np.float32), rng.integers(0, 3, (2, 5))
    scores = np.asarray(head_scores(heads, states, which))
    for b in range(2):
        for n in range(5):
            assert np.isclose(scores[b, n], states[b, n] @ heads["weight"][which[b, n]] + heads["bias"][which[b, n]], rtol=1e-5)


def test_heads_learn_from_their_own_tier_alone() -> None:
    heads = init_heads(3, 8, jax.random.key(0))
    gradient = jax.grad(lambda h: head_scores(h, jnp.ones((1, 4, 8)), jnp.full((1, 4), 2)).sum())(heads)
    assert not np.any(gradient["weight"][:2]) and np.allclose(gradient["weight"][2], 4) and gradient["bias"].tolist() == [0, 0, 4]


def test_a_normed_state_scores_of_order_one_at_the_start() -> None:
    heads = init_heads(3, 4096, jax.random.key(0))
    assert heads.keys() == HEADS_AXES.keys() and not heads["bias"].any()
    assert 0.95 < float(jnp.std(heads["weight"])) * 4096**0.5 < 1.05
