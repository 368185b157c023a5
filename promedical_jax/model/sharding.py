"""Where arrays live: one table from the names of array axes to mesh axes, for JAX's explicit sharding mode.

The mesh has two axes. `fsdp` splits the batch, and parameters along the model width; `tp` splits heads, feed-forward and vocabulary.
Outside a mesh every function here leaves its array alone, so the model also runs plainly on one device.
"""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, reshard

from promedical_jax.errors import InputError

# axis name -> mesh axis. What is not named here is replicated.
TABLE = {"batch": "fsdp", "width": "fsdp", "kv_heads": "tp", "feed_forward": "tp", "vocabulary": "tp"}

Axes = tuple[str | None, ...]


def make_mesh(fsdp: int = -1, tp: int = 1) -> Mesh:
    """A mesh of all devices, fsdp x tp; fsdp = -1 takes the devices that tp leaves. Raises InputError where the product is not the number of devices."""
    devices = jax.device_count()
    if fsdp == -1:
        fsdp = max(devices // tp, 1)
    if fsdp * tp != devices:
        raise InputError(f"mesh: fsdp={fsdp} x tp={tp} is {fsdp * tp} devices, but {devices} are here; choose factors of {devices}")
    return jax.make_mesh((fsdp, tp), ("fsdp", "tp"), axis_types=(AxisType.Explicit, AxisType.Explicit))


def spec(*axes: str | None) -> PartitionSpec:
    """The partition of an array with these axis names; None and unknown-to-the-table names are replicated."""
    return PartitionSpec(*(TABLE.get(axis) if axis else None for axis in axes))


def in_mesh() -> bool:
    return not jax.sharding.get_abstract_mesh().empty


def out(*axes: str | None) -> PartitionSpec | None:
    """The `out_sharding` argument of an operation whose result has these axes; None outside a mesh."""
    return spec(*axes) if in_mesh() else None


def pin(x: jax.Array, *axes: str | None) -> jax.Array:
    """Moves x to the placement of its axes; the identity outside a mesh."""
    return reshard(x, spec(*axes)) if in_mesh() else x


def reshape(x: jax.Array, shape: tuple[int, ...], back: int = 0) -> jax.Array:
    """Reshapes the middle axes of x; the first axis and the last `back` keep their placement, also where the first has size 1 and JAX would lose it."""
    if not in_mesh():
        return x.reshape(shape)
    placed = jax.typeof(x).sharding.spec
    return jax.lax.reshape(x, shape, out_sharding=PartitionSpec(placed[0], *[None] * (len(shape) - 1 - back), *placed[x.ndim - back :]))


def gather(x: jax.Array, axes: Axes) -> jax.Array:
    """A parameter ready for use: gathered along fsdp, still split along tp. Cast to the compute type before, so that half the bytes travel."""
    return pin(x, *(None if TABLE.get(axis or "") == "fsdp" else axis for axis in axes))


def shardings(mesh: Mesh, axes_tree):
    """Maps a pytree of axis names (tuples) to NamedShardings on `mesh`."""
    return jax.tree.map(lambda axes: NamedSharding(mesh, spec(*axes)), axes_tree, is_leaf=lambda x: isinstance(x, tuple))


def check_divisible(mesh: Mesh, shapes: dict[str, int]) -> None:
    """Raises InputError for each named size that its mesh axis does not divide, before any compilation. `shapes`: axis name -> size."""
    for axis, size in shapes.items():
        parts = mesh.shape[TABLE[axis]]
        if size % parts:
            raise InputError(f"mesh: {TABLE[axis]}={parts} does not divide the {axis.replace('_', ' ')} of {size}; choose another mesh or size")
