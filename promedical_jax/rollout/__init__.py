"""Sampling on the tree: each instruction is prefilled once, its G answers share the keys and values, and nobody waits for the longest answer.

The host drives three jitted pieces. `_begin` reads the instructions and draws the first tokens. `_extend` draws up to a block of tokens more, in one loop
on the devices, and returns early when few answers are left. Then those left move together into fewer rows (seats.py), and go on. The memory of answer
tokens grows by a block at a time. The weights are the trainer's own; a draw is a function of (seed, step, case, sample, position).

Compiled at most, for a shape of batch: blocks (at most 8) x the shapes of seats.shapes; a run meets about one after the other of either.
"""

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, reshard

from promedical_jax.model import decode, transformer
from promedical_jax.model.draw import draw
from promedical_jax.model.logprob import to_logits
from promedical_jax.model.sharding import in_mesh, on_each_device, parts, pin, platform, spec
from promedical_jax.model.transformer import FLOAT32, Compute, ModelConfig, Params
from promedical_jax.rollout.seats import Seats, first_seats, leave_at, move, sources

PREFILL_TOKENS = 8192  # of a device at a time: the forward's temporaries are theirs
LEAST_TOKENS = 256  # on the CPU, where fewer are slow
BLOCKS, LEAST_BLOCK = 8, 64


class Rollout(NamedTuple):
    """G sampled answers of B instructions. An answer ends with its stop token; one of R tokens without it was cut (see `finished`)."""

    tokens: jax.Array  # [B, G, R], zero after the end
    lengths: jax.Array  # [B, G], stop token included
    log_probs: jax.Array  # [B, G, R] of the distribution sampled, zero after the end
    finished: jax.Array  # [B, G] whether the stop token came


class Asked(NamedTuple):
    """What each answer depends on, beside the weights and its instruction's tokens."""

    lengths: jax.Array  # [B] of the instructions
    limits: jax.Array  # [B, G], the most tokens of each answer
    draws: jax.Array  # [B, G] keys
    temperature: jax.Array


class Rules(NamedTuple):
    """How tokens are drawn and when they end: hashable, for jit."""

    stop: tuple[int, ...]
    greedy: bool
    top_k: int
    top_p: float


def sample(params: Params, config: ModelConfig, prompts: jax.Array, lengths: jax.Array, key: jax.Array, cases: jax.Array, *, answers: int, answer_tokens: int,
           stop: int | tuple[int, ...], temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, limits: jax.Array | None = None,
           compute: Compute = FLOAT32, block: int | None = None, compact: bool = True, waves: int = 1) -> Rollout:
    """prompts: [B, P] and their true lengths [B]; key: of (seed, step); cases: [B] numbers that set the cases' draws apart, whatever their batch.

    `stop`: the token that ends an answer, or several. Temperature 0 is greedy, and gives log-probabilities at temperature 1. top_k > 0 and top_p < 1 cut
    the distribution, and log-probabilities are of what is left; a policy gradient believes in neither, so training leaves them off. `limits`: [B, G], the
    most tokens of each answer where they are fewer than R. `block`: tokens by which the memory grows; `compact` False leaves finished answers where they
    are; `waves`: parts, a divisor of the cases of a device, that are sampled one after the other (see memory.py). Returns a Rollout of G = `answers`,
    R = `answer_tokens`. Not to be called inside jit: see `longest`.
    """
    rules = Rules(tuple(int(token) for token in np.atleast_1d(stop)), temperature == 0, top_k, top_p)
    weights = _settle(params, compute.dtype)
    given = (prompts, lengths, cases, limits)
    roll = partial(_sample, weights, config, key, np.float32(temperature or 1), answers, answer_tokens, rules, block, compact)
    return roll(*given) if waves == 1 else _joined([roll(*_wave(given, np.int32(wave), waves)) for wave in range(waves)])


def _sample(weights: Params, config: ModelConfig, key: jax.Array, temperature: np.float32, answers: int, answer_tokens: int, rules: Rules, block: int | None,
            compact: bool, prompts: jax.Array, lengths: jax.Array, cases: jax.Array, limits: jax.Array | None) -> Rollout:  # fmt: skip
    split, dtype = _split(), str(weights["embed"].dtype)
    seats = first_seats(len(prompts) // split, answers, split)
    prefix, done, asked, left = _begin(weights, config, prompts, lengths, cases, key, limits, temperature, answers, answer_tokens, rules)
    full: list[decode.Layers] = []
    size, filled = blocks(answer_tokens, block)
    for places in filled:
        current, written = _empty_block(config, *seats.sample.shape, size, dtype), 0
        while written < places:
            running = np.asarray(left)
            if not running.any():
                return done
            moved = move(running, seats, split) if compact else seats
            if moved is not seats:
                slots, rows = map(_placed, sources(seats, moved, split))
                seats, prefix, current = moved, _move_slots(prefix, slots), _move_rows(current, rows)
                for i, old in enumerate(full):
                    full[i] = _move_rows(old, rows)  # one after the other: the memory of the old one is free for the next
            enough = np.int32(leave_at(running, seats, split) if compact else 0)
            done, left, current, place = _extend(weights, config, prefix, tuple(full), current, done, asked, Seats(*map(_placed, seats)),
                                                 np.int32(written), enough, rules)
            written = int(place)
        full.append(current)
    return done


@partial(jax.jit, static_argnames="waves")
def _wave(given: Any, wave: jax.Array, waves: int) -> Any:
    """One of the waves of each device's cases."""
    split = _split()
    one = lambda x: _axes(jax.lax.dynamic_index_in_dim(_axes(x, 0, 1, split, waves, -1), wave, 1, keepdims=False), 0, 2, -1)  # noqa: E731
    return jax.tree.map(lambda x: one(pin(jnp.asarray(x), "batch", *[None] * (x.ndim - 1))), given)


@jax.jit
def _joined(made: list[Rollout]) -> Rollout:
    """The waves' answers, each case where it was."""
    return jax.tree.map(lambda *each: _axes(jnp.stack([_axes(x, 0, 1, _split(), -1) for x in each], axis=1), 0, 3, -1), *made)


def longest(params: Params, config: ModelConfig, prompts: jax.Array, lengths: jax.Array, key: jax.Array, cases: jax.Array, *, answers: int,
            answer_tokens: int, stop: int, compute: Compute = FLOAT32) -> Rollout:
    """`sample` at temperature 1 as one program, for jit, of which all shapes are known: nobody moves. It costs what a rollout does of which no answer ends."""
    split = _split()
    rules, dtype = Rules((stop,), False, 0, 1.0), compute.dtype
    seats, weights = Seats(*(pin(jnp.asarray(x), "batch") for x in first_seats(len(prompts) // split, answers, split))), _settle(params, dtype)
    prefix, done, asked, _ = _begin(weights, config, prompts, lengths, cases, key, None, jnp.float32(1), answers, answer_tokens, rules)
    full: list[decode.Layers] = []
    size, filled = blocks(answer_tokens)
    for _ in filled:
        current = _empty_block(config, *seats.sample.shape, size, dtype)
        done, _, current, _ = _extend(weights, config, prefix, tuple(full), current, done, asked, seats, jnp.int32(0), jnp.int32(0), rules)
        full.append(current)
    return done


def blocks(answer_tokens: int, block: int | None = None) -> tuple[int, list[int]]:
    """The size of the blocks of memory, and how many places of each are filled; the last token drawn is never read, so it has none. Functions of R alone, for
    other sizes round differently; and the last block is as large as the others, since on the CPU a few places round as the number of answers beside them."""
    places = answer_tokens - 1
    size = block or max(LEAST_BLOCK, -(-answer_tokens // BLOCKS // LEAST_BLOCK) * LEAST_BLOCK)
    return size, [min(size, places - start) for start in range(0, places, size)]


_settle = jax.jit(lambda params, dtype: decode.settle(params, jnp.dtype(dtype)), static_argnames="dtype")


@partial(jax.jit, static_argnames=("config", "slots", "places", "size", "dtype"))
def _empty_block(config: ModelConfig, slots: int, places: int, size: int, dtype: str) -> decode.Layers:
    return decode.empty_block(config, slots, places, size, jnp.dtype(dtype))


@partial(jax.jit, static_argnames=("config", "answers", "answer_tokens", "rules"))
def _begin(weights: Params, config: ModelConfig, prompts: jax.Array, lengths: jax.Array, cases: jax.Array, key: jax.Array, limits: jax.Array | None,
           temperature: jax.Array, answers: int, answer_tokens: int, rules: Rules) -> tuple[decode.Layers, Rollout, Asked, jax.Array]:
    """The instructions' keys and values, the Rollout with the first token of each answer, what they depend on, and which of them run on [B, G]."""
    b = len(prompts)
    limits = jnp.full((b, answers), answer_tokens, jnp.int32) if limits is None else jnp.minimum(limits, answer_tokens)
    prompts, lengths, cases, limits = (pin(x, *("batch", None)[: x.ndim]) for x in (prompts, lengths, cases, limits))
    states, prefix = _read(weights, config, prompts, lengths)
    # As many rows as there are answers, and at least two: the kernels, and so the rounding, are those of the tokens after it.
    rows = max(answers, decode.LEAST_ROWS)
    draws = on_each_device(partial(_keys, samples=rows), (spec("batch"), spec()), spec("batch"))(cases, key)
    states = jax.lax.optimization_barrier(pin(jnp.broadcast_to(states[:, None], (b, rows, config.width)), "batch", None, None))
    logits = to_logits(states, transformer.unembedding(weights), 1.0)
    drawn = draw(logits, draws, jnp.int32(0), temperature, rules.greedy, rules.top_k, rules.top_p)
    first, log_prob = (x[:, :answers] for x in drawn)
    blank = pin(jnp.zeros((b, answers, answer_tokens)), "batch", None, None)
    column = lambda x: jax.lax.dynamic_update_slice_in_dim(blank.astype(x.dtype), x[..., None], 0, 2)  # noqa: E731
    done = Rollout(column(first), jnp.ones_like(first), column(log_prob), _among(first, rules.stop))
    asked = Asked(lengths, limits, on_each_device(lambda draws: draws[:, :answers], (spec("batch"),), spec("batch"))(draws), temperature)
    return prefix, done, asked, _left(done, asked)


def _read(weights: Params, config: ModelConfig, prompts: jax.Array, lengths: jax.Array) -> tuple[jax.Array, decode.Layers]:
    """decode.read of some cases at a time, on the CPU of always as many: then their rounding does not depend on the batch."""
    (b, p), split, dtype = prompts.shape, _split(), weights["embed"].dtype
    cases = b // split  # of a device
    size = -(-LEAST_TOKENS // p) if platform() == "cpu" else min(-(-PREFILL_TOKENS // p), cases)
    pieces = -(-cases // size)
    prompts, lengths = (_axes(x, 0, 1, split, cases) for x in (prompts, lengths))
    if cases < size:
        prompts, lengths = (jnp.concatenate([x] * -(-size // cases), axis=1)[:, :size] for x in (prompts, lengths))

    def piece(start: jax.Array | int) -> tuple[jax.Array, decode.Layers]:
        tokens, true = (_axes(jax.lax.dynamic_slice_in_dim(x, start, size, 1), 0, 2, split * size) for x in (prompts, lengths))
        made = decode.read(weights, config, tokens, true, dtype)
        return _each(lambda x, axis: _axes(x, axis, 1, split, size), made)

    if pieces == 1:
        return _each(lambda x, axis: _axes(jax.lax.slice_in_dim(x, 0, cases, axis=axis + 1), axis, 2, b), piece(0))

    def fill(i: jax.Array, whole: tuple[jax.Array, decode.Layers]) -> tuple[jax.Array, decode.Layers]:
        start = jnp.minimum(i * size, cases - size)
        made = piece(start)
        axes = _each(lambda x, axis: axis + 1, made)
        return jax.tree.map(lambda x, new, axis: jax.lax.dynamic_update_slice_in_dim(x, new, start, axis), whole, made, axes)

    def blank(x: Any, axis: int) -> jax.Array:
        zeros = jnp.zeros((*x.shape[: axis + 1], cases, *x.shape[axis + 2 :]), x.dtype)
        return reshard(zeros, x.sharding.spec) if in_mesh() else zeros

    whole = jax.lax.fori_loop(0, pieces, fill, _each(blank, jax.eval_shape(piece, 0)))
    return _each(lambda x, axis: _axes(x, axis, 2, b), whole)


def _each(function: Callable[[Any, int], Any], made: tuple[Any, decode.Layers]) -> tuple[Any, Any]:
    """`function` of each array of states and of keys and values, and of the number of its axis of cases."""
    states, prefix = made
    axis = 0 if isinstance(prefix, list) else 1
    return function(states, 0), jax.tree.map(lambda x: function(x, axis), prefix)


@partial(jax.jit, static_argnames=("config", "rules"), donate_argnames=("block", "done"))
def _extend(weights: Params, config: ModelConfig, prefix: decode.Layers, full: tuple[decode.Layers, ...], block: decode.Layers, done: Rollout, asked: Asked,
            seats: Seats, written: jax.Array, enough: jax.Array, rules: Rules) -> tuple[Rollout, jax.Array, decode.Layers, jax.Array]:
    """Fills `block` from its place `written` on, until it is full or at most `enough` answers run on the fullest device.

    Returns the Rollout with what was drawn, which answers still run [B, G], the block, and the place that it is filled to.
    """
    places = [jax.tree.leaves(each)[0].shape[-1] for each in (*full, block)]
    before = sum(places[:-1])
    size = min(places[-1], done.tokens.shape[2] - 1 - before)
    rows = spec("batch")
    seated = on_each_device(partial(_seated, before=before, size=size), (rows, rows, rows, spec()), rows)
    held = seated(seats, done, asked[:3], before + written)
    start, limit, draws, token, running, count, ended, said, log_probs = held
    seen = jnp.arange(jax.tree.leaves(prefix)[0].shape[-1]) < start[:, None]
    unembed, dtype = transformer.unembedding(weights), weights["embed"].dtype

    def goes_on(state) -> jax.Array:
        written, _, running, *_ = state
        return (written < size) & (jnp.max(jnp.sum(_axes(running, 0, 1, _split(), -1), (1, 2))) > enough)

    def extend(state):
        written, token, running, count, ended, said, log_probs, block = state
        position = before + written
        hidden, block = decode.step(weights, config, token, start[:, None] + position, prefix, seen, full, block, written, dtype)
        logits = to_logits(hidden, unembed, 1.0)  # split along the vocabulary, as the noise is: each device draws and compares its part
        token, log_prob = draw(logits, draws, position + 1, asked.temperature, rules.greedy, rules.top_k, rules.top_p)
        said, log_probs = (
            jax.lax.dynamic_update_index_in_dim(x, jnp.where(running, new, jax.lax.dynamic_index_in_dim(x, written, 2, keepdims=False)), written, 2)
            for x, new in ((said, token), (log_probs, log_prob))
        )
        count = count + running
        ended = ended | (running & _among(token, rules.stop))
        running = running & ~ended & (count < limit)
        return written + 1, token, running, count, ended, said, log_probs, block

    state = (written, token, running, count, ended, said, log_probs, block)
    written, _, _, count, ended, said, log_probs, block = jax.lax.while_loop(goes_on, extend, state)
    done = on_each_device(partial(_stored, before=before), (rows, rows, rows), rows)(seats, done, (said, log_probs, count, ended))
    return done, _left(done, asked), block, written


def _seated(seats: Seats, done: Rollout, asked: tuple[jax.Array, ...], place: jax.Array, before: int, size: int) -> tuple[Any, ...]:
    """What the decoder needs to know of the answers that sit on one device; `place` of the token that it reads first."""
    lengths, limits, draws = asked
    row = _rows(seats, limits)
    tokens, log_probs = (x.reshape(-1, x.shape[-1]) for x in (done.tokens, done.log_probs))
    count, ended, limit, draws = (x.reshape(-1)[row] for x in (done.lengths, done.finished, limits, draws))
    running = (seats.sample >= 0) & ~ended & (count < limit)
    said, log_probs = (jax.lax.slice_in_dim(x, before + 1, before + 1 + size, axis=1)[row] for x in (tokens, log_probs))
    return lengths[seats.case], limit, draws, jax.lax.dynamic_index_in_dim(tokens, place, 1, keepdims=False)[row], running, count, ended, said, log_probs


def _stored(seats: Seats, done: Rollout, made: tuple[jax.Array, ...], before: int) -> Rollout:
    """The Rollout of one device with what was made for the answers that sit there."""
    b, g, r = done.tokens.shape
    row = jnp.where(seats.sample >= 0, _rows(seats, done.lengths), b * g)  # what lies outside is dropped
    said, log_probs, count, ended = made
    columns = slice(before + 1, before + 1 + said.shape[2])
    tokens = done.tokens.reshape(-1, r).at[row, columns].set(said, mode="drop")
    log_probs = done.log_probs.reshape(-1, r).at[row, columns].set(log_probs, mode="drop")
    lengths, finished = (x.reshape(-1).at[row].set(new, mode="drop") for x, new in ((done.lengths, count), (done.finished, ended)))
    return Rollout(*(x.reshape(like.shape) for x, like in zip((tokens, lengths, log_probs, finished), done, strict=True)))


def _rows(seats: Seats, like: jax.Array) -> Any:
    """The row of each place in a device's arrays [B G, ...]; of an empty one any."""
    return seats.case[:, None] * like.shape[1] + jnp.maximum(seats.sample, 0)


def _keys(cases: jax.Array, key: jax.Array, samples: int) -> jax.Array:
    """The key of each answer's draws, [B, G], of the cases [B]."""
    of_cases = jax.vmap(partial(jax.random.fold_in, key))(cases)
    return jax.vmap(jax.random.fold_in)(jnp.repeat(of_cases, samples), jnp.tile(jnp.arange(samples), len(cases))).reshape(len(cases), samples)


def _left(done: Rollout, asked: Asked) -> jax.Array:
    """Which answers still run [B, G], whole on every device and so on every host."""
    return pin(~done.finished & (done.lengths < asked.limits), None, None)


def _among(tokens: jax.Array, some: tuple[int, ...]) -> jax.Array:
    return reduce(jnp.logical_or, [tokens == token for token in some])


@jax.jit
def _move_slots(prefix: decode.Layers, slots: jax.Array) -> decode.Layers:
    return _moved(prefix, slots, ("batch", "kv_heads"), lambda x, axis, slots: jnp.take(x, slots, axis))


@jax.jit
def _move_rows(block: decode.Layers, rows: jax.Array) -> decode.Layers:
    """rows: [slots, places] of row numbers on the same device."""

    def take(x: jax.Array, axis: int, rows: jax.Array) -> jax.Array:
        return jnp.take(x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :]), rows, axis)

    return _moved(block, rows, ("batch", None, "kv_heads"), take)


def _moved(layers: decode.Layers, numbers: jax.Array, axes: tuple[str | None, ...], take: Callable[[jax.Array, int, jax.Array], jax.Array]) -> decode.Layers:
    """What `take` takes from each device's part of the arrays, whose first axes (after L, where they are stacked) are these."""
    axis = 0 if isinstance(layers, list) else 1
    placed = spec(*[None] * axis, *axes)
    local = lambda layers, numbers: jax.tree.map(lambda x: take(x, axis, numbers), layers)  # noqa: E731
    return on_each_device(local, (placed, spec("batch")), placed)(layers, numbers)


def _placed(numbers: np.ndarray) -> jax.Array:
    """The host's numbers, the same in every process, split along the batch."""
    if not in_mesh():
        return jnp.asarray(numbers)
    return jax.make_array_from_callback(numbers.shape, NamedSharding(jax.sharding.get_mesh(), spec("batch")), numbers.__getitem__)


def _split() -> int:
    """Into how many parts the mesh splits a batch."""
    return parts(jax.sharding.get_abstract_mesh(), "batch") if in_mesh() else 1


def _axes(x: jax.Array, axis: int, count: int, *shape: int) -> jax.Array:
    """x with `count` axes from `axis` on replaced by others of the same size; the first of them takes their placement."""
    shape = (*x.shape[:axis], *shape, *x.shape[axis + count :])
    if not in_mesh():
        return x.reshape(shape)
    placed = [*jax.typeof(x).sharding.spec, *[None] * x.ndim][: x.ndim]
    new = [*placed[: axis + 1], *[None] * (len(shape) - x.ndim + count - 1), *placed[axis + count :]]
    sizes = [math.prod(x.shape) // -math.prod(shape) if n == -1 else n for n in shape]
    return jax.lax.reshape(x, sizes, out_sharding=PartitionSpec(*new))
