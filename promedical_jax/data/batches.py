"""Grain pipelines: encoded cases to batches, sharded by process, a function of (seed, position) alone, and checkpointable.

The iterator's state is the index into its process's share, so a run may resume on another number of devices, but not of processes.
"""

from collections.abc import Sequence
from typing import Any

import grain
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from promedical_jax.data.encode import Encoded, Sizes, to_arrays
from promedical_jax.errors import InputError
from promedical_jax.model.sharding import spec


def training_batches(encoded: Sequence[Encoded], sizes: Sizes, batch: int, seed: int, where: str) -> grain.DatasetIterator:
    """Endless batches of `batch` cases over all processes, reshuffled each epoch; this process gets its share. Raises InputError if there are fewer cases.

    A batch holds the arrays of `to_arrays`, stacked, and `index`: which of `encoded` each row is.
    """
    processes = jax.process_count()
    if len(encoded) < batch:
        raise InputError(f"{where}: {len(encoded)} cases are fewer than a batch of {batch}; lower batch or add cases")
    if batch % processes:
        raise InputError(f"batch={batch} does not divide among {processes} processes; choose a multiple of {processes}")
    cases = grain.MapDataset.source(range(len(encoded))).seed(seed).shuffle().repeat()
    mine = cases[jax.process_index() :: processes].map(lambda i: to_arrays(encoded[i], sizes) | {"index": np.int32(i)})
    # One reading thread: the cases are in memory, and more would take the cores from XLA.
    ready = mine.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)).batch(batch // processes, drop_remainder=True)
    return iter(ready)


def evaluation_batches(encoded: Sequence[Encoded], sizes: Sizes, batch: int):
    """Every case once and in order: (indices [n], arrays of `batch` cases); the last batch is filled up by repeating its last case, n counts the real ones."""
    for start in range(0, len(encoded), batch):
        indices = list(range(start, min(start + batch, len(encoded))))
        filled = indices + [indices[-1]] * (batch - len(indices))
        records = [to_arrays(encoded[i], sizes) for i in filled]
        yield indices, {name: np.stack([record[name] for record in records]) for name in records[0]}


def to_devices(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """This process's share of a batch as global arrays, split along the batch over the mesh's fsdp axis."""
    placed = NamedSharding(jax.sharding.get_mesh(), spec("batch"))
    return {name: jax.make_array_from_process_local_data(placed, array) for name, array in arrays.items()}


def to_host(array: Any) -> np.ndarray:
    """A global array, whole, on every process."""
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
