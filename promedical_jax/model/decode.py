"""The sampler's two passes over the model, by the trainer's weights: reading the instructions, and one token of each answer at a time.

The layers' arrays are stacked on TPU, where a scan keeps the program small and slices cost nothing, and apart elsewhere, where each slice of a stack
would be a copy of the weights for every token.

On the CPU an answer has the same bits in any batch. Its kernels are chosen by shape, and add in orders of their own; so weights are turned (outs before
ins), where the order does not depend on the number of rows as long as there are two; sums are products with ones; and what follows a maximum is kept out
of its kernel, which has other exponentials for large arrays than for small ones.

Letters: B slots of an instruction, G answers of a slot, P instruction tokens, S places of a block of answer tokens, D width, K KV heads, Q query heads of
a KV head, H head size, L layers.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp

from promedical_jax.model.attention import attend
from promedical_jax.model.layout import assemble, last_valid, tree
from promedical_jax.model.levels import MASKED, fold
from promedical_jax.model.rope import rope_angles, rotate
from promedical_jax.model.sharding import gather, out, pin, platform
from promedical_jax.model.transformer import ADAPTER_AXES, EMBED_AXES, LAYER_AXES, LETTERS, NAMES, NORMS, ModelConfig, Params, stack_of

Layers = Any  # a pytree of arrays [L, ...], or a list of L pytrees
# Keys, turned, and values: of the instruction [B, K, H, P] and [B, K, P, H], of a block of answer tokens [B, G, K, H, S] and [B, G, K, S, H].
Pair = tuple[jax.Array, jax.Array]
LEAST_ROWS, MOST_ROWS = 2, 32  # of a product on the CPU whose kernel may not depend on their number


def settle(params: Params, dtype: jnp.dtype) -> Params:
    """All weights cast, gathered along fsdp (still split along tp) and turned, each a matrix: a sampler reads all of them for every token. "layers" are
    Layers."""
    held = {name: w if name in NORMS else gather(w.astype(dtype), (LAYER_AXES | ADAPTER_AXES)[name]) for name, w in stack_of(params).items()}
    groups = (held.pop("q"), held.pop("k")[:, :, :, None], held.pop("v")[:, :, :, None])
    held["qkv"] = jnp.concatenate(groups, axis=3)  # [L, D, K, Q + 2, H]
    held = {name: w if name in NORMS else _turned(name, w) for name, w in held.items()}
    whole = {name: gather(params[name].astype(dtype), EMBED_AXES) for name in ("embed", "unembed") if name in params}
    return {"layers": apart(held), "norm": params["norm"]} | whole


def _letters(name: str) -> tuple[str, str]:
    """The letters of a weight's input and output: those of the forward, n for the heads of "qkv" that share a KV head, r for an adapter's rank."""
    target, _, half = name.partition("_")
    ins, outs = ("d", "knh") if target == "qkv" else LETTERS[target]
    return ("r" if half == "b" else ins), ("r" if half == "a" else outs)


def _turned(name: str, stack: jax.Array) -> jax.Array:
    """[L, *ins, *outs] -> [L, outs, ins]: two axes, whatever they were made of."""
    ins, outs = _letters(name)
    stack = jnp.moveaxis(stack, range(1, 1 + len(ins)), range(1 + len(outs), stack.ndim))
    shape = (len(stack), math.prod(stack.shape[1 : 1 + len(outs)]), math.prod(stack.shape[1 + len(outs) :]))
    return jax.lax.reshape(stack, shape, out_sharding=out(None, _axis(outs), _axis(ins)))


def _axis(letters: str) -> str | None:
    """The name of the axis that these letters make up; a width is whole on each device here."""
    return None if letters[0] in "dr" else NAMES[letters[0]]


def apart(stacked: Any) -> Layers:
    """A pytree of arrays [L, ...] as Layers: itself on TPU, elsewhere a list."""
    if platform() == "tpu":
        return stacked
    one = lambda i: jax.tree.map(lambda x: jax.lax.index_in_dim(x, i, 0, keepdims=False), stacked)  # noqa: E731
    return [one(i) for i in range(jax.tree.leaves(stacked)[0].shape[0])]


def each_layer(layer: Callable[..., tuple[jax.Array, Any]], x: jax.Array, *held: Layers, block: Layers = None) -> tuple[jax.Array, Layers]:
    """x through all layers: layer(x, *its part of each of `held`) -> (x, something), and the somethings as Layers.

    With `block`, layer(x, block, number, *parts) -> (x, block) changes it in place: of a list its own part, and number is None; or else all of the stack.
    """
    if isinstance(held[0], list):
        made = []
        for i, parts in enumerate(zip(*held, strict=True)):
            x, own = layer(x, *parts) if block is None else layer(x, block[i], None, *parts)
            made.append(own)
        return x, made
    if block is None:
        return jax.lax.scan(lambda x, parts: layer(x, *parts), x, held)
    numbers = jnp.arange(jax.tree.leaves(held)[0].shape[0])
    return jax.lax.scan(lambda state, parts: (layer(*state, *parts), None), (x, block), (numbers, *held))[0]


def empty_block(config: ModelConfig, slots: int, answers: int, size: int, dtype: jnp.dtype) -> Layers:
    """A block for `size` tokens of each answer, zero."""
    axes = (None, "batch", None, "kv_heads", None, None)
    keys, values = ((config.depth, slots, answers, config.kv_heads, *last) for last in ((config.head, size), (size, config.head)))
    return apart((pin(jnp.zeros(keys, dtype), *axes), pin(jnp.zeros(values, dtype), *axes)))


def read(weights: Params, config: ModelConfig, tokens: jax.Array, lengths: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, Layers]:
    """The instructions, tokens [B, P] of true lengths [B]: the states [B, D] that predict the first answer tokens, and keys and values as Layers."""
    layout = tree(tokens.shape[1])
    batch = assemble(layout, [tokens[:, None]], [lengths[:, None]])
    x, turn = _enter(weights, config, tokens, batch.positions, dtype)

    def layer(x: jax.Array, w: Params) -> tuple[jax.Array, Pair]:
        q, k, v = _project(w, x, turn, config)
        with jax.named_scope("attention"):
            mixed = attend(q, k, v, batch, layout)
        return _finish(w, x, mixed, config), (k.transpose(0, 2, 3, 1), v.swapaxes(1, 2))

    x, prefix = each_layer(layer, x, weights["layers"])
    return last_valid(norm(x, weights["norm"], config.norm_eps)[:, None], lengths[:, None])[:, 0], prefix


def step(weights: Params, config: ModelConfig, tokens: jax.Array, positions: jax.Array, prefix: Layers, seen: jax.Array, full: Sequence[Layers],
         block: Layers, place: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, Layers]:
    """One token of each answer. tokens, positions: [B, G]; seen: [B, P], which instruction tokens are real; full: the blocks before `block`, whose places
    are all filled, while `block`'s are filled below `place`. Returns hidden states [B, G, D] and the block with this token at `place`."""
    x, turn = _enter(weights, config, tokens, positions, dtype)

    def layer(x: jax.Array, block: Pair, number: jax.Array | None, w: Params, prefix: Pair, *full: Pair) -> tuple[jax.Array, Pair]:
        q, k, v = _project(w, x, turn, config)
        # The block is changed in place only where all that reads it stands in an order with what writes it: in a stack for TPUs the token is written when
        # the attention is done, with its own part beside the block; else it is written first. Otherwise the whole block is copied for each token.
        if number is None:
            block = _written(block[0], k[..., None], None, place, 4), _written(block[1], v[..., None, :], None, place, 3)
            with jax.named_scope("attention"):
                mixed = attend_blocks(q, prefix, seen, [*full, block], place)
        else:
            last = tuple(jax.lax.dynamic_index_in_dim(x, number, 0, keepdims=False) for x in block)
            with jax.named_scope("attention"):
                mixed = attend_blocks(q, prefix, seen, [*full, last], place, (k, v))
            mixed, k, v = jax.lax.optimization_barrier((mixed, k, v))
            block = _written(block[0], k[..., None], number, place, 4), _written(block[1], v[..., None, :], number, place, 3)
        return _finish(w, x, mixed, config), block

    x, block = each_layer(layer, x, weights["layers"], prefix, *full, block=block)
    return norm(x, weights["norm"], config.norm_eps), block


def _written(block: jax.Array, new: jax.Array, number: jax.Array | None, place: jax.Array, axis: int) -> jax.Array:
    """A layer's keys or values (where it has a number, those of all layers), with one token's at `place` of the axis."""
    starts = [place if i == axis else 0 for i in range(new.ndim)]
    if number is None:
        return jax.lax.dynamic_update_slice(block, new, starts)
    return jax.lax.dynamic_update_slice(block, new[None], [number, *starts])


def _enter(weights: Params, c: ModelConfig, tokens: jax.Array, positions: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Tokens [B, G] as they enter the first layer, and the sines and cosines of their positions."""
    x = weights["embed"].at[tokens].get(out_sharding=out("batch", None, None)).astype(dtype)
    sin, cos = rope_angles(positions, c.rope, c.head)
    return x, (sin[:, :, None], cos[:, :, None])


def _project(w: Params, x: jax.Array, turn: tuple[jax.Array, jax.Array], c: ModelConfig) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x: [B, G, D] -> q [B, G, K, Q, H], k and v [B, G, K, H], as the forward's `project`."""
    h = norm(x, w["attn_norm"], c.norm_eps)
    groups = _product(w, "qkv", h, c)
    q, k, v = groups[:, :, :, :-2], groups[:, :, :, -2], groups[:, :, :, -1]
    q, k, v = (x + _adapted(w, name, h, c) if f"{name}_a" in w else x for name, x in (("q", q), ("k", k), ("v", v)))
    if c.qk_norm:
        q, k = norm(q, w["q_norm"], c.norm_eps), norm(k, w["k_norm"], c.norm_eps)
    return rotate(q, *(angle[:, :, None] for angle in turn)), rotate(k, *turn), v


def _finish(w: Params, x: jax.Array, mixed: jax.Array, c: ModelConfig) -> jax.Array:
    """Attention's output projection and the gated feed-forward, each added to x: [B, G, D], as the forward's `finish`."""
    x = x + _product(w, "o", mixed, c)
    h = norm(x, w["mlp_norm"], c.norm_eps)
    with jax.named_scope("mlp"):
        return x + _product(w, "down", jax.nn.silu(_product(w, "gate", h, c)) * _product(w, "up", h, c), c)


def norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """The forward's `rms_norm`."""
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(sum_rows(wide * wide) / x.shape[-1] + eps) * scale).astype(x.dtype)


def sum_rows(x: jax.Array) -> jax.Array:
    """The sum over the last axis, [..., 1], in an order that does not depend on the number of rows."""
    if platform() != "cpu":
        return jnp.sum(x, -1, keepdims=True)
    return jnp.einsum("...i,oi->...o", x, jnp.ones((8, x.shape[-1]), x.dtype))[..., :1]


def max_rows(x: jax.Array) -> jax.Array:
    """The maximum over the last axis, [..., 1], for itself."""
    top = jnp.max(x, -1, keepdims=True)
    return jax.lax.optimization_barrier(top) if platform() == "cpu" else top


def _product(w: Params, name: str, x: jax.Array, c: ModelConfig) -> jax.Array:
    """x [B, G, *ins] times a weight, with its low-rank adapter where it has one: [B, G, *outs]."""
    y = _turned_product(w[name], name, x, c)
    return y + _adapted(w, name, x, c) if f"{name}_a" in w else y


def _adapted(w: Params, name: str, x: jax.Array, c: ModelConfig) -> jax.Array:
    low = _turned_product(w[f"{name}_a"], f"{name}_a", x, c)
    return c.adapter_scale * _turned_product(w[f"{name}_b"], f"{name}_b", low, c)


def _turned_product(weight: jax.Array, name: str, x: jax.Array, c: ModelConfig) -> jax.Array:
    ins, outs = _letters(name)
    flat = jax.lax.reshape(x, (*x.shape[:2], weight.shape[1]), out_sharding=out("batch", None, _axis(ins)))
    y = jnp.einsum("bgi,oi->bgo", flat, weight, out_sharding=out("batch", None, _axis(outs)))
    sizes = {"k": c.kv_heads, "q": c.query_heads, "n": c.query_heads + 2, "h": c.head}
    shape = tuple(sizes.get(letter, weight.shape[0]) for letter in outs)
    return jax.lax.reshape(y, (*y.shape[:2], *shape), out_sharding=out("batch", None, _axis(outs), *[None] * (len(outs) - 1)))


def attend_blocks(q: jax.Array, prefix: Pair, seen: jax.Array, blocks: Sequence[Pair], place: jax.Array, own: Pair | None = None) -> jax.Array:
    """One token of each answer attends to the shared instruction and to the answer up to itself. q: [B, G, K, Q, H] -> the same.

    Its own keys and values are `own`, [B, G, K, H] each, or else they stand at `place` of the last block. One softmax over all parts, in float32, whose
    scores are never joined into one array.
    """
    b, g, kv, heads, size = q.shape
    copies = -(-LEAST_ROWS // (g * heads))
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)

    def rows(x: jax.Array) -> jax.Array:  # all that share an instruction: rows of one product
        folded = fold(x.swapaxes(1, 2), b, kv, g * heads, -1)
        return jnp.concatenate([folded] * copies, axis=2) if copies > 1 else folded

    def answers(x: jax.Array) -> jax.Array:
        return fold(x[:, :, : g * heads], b, kv, g, heads, -1).swapaxes(1, 2)

    def by_rows(x: jax.Array, y: jax.Array) -> jax.Array:  # [B, K, m, i] x [B, K, i, j]
        count = -(-x.shape[2] // MOST_ROWS) if platform() == "cpu" else 1
        parts = [product("bkmi,bkij->bkmj", part, y) for part in jnp.array_split(x, count, axis=2)]
        return jnp.concatenate(parts, axis=2) if count > 1 else parts[0]

    to_prefix = jnp.where(seen[:, None, None], by_rows(rows(q), prefix[0]), MASKED) * size**-0.5
    scores = [product("bgkqh,bgkhs->bgkqs", q, keys) * size**-0.5 for keys, _ in blocks]
    filled = place + 1 if own is None else place
    scores[-1] = jnp.where(jnp.arange(scores[-1].shape[-1]) < filled, scores[-1], MASKED)
    if own is not None:
        scores.append(jnp.sum(q.astype(jnp.float32) * own[0][:, :, :, None], -1, keepdims=True) * size**-0.5)
    top = reduce(jnp.maximum, map(max_rows, scores), answers(max_rows(to_prefix)))
    of_prefix, weights = jnp.exp(to_prefix - rows(top)), [jnp.exp(score - top) for score in scores]
    mixed = answers(by_rows(of_prefix.astype(q.dtype), prefix[1]))
    for weight, (_, values) in zip(weights, blocks, strict=False):
        mixed = mixed + product("bgkqs,bgksh->bgkqh", weight.astype(q.dtype), values)
    if own is not None:
        mixed = mixed + weights[-1] * own[1][:, :, :, None]
    return (mixed / reduce(jnp.add, map(sum_rows, weights), answers(sum_rows(of_prefix)))).astype(q.dtype)
