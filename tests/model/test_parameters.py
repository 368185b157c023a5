"""The parameters: what NNX declares, what the forward reads and where the mesh puts them."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from tiny import CONFIG, MESHES, close, policy, reward_batch, reward_params

from promedical_jax.errors import InputError
from promedical_jax.model import sharding, transformer
from promedical_jax.reward import axes as reward_axes
from promedical_jax.reward import score

SMALL = replace(CONFIG, width=64, depth=1)


def names(x) -> bool:
    return isinstance(x, tuple)


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, tied=True, depth=5)], ids=["untied", "tied"])
def test_each_array_has_its_axes_named(config) -> None:
    params = jax.eval_shape(partial(transformer.init, config), jax.random.key(0))
    sizes = {"width": config.width, "kv_heads": config.kv_heads, "feed_forward": config.feed_forward, "vocabulary": config.vocabulary, "layers": config.depth}
    named = jax.tree.leaves_with_path(transformer.axes(config), is_leaf=names)
    assert len(named) == (13 if config.tied else 14)  # whatever the depth
    for (path, axes), (same_path, x) in zip(named, jax.tree.leaves_with_path(params), strict=True):
        assert path == same_path and len(axes) == x.ndim and x.dtype == np.float32
        assert all(size == sizes[axis] for axis, size in zip(axes, x.shape, strict=True) if axis)


@pytest.fixture(scope="module")
def fresh():
    return jax.device_get(jax.jit(partial(transformer.init, SMALL))(jax.random.key(0)))


def test_the_start_matches_and_copies_in_a_head_of_every_second_group(fresh) -> None:
    q, k, o, copy = (*(fresh["layers"][name] for name in "qko"), transformer.COPY_GAIN * np.moveaxis(fresh["layers"]["v"], 1, 3))
    for group in range(SMALL.kv_heads):
        for head in range(SMALL.query_heads):
            matches = group % 2 == 0 and head == 0
            assert np.array_equal(q[:, :, group, head], k[:, :, group]) == matches
            assert np.allclose(o[:, group, head], copy[:, group], rtol=1e-5) == matches


def test_the_start_has_the_scale_of_its_fan_in(fresh) -> None:
    layers = fresh["layers"]
    assert all((layers[name] == 1).all() for name in ("attn_norm", "q_norm", "k_norm", "mlp_norm")) and (fresh["norm"] == 1).all()
    for name in ("q", "k", "v", "gate", "up"):
        assert 0.9 < layers[name].std() * SMALL.width**0.5 < 1.1, name
    assert 0.9 < layers["down"].std() * (2 * SMALL.depth * SMALL.feed_forward) ** 0.5 < 1.1
    assert 0.9 < fresh["embed"].std() * SMALL.width**0.5 < 1.1 and 0.9 < fresh["unembed"].std() * SMALL.width**0.5 < 1.1
    flat = [x.ravel()[:50] for x in (layers["k"], layers["v"], layers["gate"], layers["up"], fresh["embed"])]
    assert all(not np.allclose(a, b) for i, a in enumerate(flat) for b in flat[:i])  # no two arrays from one key


def test_unembedding_is_the_embedding_where_tied() -> None:
    assert (transformer.unembedding(policy()) == policy()["unembed"]).all()
    tied = policy(replace(CONFIG, tied=True))
    assert (transformer.unembedding(tied) == tied["embed"]).all()


@pytest.mark.parametrize(("fsdp", "tp"), MESHES)
def test_a_mesh_changes_no_score_and_splits_every_matrix(fsdp: int, tp: int) -> None:
    batch = reward_batch(b=8)
    alone = jax.jit(score, static_argnums=1)(reward_params(), CONFIG, batch)
    mesh = sharding.make_mesh(fsdp, tp)
    with jax.set_mesh(mesh):
        params = jax.device_put(reward_params(), sharding.shardings(mesh, reward_axes(CONFIG)))
        placed = jax.device_put(batch, sharding.shardings(mesh, ("batch",)))
        scores = jax.jit(score, static_argnums=1)(params, CONFIG, placed)
    assert jax.sharding.get_abstract_mesh().empty
    close(scores, alone, 1e-5)
    parts = {axis: sharding.parts(mesh, axis) for axis in sharding.TABLE}
    for (path, axes), x in zip(jax.tree.leaves_with_path(transformer.axes(CONFIG), is_leaf=names), jax.tree.leaves(params["backbone"]), strict=True):
        held = tuple(size // parts.get(axis, 1) for axis, size in zip(axes, x.shape, strict=True))
        assert {shard.data.shape for shard in x.addressable_shards} == {held}, path


def test_a_batch_of_one_case_runs_on_tensor_parallel_devices_alone() -> None:
    config, batch = replace(CONFIG, kv_heads=8), reward_batch(b=1)
    mesh = sharding.make_mesh(1, 8)
    alone = jax.jit(score, static_argnums=1)(reward_params(config), config, batch)
    with jax.set_mesh(mesh):
        params = jax.device_put(reward_params(config), sharding.shardings(mesh, reward_axes(config)))
        scores = jax.jit(score, static_argnums=1)(params, config, jax.device_put(batch, sharding.shardings(mesh, ("batch",))))
    close(scores, alone, 1e-5)


def test_impossible_meshes_are_refused() -> None:
    with pytest.raises(InputError, match="fsdp=3 x tp=2 is 6 devices, but 8 are here"):
        sharding.make_mesh(3, 2)
    with pytest.raises(InputError, match="tp=16"):
        sharding.make_mesh(-1, 16)
    with pytest.raises(InputError, match="fsdp=0"):
        sharding.make_mesh(0, 8)
    assert dict(sharding.make_mesh(-1, 2).shape) == {"slice": 1, "fsdp": 4, "tp": 2}
    with pytest.raises(InputError, match="tp=8 does not divide the kv heads of 4"):
        sharding.check_divisible(sharding.make_mesh(1, 8), {"kv_heads": 4})
    with pytest.raises(InputError, match="fsdp=8 does not divide the batch of 12"):
        sharding.check_divisible(sharding.make_mesh(8, 1), {"vocabulary": 7, "batch": 12})


def test_outside_a_mesh_nothing_is_placed() -> None:
    assert sharding.out("batch", None) is None and not sharding.in_mesh()
    x = np.ones((3, 5))
    assert sharding.pin(x, "batch", None) is x and sharding.gather(x, ("width", "vocabulary")) is x
