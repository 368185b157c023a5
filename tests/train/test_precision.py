"""What a recipe's remat, dtype and weights change: memory, the type of matrix products, and the type that parameters are kept in; nothing else."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import CONFIG, close, one_rater, policy, ragged, reward_batch, reward_params

from promedical_jax.config import Keep, Optimizer
from promedical_jax.model import transformer
from promedical_jax.model.sharding import make_mesh, shardings
from promedical_jax.model.transformer import Compute
from promedical_jax.train import rm, sft
from promedical_jax.train.checkpoint import Checkpoints
from promedical_jax.train.optimizer import TrainState, make_optimizer, narrowed, start, update
from promedical_jax.train.policy import AnswerBatch, answer_log_probs

REMATS = ("none", "full", "attention", "offload")
DEEP = replace(CONFIG, depth=6)
HALF = Compute("bfloat16")
UNIT = 2.0**-9  # the largest relative error of one rounding to bfloat16


def answers(b: int = 8, tokens: int = 12) -> AnswerBatch:
    rng = np.random.default_rng(3)
    return AnswerBatch(*ragged(rng, b, tokens), *ragged(rng, b, 2, tokens))


def loss(params, batch, config, compute):
    return sft.loss(params, config, batch, compute)[0]


def both(compute: Compute, config=CONFIG):
    return jax.jit(partial(jax.value_and_grad(loss), config=config, compute=compute))


# Remat


@cache
def compiled(remat: str) -> tuple[Any, Any]:
    """Loss and gradients of a deep model, and the bytes of temporaries that XLA planned for them."""
    program = both(Compute("float32", remat), DEEP).lower(policy(DEEP), answers(4, 40)).compile()
    return program(policy(DEEP), answers(4, 40)), program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("remat", REMATS[1:])
def test_remat_changes_neither_loss_nor_gradients(remat: str) -> None:
    (value, gradients), _ = compiled(remat)
    (wanted, of_all), _ = compiled("none")
    close(value, wanted, 1e-6)
    close(gradients, of_all, 1e-5)


def test_what_is_kept_takes_memory() -> None:
    memory = {remat: compiled(remat)[1] for remat in REMATS}
    assert memory["full"] < memory["attention"] < 0.75 * memory["none"], memory
    assert memory["offload"] <= memory["attention"], memory  # the same arrays; the CPU has one memory, so they do not leave it


@cache
def passes(remat: str) -> list[Any]:
    """The scans over layers, forward and backward."""
    jaxpr = jax.make_jaxpr(both(Compute("float32", remat), DEEP))(policy(DEEP), answers(4, 40))
    scans = [eqn for eqn, _ in equations(jaxpr.jaxpr) if eqn.primitive.name == "scan" and eqn.params["length"] == DEEP.depth]
    assert len(scans) == 2 and scans[1].params["reverse"]
    return scans


@pytest.mark.parametrize("remat", REMATS)
def test_what_each_policy_keeps(remat: str) -> None:
    """The stacked outputs [L, ...] of the forward scan are what the backward one reads: beside x, what the policy names."""
    forward, c = passes(remat)[0], DEEP
    outputs = [x.aval for x in forward.outvars[forward.params["num_carry"] :]]
    tokens = 4 * (40 + 2 * 40)
    x, rows = tokens * c.width, tokens * c.kv_heads * c.query_heads
    attention = rows * (c.head + 2)  # what is mixed, and of each softmax the largest score and the sum
    wanted = {"full": x, "attention": x + attention, "offload": x + attention}
    kept = sum(aval.size // c.depth for aval in outputs)
    assert kept == wanted[remat] if remat in wanted else len(outputs) > 10
    on_host = ["host" in str(aval) for aval in outputs]
    assert all(on_host) if remat == "offload" else not any(on_host)


def test_attention_that_is_kept_is_not_computed_again() -> None:
    products = {remat: sum(eqn.primitive.name == "dot_general" for eqn, _ in equations(passes(remat)[1].params["jaxpr"].jaxpr)) for remat in REMATS}
    in_a_forward = sum(eqn.primitive.name == "dot_general" for eqn, _ in equations(passes("full")[0].params["jaxpr"].jaxpr))
    matrices = 6  # the feed-forward's way back has nobody who reads it
    assert products["attention"] == products["offload"] == products["none"] + matrices
    assert products["full"] == products["none"] + in_a_forward - 1


def equations(jaxpr: Any, outer: str = "") -> Iterator[tuple[Any, str]]:
    """All equations of a jaxpr and of those within it, each with the names of the primitives around it."""
    for eqn in jaxpr.eqns:
        yield eqn, outer
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner, f"{outer}/{eqn.primitive.name}")


# bfloat16 products


def types(function: Any, *given: Any) -> dict[str, list[str]]:
    """Of each primitive: the types of what its equations read, as long as that is a floating number. Products without rows or columns are sums."""
    found: dict[str, list[str]] = {}
    for eqn, _ in equations(jax.make_jaxpr(function)(*given).jaxpr):
        if eqn.primitive.name == "dot_general" and all(x.aval.ndim == sum(map(len, axes)) for x, axes in
                                                       zip(eqn.invars, zip(*eqn.params["dimension_numbers"], strict=True), strict=True)):  # fmt: skip
            continue
        read = [str(x.aval.dtype) for x in eqn.invars if jnp.issubdtype(getattr(x.aval, "dtype", int), jnp.floating)]
        found.setdefault(eqn.primitive.name, []).extend(read)
    return found


WIDE = {"rsqrt": 5, "sin": 1, "cos": 1, "exp": 2, "log": 1, "reduce_max": 2, "reduce_sum": 7}  # and how many a forward has at least


@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
@pytest.mark.parametrize("stage", ["policy", "reward model"])
def test_norms_rope_softmax_and_losses_are_float32(stage: str, gradient: bool) -> None:
    params, batch = (policy(), answers()) if stage == "policy" else (reward_params(), reward_batch(b=8))
    labels = one_rater(np.ones((8, 3, 2), np.float32))

    def function(params, compute):
        return loss(params, batch, CONFIG, compute) if stage == "policy" else rm.loss(params, CONFIG, batch, labels, compute=compute)[0]

    of = lambda compute: types(jax.grad(partial(function, compute=compute)) if gradient else partial(function, compute=compute), params)  # noqa: E731
    half, wide = of(HALF), of(Compute())
    for name, least in WIDE.items():
        if name == "log" and stage != "policy":
            continue
        reads = half[name]
        if name == "reduce_sum" and gradient:
            continue  # of cotangents of broadcasts, in the type of what was broadcast
        assert len(reads) >= (least if stage == "policy" else 1) and set(reads) == {"float32"}, f"{name}: {reads}"
    products = half["dot_general"]
    heads = 0 if stage == "policy" else 2  # a reward model's heads are float32, forward and twice backward; each product reads two
    assert products.count("float32") == (3 * heads if gradient else heads) and products.count("bfloat16") >= 2 * 10
    assert set(wide["dot_general"]) == {"float32"}  # and without being asked, nothing is half as precise
    assert not {"bfloat16"} & {dtype for reads in wide.values() for dtype in reads}


def test_bfloat16_products_err_as_their_roundings_do() -> None:
    """Each layer rounds about 20 times in a row (7 weights, 13 activations), each time by at most UNIT of the value, independently: errors add as squares.

    So the states are off by sqrt(20 L + 5) UNIT of their size, log-probs by that share of their spread, and gradients, products of what the forward
    and as long a backward pass rounded, by twice it. Twice that is the bound; below a single rounding, it would not be bfloat16.
    """
    batch = answers()
    both_types = [jax.jit(lambda p, compute=compute: answer_log_probs(p, CONFIG, batch, compute=compute)[0])(policy()) for compute in (Compute(), HALF)]
    exact, rounded = (np.asarray(x)[np.asarray(batch.mask)] for x in both_types)
    share = (20 * CONFIG.depth + 5) ** 0.5 * UNIT
    error, spread = rounded - exact, exact.std()
    assert UNIT * spread < np.sqrt(np.mean(error**2)) < 2 * share * spread
    assert np.abs(error).max() < 8 * share * spread and rounded.dtype == np.float32
    (value, gradients), (wanted, exact_gradients) = both(HALF)(policy(), batch), both(Compute())(policy(), batch)
    assert abs(value - wanted) < 2 * share * spread / len(exact) ** 0.5 * 2
    for (path, g), w in zip(jax.tree.leaves_with_path(gradients), jax.tree.leaves(exact_gradients), strict=True):
        off = np.linalg.norm(g - w) / np.linalg.norm(w)
        assert UNIT / 8 < off < 4 * share, f"{jax.tree_util.keystr(path)}: {off}"
        assert g.dtype == jnp.float32


@pytest.mark.parametrize("stage", ["policy", "reward model"])
def test_gradients_in_the_products_type_are_rounded_once_at_most(stage: str) -> None:
    """As a step asks for them: the layers' matrices in bfloat16, embedding, norms and heads as they are kept."""
    params, batch = (policy(), answers()) if stage == "policy" else (reward_params(), reward_batch(b=8))
    labels = one_rater(np.ones((8, 3, 2), np.float32))

    def function(params):
        return loss(params, batch, CONFIG, HALF) if stage == "policy" else rm.loss(params, CONFIG, batch, labels, compute=HALF)[0]

    wanted, found = jax.jit(jax.grad(function))(params), jax.jit(lambda params: jax.grad(function)(narrowed(params, "bfloat16")))(params)
    types = {}
    for (path, g), w in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        types[path[-1].key] = str(g.dtype)
        assert np.linalg.norm(g.astype(jnp.float32) - w) <= UNIT * np.linalg.norm(w), path
    assert types == {name: "float32" if "norm" in name or name in ("embed", "unembed", "weight", "bias", "tie_bias") else "bfloat16" for name in types}
    assert len(set(types.values())) == 2
    jax.tree.map(lambda x, same: np.testing.assert_array_equal(x, same, strict=True), narrowed(params, "float32"), params)


# bfloat16 parameters with float32 masters

RATE, STEPS = 1e-6, 10


def narrow(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.bfloat16), tree)


def moved(after: Any, before: Any) -> Any:
    return jax.tree.map(lambda x, y: np.asarray(x, np.float64) - np.asarray(y, np.float64), jax.device_get(after), before)


def size(tree: Any) -> float:
    return sum(float(np.sum(x**2)) for x in jax.tree.leaves(tree)) ** 0.5


@pytest.fixture(scope="module")
def before() -> Any:
    """Parameters that bfloat16 holds exactly: all that runs differ in is then what training does."""
    return jax.tree.map(lambda x: np.asarray(x.astype(jnp.float32)), narrow(policy()))


class Trained:
    """STEPS of the supervised start's own update on a mesh, by the type of the weights."""

    def __init__(self, params: Any, weights: str, folder: Path | None = None):
        self.mesh, self.optimizer = make_mesh(4, 2), make_optimizer(Optimizer(learning_rate=RATE, final=1.0), STEPS)
        with jax.set_mesh(self.mesh):
            self.batch = jax.device_put(answers(), shardings(self.mesh, ("batch",)))
            self.state, self.where = start(params, transformer.axes(CONFIG), self.optimizer, self.mesh, weights)
            self.step = sft.make_step(CONFIG, Compute(), self.optimizer, self.where)
        self.weights = weights

    def advance(self, steps: int) -> TrainState:
        with jax.set_mesh(self.mesh):
            for _ in range(steps):
                self.state, _ = self.step(self.state, {}, self.batch)
                if self.weights == "bfloat16":
                    jax.tree.map(np.testing.assert_array_equal, jax.device_get(self.state.params), jax.device_get(narrow(self.state.masters)))
        return self.state


@pytest.mark.slow
def test_masters_move_where_bfloat16_alone_would_stand_still(before: Any) -> None:
    wide, kept = Trained(before, "float32"), Trained(before, "bfloat16")
    wanted, found = moved(wide.advance(STEPS).params, before), moved(kept.advance(STEPS).masters, before)
    assert wide.state.masters == () and size(wanted) > 0.5 * STEPS * RATE * sum(x.size for x in jax.tree.leaves(before)) ** 0.5
    apart = jax.tree.map(np.subtract, found, wanted)
    # A gradient is rounded to bfloat16 once, 2^-8, and Adam's move keeps about that of it; most of it where a gradient is near zero.
    assert size(apart) < 2e-2 * size(wanted) and size(apart["embed"]) < 4e-2 * size(wanted["embed"])

    # The same update of bfloat16 parameters alone: a move of RATE is lost beside whatever is larger than 2 RATE / UNIT.
    alone = narrow(before)
    state = TrainState(alone, (), kept.optimizer.init(alone), jnp.zeros((), jnp.int32))
    _, gradients = both(Compute())(before, answers())
    one_step = jax.jit(lambda state: update(state, gradients, kept.optimizer))
    for _ in range(STEPS):
        state = one_step(state)
    for stuck, x, master in zip(*map(jax.tree.leaves, (moved(state.params, before), before, found)), strict=True):
        large = np.abs(x) > 4 * RATE / UNIT
        assert large.mean() > 0.95 and not stuck[large].any()
        assert (master[large] != 0).mean() > 0.65  # of the embedding, some tokens do not occur


def test_types_and_places_of_the_state(before: Any) -> None:
    trained = Trained(before, "bfloat16")
    state = trained.advance(1)
    (adam,) = [x for x in jax.tree.leaves(state.moments, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")]
    wanted = jax.tree.leaves(shardings(trained.mesh, transformer.axes(CONFIG)))
    for tree, dtype in ((state.params, jnp.bfloat16), (state.masters, jnp.float32), (adam.mu, jnp.float32), (adam.nu, jnp.float32)):
        for x, where in zip(jax.tree.leaves(tree), wanted, strict=True):
            assert x.dtype == dtype and x.sharding.is_equivalent_to(where, x.ndim)
    counts = [x for x in jax.tree.leaves(state.moments) if x.ndim == 0]
    assert counts and all(x.sharding.is_fully_replicated for x in [*counts, state.step])
    assert {x.unsafe_buffer_pointer() for x in shards(state.params)}.isdisjoint(x.unsafe_buffer_pointer() for x in shards(state.masters))


def shards(tree: Any) -> list[jax.Array]:
    return [x.addressable_shards[0].data for x in jax.tree.leaves(tree)]


def test_a_checkpoint_keeps_masters_exactly(before: Any, tmp_path: Path) -> None:
    trained = Trained(policy(), "bfloat16")  # whose masters differ from the first step on from what is rounded of them
    with Checkpoints(tmp_path, Keep()) as checkpoints:
        checkpoints.save(2, trained.advance(2), {})
    saved = jax.device_get(trained.state)
    again = Trained(before, "bfloat16")
    with Checkpoints(tmp_path, Keep()) as checkpoints:
        again.state, _, step = checkpoints.restore(again.state, again.where)
    assert step == 2
    for one, other in zip(jax.tree.leaves(saved), jax.tree.leaves(jax.device_get(again.state)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert any((x != y.astype(np.float32)).mean() > 0.9 for x, y in zip(*map(jax.tree.leaves, (saved.masters, saved.params)), strict=True))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(trained.advance(2)), jax.device_get(again.advance(2)))


def test_narrow_gradients_reach_the_optimizer_in_float32() -> None:
    """Moments of bfloat16 gradients in float32: after a large one, small ones still add up."""
    optimizer = optax.scale_by_adam(b1=0.9, b2=0.999)
    state = TrainState({"x": jnp.ones(1, jnp.bfloat16)}, {"x": jnp.ones(1)}, optimizer.init({"x": jnp.ones(1)}), jnp.zeros((), jnp.int32))
    for gradient in (1.0, *[0.01] * 5):
        state = update(state, {"x": jnp.full(1, gradient, jnp.bfloat16)}, optimizer)
    wanted = 0.0
    for gradient in (1.0, *[float(jnp.bfloat16(0.01))] * 5):
        wanted = 0.999 * wanted + 0.001 * gradient**2
    assert state.moments.nu["x"].dtype == jnp.float32
    np.testing.assert_allclose(state.moments.nu["x"], wanted, rtol=1e-5)
