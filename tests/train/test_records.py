"""What a run leaves on its way: checkpoints, lines of figures, the optimizer's rates."""

import gc
import json
import math
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from tiny import CONFIG, policy

from promedical_jax.config import Optimizer
from promedical_jax.errors import InputError
from promedical_jax.model.sharding import make_mesh
from promedical_jax.model.transformer import axes
from promedical_jax.train.checkpoint import Checkpoints
from promedical_jax.train.metrics import Lines, Metrics
from promedical_jax.train.optimizer import make_optimizer, start, update

# Checkpoints


def arrays(value: float, fsdp: int = 4):
    mesh = make_mesh(fsdp, 8 // fsdp)
    where = {"x": NamedSharding(mesh, PartitionSpec("fsdp", "tp")), "step": NamedSharding(mesh, PartitionSpec())}
    return jax.device_put({"x": np.arange(64, dtype=np.float32).reshape(8, 8) + value, "step": np.int32(value)}, where), where


def position() -> grain.DatasetIterator:
    return iter(grain.MapDataset.source(range(100)).to_iter_dataset())


def test_the_newest_checkpoint_comes_back_on_any_mesh(tmp_path: Path) -> None:
    data = position()
    for step in (1, 2, 3):
        with Checkpoints(tmp_path) as checkpoints:  # leaving waits for the save
            assert checkpoints.restore(*arrays(0.5), position())[1] == step - 1
            next(data)
            checkpoints.save(step, arrays(step)[0], data)
    with Checkpoints(tmp_path) as checkpoints:
        state, where = arrays(0, fsdp=2)
        fresh = position()
        restored, step = checkpoints.restore(state, where, fresh)
    assert step == 3 and next(fresh) == 3
    np.testing.assert_array_equal(restored["x"], arrays(3)[0]["x"])
    assert restored["step"] == 3 and restored["x"].sharding == where["x"]


def test_no_save_is_skipped_while_another_is_under_way(tmp_path: Path) -> None:
    data = position()
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            next(data)
            checkpoints.save(step, arrays(step)[0], data)
    fresh = position()
    with Checkpoints(tmp_path) as checkpoints:
        restored, step = checkpoints.restore(*arrays(0), fresh)
    assert step == 3 and restored["step"] == 3 and next(fresh) == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax leaves the reads of a failed load to the garbage collector
def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, arrays(1)[0], position())
    state, where = arrays(0)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(InputError, match="checkpoint 1 does not fit this recipe"):
        checkpoints.restore({"x": jnp.zeros((4, 8)), "step": state["step"]}, where, position())
    gc.collect()


# Lines


@given(st.lists(st.integers(0, 9), max_size=20).map(sorted), st.integers(0, 10), st.sampled_from(["", "{", '{"step": 1', '{"step": 1}']))
def test_lines_past_the_checkpoint_are_dropped(tmp_path_factory, steps: list[int], first: int, torn: str) -> None:
    path = tmp_path_factory.mktemp("lines") / "deep" / "lines.jsonl"
    lines = Lines(path, 0)
    lines.write({"step": step, "row": i, "text": "ü\n"} for i, step in enumerate(steps))
    lines.close()
    path.open("a").write(torn)  # killed in the middle of a row: without its newline no row is whole
    again = Lines(path, first)
    again.write([{"step": first, "row": -1}])
    again.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["row"] for row in rows] == [i for i, step in enumerate(steps) if step < first] + [-1]
    assert [file.name for file in path.parent.iterdir()] == ["lines.jsonl"]


def test_metrics_are_json_even_where_a_figure_is_not_a_number(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 0)
    metrics.write(0, {"loss": 1.5, "s1": math.nan, "reward": math.inf})
    metrics.close()
    refuse = lambda name: pytest.fail(name)  # noqa: E731
    assert json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse) == {"step": 0, "loss": 1.5, "s1": None, "reward": None}
    assert list((tmp_path / "tensorboard").iterdir())


def test_other_processes_write_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    metrics = Metrics(tmp_path / "run", 0)
    metrics.write(0, {"loss": 1.0})
    metrics.close()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# Optimizer


def moves(optimizer, gradients: list, params) -> list:
    moments, made = optimizer.init(params), []
    for gradient in gradients:
        move, moments = optimizer.update(gradient, moments, params)
        made.append(move)
    return made


def rates(config: Optimizer, steps: int) -> list[float]:
    """The size of each move of a parameter whose gradient is always 1: Adam's is the learning rate."""
    one = {"x": jnp.ones(())}
    return [-float(move["x"]) for move in moves(make_optimizer(config, steps), [one] * steps, one)]


@pytest.mark.parametrize("warmup", [0, 4, 10, 50])
def test_the_rate_warms_up_and_falls_to_its_final_share(warmup: int) -> None:
    found = rates(Optimizer(learning_rate=1e-2, warmup=warmup, final=0.2), 10)
    rising = min(warmup, 10)
    np.testing.assert_allclose(found[:rising], [1e-2 * i / rising for i in range(rising)], rtol=1e-5, atol=1e-9)
    if warmup < 10:
        assert np.isclose(found[rising], 1e-2) and (np.diff(found[rising:]) < 0).all() and found[-1] > 2e-3


def test_norms_and_biases_are_not_decayed() -> None:
    params = {"layers": {"q": jnp.ones(2), "q_norm": jnp.ones(2)}, "norm": jnp.ones(2), "heads": {"weight": jnp.ones(2), "bias": jnp.ones(2)}}
    (move,) = moves(make_optimizer(Optimizer(learning_rate=1e-2, weight_decay=0.5), 10), [jax.tree.map(jnp.zeros_like, params)], params)
    np.testing.assert_allclose(move["layers"]["q"], -1e-2 * 0.5)
    np.testing.assert_allclose(move["heads"]["weight"], -1e-2 * 0.5)
    assert not any(np.any(x) for x in (move["layers"]["q_norm"], move["norm"], move["heads"]["bias"]))


def test_the_gradient_is_clipped_by_its_whole_norm() -> None:
    params = {"x": jnp.zeros(2), "y": jnp.zeros(2)}
    after = [{"x": jnp.full(2, 0.1), "y": jnp.full(2, 0.1)}]  # shorter than the limit: it shows how long the first was for the moments
    made = [moves(make_optimizer(Optimizer(learning_rate=1e-2, clip=1.0), 10), [{"x": jnp.array([s, 0]), "y": jnp.array([0, s])}, *after], params)
            for s in (2.0**-0.5, 1e3, 1e6)]  # fmt: skip
    for one, other in zip(made[0], made[1], strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), one, other)
    for one, other in zip(made[1], made[2], strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), one, other)


def test_a_state_starts_from_arrays_or_from_a_function_alike() -> None:
    mesh = make_mesh(4, 2)
    optimizer = make_optimizer(Optimizer(), 10)
    with jax.set_mesh(mesh):
        from_arrays, where = start(policy(), axes(CONFIG), optimizer, mesh)
        from_function, same = start(lambda: jax.tree.map(jnp.asarray, policy()), axes(CONFIG), optimizer, mesh)
        assert jax.tree.leaves(where) == jax.tree.leaves(same)
        for one, other, placed in zip(*map(jax.tree.leaves, (from_arrays, from_function, where)), strict=True):
            assert one.sharding.is_equivalent_to(placed, one.ndim) and other.sharding.is_equivalent_to(placed, one.ndim)
            np.testing.assert_array_equal(one, other)
        after = jax.jit(lambda state: update(state, state.params, optimizer), out_shardings=where)(from_arrays)
    assert after.step == 1 and from_arrays.step == 0
