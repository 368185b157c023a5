"""Checkpoints of a run: training state and data position in one atomic Orbax checkpoint. The only file that knows Orbax."""

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint.experimental.v1 as ocp
from jax.sharding import SingleDeviceSharding

from promedical_jax.errors import InputError

ATTEMPTS = 5  # at reading a checkpoint that may be removed meanwhile


class Checkpoints:
    """The checkpoints in one folder: the newest two are kept, and the best of those that have a value. Use as a context manager: leaving waits for a save
    under way."""

    def __init__(self, folder: Path):
        self.folder = folder
        policies = ocp.training.preservation_policies
        best = policies.BestN(get_metric_fn=lambda metrics: metrics["value"], n=1, keep_checkpoints_without_metrics=False)
        kept = policies.AnyPreservationPolicy([policies.LatestN(2), best])
        self._orbax = ocp.training.Checkpointer(folder.absolute(), preservation_policy=kept, cleanup_tmp_directories=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._orbax.close()

    def save(self, step: int, state: Any, data: Any, value: float | None = None) -> None:
        """Saves in the background, once the save before is done; a checkpoint is seen by `restore` only when it is complete. `value`: how good it is."""
        metrics = None if value is None else {"value": value}
        self._orbax.save_checkpointables_async(step, {"state": state, "data": data}, force=True, metrics=metrics)  # else skipped while a save is under way

    def restore(self, state: Any, shardings: Any, data: Any, step: int | None = None) -> tuple[Any, int]:
        """The newest complete state on `shardings` (any mesh), or that of `step`, with `data` moved to its position; (state, 0) where nothing was saved."""
        self._orbax.wait()
        if self._orbax.latest is None:
            return state, 0
        abstract = jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state, shardings)
        step = self._orbax.latest.step if step is None else step
        try:
            restored = self._orbax.load_checkpointables(step, {"state": abstract, "data": data})
        except (ValueError, KeyError, FileNotFoundError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{self.folder}: checkpoint {step} does not fit this recipe ({reason}); choose another --out") from error
        return restored["state"], step


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
            params = _read(path, masters, wanted)
        except Exception as error:  # Orbax and TensorStore raise all kinds, Exception itself among them
            if files != _files(path):
                continue
            reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise InputError(f"{path}: cannot be read ({reason}); choose another --step, or give a folder that `promedical train` wrote") from error
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
    ocp.save_checkpointables(folder.absolute() / str(step), {"state": {"params": params}})


def _read(path: Path, masters: bool, wanted: Any) -> Any:
    saved = ocp.checkpointables_metadata(path).metadata.get("state")
    if not saved or "params" not in saved:
        raise ValueError("it holds no parameters, or not all of its files")
    name = "masters" if masters and saved.get("masters") else "params"
    here = SingleDeviceSharding(jax.local_devices()[0])
    abstract = wanted or jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), saved[name])
    with ocp.Context(pytree_options=ocp.options.PyTreeOptions(loading=ocp.options.PyTreeOptions.Loading(partial_load=True))):
        return ocp.load_checkpointables(path, {"state": {name: abstract}})["state"][name]


def _files(path: Path) -> set[tuple[str, int]]:
    """What stands in a checkpoint; files that vanish while they are looked at are not there."""
    found = set()
    for file in path.rglob("*"):
        with suppress(FileNotFoundError):
            found.add((str(file.relative_to(path)), file.stat().st_size))
    return found
