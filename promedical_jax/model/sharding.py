"""Where arrays live: one table from the names of array axes to mesh axes, for JAX's explicit sharding mode.

The mesh has three axes. `slice` splits the batch over groups of chips with a slow network between them, each of which holds every parameter;
`fsdp` splits the batch, and parameters along the model width; `tp` splits heads, feed-forward and vocabulary.
Outside a mesh every function here leaves its array alone, so the model also runs plainly on one device.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, reshard

from promedical_jax.errors import InputError

AXES = ("slice", "fsdp", "tp")
# axis name -> mesh axes. What is not named here is replicated.
TABLE = {"batch": ("slice", "fsdp"), "slice_batch": "slice", "width": "fsdp", "kv_heads": "tp", "feed_forward": "tp", "vocabulary": "tp"}

Axes = tuple[str | None, ...]


def make_mesh(fsdp: int = -1, tp: int = 1, slices: int = 1, devices: list | None = None) -> Mesh:
    """A mesh of all devices (or those given), slice x fsdp x tp; fsdp = -1 takes the devices that the others leave.

    Raises InputError where the product is not the number of devices, or the devices' own slices are not those asked for.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if fsdp == -1:
        fsdp = max(count // (tp * slices), 1)
    if fsdp * tp * slices != count:
        product = f"fsdp={fsdp} x tp={tp}" + (f" x slice={slices}" if slices > 1 else "")
        raise InputError(f"mesh: {product} is {fsdp * tp * slices} devices, but {count} are here; choose factors of {count}")
    shape = (slices, fsdp, tp)
    physical = len({getattr(device, "slice_index", 0) for device in devices})
    if physical > 1:
        if slices != physical:
            raise InputError(f"mesh: slice={slices}, but the devices stand in {physical} slices; give --mesh.slice {physical}")
        placed = mesh_utils.create_hybrid_device_mesh((1, fsdp, tp), (slices, 1, 1), devices=devices, allow_split_physical_axes=True)
    elif devices[0].platform == "tpu":
        placed = mesh_utils.create_device_mesh(shape, devices=devices, allow_split_physical_axes=True)
    else:
        placed = np.array(devices).reshape(shape)
    return Mesh(placed, AXES, axis_types=(AxisType.Explicit,) * len(AXES))


def spec(*axes: str | None) -> PartitionSpec:
    """The partition of an array with these axis names; None and unknown-to-the-table names are replicated."""
    return PartitionSpec(*(TABLE.get(axis) if axis else None for axis in axes))


def in_mesh() -> bool:
    """Whether arrays are spread over a mesh here: not inside `on_each_device`, where each device sees its own part."""
    return AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types


def platform() -> str:
    """What the arrays at hand are computed on: "cpu", "tpu", or "gpu" ("cuda" in some versions of JAX); under a mesh its devices, also only compiled for."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


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
    return pin(x, *(None if axis == "width" else axis for axis in axes))


def on_each_device(function: Callable[..., Any], taken: tuple[Any, ...], given: Any) -> Callable[..., Any]:
    """`function` on each device's part of its arguments, partitioned as `taken`, its results as `given`; outside a mesh the function itself."""
    return jax.shard_map(function, in_specs=taken, out_specs=given, check_vma=False) if in_mesh() else function


def shardings(mesh: Mesh, axes_tree):
    """Maps a pytree of axis names (tuples) to NamedShardings on `mesh`."""
    return jax.tree.map(lambda axes: NamedSharding(mesh, spec(*axes)), axes_tree, is_leaf=lambda x: isinstance(x, tuple))


def parts(mesh: Mesh | AbstractMesh, axis: str) -> int:
    """Into how many parts `mesh` splits the arrays' axis of this name."""
    names = TABLE.get(axis, ())
    return math.prod(mesh.shape[name] for name in ((names,) if isinstance(names, str) else names))


def shared_evenly(rows: int, mesh: Mesh) -> int:
    """The least number of rows, from `rows` on, that the devices which share a batch divide among them."""
    return -(-rows // parts(mesh, "batch")) * parts(mesh, "batch")


def bytes_here(arrays: Any) -> int:
    """Bytes of a tree's arrays, which may be abstract, on one device; an array that stands there twice counts once."""
    leaves = {id(x): x for x in jax.tree.leaves(arrays) if getattr(x, "sharding", None) is not None}
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves.values())


def check_divisible(mesh: Mesh, shapes: dict[str, int]) -> None:
    """Raises InputError for each named size that its mesh axes do not divide, before any compilation. `shapes`: axis name -> size."""
    for axis, size in shapes.items():
        if size % parts(mesh, axis):
            names = [TABLE[axis]] if isinstance(TABLE[axis], str) else [name for name in TABLE[axis] if name != "slice" or mesh.shape[name] > 1]
            product = " x ".join(f"{name}={mesh.shape[name]}" for name in names)
            raise InputError(f"mesh: {product} does not divide the {axis.replace('_', ' ')} of {size}; choose another mesh or size")
