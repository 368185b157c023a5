"""Where arrays lie over 1, 2, 4 and 8 devices changes no figure, and nothing is held twice that the table splits."""

import jax
import numpy as np
import pytest
from tiny import CONFIG, close, one_rater, policy, ragged, reward_batch, reward_params

from promedical_jax.config import Optimizer
from promedical_jax.model import transformer
from promedical_jax.model.sharding import make_mesh, parts, shardings
from promedical_jax.model.transformer import FLOAT32
from promedical_jax.reward import axes as reward_axes
from promedical_jax.rubric.labels import Labels
from promedical_jax.train import rm, sft
from promedical_jax.train.optimizer import make_optimizer, start
from promedical_jax.train.policy import AnswerBatch

# fsdp, tp, slices
MESHES = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (1, 4, 1), (8, 1, 1), (2, 4, 1), (2, 2, 2)]
names = lambda x: isinstance(x, tuple) and not hasattr(x, "_fields")  # noqa: E731


def mesh_of(fsdp: int, tp: int, slices: int):
    return make_mesh(fsdp, tp, slices, jax.devices()[: fsdp * tp * slices])


def answers() -> AnswerBatch:
    rng = np.random.default_rng(3)
    return AnswerBatch(*ragged(rng, 8, 6), *ragged(rng, 8, 2, 5))


def labels(batch) -> Labels:
    said = np.random.default_rng(4).integers(0, 2, (*batch.answer_lengths.shape, batch.criteria.shape[1])).astype(np.float32)
    said[0, 0] = np.nan
    return one_rater(said)


def policy_loss(params, batch):
    return sft.loss(params, CONFIG, batch)[0]


def reward_loss(params, given):
    return rm.loss(params, CONFIG, *given, ties="davidson")[0]


CASES = {
    "policy": (policy_loss, policy, lambda: answers(), transformer.axes(CONFIG)),
    "reward model": (reward_loss, reward_params, lambda: (batch := reward_batch(b=8), labels(batch)), reward_axes(CONFIG)),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def case(request):
    loss, params, make, axes = request.param
    batch = make()
    return jax.value_and_grad(loss), params(), batch, axes, jax.jit(jax.value_and_grad(loss))(params(), batch)


@pytest.mark.parametrize("shape", MESHES, ids=lambda shape: "x".join(map(str, shape)))
def test_loss_and_gradients_are_those_of_one_device(case, shape) -> None:
    both, params, batch, axes, wanted = case
    mesh = mesh_of(*shape)
    with jax.set_mesh(mesh):
        where = shardings(mesh, axes)
        placed = jax.device_put(params, where), jax.device_put(batch, shardings(mesh, ("batch",)))
        value, gradients = jax.jit(both)(*placed)
    close((value, gradients), wanted, 1e-5)
    for (path, gradient), place in zip(jax.tree.leaves_with_path(gradients), jax.tree.leaves(where), strict=True):  # of itself: no sharding was pinned
        assert gradient.sharding.is_equivalent_to(place, gradient.ndim), f"{jax.tree_util.keystr(path)}: {gradient.sharding.spec}"


@pytest.mark.parametrize("weights", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])  # with masters, more leaves than without
@pytest.mark.parametrize("shape", [pytest.param((8, 1, 1), marks=pytest.mark.slow), (2, 2, 2)], ids=lambda shape: "x".join(map(str, shape)))
def test_a_step_keeps_every_leaf_where_the_table_puts_it(shape, weights) -> None:
    mesh, axes, optimizer = mesh_of(*shape), transformer.axes(CONFIG), make_optimizer(Optimizer(learning_rate=1e-3), 10)
    split = {axis: parts(mesh, axis) for axis in ("width", "kv_heads", "feed_forward", "vocabulary")}
    with jax.set_mesh(mesh):
        state, where = start(policy(), axes, optimizer, mesh, weights)
        batch = jax.device_put(answers(), shardings(mesh, ("batch",)))
        for _ in range(2):
            state, _ = sft.make_step(CONFIG, FLOAT32, optimizer, where)(state, {}, batch)
    adam = next(x for x in jax.tree.leaves(state.moments, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu"))
    trees = {"params": state.params, "mu": adam.mu, "nu": adam.nu} | ({"masters": state.masters} if weights == "bfloat16" else {})
    for kind, tree in trees.items():
        for (path, leaf), of in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(axes, is_leaf=names), strict=True):
            held = {shard.data.shape for shard in leaf.addressable_shards}
            assert held == {tuple(size // split.get(axis, 1) for axis, size in zip(of, leaf.shape, strict=True))}, f"{kind} {jax.tree_util.keystr(path)}"
            assert leaf.dtype == (weights if kind == "params" else "float32")
            # A matrix that every device held whole would be the mistake that this test is for.
            assert leaf.sharding.is_fully_replicated == ("norm" in jax.tree_util.keystr(path))
