"""Parameters to a folder that `AutoModelForCausalLM.from_pretrained` reads, or the one of a classifier, a tensor at a time: the host never holds more than one.

Safetensors are written here and not by their library, which wants a whole file's tensors at once: eight bytes of the header's length, the header as JSON,
then the tensors in its order (https://github.com/huggingface/safetensors, "Format").
"""

import json
import math
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from promedical_jax.atomic import replacing_folder
from promedical_jax.model.hf.companions import as_json, companions, generation_config, write_files
from promedical_jax.model.hf.config import Fields, hf_config
from promedical_jax.model.hf.names import UNEMBED, Leaf, get, leaves, tensors
from promedical_jax.model.hf.reader import FLOATS, INDEX, NO_MESH, SINGLE, header
from promedical_jax.model.transformer import Dtype, ModelConfig, Params

CODES = {name: code for code, name in FLOATS.items()}
Row = tuple[str, Leaf, int]


class Classifier(NamedTuple):
    """What a sequence classifier with one label has in place of the unembedding, and the token that it takes for padding."""

    weight: np.ndarray  # [1, D]
    pad_token_id: int


def save(folder: Path, params: Params, config: ModelConfig, base: Path, *, card: str, extra: dict[str, bytes] | None = None,
         dtype: Dtype | None = None, shard_bytes: int = 4 * 2**30, classifier: Classifier | None = None) -> None:
    """Writes a model folder, which appears whole or not at all and replaces one of the same name.

    `base`: the folder whose companions it gets, byte for byte; its config.json gives the fields that the model does not. `card`: README.md. `extra`: further
    files by name. `dtype`: of every tensor; None keeps the parameters' own. Files of at most `shard_bytes`, or of one tensor. `classifier`: makes one with
    one label of a causal model. Every process has to call it, for arrays may lie over all of them; process 0 writes, and none goes on before the folder
    stands.
    """
    odd = {leaf.path for leaf in leaves(config)} ^ {tuple(key.key for key in path) for path, _ in jax.tree.leaves_with_path(params)}
    if odd:
        raise ValueError(f"save: {sorted(odd)} are not in both the model and its parameters; adapters are merged, and heads go into `extra`")
    rows = tensors(config)
    if classifier:
        score = classifier.weight.astype(dtype or params["embed"].dtype)
        params = params | {"score": score}
        rows = [*(row for row in rows if row[0] != UNEMBED), ("score.weight", Leaf(("score",), score.shape, (0, 1), 1, ("score.weight",), stacked=False), 0)]
    types = {name: dtype or str(get(params, leaf.path).dtype) for name, leaf, _ in rows}
    sizes = {name: math.prod(leaf.hf_shape) * jnp.dtype(types[name]).itemsize for name, leaf, _ in rows}
    groups = _groups(rows, sizes, shard_bytes)
    names = [SINGLE] if not groups[1:] else [f"model-{i:05}-of-{len(groups):05}.safetensors" for i in range(1, len(groups) + 1)]
    with ExitStack() as stack:
        part = stack.enter_context(replacing_folder(folder)) if jax.process_index() == 0 else None
        for file, group in zip(names, groups, strict=True):
            with ExitStack() as opened:
                out = opened.enter_context((part / file).open("wb")) if part else None
                _write_file(out, params, group, types)
        if part:
            files = companions(base)
            fields = json.loads(files.pop("config.json"))
            made = hf_config(config, fields)
            if classifier:
                files.pop("generation_config.json", None)
                made |= _with_one_label(made["architectures"][0], classifier)
            else:
                files = generation_config(fields | made) | files
            files |= (extra or {}) | ({"README.md": card.encode()} if card else {})
            if groups[1:]:
                total = {"total_parameters": sum(math.prod(leaf.hf_shape) for _, leaf, _ in rows), "total_size": sum(sizes.values())}
                files_of = {name: file for file, group in zip(names, groups, strict=True) for name, _, _ in group}
                files[INDEX] = as_json({"metadata": total, "weight_map": files_of})
            write_files(part, files)
            write_files(part, {"config.json": as_json(made | {"dtype": types[rows[0][0]]})})  # last: without it, what a killed export leaves is no model
    multihost_utils.sync_global_devices("a model folder is written")


def _with_one_label(causal: str, classifier: Classifier) -> Fields:
    """The fields of a config.json that make a sequence classifier with one label of a causal model, as `transformers` writes them."""
    labels: Fields = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    return labels | {"architectures": [causal.replace("ForCausalLM", "ForSequenceClassification")], "pad_token_id": classifier.pad_token_id}


def packed(named: dict[str, np.ndarray]) -> bytes:
    """A few small host arrays as the bytes of a safetensors file."""
    from safetensors.numpy import save as pack

    return pack({name: np.ascontiguousarray(x) for name, x in named.items()})


def unpacked(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a small safetensors file, all on the host. Raises InputError for a file that is not whole."""
    from safetensors.numpy import load

    return load(file.read_bytes()) if header(file) else {}


def _groups(rows: list[Row], sizes: dict[str, int], limit: int) -> list[list[Row]]:
    groups: list[list[Row]] = [[]]
    held = 0
    for row in rows:
        if groups[-1] and held + sizes[row[0]] > limit:
            groups.append([])
            held = 0
        groups[-1].append(row)
        held += sizes[row[0]]
    return groups


def _write_file(out: BinaryIO | None, params: Params, group: list[Row], types: dict[str, str]) -> None:
    """One file of safetensors; every process takes part in the gathering, the one with `out` writes."""
    entries, end = {}, 0
    for name, leaf, _ in group:
        start, end = end, end + math.prod(leaf.hf_shape) * jnp.dtype(types[name]).itemsize
        entries[name] = {"dtype": CODES[types[name]], "shape": leaf.hf_shape, "data_offsets": [start, end]}
    header = json.dumps({"__metadata__": {"format": "pt"}} | entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    if out:
        out.write(len(header).to_bytes(8, "little") + header)
    for name, leaf, i in group:
        host = _gather(get(params, leaf.path), leaf, i, types[name], wanted=out is not None)
        if out and host is not None:
            out.write(host.reshape(-1).view(np.uint8).data)


def _gather(x: jax.Array | np.ndarray, leaf: Leaf, i: int, dtype: str, wanted: bool) -> np.ndarray | None:
    """One tensor on the host, its axes in HF's order; None in a process that does not want it."""
    if not isinstance(x, jax.Array):
        return np.ascontiguousarray((x[i] if leaf.stacked else x).transpose(leaf.order), jnp.dtype(dtype))
    with jax.set_mesh(NO_MESH):
        one = _layer(x, np.int32(i), leaf.order, leaf.stacked, dtype)
        if not one.is_fully_addressable:
            one = multihost_utils.process_allgather(one, tiled=True)
        return np.ascontiguousarray(one) if wanted else None


@partial(jax.jit, static_argnums=(2, 3, 4))
def _layer(x: jax.Array, i: jax.Array, order: tuple[int, ...], stacked: bool, dtype: str) -> jax.Array:
    one = jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False) if stacked else x
    return jnp.transpose(one, order).astype(dtype)
