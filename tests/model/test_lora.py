"""Adapters: what they start as, and that the forward with them is the forward of the merged weights, in value, in gradient and on every mesh."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CONFIG, MESHES, close, policy, ragged

from promedical_jax.errors import InputError
from promedical_jax.model import lora, sharding, transformer
from promedical_jax.model.layout import assemble, tree
from promedical_jax.model.lora import TARGETS

SCALED, RANK = replace(CONFIG, adapter_scale=0.7), 3


def adapters_of(targets=TARGETS, config=CONFIG, seed: int = 0) -> lora.Adapters:
    """Adapters as after some training: no half is zero."""
    rng = np.random.default_rng(seed)
    return {name: (0.3 * rng.normal(size=x.shape)).astype(np.float32) for name, x in lora.shapes(config, RANK, targets).items()}


@partial(jax.jit, static_argnums=1)
def hidden_of(params, config, ids):
    layout = tree(ids.shape[1])
    return transformer.forward(params, config, assemble(layout, [ids[:, None]], [jnp.full((ids.shape[0], 1), ids.shape[1])]), layout)


IDS = ragged(np.random.default_rng(5), 8, 6)[0]
WANTED = np.random.default_rng(6).normal(size=(8, 6, CONFIG.width)).astype(np.float32)


def loss(trained, frozen, config, merged: bool):
    params = lora.join(frozen, trained)
    hidden = hidden_of(lora.merge(params, config) if merged else params, config, IDS)
    return jnp.sum(hidden * WANTED)


gradients = jax.jit(jax.grad(loss), static_argnums=(2, 3))


def test_each_array_has_its_axes_named() -> None:
    config = replace(CONFIG, depth=5)
    known = {"width": config.width, "kv_heads": config.kv_heads, "feed_forward": config.feed_forward, "layers": config.depth}
    shapes, axes = lora.shapes(config, 7, TARGETS), lora.axes(TARGETS)
    assert shapes.keys() == axes.keys() == {f"{name}_{half}" for name in TARGETS for half in "ab"}
    for name, x in shapes.items():
        assert len(axes[name]) == x.ndim and x.dtype == np.float32 and x.shape[-1 if name.endswith("_a") else 1] == 7
        assert all(size == known[axis] for axis, size in zip(axes[name], x.shape, strict=True) if axis), name
    assert lora.axes(["v"]).keys() == lora.shapes(config, 2, ["v"]).keys() == {"v_a", "v_b"}


def test_the_start_is_that_of_peft() -> None:
    config = replace(CONFIG, width=64, depth=3)
    start = lora.init(config, 32, TARGETS, jax.random.key(3))
    fan_in = {"o": config.kv_heads * config.query_heads * config.head, "down": config.feed_forward}
    for name in TARGETS:
        a, bound = np.asarray(start[f"{name}_a"]), fan_in.get(name, 64) ** -0.5
        assert 0.98 * bound < np.abs(a).max() <= bound and abs(a.std() * 3**0.5 / bound - 1) < 0.05, name
        assert not np.asarray(start[f"{name}_b"]).any()
        assert np.array_equal(lora.init(config, 32, [name], jax.random.key(3))[f"{name}_a"], a)  # whatever others there are
    alike = [np.asarray(start[f"{name}_a"]).ravel()[:100] * fan_in.get(name, 64) ** 0.5 for name in TARGETS]
    assert all(not np.allclose(one, other) for i, one in enumerate(alike) for other in alike[:i])  # no two from one key
    assert not np.array_equal(lora.init(config, 32, ["q"], jax.random.key(4))["q_a"], start["q_a"])


def test_fresh_adapters_change_nothing_and_learn() -> None:
    fresh = {"adapters": lora.init(SCALED, RANK, TARGETS, jax.random.key(0))}
    assert np.array_equal(hidden_of(lora.join(policy(), fresh), SCALED, IDS), hidden_of(policy(), CONFIG, IDS))
    first = gradients(fresh, policy(), SCALED, False)
    assert jax.tree.structure(first) == jax.tree.structure(fresh)
    for name, g in first["adapters"].items():
        assert np.asarray(g).any() == name.endswith("_b"), name
    moved = jax.tree.map(lambda x, g: x - 0.01 * g, fresh, first)
    assert all(np.asarray(g).any() for g in jax.tree.leaves(gradients(moved, policy(), SCALED, False)))


@pytest.mark.parametrize("targets", [TARGETS, *[(name,) for name in TARGETS]], ids=lambda targets: "-".join(targets))
def test_adapters_are_what_they_are_merged(targets) -> None:
    params = lora.join(policy(), {"adapters": adapters_of(targets)})
    merged = lora.merge(params, SCALED)
    assert jax.tree.structure(merged) == jax.tree.structure(policy())
    changed = {name for name in policy()["layers"] if not np.array_equal(merged["layers"][name], policy()["layers"][name])}
    assert changed == set(targets) and all(merged[name] is policy()[name] for name in ("embed", "norm", "unembed"))
    with_them = hidden_of(params, SCALED, IDS)
    close(with_them, hidden_of(merged, CONFIG, IDS), 1e-5)
    assert np.abs(with_them - hidden_of(policy(), CONFIG, IDS)).max() > 0.01  # so that the above says something


def test_merge_is_the_product_of_the_flat_matrices() -> None:
    adapters, c = adapters_of(), CONFIG
    merged = lora.merge(lora.join(policy(), {"adapters": adapters}), SCALED)["layers"]
    inputs_of = {"o": c.kv_heads * c.query_heads * c.head, "down": c.feed_forward}
    for name in TARGETS:
        inputs = inputs_of.get(name, c.width)
        for i in range(c.depth):
            a, b = adapters[f"{name}_a"][i].reshape(inputs, RANK), adapters[f"{name}_b"][i].reshape(RANK, -1)
            close(np.asarray(merged[name][i]).reshape(inputs, -1), policy()["layers"][name][i].reshape(inputs, -1) + 0.7 * a @ b, 1e-6)


def test_a_half_precision_base_is_merged_in_float32() -> None:
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), policy())
    small = jax.tree.map(lambda x: 0.05 * x, adapters_of())
    merged = lora.merge(lora.join(half, {"adapters": small}), SCALED)
    exact = lora.merge(lora.join(jax.tree.map(lambda x: x.astype(jnp.float32), half), {"adapters": small}), SCALED)
    for x, y in zip(jax.tree.leaves(merged), jax.tree.leaves(exact), strict=True):
        assert x.dtype == jnp.bfloat16 and np.array_equal(x, y.astype(jnp.bfloat16))  # one rounding, at the end


def test_parameters_without_adapters_are_merged_already() -> None:
    merged = lora.merge(policy(), SCALED)
    assert jax.tree.structure(merged) == jax.tree.structure(policy())
    assert all(x is y for x, y in zip(jax.tree.leaves(merged), jax.tree.leaves(policy()), strict=True))


def test_the_gradient_is_that_through_the_merged_weights() -> None:
    trained = {"adapters": adapters_of()}
    close(gradients(trained, policy(), SCALED, False), gradients(trained, policy(), SCALED, True), 1e-5)


@pytest.mark.parametrize(("fsdp", "tp"), MESHES)
def test_a_mesh_changes_neither_values_nor_gradients_nor_merged_weights(fsdp: int, tp: int) -> None:
    config = replace(SCALED, adapter_scale=1.5)
    trained = {"adapters": adapters_of()}
    alone = hidden_of(lora.join(policy(), trained), config, IDS)
    wanted, merged = gradients(trained, policy(), config, False), lora.merge(lora.join(policy(), trained), config)
    mesh = sharding.make_mesh(fsdp, tp)
    where, axes = sharding.shardings(mesh, transformer.axes(CONFIG)), {"adapters": lora.axes(TARGETS)}
    with jax.set_mesh(mesh):
        base, ours = jax.device_put(policy(), where), jax.device_put(trained, sharding.shardings(mesh, axes))
        ids = jax.device_put(IDS, sharding.shardings(mesh, ("batch",)))
        close(hidden_of(lora.join(base, ours), config, ids), alone, 1e-5)
        for target in TARGETS:  # each by itself: the others add nothing
            one = {"adapters": {name: x if name.startswith(f"{target}_") else jnp.zeros_like(x) for name, x in ours["adapters"].items()}}
            whole = lora.join(base, one)
            close(hidden_of(whole, config, ids), hidden_of(jax.jit(lora.merge, static_argnums=1)(whole, config), config, ids), 1e-5)
        found = jax.jit(jax.grad(partial(mesh_loss, ids=ids)), static_argnums=2, out_shardings=sharding.shardings(mesh, axes))(ours, base, config)
        close(found, wanted, 1e-5)
        placed = jax.jit(lora.merge, static_argnums=1)(lora.join(base, ours), config)
        close(placed, merged, 1e-6)
        assert jax.tree.map(lambda x, there: x.sharding.is_equivalent_to(there, x.ndim), placed, where) == jax.tree.map(lambda _: True, where)


def mesh_loss(trained, frozen, config, ids):
    return jnp.sum(hidden_of(lora.join(frozen, trained), config, ids) * jax.device_put(WANTED, sharding.out("batch", None, None)))


@pytest.mark.parametrize(("fsdp", "tp"), MESHES)
def test_the_start_is_placed_and_the_same_on_a_mesh(fsdp: int, tp: int) -> None:
    make = partial(lora.init, CONFIG, 4, TARGETS)
    alone, mesh = make(jax.random.key(1)), sharding.make_mesh(fsdp, tp)
    parts = {axis: sharding.parts(mesh, axis) for axis in sharding.TABLE}
    with jax.set_mesh(mesh):
        placed = jax.jit(make, out_shardings=sharding.shardings(mesh, lora.axes(TARGETS)))(jax.random.key(1))
    close(placed, alone, 1e-7)
    for name, axes in lora.axes(TARGETS).items():
        held = tuple(size // parts.get(axis, 1) for axis, size in zip(axes, placed[name].shape, strict=True))
        assert {shard.data.shape for shard in placed[name].addressable_shards} == {held}, name


def test_merging_into_a_donated_base_holds_no_second_copy() -> None:
    config = replace(CONFIG, width=64, feed_forward=96, depth=12)
    base, trained = transformer.shapes(config), {"adapters": lora.shapes(config, 2, TARGETS)}
    merge = jax.jit(lambda frozen, trained: lora.merge(lora.join(frozen, trained), config), donate_argnums=0)
    memory = merge.lower(base, trained).compile().memory_analysis()
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
    assert memory.alias_size_in_bytes >= size(base)  # each result lies where its weight was
    assert memory.temp_size_in_bytes < size(base["layers"]) / 4


def test_join_and_split_are_inverse() -> None:
    params = {"backbone": policy() | {"adapters": adapters_of()}, "heads": {"weight": np.ones(3)}}
    frozen, trained = lora.split(params, ("adapters", "heads"))
    assert trained == {"backbone": {"adapters": params["backbone"]["adapters"]}, "heads": params["heads"]}
    assert "adapters" not in frozen["backbone"] and "heads" not in frozen
    joined = lora.join(frozen, trained)
    assert jax.tree.structure(joined) == jax.tree.structure(params)
    assert all(x is y for x, y in zip(jax.tree.leaves(joined), jax.tree.leaves(params), strict=True))
    assert "adapters" in params["backbone"] and lora.split(policy()) == (policy(), {}) and lora.join({}, trained) == lora.join(trained, {}) == trained


@pytest.mark.parametrize("trained", [{"layers": {"q": 3}}, {"layers": 3}, {"norm": {"deep": 3}}, {"norm": 3}], ids=str)
def test_join_refuses_what_both_have(trained) -> None:
    with pytest.raises(ValueError, match=r"(q|layers|norm) is both frozen and trained"):
        lora.join({"layers": {"q": 1, "k": 2}, "norm": 5}, trained)


@pytest.mark.parametrize(("targets", "rank", "said"), [
    (["q", "embed"], 4, "target 'embed' is no matrix .* choose from q, k, v, o, gate, up, down"),
    (["q", "k", "q"], 4, "target 'q' is named twice"),
    ([], 4, r"targets must be a list of names, and is \[\]"),
    ("q", 4, "targets must be a list of names, and is 'q'"),
    (["q"], 0, "rank is 0 and must be a whole number > 0"),
    (["q"], 2.0, r"rank is 2\.0 and must"),
])  # fmt: skip
def test_impossible_adapters_are_refused(targets, rank, said: str) -> None:
    with pytest.raises(InputError, match=said):
        lora.init(CONFIG, rank, targets, jax.random.key(0))
