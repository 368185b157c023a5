"""Near vectors on the devices of a mesh: every pair, in blocks. Each device holds its part of the rows of a block, and all columns.

Of a block's cosines only one bit leaves the devices for each row and TILE columns: whether any of them is high enough. The host then looks at those few places
in float64 (pairs.py), so that the outcome does not depend on how many devices there are, nor on how they round.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from promedical_jax.likeness.pairs import SLACK, holding
from promedical_jax.model.sharding import parts, spec

ROWS = 4096  # of a block, on each device
TILE = 128  # columns that share a bit
COLUMNS = 128 * TILE  # at a time
CHUNK = 4096  # places that the host looks at, at a time


def near(vectors: np.ndarray, threshold: float, mesh: Mesh) -> np.ndarray:
    """As cells.near, over all pairs. vectors: [n, d] float32 rows of length 1."""
    count, width = vectors.shape
    if not count:
        return np.zeros((0, 2), np.int64)
    step = parts(mesh, "batch") * min(ROWS, -(-count // parts(mesh, "batch")))
    with jax.set_mesh(mesh):
        columns = jax.device_put(_padded(vectors, COLUMNS).reshape(-1, COLUMNS, width), NamedSharding(mesh, spec(None, None, None)))
        found = [np.zeros((0, 2), np.int64)]
        for start in range(0, count, step):
            rows = jax.device_put(_padded(vectors[start : start + step], step), NamedSharding(mesh, spec("batch", None)))
            bits = np.asarray(jax.device_get(_any_near(rows, columns, start, threshold - SLACK)))
            row, tile = np.nonzero(np.unpackbits(bits, axis=2).transpose(1, 0, 2).reshape(step, -1)[: count - start])
            for first in range(0, len(row), CHUNK):
                found.append(_in_tiles(vectors, row[first : first + CHUNK] + start, tile[first : first + CHUNK], threshold - SLACK))
    return holding(vectors, np.concatenate(found), threshold)


@jax.jit
def _any_near(rows: jax.Array, columns: jax.Array, start: int, least: float) -> jax.Array:
    """rows [b, d] from row `start` on, columns [m, COLUMNS, d] -> uint8 [m, b, COLUMNS / TILE / 8]: a bit for each TILE columns, whether one behind the row is
    near."""
    own = start + jnp.arange(rows.shape[0])

    def block(first: jax.Array, some: jax.Array) -> tuple[jax.Array, jax.Array]:
        cosine = jnp.einsum("bd,cd->bc", rows, some, precision="highest", out_sharding=spec("batch", None))
        later = first + jnp.arange(COLUMNS) > own[:, None]
        high = ((cosine >= least) & later).reshape(-1, COLUMNS // TILE, TILE, out_sharding=spec("batch", None, None)).any(-1)
        return first + COLUMNS, jnp.packbits(high, axis=1)

    return jax.lax.scan(block, jnp.int32(0), columns)[1]


def _in_tiles(vectors: np.ndarray, rows: np.ndarray, tiles: np.ndarray, least: float) -> np.ndarray:
    columns = np.minimum(tiles[:, None] * TILE + np.arange(TILE), len(vectors) - 1)
    high = np.einsum("nd,ntd->nt", vectors[rows], vectors[columns]) >= least
    return np.column_stack([np.broadcast_to(rows[:, None], high.shape)[high], columns[high]])


def _padded(vectors: np.ndarray, multiple: int) -> np.ndarray:
    """With rows of zeros, which are near nothing, up to a multiple."""
    return np.pad(vectors, ((0, -len(vectors) % multiple), (0, 0)))
