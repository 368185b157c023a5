"""Checkpoints that are damaged, and disks that are full or may not be written: a sentence, the checkpoint before, and nothing half is ever loaded."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from streams import Stream

from promedical_jax.cli import main
from promedical_jax.config import Keep, SftConfig
from promedical_jax.errors import InputError
from promedical_jax.model.sharding import make_mesh
from promedical_jax.train import checkpoint
from promedical_jax.train.checkpoint import Checkpoints, read_parameters, steps
from promedical_jax.train.loop import run_steps
from promedical_jax.train.optimizer import TrainState

# Orbax leaves what it was doing when a fault came to the garbage collector.
pytestmark = [pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"), pytest.mark.filterwarnings("ignore:coroutine")]
RUN = {"data": {"cases": 8}, "guard": {"heard": [[1, 0, 0]]}}


def state(step: int) -> tuple[Any, Any]:
    mesh = make_mesh(4, 2)
    rng = np.random.default_rng(step)
    where = {"params": {"w": NamedSharding(mesh, PartitionSpec("fsdp", "tp")), "b": NamedSharding(mesh, PartitionSpec())},
             "step": NamedSharding(mesh, PartitionSpec())}  # fmt: skip
    made = {"params": {"w": rng.normal(size=(64, 32)).astype(np.float32), "b": rng.normal(size=16).astype(np.float32)}, "step": np.int32(step)}
    return jax.device_put(made, where), where


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    with Checkpoints(folder, Keep()) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step)[0], RUN | {"at": step})
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "checkpoints"))


def restored(folder: Path) -> tuple[Any, dict, int]:
    with Checkpoints(folder, Keep()) as checkpoints:
        return checkpoints.restore(*state(0))


def same(found: Any, step: int) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (found, state(step)[0])), strict=True))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def largest(folder: Path) -> Path:
    """The shard of arrays."""
    return max((path for path in (folder / "state").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flipped(path: Path, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 8
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "truncated shard": lambda at: os.truncate(largest(at), largest(at).stat().st_size // 2),
    "flipped byte of a shard": lambda at: flipped(largest(at)),
    "zeroed shard": lambda at: largest(at).write_bytes(bytes(largest(at).stat().st_size)),
    "empty shard": lambda at: largest(at).write_bytes(b""),
    "missing shard": lambda at: largest(at).unlink(),
    "missing metadata": lambda at: (at / "state" / "_METADATA").unlink(),
    "missing state": lambda at: shutil.rmtree(at / "state"),
    "missing record": lambda at: (at / "run" / "data.json").unlink(),
    "flipped byte of the record": lambda at: flipped(at / "run" / "data.json", 0.7),
    "half a record": lambda at: os.truncate(at / "run" / "data.json", 40),
    "an empty folder": lambda at: (shutil.rmtree(at), at.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_checkpoint_before_a_damaged_one_counts(damage: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older = bytes_of(folder / "1")
    DAMAGE[damage](folder / "2")
    left = bytes_of(folder / "2")
    found, run, step = restored(folder)
    said = capsys.readouterr().err
    assert step == 1 and same(found, 1) and run == RUN | {"at": 1}
    assert said.startswith(f"{folder}: checkpoint 2 is damaged (") and said.endswith("and is now 2.damaged; going on from that of step 1\n")
    assert said.count("\n") == 1 and "Traceback" not in said
    assert bytes_of(folder / "1") == older and bytes_of(folder / "2.damaged") == left and steps(folder) == [1]
    with Checkpoints(folder, Keep()) as checkpoints:  # its step can be saved again, and nobody takes the damaged one for it
        assert checkpoints.restore(*state(0)).step == 1
        checkpoints.save(2, state(2)[0], {})
    assert restored(folder)[2] == 2 and capsys.readouterr().err == ""


def test_where_all_are_damaged_nothing_is_loaded_and_nothing_renamed(folder: Path) -> None:
    for step in (1, 2):
        flipped(largest(folder / str(step)))
    before = bytes_of(folder)
    with pytest.raises(InputError, match=r"checkpoint 2 is damaged \(.*\); checkpoint 1 is damaged \(.*\), and there is no other; put a sound one back"):
        restored(folder)
    assert bytes_of(folder) == before


def test_a_damaged_checkpoint_is_neither_exported_nor_trained_from(folder: Path) -> None:
    params, step = read_parameters(folder)
    assert step == 2 and same(params, 0) is False and np.array_equal(params["w"], state(2)[0]["params"]["w"])
    flipped(largest(folder / "2"))
    with pytest.raises(InputError, match=r"checkpoints/2: cannot be read \(.+\); choose another --step"):
        read_parameters(folder)
    assert np.array_equal(read_parameters(folder, 1)[0]["w"], state(1)[0]["params"]["w"])


def test_no_flipped_bit_of_any_file_gives_another_state(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one place of each file, and several of the shard: the state of step 2 comes back to the bit, or that of step 1 with a sentence."""
    rng, outcomes = np.random.default_rng(0), []
    kept = folder.parent / "kept"
    shutil.copytree(folder, kept)
    for name in sorted(bytes_of(folder / "2")):
        for at in rng.random(6 if name == str(largest(kept / "2").relative_to(kept / "2")) else 1):
            flipped(folder / "2" / name, at)
            found, _, step = restored(folder)
            assert same(found, step) and step in (1, 2), name
            assert ("damaged" in capsys.readouterr().err) == (step == 1)
            outcomes.append(step)
            shutil.rmtree(folder)
            shutil.copytree(kept, folder)
    assert 1 in outcomes and 2 in outcomes


# No room, no right


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, leave: int) -> None:
    free = shutil.disk_usage(disk).free
    (disk / "fill").write_bytes(bytes(max(free - leave, 0)))


def test_a_full_disk_ends_the_run_with_a_sentence_and_the_checkpoints_stay(small_disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = small_disk / "checkpoints"
    with Checkpoints(folder, Keep()) as checkpoints:
        checkpoints.save(1, state(1)[0], RUN | {"at": 1})
        checkpoints.finish()
        fill(small_disk, 4096)
        checkpoints.save(2, state(2)[0], {})
        with pytest.raises(InputError) as full:
            checkpoints.finish()
    assert f"{folder}: a checkpoint could not be written (No space left on device); that of step 1 is whole. See to free space" in str(full.value)
    assert "Traceback" not in capfd.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["1"]  # half a checkpoint takes no room
    (small_disk / "fill").unlink()
    found, run, step = restored(folder)
    assert step == 1 and same(found, 1) and run["at"] == 1


def test_a_disk_that_may_not_be_written_is_named_and_its_checkpoints_stay(small_disk: Path) -> None:
    folder = small_disk / "checkpoints"
    with Checkpoints(folder, Keep()) as checkpoints:
        checkpoints.save(1, state(1)[0], RUN | {"at": 1})
    before = bytes_of(folder)
    with Checkpoints(folder, Keep()) as checkpoints:
        assert checkpoints.restore(*state(0)).step == 1
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        with pytest.raises(InputError, match=r"could not be written \(Read-only file system.*\); that of step 1 is whole\. See to free space and perm"):
            checkpoints.save(2, state(2)[0], {})
    assert bytes_of(folder) == before


def test_no_room_for_a_row_is_said_with_the_file(small_disk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that does nothing but fill its disk with rows, as the command runs it."""
    config = SftConfig(out=small_disk / "run", cases=Path("c"), model=Path("m"), steps=3, log_every=1)
    where = NamedSharding(make_mesh(devices=jax.devices()[:1]), PartitionSpec())
    start = TrainState({"w": jax.device_put(np.zeros(4, np.float32), where)}, (), (), jax.device_put(np.int32(0), where))
    books = SimpleNamespace(begin=lambda _: None, remember=lambda: None, look=lambda *_: None, go_back=lambda: None)

    def advance(held: TrainState, *_: Any) -> tuple[TrainState, dict[str, Any]]:
        fill(small_disk, 0)
        return held, {"loss": 1.0}

    def run(*_: Any, **__: Any) -> None:
        run_steps(config, "test", start, jax.tree.map(lambda _: where, start), Stream(), advance, tokens=lambda _: 1.0, shown=(), beside=books)

    monkeypatch.setattr("promedical_jax.train.sft.run", run)
    assert main(["train", "sft", "--out", str(config.out), "--cases", "c", "--model", "m"]) == 2
    *before, said = capsys.readouterr().err.splitlines()
    assert not any("Traceback" in line for line in before)
    assert said == f"error: {config.out / 'metrics.jsonl'}: No space left on device; check the path, its permissions and the free space"
    assert (config.out / "metrics.jsonl").read_bytes() == b"" and checkpoint.steps(config.out / "checkpoints") == []
