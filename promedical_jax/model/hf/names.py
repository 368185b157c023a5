"""HF's names and layouts of our parameters: which of its tensors is which part of ours.

A matrix of HF's is [out, in], as torch multiplies it; ours is in x out with the heads' axes apart, and layers are stacked. So a tensor of HF's is one
layer of a leaf with its axes in HF's order and those of rows and columns flattened. Everything here is arithmetic on shapes and small host arrays.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import jax
import numpy as np

from promedical_jax.errors import InputError
from promedical_jax.model.transformer import LETTERS, ModelConfig, Params, shapes

LAYER_NAMES = {
    "attn_norm": "input_layernorm", "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm", "o": "self_attn.o_proj", "mlp_norm": "post_attention_layernorm", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}  # fmt: skip
NAMES = {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "unembed": "lm_head.weight"}
UNEMBED = NAMES["unembed"]

Index = tuple[slice, ...]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Leaf:
    """An array of our parameters, and the tensors of HF's that it holds: one for each layer, or one in all."""

    path: tuple[str, ...]  # in the tree of parameters
    shape: Shape  # of one layer
    order: tuple[int, ...]  # our axes in HF's order
    rows: int  # how many of these HF's first axis holds
    tensors: tuple[str, ...]  # HF's names
    stacked: bool  # on a leading axis of layers

    @property
    def apart(self) -> Shape:
        """The shape in HF's order, with the axes that HF flattens still apart."""
        return tuple(self.shape[axis] for axis in self.order)

    @property
    def hf_shape(self) -> Shape:
        rows, columns = self.apart[: self.rows], self.apart[self.rows :]
        return (math.prod(rows), math.prod(columns)) if columns else (math.prod(rows),)

    @property
    def back(self) -> tuple[int, ...]:
        """HF's axes in our order."""
        return tuple(sorted(range(len(self.order)), key=self.order.__getitem__))

    def ranges(self, index: Index) -> Index:
        """The rows, or rows and columns, of HF's tensor that hold the part `index` of the axes apart."""
        groups = [(0, self.rows), (self.rows, len(self.order))] if self.rows < len(self.order) else [(0, self.rows)]
        return tuple(_range(self.apart[start:stop], index[start]) for start, stop in groups)

    def part(self, read: Callable[[Index], np.ndarray], index: Index) -> np.ndarray:
        """The part `index` of the axes apart, of HF's tensor that `read` cuts rows and columns from."""
        cut = [part if i in (0, self.rows) else slice(None) for i, part in enumerate(index)]  # what rows and columns alone cannot cut, is cut here
        shape = [len(range(*part.indices(size))) for part, size in zip(cut, self.apart, strict=True)]
        rest = tuple(slice(None) if i in (0, self.rows) else part for i, part in enumerate(index))
        return read(self.ranges(index)).reshape(shape)[rest]


def _range(sizes: Shape, first: slice) -> slice:
    inner = math.prod(sizes[1:])
    start, stop, _ = first.indices(sizes[0])
    return slice(start * inner, stop * inner)


@cache
def leaves(config: ModelConfig) -> tuple[Leaf, ...]:
    """The leaves of a model's parameters, the large embeddings first: loaded first, they pass through a host that holds little else."""
    tree = shapes(config)
    made = [Leaf((name,), tree[name].shape, tuple(range(tree[name].ndim)), 1, (hf,), stacked=False) for name, hf in NAMES.items() if name in tree]
    for name, x in tree["layers"].items():
        ins, outs = (len(letters) for letters in LETTERS.get(name, ("", "x")))
        tensors = tuple(f"model.layers.{i}.{LAYER_NAMES[name]}.weight" for i in range(config.depth))
        order = (*range(ins, ins + outs), *range(ins))
        made.append(Leaf(("layers", name), x.shape[1:], order, outs, tensors, stacked=True))
    return tuple(made)


def tensors(config: ModelConfig) -> list[tuple[str, Leaf, int]]:
    """Each tensor of a model in the order that HF writes them, with its leaf and layer."""
    by_name = {leaf.path[-1]: leaf for leaf in leaves(config)}
    rows = [(leaf.tensors[i], leaf, i) for i in range(config.depth) for name in LAYER_NAMES if (leaf := by_name.get(name))]
    first, *last = [(by_name[name].tensors[0], by_name[name], 0) for name in NAMES if name in by_name]
    return [first, *rows, *last]


def get(tree: Params, path: tuple[str, ...]):
    for name in path:
        tree = tree[name]
    return tree


def tree_of(values: Mapping[tuple[str, ...], object]) -> Params:
    """The tree of parameters with these leaves."""
    tree: Params = {}
    for path, value in values.items():
        place = tree
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value
    return tree


def compare(found: Mapping[str, Shape], config: ModelConfig, place: object, file_of: Callable[[str], object]) -> None:
    """Raises InputError for the first missing, misshapen or extra tensor. `found`: shapes by name; `place`: where they are looked for."""
    wanted = {name: leaf.hf_shape for name, leaf, _ in tensors(config)}
    absent = [name for name in wanted if name not in found]
    if absent:
        more = f" ({len(absent) - 1} more are, too)" if absent[1:] else ""
        raise InputError(f"{place}: tensor {absent[0]} is missing{more}; fetch the checkpoint again, or give the config.json that belongs to it")
    if config.tied:
        wanted[UNEMBED] = wanted[NAMES["embed"]]  # some writers store the tied matrix twice
    for name, shape in found.items():
        if name not in wanted:
            extra = [other for other in found if other not in wanted]
            more = f" and {len(extra) - 1} more" if extra[1:] else ""
            raise InputError(f"{file_of(name)}: unexpected tensor {name}{more}; config.json does not describe this checkpoint")
        if shape != wanted[name]:
            asks = f"has shape {list(shape)}, and config.json asks for {list(wanted[name])}"
            raise InputError(f"{file_of(name)}: tensor {name} {asks}; they do not belong together")


def to_hf(params: Params, config: ModelConfig) -> dict[str, np.ndarray]:
    """Parameters of one process as HF's named tensors, all on the host; `write` is the way to a file."""
    host = jax.tree.map(np.asarray, params)
    layer = lambda leaf, i: get(host, leaf.path)[i] if leaf.stacked else get(host, leaf.path)  # noqa: E731
    return {name: np.ascontiguousarray(layer(leaf, i).transpose(leaf.order)).reshape(leaf.hf_shape) for name, leaf, i in tensors(config)}


def from_hf(named: Mapping[str, np.ndarray], config: ModelConfig, where: str) -> Params:
    """HF's named tensors as float32 host arrays; `load` is the way from a file. Raises InputError naming a missing, extra or misshapen tensor."""
    compare({name: x.shape for name, x in named.items()}, config, where, lambda name: where)
    ours = lambda leaf, name: np.asarray(named[name], np.float32).reshape(leaf.apart).transpose(leaf.back)  # noqa: E731
    stack = lambda leaf: np.stack([ours(leaf, name) for name in leaf.tensors]) if leaf.stacked else ours(leaf, leaf.tensors[0])  # noqa: E731
    return tree_of({leaf.path: stack(leaf) for leaf in leaves(config)})
