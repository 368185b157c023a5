"""Grain pipelines: encoded cases to batches, a function of (seed, position) alone, and checkpointable.

Every process makes the whole batch, and `to_devices` takes from it the rows that its devices hold: a process needs not know which these are (with tensors split
across processes several hold the same), and a run may resume on another number of processes. Padding a case costs tens of microseconds.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import grain
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from promedical_jax.data.encode import Encoded, Sizes, to_arrays
from promedical_jax.errors import InputError
from promedical_jax.model.sharding import spec

Finish = Callable[[dict[str, Any]], dict[str, Any]]


class Batches:
    """Endless batches of `batch` cases, reshuffled each epoch. The state is how many cases were taken: the same in every process, whatever their number.

    A batch holds the arrays of `to_arrays`, stacked, `index`: which of `encoded` each row is, and what `finish` makes of the whole (see rows.py).
    """

    def __init__(self, encoded: Sequence[Encoded], sizes: Sizes, batch: int, seed: int, finish: Finish = dict):
        self._cases = grain.MapDataset.source(range(len(encoded))).seed(seed).shuffle().repeat()
        self._row = lambda i: to_arrays(encoded[i], sizes) | {"index": np.int32(i)}
        self._batch = batch
        self._finish = finish
        self._start(0)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._ready)
        self._taken += self._batch
        return batch

    def get_state(self) -> dict[str, int]:
        return {"cases": self._taken}

    def set_state(self, state: dict[str, int]) -> None:
        self._ready.close()
        self._start(state["cases"])

    def _start(self, taken: int) -> None:
        self._taken = taken
        rows = self._cases[self._taken :].map(self._row)
        # One reading thread: the cases are in memory, and more would take the cores from XLA.
        batches = rows.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)).batch(self._batch, drop_remainder=True)
        self._ready = iter(batches.map(self._finish))


def training_batches(encoded: Sequence[Encoded], sizes: Sizes, batch: int, seed: int, where: str, finish: Finish = dict) -> Batches:
    """The training cases as batches, each with what `finish` adds. Raises InputError if there are fewer cases than a batch holds."""
    if len(encoded) < batch:
        raise InputError(f"{where}: {len(encoded)} cases are fewer than a batch of {batch}; lower batch or add cases")
    return Batches(encoded, sizes, batch, seed, finish)


def evaluation_batches(encoded: Sequence[Encoded], sizes: Sizes, batch: int):
    """Every case once and in order: (indices [n], arrays of `batch` cases); the last batch is filled up by repeating its last case, n counts the real ones."""
    for start in range(0, len(encoded), batch):
        indices = list(range(start, min(start + batch, len(encoded))))
        filled = indices + [indices[-1]] * (batch - len(indices))
        records = [to_arrays(encoded[i], sizes) for i in filled]
        yield indices, jax.tree.map(lambda *rows: np.stack(rows), *records)


def to_devices(arrays: dict[str, Any]) -> dict[str, Any]:
    """A batch, the same in every process, as global arrays split along the batch over the mesh's slices and fsdp axis. Nothing is sent between processes.

    Trees of arrays, such as packed rows, are placed leaf by leaf.
    """
    placed = NamedSharding(jax.sharding.get_mesh(), spec("batch"))
    return jax.tree.map(lambda array: jax.make_array_from_callback(array.shape, placed, array.__getitem__), arrays)


def to_host(array: Any) -> np.ndarray:
    """A global array, whole, on every process."""
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
