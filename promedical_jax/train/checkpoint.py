"""Checkpoints of a run: training state and data position in one atomic Orbax checkpoint. The only file that knows Orbax."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import orbax.checkpoint.experimental.v1 as ocp

from promedical_jax.errors import InputError


class Checkpoints:
    """The checkpoints in one folder, the newest two kept. Use as a context manager: leaving waits for a save under way."""

    def __init__(self, folder: Path):
        self.folder = folder
        newest = ocp.training.preservation_policies.LatestN(2)
        self._orbax = ocp.training.Checkpointer(folder.absolute(), preservation_policy=newest, cleanup_tmp_directories=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._orbax.close()

    def save(self, step: int, state: Any, data: Any) -> None:
        """Saves in the background, once the save before is done; a checkpoint is seen by `restore` only when it is complete."""
        self._orbax.save_checkpointables_async(step, {"state": state, "data": data}, force=True)  # else Orbax skips it where a save is under way

    def restore(self, state: Any, shardings: Any, data: Any) -> tuple[Any, int]:
        """The newest complete state on `shardings` (any mesh), with `data` moved to its position; (state, 0) where nothing was saved."""
        if self._orbax.latest is None:
            return state, 0
        abstract = jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state, shardings)
        step = self._orbax.latest.step
        try:
            restored = self._orbax.load_checkpointables(step, {"state": abstract, "data": data})
        except (ValueError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{self.folder}: checkpoint {step} does not fit this recipe ({reason}); choose another --out") from error
        return restored["state"], step
