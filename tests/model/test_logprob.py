from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import close

from promedical_jax.model import logprob

B, T, D, V = 2, 7, 8, 64


def inputs():
    rng = np.random.default_rng(0)
    hidden, unembed = rng.normal(size=(B, T, D)).astype(np.float32), rng.normal(size=(D, V)).astype(np.float32)
    return hidden, rng.integers(0, V, (B, T)), unembed


def naive(hidden, targets, unembed, temperature):
    """All logits at once, in float64 by hand."""
    with jax.enable_x64(True):
        every = jax.nn.log_softmax(jnp.asarray(hidden, jnp.float64) @ jnp.asarray(unembed, jnp.float64) / temperature)
        return jnp.take_along_axis(every, targets[..., None], -1)[..., 0], -(jnp.exp(every) * every).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])  # 3 leaves a last chunk of one token
def test_chunks_equal_the_whole(chunk: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprob, "LOGITS_IN_MEMORY", chunk * B * V)
    hidden, targets, unembed = inputs()
    values = logprob.log_probs(hidden, targets, unembed, temperature)
    assert all(x.shape == (B, T) and x.dtype == jnp.float32 for x in values)
    for value, wanted in zip(values, naive(hidden, targets, unembed, temperature), strict=True):
        close(value, wanted, 1e-6)


def test_memory_for_less_than_a_token_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprob, "LOGITS_IN_MEMORY", 1)
    hidden, targets, unembed = inputs()
    close(logprob.log_probs(hidden, targets, unembed), naive(hidden, targets, unembed, 1.0), 1e-6)


@pytest.mark.parametrize("chunk", [3, 7])
def test_gradients_of_values_and_entropy(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprob, "LOGITS_IN_MEMORY", chunk * B * V)
    hidden, targets, unembed = inputs()
    weights = np.random.default_rng(1).normal(size=(2, B, T)).astype(np.float32)

    def of(function, hidden, unembed):
        chosen, entropy = function(hidden, targets, unembed, 0.7)
        return jnp.sum(weights[0] * chosen) + jnp.sum(weights[1] * entropy)

    ours = jax.jit(jax.grad(partial(of, logprob.log_probs), argnums=(0, 1)))(hidden, unembed)
    with jax.enable_x64(True):
        wanted = jax.grad(partial(of, naive), argnums=(0, 1))(jnp.asarray(hidden, jnp.float64), jnp.asarray(unembed, jnp.float64))
    close(ours, wanted, 2e-6)


def test_the_logits_of_a_row_are_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprob, "LOGITS_IN_MEMORY", 3 * B * V)
    hidden, targets, unembed = inputs()
    backward = jax.make_jaxpr(jax.grad(lambda h: logprob.log_probs(h, targets, unembed)[0].sum()))(hidden)
    sizes = {int(np.prod(v.aval.shape)) for eqn in equations(backward.jaxpr) for v in eqn.outvars}
    assert max(sizes) <= 3 * B * V


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                    yield from equations(getattr(inner, "jaxpr", inner))


def test_huge_logits_stay_numbers() -> None:
    logits = jnp.array([[0.0, 1e30, -1e30], [5e4, 5e4, 5e4]])
    chosen, entropy = logprob.chosen_log_prob(logits, jnp.array([1, 2]))
    assert np.allclose(chosen, [0.0, -np.log(3)], atol=1e-6)
    assert np.allclose(entropy, [0.0, np.log(3)], atol=1e-6)
