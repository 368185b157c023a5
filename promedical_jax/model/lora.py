"""Low-rank adapters (LoRA, arXiv 2106.09685): their start, their union with a frozen base for a loss, and their merge into its weights.

The forward applies them (see `linear` in transformer.py): params["adapters"] holds {name}_a [L, *ins, r] and {name}_b [L, r, *outs] for any of
TARGETS, float32 whatever the base's type, and adds adapter_scale * (x a) b, where adapter_scale is LoRA's alpha / r. PEFT's files: hf/peft.py.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from promedical_jax.errors import InputError
from promedical_jax.model.sharding import Axes, out
from promedical_jax.model.transformer import ADAPTER_AXES, LAYER_AXES, LETTERS, ModelConfig, Params

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
Adapters = dict[str, jax.Array]


def init(config: ModelConfig, rank: int, targets: Sequence[str], key: jax.Array) -> Adapters:
    """Fresh float32 adapters that change nothing yet: b is zero, a uniform within 1 / sqrt(fan-in), PEFT's default.

    Each target has its own key, so which others there are does not change its start. Raises InputError for an unknown target or rank < 1.
    """
    check(targets, rank)
    adapters = {}
    for name in targets:
        ins, outs = sizes(config, name)
        bound = math.prod(ins) ** -0.5
        own = jax.random.fold_in(key, TARGETS.index(name))
        adapters[f"{name}_a"] = jax.random.uniform(own, (config.depth, *ins, rank), minval=-bound, maxval=bound)
        adapters[f"{name}_b"] = jnp.zeros((config.depth, rank, *outs))
    return adapters


def axes(targets: Sequence[str]) -> dict[str, Axes]:
    """The tree of adapters with the names of each array's axes in its place."""
    check(targets)
    return {name: ADAPTER_AXES[name] for target in targets for name in (f"{target}_a", f"{target}_b")}


def shapes(config: ModelConfig, rank: int, targets: Sequence[str]) -> dict[str, jax.ShapeDtypeStruct]:
    """The tree of adapters with a float32 jax.ShapeDtypeStruct in each array's place."""
    return jax.eval_shape(partial(init, config, rank, targets), jax.eval_shape(lambda: jax.random.key(0)))


def check(targets: Sequence[str], rank: int = 1) -> None:
    """Raises InputError where there can be no adapters of this rank on these targets."""
    known = f"choose from {', '.join(TARGETS)}"
    if isinstance(targets, str) or not targets:
        raise InputError(f"lora: targets must be a list of names, and is {targets!r}; {known}")
    for name in targets:
        if name not in TARGETS:
            raise InputError(f"lora: target {name!r} is no matrix of the decoder's layers; {known}")
        if list(targets).count(name) > 1:
            raise InputError(f"lora: target {name!r} is named twice; name it once")
    if type(rank) is not int or rank < 1:
        raise InputError(f"lora: rank is {rank!r} and must be a whole number > 0")


def sizes(config: ModelConfig, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A target's axes of input and of output, as we store them: q has ((D,), (K, Q, H))."""
    c = config
    letters = {"d": c.width, "k": c.kv_heads, "q": c.query_heads, "h": c.head, "f": c.feed_forward}
    ins, outs = LETTERS[name]
    return tuple(map(letters.__getitem__, ins)), tuple(map(letters.__getitem__, outs))


def join(frozen: Params, trained: Params) -> Params:
    """The union of two nested dicts without a leaf in common. A loss takes both and is differentiated by `trained` alone: no gradient of the base is made.

    Raises ValueError naming an entry that both have.
    """
    joined = dict(frozen)
    for name, value in trained.items():
        if name not in joined:
            joined[name] = value
        elif isinstance(value, dict) and isinstance(joined[name], dict):
            joined[name] = join(joined[name], value)
        else:
            raise ValueError(f"join: {name} is both frozen and trained")
    return joined


def split(params: Params, trained: Sequence[str] = ("adapters",)) -> tuple[Params, Params]:
    """(frozen, trained), whose `join` is `params`: trained are the entries with these names, at any depth."""
    kept: Params = {}
    taken: Params = {}
    for name, value in params.items():
        if name in trained:
            taken[name] = value
        elif isinstance(value, dict):
            below = split(value, trained)
            kept |= {name: below[0]} if below[0] else {}
            taken |= {name: below[1]} if below[1] else {}
        else:
            kept[name] = value
    return kept, taken


def merge(params: Params, config: ModelConfig) -> Params:
    """The parameters with adapter_scale * a b added to their weights, in float32 and then the weight's type, and without "adapters".

    Under jit that donates the base, as in jit(lambda frozen, trained: merge(join(frozen, trained), config), donate_argnums=0), layer after layer is
    changed in place: beside the weights no second copy of them is held.
    """
    adapters = params.get("adapters", {})
    layers = dict(params["layers"])
    for name in TARGETS:
        if f"{name}_a" in adapters:
            layers[name] = _merged(name, layers[name], adapters[f"{name}_a"], adapters[f"{name}_b"], config.adapter_scale)
    return {name: value for name, value in params.items() if name != "adapters"} | {"layers": layers}


def _merged(name: str, stack: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """The stack [L, *ins, *outs] of one target's weights, carried through the layers and not collected from them: a scan's results have new memory."""
    ins, outs = LETTERS[name]
    placed = out(*LAYER_AXES[name][1:])

    def layer(stack: jax.Array, scanned) -> tuple[jax.Array, None]:
        i, a, b = (x.astype(jnp.float32) if x.ndim else x for x in scanned)
        added = scale * jnp.einsum(f"{ins}r,r{outs}->{ins}{outs}", a, b, precision=jax.lax.Precision.HIGHEST, out_sharding=placed)
        w = jax.lax.dynamic_index_in_dim(stack, i, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(stack, (w.astype(jnp.float32) + added).astype(stack.dtype), i, 0), None

    return jax.lax.scan(layer, stack, (jnp.arange(stack.shape[0]), a, b))[0]


def merged(frozen: Params, adapters: Params, config: ModelConfig) -> Params:
    """`merge` of their union, jitted, in the memory of the frozen weights, which are gone afterwards."""
    return jax.jit(lambda frozen, adapters: merge(join(frozen, adapters), config), donate_argnums=0)(frozen, adapters)
