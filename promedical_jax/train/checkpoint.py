"""Checkpoints of a run: all that it goes on from, in one atomic Orbax checkpoint. The only file that knows Orbax.

A checkpoint holds `state`, the arrays that are trained and their optimizer's, and `run`, a JSON file: the position in the data, what guards, watch and ledger
remember, and a checksum of each array and of itself. What does not come back as it was saved is damaged, and the checkpoint before it counts.
"""

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self
from zlib import crc32

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from jax.sharding import SingleDeviceSharding
from rich.console import Console

from promedical_jax.cluster import agree, chief, lost, share, together
from promedical_jax.config import Keep
from promedical_jax.errors import InputError
from promedical_jax.train.checksum import checksums

ATTEMPTS = 5  # at reading a checkpoint that may be removed meanwhile
TRIES = 40  # at removing half a checkpoint
RECORD = Path("run") / "data.json"


class Restored(NamedTuple):
    """What a run goes on from."""

    state: Any
    run: dict[str, Any]  # as it was given to `save`; empty where nothing was saved
    step: int


class Checkpoints:
    """The checkpoints in one folder, of which those stay that the recipe's `keep` names. Use as a context manager: leaving waits for a save under way."""

    def __init__(self, folder: Path, keep: Keep):
        self.folder = folder
        self._values: dict[int, float | None] = {step: _value(folder / str(step)) for step in steps(folder)}
        self._saving: Any = None
        policy = _Policy(keep, self._values)
        self._orbax = ocp.training.Checkpointer(folder.absolute(), context=_context(), preservation_policy=policy, cleanup_tmp_directories=True)

    def __enter__(self) -> Self:
        self._level = logging.getLogger("absl").level
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax prints tracebacks of what it raises here too, several a fault
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._wait()
        except Exception as failure:
            if kind is None:
                self._say_unsaved(failure)
        finally:
            with suppress(Exception):  # the same once more
                self._orbax.close()
            logging.getLogger("absl").setLevel(self._level)

    def save(self, step: int, state: Any, run: dict[str, Any], value: float | None = None) -> None:
        """Saves in the background, once the save before is done; a checkpoint is seen by `restore` only when it is complete. `run`: JSON; `value`: how good
        the state is. Raises InputError where the save before, or this one, finds no room or may not write."""
        self.finish()
        self._values[step] = value
        try:  # `force`: else skipped while a save is under way
            self._saving = self._orbax.save_checkpointables_async(step, {"state": state, "run": _record(state, run, value)}, force=True)
        except Exception as failure:
            self._say_unsaved(failure)

    def finish(self) -> None:
        """Waits for the save under way. Raises InputError where it fails."""
        try:
            self._wait()
        except Exception as failure:
            self._say_unsaved(failure)

    def _wait(self) -> None:
        saving, self._saving = self._saving, None
        try:
            if saving:
                saving.result()  # and not only `wait`, which leaves a thread and three file descriptors behind
        except Exception:
            with suppress(Exception):  # which it would say once more
                self._orbax.wait()
            raise
        self._orbax.wait()

    def _say_unsaved(self, failure: Exception) -> NoReturn:
        if lost(failure):  # of whoever it was to write the rest
            raise failure
        for half in self.folder.glob("*.orbax-checkpoint-tmp"):  # nobody reads it, and it takes room
            for _ in range(TRIES):
                shutil.rmtree(half, ignore_errors=True)
                if not half.exists():
                    break
                time.sleep(0.05)  # other threads of Orbax's may not have heard yet
        left = steps(self.folder)
        sound = f"those of steps {', '.join(map(str, left))} are" if left[1:] else f"that of step {left[0]} is" if left else "there is none"
        what = f"a checkpoint could not be written ({_reason(failure)}); {sound}{' whole' if left else ' yet'}"
        raise InputError(f"{self.folder}: {what}. See to free space and permissions, and start the same command again") from failure

    def restore(self, state: Any, shardings: Any, step: int | None = None) -> Restored:
        """The newest sound state on `shardings` (any mesh), or that of `step` alone, in the place of `state`, whose memory is given back; `state` itself where
        nothing was saved.

        Damaged checkpoints on the way are set aside, with a sentence each. Raises InputError where none is sound, or where it is not of this recipe's shapes.
        """
        self.finish()
        present = np.asarray(steps(self.folder) if step is None else [step], np.int32)
        present = share(np.resize(present, agree(len(present))))  # as process 0 sees them: a network's file system may show them late
        damaged: dict[int, str] = {}
        for candidate in map(int, reversed(present)):
            try:
                found = self._read(candidate, state, shardings)
            except _Damaged as reason:
                damaged[candidate] = str(reason)
                continue
            self._set_aside(damaged, candidate)
            return found
        if damaged:
            what = "; ".join(f"checkpoint {number} is damaged ({reason})" for number, reason in damaged.items())
            raise InputError(f"{self.folder}: {what}, and there is no other; put a sound one back, or start again in another --out")
        checksums(state)  # compiled now: a notice to stop, and then to save, may come soon and is short
        return Restored(state, {}, 0)

    def _read(self, step: int, state: Any, shardings: Any) -> Restored:
        path = self.folder.absolute() / str(step)
        record = _in_step(lambda: _read_record(path))
        there, here = ({name: one["shape"] for name, one in arrays.items()} for arrays in (record["arrays"], _described(state)))
        if there != here:
            name = next(name for name in [*here, *there] if there.get(name) != here.get(name))
            what = f"{name} is {_shape(there.get(name))} there and {_shape(here.get(name))} here"
            raise InputError(f"{self.folder}: checkpoint {step} does not fit this recipe ({what}); choose another --out")
        abstract = jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state, shardings)
        for x in jax.tree.leaves(state):  # its memory is needed, and who called holds it on
            if isinstance(x, jax.Array):
                x.delete()
        restored = _in_step(lambda: self._orbax.load_checkpointables(step, {"state": abstract})["state"])
        _compare(restored, record)
        return Restored(restored, record["run"], step)

    def _set_aside(self, damaged: dict[int, str], sound: int) -> None:
        """Renames damaged checkpoints, so that their steps can be saved again and nobody takes them for whole."""
        for step, reason in damaged.items():
            aside = self.folder / f"{step}.damaged"
            with together():
                if chief():
                    number = 1
                    while aside.exists():
                        number += 1
                        aside = self.folder / f"{step}.damaged.{number}"
                    (self.folder / str(step)).rename(aside)
            said = f"{self.folder}: checkpoint {step} is damaged ({reason}), and is now {aside.name}; going on from that of step {sound}"
            Console(stderr=True, quiet=not chief()).print(said, soft_wrap=True, highlight=False)
        if damaged:
            self._orbax.reload()


def kept(values: dict[int, float | None], keep: Keep) -> set[int]:
    """Of checkpoints by their steps, with how good each is (None: not known), those that stay. Of equally good ones the latest is better."""
    ranked = sorted((value, step) for step, value in values.items() if value is not None)
    best = {step for _, step in ranked[max(len(ranked) - keep.best, 0) :]}
    return {*sorted(values)[-keep.last :], *best, *(step for step in values if keep.every and step % keep.every == 0)}


class _Policy:
    """`kept` as Orbax asks for it. It keeps values of its own, in a file whose damage goes unseen; ours are in the record."""

    def __init__(self, keep: Keep, values: dict[int, float | None]):
        self._keep, self._values = keep, values

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        stay = kept({one.step: self._values.get(one.step) for one in checkpoints}, self._keep)
        return [one.step in stay for one in checkpoints]


def _context() -> ocp.Context:
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="run")
    context = ocp.Context()
    context.checkpointables.registry = registry
    context.async_options.create_directories_asynchronously = False  # where they cannot be made, all else would wait for them for five minutes
    return context


# Whether a checkpoint is what was saved


class _Damaged(Exception):
    """What is wrong with a checkpoint."""


def _in_step(read: Callable[[], Any]) -> Any:
    """What `read` returns, or _Damaged, in every process alike."""
    try:
        with together():
            try:
                return read()
            except Exception as error:  # Orbax and TensorStore raise all kinds, Exception itself among them
                raise InputError(_reason(error)) from error
    except InputError as error:
        raise _Damaged(str(error)) from error


def _record(state: Any, run: dict[str, Any], value: float | None = None) -> dict[str, Any]:
    """What a checkpoint's JSON file holds."""
    sums = checksums(state)
    record = {"arrays": {name: one | {"sum": sums[name]} for name, one in _described(state).items()}, "value": value, "run": run}
    return json.loads(json.dumps(record | {"crc": _crc(record)}))  # a copy: it is written later, and the run goes on with its own


def _described(tree: Any) -> dict[str, dict[str, Any]]:
    return {jax.tree_util.keystr(path, simple=True, separator="."): {"shape": list(x.shape)} for path, x in jax.tree.leaves_with_path(tree)}


def _read_record(path: Path) -> dict[str, Any]:
    record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    if not isinstance(record, dict) or record.pop("crc", None) != _crc(record):
        raise ValueError(f"{RECORD} is not what was written")
    return record


def _value(path: Path) -> float | None:
    """How good the checkpoint is; None where that is not known."""
    with suppress(OSError, ValueError):
        return _read_record(path)["value"]
    return None


def _compare(tree: Any, record: dict[str, Any]) -> None:
    """Raises _Damaged where an array of a tree is not what the record says of the one with its name."""
    wrong = [name for name, said in checksums(tree).items() if record["arrays"].get(name, {}).get("sum") != said]
    if wrong:
        more = f" and {len(wrong) - 1} more" if wrong[1:] else ""
        raise _Damaged(f"what is read as {wrong[0]}{more} is not what was saved")


def _crc(record: dict[str, Any]) -> int:
    return crc32(json.dumps(record, sort_keys=True).encode())


def _shape(shape: list[int] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape)) or "one number"


def _reason(error: BaseException) -> str:
    """The first line of what went wrong at the bottom, which Orbax wraps in errors of its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {Path(error.filename).name}" if error.filename else error.strerror
    number = re.search(r"\[os_error_code='(\d+)'", str(error))  # TensorStore's way to say it
    if number:
        return os.strerror(int(number[1]))
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


# Reading alone, also while a run writes


def steps(folder: Path) -> list[int]:
    """The complete checkpoints in a folder, oldest first: Orbax gives a checkpoint its number when it is whole."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal() and path.is_dir())


def _present(folder: Path) -> list[int]:
    present = steps(folder)
    if not present:
        raise InputError(f"{folder}: holds no complete checkpoint yet; wait for the run's first, or give another folder")
    return present


def read_parameters(folder: Path, step: int | None = None, masters: bool = False, wanted: Any = None) -> tuple[Any, int]:
    """The parameters of the newest checkpoint, or of `step`, without the optimizer's state; and its step.

    `wanted`: what they are to be, a tree of jax.ShapeDtypeStruct with shardings; None takes them as they are, on this process's first device.
    `masters`: the float32 ones, where there are some. Takes no lock, writes and removes nothing; a checkpoint that the run removed meanwhile is given up
    for a newer one. Raises InputError where there is none, or where it cannot be read.
    """
    for _ in range(ATTEMPTS):
        present = _present(folder)
        if step is not None and step not in present:
            raise InputError(f"{folder}: holds no checkpoint of step {step}; complete ones are {', '.join(map(str, present))}")
        chosen = present[-1] if step is None else step
        path = folder.absolute() / str(chosen)
        files = _files(path)
        try:
            params = _parameters(path, masters, wanted)
        except Exception as error:  # Orbax and TensorStore raise all kinds, Exception itself among them
            if files != _files(path):
                continue
            raise InputError(f"{path}: cannot be read ({_reason(error)}); choose another --step, or give a folder that `promedical train` wrote") from error
        if files == _files(path):  # a file removed before it was read may read as zeros
            return params, chosen
    raise InputError(f"{folder}: each of {ATTEMPTS} checkpoints was removed while it was read; try again, or export when the run has finished")


def saved_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the newest checkpoint's parameters by their paths, without reading them. Raises InputError where there are none."""
    saved = ocp.checkpointables_metadata(folder.absolute() / str(_present(folder)[-1])).metadata.get("state") or {}
    return shapes_of(saved.get("params", {}))


def shapes_of(params: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of a tree's arrays by their paths."""
    return {jax.tree_util.keystr(path): tuple(x.shape) for path, x in jax.tree.leaves_with_path(params)}


def write_parameters(folder: Path, step: int, params: Any) -> None:
    """A checkpoint of parameters alone, which `read_parameters` reads."""
    state = {"params": params}
    with _context():
        ocp.save_checkpointables(folder.absolute() / str(step), {"state": state, "run": _record(state, {})})


def _parameters(path: Path, masters: bool, wanted: Any) -> Any:
    record = _read_record(path)
    saved = ocp.checkpointables_metadata(path).metadata.get("state")
    if not saved or "params" not in saved:
        raise ValueError("it holds no parameters, or not all of its files")
    name = "masters" if masters and saved.get("masters") else "params"
    here = SingleDeviceSharding(jax.local_devices()[0])
    abstract = wanted or jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), saved[name])
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        found = ocp.load_checkpointables(path, {"state": {name: abstract}})["state"]
    _compare(found, record)
    return found[name]


def _files(path: Path) -> set[tuple[str, int]]:
    """What stands in a checkpoint; files that vanish while they are looked at are not there."""
    found = set()
    for file in path.rglob("*"):
        with suppress(FileNotFoundError):
            found.add((str(file.relative_to(path)), file.stat().st_size))
    return found
