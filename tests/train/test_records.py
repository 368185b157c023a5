"""What a run leaves on its way: checkpoints, lines of figures, the optimizer's rates."""

import json
import math
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from tiny import CONFIG, policy

from promedical_jax.config import Keep, Optimizer
from promedical_jax.errors import InputError
from promedical_jax.model.sharding import make_mesh
from promedical_jax.model.transformer import axes
from promedical_jax.train.checkpoint import Checkpoints, kept, steps
from promedical_jax.train.checksum import checksums
from promedical_jax.train.metrics import Lines, Metrics
from promedical_jax.train.optimizer import make_optimizer, start, update

# Checkpoints


def arrays(value: float, fsdp: int = 4):
    mesh = make_mesh(fsdp, 8 // fsdp)
    where = {"x": NamedSharding(mesh, PartitionSpec("fsdp", "tp")), "step": NamedSharding(mesh, PartitionSpec())}
    return jax.device_put({"x": np.arange(64, dtype=np.float32).reshape(8, 8) + value, "step": np.int32(value)}, where), where


def test_the_newest_checkpoint_comes_back_on_any_mesh(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        with Checkpoints(tmp_path, Keep()) as checkpoints:  # leaving waits for the save
            assert checkpoints.restore(*arrays(0.5)).step == step - 1
            checkpoints.save(step, arrays(step)[0], {"data": {"cases": step}, "guard": ["ü", None, 1.5]})
    with Checkpoints(tmp_path, Keep()) as checkpoints:
        state, where = arrays(0, fsdp=2)
        restored, run, step = checkpoints.restore(state, where)
    assert step == 3 and run == {"data": {"cases": 3}, "guard": ["ü", None, 1.5]}
    np.testing.assert_array_equal(restored["x"], arrays(3)[0]["x"])
    assert restored["step"] == 3 and restored["x"].sharding == where["x"]
    assert all(x.is_deleted() for x in state.values())  # else a run that goes on would hold it twice


def test_no_save_is_skipped_while_another_is_under_way(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, Keep()) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, arrays(step)[0], {"data": step})
    with Checkpoints(tmp_path, Keep()) as checkpoints:
        restored, run, step = checkpoints.restore(*arrays(0))
    assert step == 3 and restored["step"] == 3 and run == {"data": 3}


def test_saving_leaves_nothing_behind_in_the_process(tmp_path: Path) -> None:
    """Three file descriptors a save are a thousand, where many systems end a process, before a long run is half done."""
    held = []
    with Checkpoints(tmp_path, Keep()) as checkpoints:
        for step in range(1, 11):
            checkpoints.save(step, arrays(step)[0], {})
            if step % 3 == 1:
                checkpoints.finish()
                held.append((len(list(Path("/proc/self/fd").iterdir())), threading.active_count()))
    assert all(later[0] <= held[0][0] and later[1] <= held[0][1] for later in held[1:]), held


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, Keep()) as checkpoints:
        checkpoints.save(1, arrays(1)[0], {})
    state, where = arrays(0)
    with Checkpoints(tmp_path, Keep()) as checkpoints:
        with pytest.raises(InputError, match=r"checkpoint 1 does not fit this recipe \(x is 8 x 8 there and 4 x 8 here\); choose another --out"):
            checkpoints.restore({"x": jnp.zeros((4, 8)), "step": state["step"]}, where)
        with pytest.raises(InputError, match=r"\(y is missing there and one number here\)"):
            checkpoints.restore({"x": state["x"], "y": state["step"]}, {"x": where["x"], "y": where["step"]})
    assert steps(tmp_path) == [1]


@given(st.dictionaries(st.integers(1, 60), st.none() | st.integers(0, 3)), st.integers(1, 4), st.integers(0, 3), st.none() | st.integers(1, 20))
def test_what_is_kept(values: dict[int, int | None], last: int, best: int, every: int | None) -> None:
    stay = kept(values, Keep(last=last, best=best, every=every))
    newest = sorted(values)[-last:]
    good = sorted((step for step in values if values[step] is not None), key=lambda step: (values[step], step), reverse=True)[:best]
    assert stay == {step for step in values if step in newest or step in good or (every and step % every == 0)}


def test_checkpoints_stay_by_the_recipe_also_over_a_restart(tmp_path: Path) -> None:
    keep = Keep(last=1, best=1, every=4)
    for part in (range(1, 5), range(5, 8)):
        with Checkpoints(tmp_path, keep) as checkpoints:
            for step in part:
                checkpoints.save(step, arrays(step)[0], {}, value=9.0 if step == 2 else 0.0)
    assert steps(tmp_path) == [2, 4, 7]


# Checksums


@given(st.integers(0, 63), st.integers(0, 31))
def test_any_flipped_bit_shows(entry: int, bit: int) -> None:
    x = np.arange(64, dtype=np.float32).reshape(8, 8)
    other = x.copy()
    other.view(np.uint32).reshape(-1)[entry] ^= np.uint32(1 << bit)
    assert checksums({"x": x})["x"] != checksums({"x": other})["x"]


def test_checksums_are_those_of_any_mesh_and_tell_places_and_types_apart() -> None:
    wanted = checksums(arrays(3)[0])
    assert checksums(arrays(3, fsdp=2)[0]) == checksums(jax.device_get(arrays(3)[0])) == wanted and wanted.keys() == {"x", "step"}
    x = np.arange(64, dtype=np.float32).reshape(8, 8)
    said = [x, x.T.copy(), x[::-1].copy(), np.zeros_like(x), np.concatenate([x[:4], 0 * x[4:]]), x.astype(jnp.bfloat16), x.astype(np.int8), x > 3]
    assert len({checksums({"x": one})["x"] for one in said}) == len(said)


# Lines


ROWS = st.lists(st.text(max_size=5), max_size=6)


@given(ROWS, ROWS, st.sampled_from(["", "{", '{"row": 1', '{"row": 1}']))
def test_lines_past_the_checkpoint_are_cut_off(tmp_path_factory, saved: list[str], lost: list[str], torn: str) -> None:
    path = tmp_path_factory.mktemp("lines") / "deep" / "lines.jsonl"
    lines = Lines(path)
    lines.write({"row": text} for text in saved)
    position = lines.flush()
    lines.write({"row": text} for text in lost)
    lines.close()
    path.open("a").write(torn)  # killed in the middle of a row: without its newline no row is whole
    again = Lines(path, position)
    again.write([{"row": "new"}])
    again.close()
    assert [json.loads(line)["row"] for line in path.read_text().splitlines()] == [*saved, "new"]
    assert [file.name for file in path.parent.iterdir()] == ["lines.jsonl"]


def test_lines_that_are_gone_are_missed_and_no_row_is_torn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"row": 1}\n{"row": 2')
    lines = Lines(path, 22)
    lines.write([{"row": 3}])
    lines.close()
    assert path.read_text() == '{"row": 1}\n{"row": 3}\n'
    assert f"{path}: 2 bytes of rows are missing that it had when the checkpoint was saved" in capsys.readouterr().err


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
