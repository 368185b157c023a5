"""Log-probabilities by chunks of the vocabulary: the values and gradients of all logits at once in float64, on any mesh, in memory that V x T leaves alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from tiny import MESHES, close

from promedical_jax.model import logprob
from promedical_jax.model.sharding import make_mesh, spec

B, T, D = 2, 5, 8
LEAST = 128  # rows of a chunk, in tests that want many chunks of a small vocabulary


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 128 rows."""
    monkeypatch.setattr(logprob, "LEAST_ROWS", LEAST)
    monkeypatch.setattr(logprob, "LOGITS_IN_MEMORY", 1)


def inputs(v: int, b: int = B, t: int = T, d: int = D, seed: int = 0, largest: float = 6.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """hidden, targets, unembed with logits up to `largest` either way, and cotangents [2, B, T] of log-probability and entropy."""
    rng = np.random.default_rng(seed)
    hidden, unembed = (rng.normal(size=shape).astype(np.float32) for shape in ((b, t, d), (v, d)))
    hidden *= np.float32(largest) / np.abs(np.einsum("btd,vd->btv", hidden, unembed)).max()
    return hidden, rng.integers(0, v, (b, t)), unembed, rng.normal(size=(2, b, t)).astype(np.float32)


def naive(hidden, targets, unembed, temperature=1.0):
    """All logits at once."""
    every = jax.nn.log_softmax(jnp.einsum("btd,vd->btv", hidden, unembed) / temperature)
    return jnp.take_along_axis(every, targets[..., None], -1)[..., 0], -(jnp.exp(every) * every).sum(-1)


def pulled(function, hidden, targets, unembed, cotangents, temperature=1.0):
    """Values, and the gradients of hidden and unembed under the cotangents."""
    values, back = jax.vjp(lambda h, u: function(h, targets, u, temperature), hidden, unembed)
    return values, back(tuple(cotangents))


@jax.jit
def exact(*arguments):
    return pulled(naive, *arguments)


def wanted(hidden, targets, unembed, cotangents, temperature=1.0):
    """The naive values and gradients in float64."""
    with jax.enable_x64(True):
        hidden, unembed, cotangents = (np.asarray(x, np.float64) for x in (hidden, unembed, cotangents))
        return jax.device_get(exact(hidden, targets, unembed, cotangents, np.float64(temperature)))


def compiled(*arguments, temperature=1.0):
    return jax.jit(lambda *arguments: pulled(logprob.log_probs, *arguments, temperature))(*arguments)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("v", [40, 128, 300, 384])  # less than a chunk; one; three, the last of which reaches back; three whole ones
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_values_and_gradients_are_those_of_all_logits_at_once(v: int, temperature: float) -> None:
    arguments = inputs(v)
    (chosen, entropy), gradients = compiled(*arguments, temperature=temperature)
    assert chosen.shape == entropy.shape == (B, T) and chosen.dtype == entropy.dtype == jnp.float32
    assert (chosen <= 0).all() and (entropy >= 0).all() and (entropy <= np.log(v) * (1 + 1e-6)).all()
    close(((chosen, entropy), gradients), wanted(*arguments, temperature=temperature), 1e-5)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("largest", [1e-3, 80.0])
def test_flat_and_peaked_distributions(largest: float) -> None:
    arguments = inputs(300, largest=largest)
    close(compiled(*arguments), wanted(*arguments), 1e-5)


@pytest.mark.usefixtures("small")
def test_the_maximum_may_come_first_last_or_in_between() -> None:
    """In one chunk of 128 rows stand the logits around 80, in the others those around -80: sums kept so far fade away whole, or new ones count nothing."""
    targets = np.array([[0, 150, 299]])
    for peak in (5, 200, 290):
        logits = np.full((300, 1), -80, np.float32)
        logits[peak], logits[peak + 1] = 80, 79
        arguments = np.ones((1, 3, 1), np.float32), targets, logits, np.ones((2, 1, 3), np.float32)
        close(compiled(*arguments), wanted(*arguments), 1e-5)


@pytest.mark.usefixtures("small")
def test_logits_of_many_thousands_lose_no_digits() -> None:
    """All of 30,000 or a whole number less, exact in float32, where a float32 of their size is 0.002 apart from the next."""
    logits = 30_000 - np.random.default_rng(0).integers(0, 5, (300, 1)).astype(np.float32)
    arguments = np.ones((1, 3, 1), np.float32), np.array([[0, 150, 299]]), logits, np.ones((2, 1, 3), np.float32)
    (values, (_, to_unembed)), (exact, (_, exactly)) = compiled(*arguments), wanted(*arguments)
    close((values, to_unembed), (exact, exactly), 1e-6)


@settings(max_examples=6)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.integers(1, 500), st.integers(1, 3000), st.integers(0, 99))
def test_any_shape_in_any_chunks(b: int, t: int, d: int, v: int, memory: int, seed: int) -> None:
    """Within 1e-5 of a nat, and of the terms that a gradient is the sum of: what a few tokens and words give may cancel to next to nothing."""
    arguments = hidden, _, unembed, cotangents = inputs(v, b, t, d, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprob, "LEAST_ROWS", LEAST)
        patch.setattr(logprob, "LOGITS_IN_MEMORY", memory)
        pairs = zip(jax.tree.leaves(compiled(*arguments)), jax.tree.leaves(wanted(*arguments)), strict=True)
    terms = 1, 1, np.abs(unembed).max() * np.abs(cotangents).max(), np.abs(hidden).max() * np.abs(cotangents).max()
    for (ours, exact), term in zip(pairs, terms, strict=True):
        assert np.abs(ours - exact).max() <= 1e-5 * max(np.abs(exact).max(), term)


@pytest.mark.parametrize(("v", "tokens", "rows", "count"), [
    (151_936, 4_096, 4_096, 38), (151_936, 16_384, 1_024, 149), (151_936, 10**6, 1_024, 149), (151_936, 1, 38_016, 4),  # never the whole matrix at once
    (10_000, 2_048, 2_560, 4), (3_000, 6_000, 1_536, 2),  # not 8,192 and a second one that repeats most of the first
    (50, 4_096, 50, 1), (50, 0, 50, 1),
])  # fmt: skip
def test_chunks_are_few_and_even(v: int, tokens: int, rows: int, count: int) -> None:
    assert logprob._chunks(jax.ShapeDtypeStruct((v, 1), jnp.float32), tokens) == (rows, count)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("fsdp", "tp", "slices"), [(*mesh, 1) for mesh in MESHES] + [(2, 2, 2)])
def test_a_mesh_changes_nothing(fsdp: int, tp: int, slices: int) -> None:
    arguments = hidden, targets, unembed, cotangents = inputs(1200, b=8, t=3, d=16)  # with tp = 4 each device has 300 rows: three chunks
    alone = compiled(*arguments, temperature=0.7)
    mesh = make_mesh(fsdp, tp, slices)
    place = lambda x, *axes: jax.device_put(x, NamedSharding(mesh, spec(*axes)))  # noqa: E731
    with jax.set_mesh(mesh):
        placed = hidden, unembed = place(hidden, "batch", None, None), place(unembed, "vocabulary", "width")
        (values, gradients) = compiled(hidden, place(targets, "batch", None), unembed, place(cotangents, None, "batch", None), temperature=0.7)
    close((values, gradients), alone, 1e-5)
    for gradient, x in zip(gradients, placed, strict=True):
        assert gradient.sharding.is_equivalent_to(x.sharding, x.ndim)
    assert all(x.sharding.is_equivalent_to(NamedSharding(mesh, spec("batch", None)), 2) for x in values)


@pytest.mark.usefixtures("small")
def test_a_mesh_of_one_device_and_arrays_that_nobody_placed() -> None:
    hidden, targets, unembed, cotangents = inputs(300)
    alone = compiled(hidden, targets, unembed, cotangents)
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        placed = jax.device_put(cotangents, NamedSharding(mesh, spec(None, "batch")))  # JAX wants a cotangent placed as its value is
        close(compiled(hidden, targets, unembed, placed), alone, 1e-6)
    hidden, targets, unembed, _ = inputs(300, b=8)
    with jax.set_mesh(make_mesh(4, 2)):
        ours = jax.device_get(logprob.log_probs(hidden, targets, unembed))
    close(ours, naive(hidden, targets, unembed), 1e-5)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("stored", [jnp.float32, jnp.bfloat16])
def test_bfloat16_rounds_the_inputs_and_the_gradient_of_logits_only(stored: jnp.dtype, sharded: bool) -> None:
    """Products of bfloat16 are exact in float32: the values of the rounded inputs stay within 1e-5. The gradients of the logits are rounded to bfloat16 (half
    an ulp: 2^-9 of each), and then so is the result: together 2^-8 of sums of absolute terms, of which cancellation leaves half or more: 2^-7."""
    hidden, targets, unembed, cotangents = inputs(1200, b=8)
    hidden, unembed = jnp.asarray(hidden, jnp.bfloat16), jnp.asarray(unembed, jnp.bfloat16).astype(stored)
    values, gradients = wanted(hidden, targets, unembed, cotangents)
    if sharded:
        mesh = make_mesh(2, 2, 2)
        hidden, unembed = (jax.device_put(x, NamedSharding(mesh, spec(*axes))) for x, axes in ((hidden, ("batch",)), (unembed, ("vocabulary", "width"))))
        with jax.set_mesh(mesh):
            ours, (to_hidden, to_unembed) = compiled(hidden, targets, unembed, jax.device_put(cotangents, NamedSharding(mesh, spec(None, "batch"))))
    else:
        ours, (to_hidden, to_unembed) = compiled(hidden, targets, unembed, cotangents)
    assert to_hidden.dtype == jnp.bfloat16 and to_unembed.dtype == stored
    close(ours, values, 1e-5)
    close((to_hidden, to_unembed), gradients, 2**-7)


def test_a_traced_temperature_is_a_constant() -> None:
    hidden, targets, unembed, _ = inputs(40)
    both = lambda temperature: sum(x.sum() for x in logprob.log_probs(hidden, targets, unembed, temperature))  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(both))(0.3)
    close(value, sum(x.sum() for x in naive(hidden, targets, unembed, 0.3)), 1e-5)
    assert gradient == 0


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("sharded", [False, True])
def test_a_target_outside_the_vocabulary_is_no_number_and_masked_it_counts_nothing(sharded: bool) -> None:
    hidden, targets, unembed, _ = inputs(300, b=8)
    outside = targets.copy()
    outside[:, 1], outside[0, 2], outside[3, 3] = -100, 300, -1
    mask = (outside >= 0) & (outside < 300)

    def entropy_loss(targets, hidden, unembed):
        return logprob.cross_entropy(hidden, targets, unembed, mask)

    def both():
        return logprob.log_probs(hidden, outside, unembed), *(jax.jit(jax.grad(entropy_loss, (1, 2)))(t, hidden, unembed) for t in (outside, targets))

    if sharded:
        mesh = make_mesh(4, 2)
        with jax.set_mesh(mesh):
            hidden, unembed = (jax.device_put(x, NamedSharding(mesh, spec(*axes))) for x, axes in ((hidden, ("batch",)), (unembed, ("vocabulary", "width"))))
            (chosen, entropy), masked, known = both()
    else:
        (chosen, entropy), masked, known = both()
    assert (np.isnan(chosen) == ~mask).all() and np.isfinite(entropy).all()
    close(masked, known, 0.0)


def test_a_state_that_is_no_number_is_not_hidden() -> None:
    hidden, targets, unembed, _ = inputs(40)
    hidden[0, 1, 2] = np.nan
    for values in logprob.log_probs(hidden, targets, unembed):
        assert (np.isnan(values) == (np.arange(B * T).reshape(B, T) == 1)).all()


def test_cross_entropy_is_optax_over_the_masked_tokens() -> None:
    hidden, targets, unembed, _ = inputs(300)
    mask = np.random.default_rng(1).random((B, T)) < 0.6
    assert 0 < mask.sum() < mask.size
    ours = jax.value_and_grad(logprob.cross_entropy, (0, 2))(hidden, targets, unembed, mask)

    def theirs(hidden, unembed):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(jnp.einsum("btd,vd->btv", hidden, unembed), targets), where=mask)

    close(ours, jax.value_and_grad(theirs, (0, 1))(hidden, unembed), 1e-5)
    assert logprob.cross_entropy(hidden, targets, unembed, np.zeros((B, T), bool)) == 0


@pytest.mark.parametrize("mesh", [None, *MESHES])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_sampler_sees_the_distribution_of_the_trainer(mesh: tuple[int, int] | None, dtype: str) -> None:
    hidden, targets, unembed, _ = inputs(96, b=8, d=16)
    hidden = jnp.asarray(hidden, dtype)
    wanted, _ = logprob.log_probs(hidden, targets, unembed, 0.7)
    sampled = jax.jit(lambda hidden, unembed: logprob.chosen_log_prob(logprob.to_logits(hidden, unembed, 0.7), targets))
    if mesh is None:
        return close(sampled(hidden, unembed), wanted, 1e-5)
    mesh = make_mesh(*mesh)
    with jax.set_mesh(mesh):
        hidden, unembed = (jax.device_put(x, NamedSharding(mesh, spec(*axes))) for x, axes in ((hidden, ("batch",)), (unembed, ("vocabulary", "width"))))
        logits = jax.jit(logprob.to_logits)(hidden, unembed, 0.7)
        assert logits.sharding.is_equivalent_to(NamedSharding(mesh, spec("batch", None, "vocabulary")), 3)
        close(logprob.chosen_log_prob(jax.device_get(logits), targets), wanted, 1e-5)


def test_huge_logits_of_the_sampler_stay_numbers() -> None:
    logits = jnp.array([[0.0, 1e30, -1e30], [5e4, 5e4, 5e4]])
    close(logprob.chosen_log_prob(logits, jnp.array([1, 2])), np.array([0.0, -np.log(3)]), 1e-6)


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                    yield from equations(getattr(inner, "jaxpr", inner))


@pytest.mark.usefixtures("small")
def test_no_array_holds_the_vocabulary_of_all_tokens() -> None:
    arguments = inputs(2048, t=300)
    every = list(equations(jax.make_jaxpr(partial(pulled, logprob.log_probs))(*arguments).jaxpr))
    assert [eqn.params["length"] for eqn in every if eqn.primitive.name == "scan"] == [16, 16]  # of the vocabulary's chunks, forward and backward
    largest = max(x.aval.size for eqn in every for x in eqn.outvars)
    assert largest == B * 300 * LEAST > 2048 * D  # the logits of a chunk, which are more than the unembedding's gradient


def cost(t: int, v: int, which: tuple[int, ...] = (0, 1), d: int = D, memory: int = 2**17):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprob, "LEAST_ROWS", LEAST)
        patch.setattr(logprob, "LOGITS_IN_MEMORY", memory)
        like = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
        both = lambda h, u, targets: sum(x.sum() for x in logprob.log_probs(h, targets, u))  # noqa: E731
        return jax.jit(jax.grad(both, which)).lower(like(1, t, d), like(v, d), like(1, t, dtype=jnp.int32)).compile()


def test_memory_grows_neither_with_the_vocabulary_nor_with_the_tokens() -> None:
    """Temporaries of the compiled program: three chunks' logits, and beside them what is of the size of inputs and outputs. All logits were 64 chunks."""
    temporary = {(t, v): cost(t, v).memory_analysis().temp_size_in_bytes for t in (512, 1024) for v in (4096, 8192)}
    for (t, v), size in temporary.items():
        assert size <= 4 * (3 * 2**17 + 2 * (t + v) * D), f"{t} tokens, vocabulary {v}: {size} bytes; all logits take {4 * t * v}"
    assert max(temporary.values()) < 1.25 * min(temporary.values())


def test_a_frozen_unembedding_costs_no_work() -> None:
    """Of the four products of n x D x v, one forward and three backward, LoRA needs three; the compiler must have dropped the rest."""
    both, hidden = (cost(256, 512, which, d=64, memory=1).cost_analysis()["flops"] for which in ((0, 1), (0,)))
    product = 2 * 256 * 64 * LEAST  # of a loop body, which is counted once
    assert both > 4 * product and both - hidden == pytest.approx(product, rel=0.1)
