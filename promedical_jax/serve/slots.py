"""The device's side of a server: a cache of keys and values with a row for each answer under way, and a few tokens of all of them at a time.

An instruction is read once, up to its last token, and put into the row of each of its answers (`read`, `join`). `go_on` then draws a block of tokens of every
row in one loop on the device, by `decode.step`: the row is what the answer shares with nobody here, and the block's tokens move into it at its end. A row
begins its blocks when it joins, and decode.py's kernels do not look at other rows, so that on the CPU an answer has the same bits in any company. A draw is a
function of (seed, choice, position). Where an answer has to keep to a grammar, only the host knows which tokens may come next: the same block is then drawn
token by token (`open_block`, `extend`, `close_block`).

Compiled: `read` once for each length in `lengths`, `join` likewise, the others once.

Letters: S slots, T tokens of a block, N places of a row, P instruction tokens, V vocabulary, K KV heads, H head size, L layers.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from promedical_jax.model import decode, transformer
from promedical_jax.model.draw import NOTHING, cut, draw
from promedical_jax.model.logprob import to_logits
from promedical_jax.model.sharding import TABLE, in_mesh, on_each_device, parts, pin, spec
from promedical_jax.model.transformer import ModelConfig, Params

BLOCK = 8  # tokens that are drawn between two looks at who has come, who is done and who is gone
TOPS = 20  # the most likely tokens of a place that a client may see
SHORTEST = 32  # that an instruction is padded to; then twice that, and so on


class Asked(NamedTuple):
    """Of each row [S]. Arrays of NumPy, which the host sends anew for each block."""

    token: np.ndarray  # the last token, which is not in the cache yet
    length: np.ndarray  # tokens that are
    drawn: np.ndarray  # tokens of the answer so far: the number of the next draw
    running: np.ndarray  # bool
    draws: np.ndarray  # uint32 [S, 3]: the seed's two halves, and which of its choices this is
    temperature: np.ndarray  # 0 takes the most likely token
    top_k: np.ndarray  # 0: all
    top_p: np.ndarray  # 1: all
    report: np.ndarray  # bool, whether log-probabilities are wanted


class Said(NamedTuple):
    """T tokens of each row; what comes after a row's end is no answer's. Log-probabilities, in nats, are the model's own: at temperature 1, nothing cut."""

    tokens: jax.Array  # [S, T]
    log_probs: jax.Array  # [S, T], zero where none are wanted
    top_tokens: jax.Array  # [S, T, TOPS] the most likely first
    top_log_probs: jax.Array  # [S, T, TOPS]


class Block(NamedTuple):
    """A block under way."""

    place: jax.Array  # how many tokens of it there are
    token: jax.Array  # [S, 1] the last one
    running: jax.Array  # [S, 1] bool
    said: Said
    layers: decode.Layers  # keys and values, of T places


def nobody(slots: int) -> Asked:
    """All rows empty."""
    zero, no, ones = np.zeros(slots, np.int32), np.zeros(slots, bool), np.ones(slots, np.float32)
    return Asked(zero, zero.copy(), zero.copy(), no, np.zeros((slots, 3), np.uint32), ones, zero.copy(), ones.copy(), no.copy())


def lengths(longest: int) -> list[int]:
    """The lengths that instructions are padded to; the last is N, the places of a row."""
    found = [SHORTEST]
    while found[-1] < longest:
        found.append(2 * found[-1])
    return [*found[:-1], -(-longest // SHORTEST) * SHORTEST]


@partial(jax.jit, static_argnames=("config", "slots", "longest", "dtype"))
def empty(config: ModelConfig, slots: int, longest: int, dtype: str) -> decode.Layers:
    """A cache, zero: keys [S, K, H, N] and values [S, K, N, H] of each layer."""
    blank = decode.empty_block(config, slots, 1, lengths(longest)[-1], jnp.dtype(dtype))
    return jax.tree.map(lambda x: jnp.squeeze(x, _slot_axis(blank) + 1), blank)


@partial(jax.jit, static_argnames="config")
def read(weights: Params, config: ModelConfig, tokens: jax.Array, length: jax.Array) -> decode.Layers:
    """Keys and values of an instruction, tokens [P] of which `length` are real: of each device that splits the batch a copy, [1, ...]."""
    copies = parts(jax.sharding.get_abstract_mesh(), "batch") if in_mesh() else 1
    rows = pin(jnp.broadcast_to(tokens, (copies, len(tokens))), "batch", None)
    return decode.read(weights, config, rows, pin(jnp.broadcast_to(length, (copies,)), "batch"), weights["embed"].dtype)[1]


@partial(jax.jit, donate_argnames="cache")
def join(cache: decode.Layers, prefix: decode.Layers, slot: jax.Array) -> decode.Layers:
    """The cache with an instruction that was `read` at the beginning of row `slot`."""
    axis, meshed = _slot_axis(cache), in_mesh()
    placed = spec(*[None] * axis, "batch", "kv_heads")

    def put(cache: decode.Layers, prefix: decode.Layers, slot: jax.Array) -> decode.Layers:
        here = jax.tree.leaves(cache)[0].shape[axis]
        row = slot - (jax.lax.axis_index(TABLE["batch"]) * here if meshed else 0)
        mine = (row >= 0) & (row < here)

        def one(x: jax.Array, new: jax.Array) -> jax.Array:
            starts = [jnp.clip(row, 0, here - 1) if i == axis else 0 for i in range(x.ndim)]
            old = jax.lax.dynamic_slice(x, starts, new.shape)
            return jax.lax.dynamic_update_slice(x, jnp.where(mine, new, old), starts)

        return jax.tree.map(one, cache, prefix)

    return on_each_device(put, (placed, placed, spec()), placed)(cache, prefix, slot)


@partial(jax.jit, static_argnames=("config", "stop"), donate_argnames="cache")
def go_on(weights: Params, config: ModelConfig, cache: decode.Layers, asked: Asked, stop: int) -> tuple[decode.Layers, Said]:
    """A block of tokens of each row, or fewer where all that run have come to `stop` before; the cache has them all but the last."""
    rows = _rows(cache, asked)
    more = lambda block: (block.place < BLOCK) & jnp.any(block.running)  # noqa: E731
    block = jax.lax.while_loop(more, lambda block: _extended(weights, config, cache, rows, block, stop), _opened(weights, config, asked))
    return _moved(cache, block.layers, rows.length[:, 0]), jax.tree.map(lambda x: pin(x, None), block.said)


# The same block, token by token: between two of them the host says what may come next


@partial(jax.jit, static_argnames="config")
def open_block(weights: Params, config: ModelConfig, asked: Asked) -> Block:
    """A block without a token."""
    return _opened(weights, config, asked)


@partial(jax.jit, static_argnames=("config", "stop"), donate_argnames="block")
def extend(weights: Params, config: ModelConfig, cache: decode.Layers, asked: Asked, block: Block, allowed: np.ndarray, stop: int) -> Block:
    """The block with one more token of each row, drawn among those that are allowed there. allowed: int32 [S, V / 32], a bit a token, the lowest first."""
    return _extended(weights, config, cache, _rows(cache, asked), block, stop, jnp.asarray(allowed))


@partial(jax.jit, donate_argnames="cache")
def close_block(cache: decode.Layers, asked: Asked, block: Block) -> tuple[decode.Layers, Said]:
    """As `go_on` ends."""
    return _moved(cache, block.layers, pin(jnp.asarray(asked.length), "batch")), jax.tree.map(lambda x: pin(x, None), block.said)


def words(vocabulary: int) -> int:
    """How many 32 bits wide words have a bit for each token."""
    return -(-vocabulary // 32)


class _Rows(NamedTuple):
    """What a block's tokens depend on beside the tokens before them, [S, 1] each."""

    length: jax.Array
    drawn: jax.Array
    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    keys: jax.Array
    seen: jax.Array  # [S, N] the places of the cache that the row's own tokens fill
    wanted: jax.Array  # bool, whether any row wants log-probabilities


def _rows(cache: decode.Layers, asked: Asked) -> _Rows:
    _, length, drawn, _, draws, temperature, top_k, top_p, _ = (pin(jnp.asarray(x)[:, None], "batch") for x in asked)
    rows, seen = spec("batch"), jnp.arange(jax.tree.leaves(cache)[0].shape[-1]) < length
    keys = on_each_device(_keys, (rows,), rows)(draws)
    return _Rows(length, drawn, temperature, top_k, top_p, keys, seen, jnp.any(jnp.asarray(asked.running & asked.report)))


def _opened(weights: Params, config: ModelConfig, asked: Asked) -> Block:
    slots, dtype, tops = len(asked.token), weights["embed"].dtype, min(TOPS, config.vocabulary)
    sizes = (((), jnp.int32), ((), jnp.float32), ((tops,), jnp.int32), ((tops,), jnp.float32))
    blank = Said(*(pin(jnp.zeros((slots, BLOCK, *more), kind), "batch") for more, kind in sizes))
    token, running = (pin(jnp.asarray(x)[:, None], "batch") for x in (asked.token, asked.running))
    return Block(jnp.int32(0), token, running, blank, decode.empty_block(config, slots, 1, BLOCK, dtype))


def _extended(weights: Params, config: ModelConfig, cache: decode.Layers, rows: _Rows, block: Block, stop: int, allowed: jax.Array | None = None) -> Block:
    place, token, running, said, layers = block
    hidden, layers = decode.step(weights, config, token, rows.length + place, cache, rows.seen, (), layers, place, weights["embed"].dtype)
    logits = to_logits(hidden, transformer.unembedding(weights), 1.0)
    may = logits if allowed is None else _among(logits, allowed)
    at = on_each_device(jax.vmap(jax.vmap(jax.random.fold_in)), (spec("batch"), spec("batch")), spec("batch"))(rows.keys, rows.drawn + place)
    warmth = jnp.where(rows.temperature > 0, rows.temperature, 1.0)[..., None]
    likely, _ = draw(cut(may / warmth, rows.top_k, rows.top_p), at, jnp.int32(0), jnp.float32(1))
    likeliest, _ = draw(may, at, jnp.int32(0), jnp.float32(1), greedy=True)
    token = jnp.where(rows.temperature > 0, likely, likeliest)
    tops = said.top_tokens.shape[-1]
    reported = jax.lax.cond(rows.wanted, partial(_report, tops=tops), lambda *_: tuple(jnp.zeros_like(x[:, 0]) for x in said[1:]), logits, token)
    new = Said(token[:, 0], *reported)
    said = jax.tree.map(lambda whole, x: jax.lax.dynamic_update_index_in_dim(whole, x, place, 1), said, new)
    return Block(place + 1, token, running & (token != stop), said, layers)


def _among(logits: jax.Array, allowed: jax.Array) -> jax.Array:
    """Logits [S, 1, V] with NOTHING in place of tokens whose bit is not set."""
    bits = (allowed[:, :, None] >> jnp.arange(32, dtype=jnp.int32)) & 1
    kept = bits.reshape(len(allowed), 1, -1)[..., : logits.shape[-1]] > 0
    return jnp.where(pin(kept, "batch", None, "vocabulary"), logits, NOTHING)


def _keys(draws: jax.Array) -> jax.Array:
    """The key of each answer's draws. draws: [S, 1, 3] -> [S, 1]."""

    def one(draw: jax.Array) -> jax.Array:
        high, low, choice = draw
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(low), high), choice)

    return jax.vmap(jax.vmap(one))(draws)


def _report(logits: jax.Array, token: jax.Array, tops: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The log-probability of each row's token, [S], and the most likely tokens with theirs, [S, tops]. logits: [S, 1, V]."""
    logits = pin(logits, "batch", None, None)
    shifted = logits - decode.max_rows(logits)
    log_probs = (shifted - jnp.log(decode.sum_rows(jnp.exp(shifted))))[:, 0]
    best, numbers = jax.lax.top_k(log_probs, tops)
    return jnp.sum(jnp.where(jnp.arange(log_probs.shape[-1]) == token, log_probs, 0.0), -1), numbers, best


def _moved(cache: decode.Layers, block: decode.Layers, starts: jax.Array) -> decode.Layers:
    """The cache with a block's tokens in each row from its own place in `starts` [S] on. What an answer that is over leaves behind its end is never read."""
    axis = _slot_axis(cache)
    held, given = (spec(*[None] * axis, "batch", *more) for more in (("kv_heads",), (None, "kv_heads")))

    def put(cache: decode.Layers, block: decode.Layers, starts: jax.Array) -> decode.Layers:
        def one(x: jax.Array, new: jax.Array) -> jax.Array:
            places = next(i for i in range(axis + 1, x.ndim) if x.shape[i] != new.shape[i])
            write = jax.vmap(lambda row, new, start: jax.lax.dynamic_update_slice_in_dim(row, new, start, places - 1), (axis, axis, 0), axis)
            return write(x, new, starts)

        return jax.tree.map(lambda x, new: one(x, jnp.squeeze(new, axis + 1)), cache, block)

    return on_each_device(put, (held, given, spec("batch")), held)(cache, block, starts)


def _slot_axis(layers: decode.Layers) -> int:
    """Of the arrays of a list of layers the first axis, of stacked ones the second, after L."""
    return 0 if isinstance(layers, list) else 1
