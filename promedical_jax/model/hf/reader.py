"""Safetensors into parameters that lie where they will be used: each process reads what its own devices hold, a tensor at a time.

Every file's header is checked before anything large is read. What a device holds is cut from the file's bytes, goes to that device in HF's order, and is
transposed and cast there while it is written into its layer's place. So the host never holds more than one device's part of one tensor.
"""

import json
import re
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from promedical_jax.errors import InputError
from promedical_jax.model.hf.names import NAMES, UNEMBED, Index, Leaf, Shape, compare, get, leaves, tree_of
from promedical_jax.model.transformer import Dtype, ModelConfig, Params

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
NO_MESH = Mesh(np.empty((), object), ())  # placement is given here, array by array; a mesh around the caller would only add its own
BACKBONE = "model."  # before the names of the backbone's tensors
HEADS = "heads.safetensors"  # a reward model's, beside its backbone's weights


class Stored(NamedTuple):
    """Where a tensor is, by its file's header."""

    file: Path
    name: str  # there
    dtype: str
    shape: Shape


def load(folder: Path, config: ModelConfig, where: Any = None, dtype: Dtype = "float32") -> Params | None:
    """The weights of a model folder, from one or several safetensors; None where the folder has a config and no weights at all.

    `where`: a tree of shardings like the parameters, over any number of processes, each of which reads its own devices' parts; None is the default
    device. Raises InputError naming file and tensor for whatever does not fit config.json, before anything large is read.
    """
    stored = check(folder, config)
    if stored is None:
        return None
    alone = SingleDeviceSharding(jax.local_devices()[0])
    with jax.set_mesh(NO_MESH):
        return tree_of({leaf.path: _load_leaf(leaf, stored, alone if where is None else get(where, leaf.path), dtype) for leaf in leaves(config)})


def load_trained(folder: Path, config: ModelConfig, where: Any = None, dtype: Dtype = "float32") -> Params:
    """As `load`, of a folder that must have weights. Raises InputError where it has none."""
    params = load(folder, config, where, dtype)
    if params is None:
        raise InputError(f"{folder}: no weights; give the folder of a trained model")
    return params


def check(folder: Path, config: ModelConfig) -> dict[str, Stored] | None:
    """Where each tensor of a model folder is, by the headers of its files alone; None where there are none. Raises InputError as `load` does."""
    stored = headers(folder)
    if stored is not None:
        compare({name: tensor.shape for name, tensor in stored.items()}, config, folder, lambda name: stored[name].file)
    return stored


def has_weights(folder: Path) -> bool:
    """Whether a model folder has files of weights. Raises InputError where they are there in part, or in a format that we do not read."""
    return bool(_files(folder))


def stored_dtype(folder: Path) -> Dtype:
    """The type that holds a folder's weights exactly: bfloat16 where all of them are, else float32."""
    return "bfloat16" if {tensor.dtype for tensor in (headers(folder) or {}).values()} == {"BF16"} else "float32"


# Placing


def _load_leaf(leaf: Leaf, stored: dict[str, Stored], where: Sharding, dtype: str) -> jax.Array:
    apart = _without_layers(where, leaf)
    if not leaf.stacked:
        whole = _place(leaf, leaf.tensors[0], stored, apart)
        return whole if whole.dtype == dtype else jax.jit(partial(jax.lax.convert_element_type, new_dtype=dtype), out_shardings=where)(whole)
    stack = jax.jit(partial(jnp.zeros, (len(leaf.tensors), *leaf.shape), dtype), out_shardings=where)()
    for i, name in enumerate(leaf.tensors):
        stack = _into(leaf, where)(stack, _place(leaf, name, stored, apart), np.int32(i))
        jax.block_until_ready(stack)  # else the next layers wait on the host for this one
    return stack


def _place(leaf: Leaf, name: str, stored: dict[str, Stored], where: Sharding) -> jax.Array:
    """HF's tensor with its axes apart, on the devices of `where` that are this process's. Devices that hold the same part share one read."""
    by_part: dict[tuple, list] = {}
    for device, index in where.addressable_devices_indices_map(leaf.apart).items():
        ranges = tuple(part.indices(size)[:2] for part, size in zip(index or (), leaf.apart, strict=True))
        by_part.setdefault(ranges, []).append(device)
    arrays = []
    for ranges, devices in by_part.items():
        host = leaf.part(partial(_cut, stored[name].file, stored[name].name), tuple(slice(*bounds) for bounds in ranges))
        arrays += jax.block_until_ready([jax.device_put(host, device) for device in devices])
        del host
    return jax.make_array_from_single_device_arrays(leaf.apart, where, arrays)


def _cut(file: Path, name: str, ranges: Index) -> np.ndarray:
    """Rows, or rows and columns, of a tensor. The file is opened for this part alone: pages of an open map stay in memory."""
    from safetensors import safe_open

    with safe_open(file, framework="np") as opened:
        return opened.get_slice(name)[ranges]


def _without_layers(where: Sharding, leaf: Leaf) -> Sharding:
    """Where one layer lies, with its axes in HF's order, so that the transposition moves nothing between devices."""
    if not isinstance(where, NamedSharding):
        return where
    axes = [*where.spec, *[None] * (leaf.stacked + len(leaf.shape) - len(where.spec))][leaf.stacked :]
    return NamedSharding(where.mesh, PartitionSpec(*(axes[axis] for axis in leaf.order)), memory_kind=where.memory_kind)


@cache
def _into(leaf: Leaf, where: Sharding):
    """(stack, placed layer, i) -> the stack with that layer in place i, in the memory of the old one."""

    def into(stack: jax.Array, layer: jax.Array, i: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(stack, jnp.transpose(layer, leaf.back).astype(stack.dtype), i, 0)

    return jax.jit(into, donate_argnums=0, out_shardings=where)


# Headers


def headers(folder: Path) -> dict[str, Stored] | None:
    """Every tensor in the weight files of a folder, by its name; None where there are none. Raises InputError for files that are not whole.

    A backbone that was saved by itself, as Qwen3-Embedding was, has the names that it has within the whole model here.
    """
    stored: dict[str, Stored] = {}
    listed = _files(folder)
    for file, promised in listed.items():
        held = header(file)
        absent = [name for name in promised if name not in held]
        if absent:
            raise InputError(f"{file}: tensor {absent[0]}, which {INDEX} says it holds, is missing; fetch file and index again")
        for name, tensor in held.items():
            if name in stored:
                raise InputError(f"{file}: tensor {name} is also in {stored[name].file.name}; keep one of the two files, or fetch the checkpoint again")
            stored[name] = tensor
    if listed and NAMES["embed"] not in stored and NAMES["embed"].removeprefix(BACKBONE) in stored:
        return {name if name == UNEMBED else BACKBONE + name: tensor for name, tensor in stored.items()}
    return stored if listed else None


def _files(folder: Path) -> dict[Path, list[str]]:
    """The weight files of a folder in order, each with the tensors that an index says it holds."""
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    shards = {name: (int(match[1]), int(match[2])) for name in sorted(present) if (match := SHARD.fullmatch(name))}
    if SINGLE in present and (shards or INDEX in present):
        raise InputError(f"{folder}: holds both {SINGLE} and {next(iter(shards), INDEX)}; remove the one that is not meant")
    if SINGLE in present:
        return {folder / SINGLE: []}
    if INDEX in present:
        return _indexed(folder, present)
    if shards:
        counts = {count for _, count in shards.values()}
        wanted = [f"model-{i:05}-of-{count:05}.safetensors" for count in counts for i in range(1, count + 1)]
        absent = [name for name in wanted if name not in shards]
        if absent:
            raise InputError(f"{folder}: {absent[0]} is missing, {len(shards)} of {len(wanted)} weight files are here; fetch the checkpoint again")
        return {folder / name: [] for name in shards}
    other = sorted(name for name in present if name.endswith(".safetensors") and name != HEADS)
    if other:
        raise InputError(f"{folder / other[0]}: not a name of weights; they are {SINGLE}, or model-00001-of-0000N.safetensors with {INDEX}")
    torch = sorted(name for name in present if re.fullmatch(r"(pytorch_model|model|consolidated).*\.(bin|pt|pth)|.*\.gguf", name))
    if torch:
        raise InputError(f"{folder / torch[0]}: only safetensors are read; save the model with `transformers` as safetensors, or take a revision that has them")
    return {}


def _indexed(folder: Path, present: set[str]) -> dict[Path, list[str]]:
    index = folder / INDEX
    try:
        names = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index}: not an index of weights ({error!r}); fetch it again") from None
    files: dict[Path, list[str]] = {}
    for tensor, name in names.items():
        if name not in present:
            raise InputError(f"{index}: names {name} for tensor {tensor}, and that file is not there; fetch the checkpoint again")
        files.setdefault(folder / name, []).append(tensor)
    if not files:
        raise InputError(f"{index}: names no weights; fetch it again")
    return dict(sorted(files.items()))


def header(file: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file. Raises InputError for another or a truncated file, naming the first tensor that it does not hold whole,
    and for a tensor of a type that we do not read."""
    from safetensors import SafetensorError, safe_open

    fault = f"{file}: not a safetensors file; fetch it again"
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = 8 + int.from_bytes(opened.read(8), "little")
        if not 8 < start <= 100_000_000:  # the library's own bound
            raise InputError(fault)
        raw = opened.read(start - 8)
    if size < start and raw[:1] in (b"{", b""):
        raise InputError(f"{file}: truncated in its header, {size:,} of at least {start:,} bytes are here; fetch it again")
    try:
        tensors = {name: fields for name, fields in json.loads(raw).items() if name != "__metadata__"}
        ends = {name: fields["data_offsets"][1] for name, fields in tensors.items()}
        stored = {name: Stored(file, name, fields["dtype"], tuple(fields["shape"])) for name, fields in tensors.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise InputError(fault) from None
    past = [name for name in sorted(ends, key=ends.__getitem__) if start + ends[name] > size]
    if past:
        raise InputError(f"{file}: truncated, tensor {past[0]} ends at byte {start + ends[past[0]]:,} of a file of {size:,}; fetch it again")
    for name, tensor in stored.items():
        if tensor.dtype not in FLOATS:
            raise InputError(f"{file}: tensor {name} is stored as {tensor.dtype}; quantised weights are not read, take the model in BF16, F16 or F32")
    try:
        with safe_open(file, framework="np"):
            return stored
    except SafetensorError as error:
        raise InputError(f"{file}: not a readable safetensors file ({error}); fetch it again") from None
