"""Draws a token from logits, and says how likely it was; the vocabulary may be split over devices.

The Gumbel-max trick in two stages: first a group of tokens by the groups' masses, then a token of the group. The distribution is exactly the softmax's,
for a few hundred random numbers instead of one for each of 151,936 tokens. Noise is a function of the key and the token's group and place alone.

Letters: V vocabulary, v its part on a device; the vocabulary is seen as [s sections, r rows, m columns], a group is a column of a section.
"""

import math
from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp

from promedical_jax.model.decode import max_rows, sum_rows
from promedical_jax.model.sharding import in_mesh, on_each_device, spec

SECTIONS = 8  # as many devices as can split the vocabulary without changing the draws
ROWS = 16  # of a group: large enough to make noise cheap, small enough for the second stage to be so too
NOTHING = -1e30  # the logit of what is cut away

Everywhere = dict[str, Callable[..., jax.Array]]


def draw(logits: jax.Array, keys: jax.Array, number: jax.Array, temperature: jax.Array, greedy: bool = False, top_k: int = 0,
         top_p: float = 1.0) -> tuple[jax.Array, jax.Array]:
    """A token for each row, and its log-probability in the distribution that it was drawn from, in nats. logits: float32 [B, G, V], keys: [B, G]; `number`
    sets the draws of one key apart.

    The distribution: logits / temperature, of which top_k > 0 leaves the k largest, of which top_p < 1 leaves the fewest most likely that have at least
    that mass together; tokens as likely as the last that is left are left too. `greedy` takes the most likely token, whatever the temperature.
    """
    rows, split = spec("batch"), spec("batch", None, "vocabulary")
    local = partial(_draw, greedy=greedy, top_k=top_k, top_p=top_p, meshed=in_mesh())
    return on_each_device(local, (split, rows, spec(), spec()), (rows, rows))(logits, keys, number, temperature)


def grid(vocabulary: int, parts: int = 1) -> tuple[int, int, int]:
    """(s, r, m) of a vocabulary that is split in `parts`, each of which holds whole sections; the same for all parts that divide SECTIONS."""
    sections = math.gcd(vocabulary, SECTIONS)
    sections = sections if sections % parts == 0 else parts
    rows = math.gcd(vocabulary // sections, ROWS)
    return sections, rows, vocabulary // sections // rows


def _draw(logits: jax.Array, keys: jax.Array, number: jax.Array, temperature: jax.Array, greedy: bool, top_k: int, top_p: float,
          meshed: bool) -> tuple[jax.Array, jax.Array]:
    everywhere = _everywhere(meshed)
    here, parts, part = logits.shape[-1], jax.lax.axis_size("tp") if meshed else 1, jax.lax.axis_index("tp") if meshed else 0
    logits = logits / temperature
    if top_k or top_p < 1:
        logits = _cut(logits, top_k, top_p, everywhere)
    top = everywhere["max"](max_rows(logits))
    mass = jnp.exp(logits - top)
    if greedy:
        total = everywhere["sum"](sum_rows(mass)[..., 0])
        first = jnp.min(jnp.where(logits == top, jnp.arange(here) + part * here, here * parts), -1)
        return everywhere["min"](first), -jnp.log(total)
    sections, rows, columns = grid(here * parts, parts)
    seen = (*logits.shape[:-1], sections // parts, rows, columns)
    logits, mass = logits.reshape(seen), mass.reshape(seen)
    groups = reduce(jnp.add, [mass[..., row, :] for row in range(rows)])  # [B, G, s here, m]
    total = everywhere["sum"](sum_rows(groups.reshape(*groups.shape[:-2], -1))[..., 0])
    mine = jnp.arange(sections // parts) + part * (sections // parts)
    noise = _noise(keys, number * (sections + 1) + jnp.append(mine, sections), max(columns, rows))
    of_groups, of_rows = noise[..., :-1, :columns], noise[..., -1, :rows]
    tried = jnp.log(groups) + of_groups
    best = everywhere["max"](jnp.max(tried, (-2, -1), keepdims=True))
    names = mine[:, None] * columns + jnp.arange(columns)
    group = everywhere["min"](jnp.min(jnp.where(tried == best, names, sections * columns), (-2, -1)))
    # A masked sum instead of a gather: it partitions along the vocabulary without help.
    chosen = (names == group[..., None, None])[..., None, :]
    members = everywhere["sum"](jnp.sum(jnp.where(chosen, logits, 0.0), (-3, -1)))  # [B, G, r]
    row = jnp.argmax(members + of_rows, -1)
    picked = jnp.sum(jnp.where(jnp.arange(rows) == row[..., None], members, 0.0), -1)
    return group // columns * (rows * columns) + row * columns + group % columns, picked - top[..., 0] - jnp.log(total)


def _noise(keys: jax.Array, numbers: jax.Array, count: int) -> jax.Array:
    """`count` standard Gumbel numbers of each key and number. keys: [B, G], numbers: [n] -> [B, G, n, count]."""
    shape = (*keys.shape, *numbers.shape, count)
    # In one axis: over several, XLA's CPU compiler takes ten times as long.
    keys = jax.vmap(jax.random.fold_in)(jnp.repeat(keys.reshape(-1), len(numbers)), jnp.tile(numbers, keys.size))
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (count,)))(keys).reshape(shape)
    return jax.lax.optimization_barrier(noise)  # its logarithms by themselves, as max_rows


def cut(logits: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """Logits [B, G, V] for `draw`, cut by a top_k and a top_p of each row's own, [B, G] each: 0 and 1 leave a row as it is, bit by bit. NOTHING stands in
    place of what is cut away. Where no row is cut it costs nothing."""
    rows, split = spec("batch"), spec("batch", None, "vocabulary")
    return on_each_device(partial(_cut_rows, meshed=in_mesh()), (split, rows, rows), split)(logits, top_k, top_p)


def _cut_rows(logits: jax.Array, top_k: jax.Array, top_p: jax.Array, meshed: bool) -> jax.Array:
    everywhere = _everywhere(meshed)

    def cut_some(logits: jax.Array) -> jax.Array:
        logits = jnp.where((top_k > 0)[..., None], _largest(logits, top_k, everywhere), logits)
        return jnp.where((top_p < 1)[..., None], _likeliest(logits, top_p, everywhere), logits)

    return jax.lax.cond(jnp.any((top_k > 0) | (top_p < 1)), cut_some, lambda logits: logits, logits)


def _cut(logits: jax.Array, top_k: int, top_p: float, everywhere: Everywhere) -> jax.Array:
    """The logits with NOTHING in place of what top_k and top_p cut away. Each threshold is found bit by bit, exactly and without sorting."""
    if top_k:
        logits = _largest(logits, top_k, everywhere)
    return _likeliest(logits, top_p, everywhere) if top_p < 1 else logits


def _largest(logits: jax.Array, top_k: int | jax.Array, everywhere: Everywhere) -> jax.Array:
    least = _threshold(logits, lambda kept: everywhere["sum"](jnp.sum(kept, -1)) >= top_k)
    return jnp.where(_ordered(logits) >= least, logits, NOTHING)


def _likeliest(logits: jax.Array, top_p: float | jax.Array, everywhere: Everywhere) -> jax.Array:
    mass = jnp.exp(logits - everywhere["max"](jnp.max(logits, -1, keepdims=True)))
    wanted = top_p * everywhere["sum"](jnp.sum(mass, -1))
    least = _threshold(logits, lambda kept: everywhere["sum"](jnp.sum(jnp.where(kept, mass, 0.0), -1)) >= wanted)
    return jnp.where(_ordered(logits) >= least, logits, NOTHING)


def _everywhere(meshed: bool) -> Everywhere:
    """Sums and the like over all parts of the vocabulary."""
    overs = (("sum", jax.lax.psum), ("max", jax.lax.pmax), ("min", jax.lax.pmin))
    return {name: partial(over, axis_name="tp") if meshed else lambda x: x for name, over in overs}


def _ordered(x: jax.Array) -> jax.Array:
    """Floats as unsigned integers in the same order."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31, ~bits, bits | jnp.uint32(2**31))


def _threshold(logits: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The largest threshold [..., 1], as _ordered, at or above which there are `enough` of the logits [..., V]."""
    codes = _ordered(logits)

    def bit(i: jax.Array, least: jax.Array) -> jax.Array:
        tried = least | (jnp.uint32(2**31) >> i.astype(jnp.uint32))
        return jnp.where(enough(codes >= tried)[..., None], tried, least)

    return jax.lax.fori_loop(0, 32, bit, jnp.zeros((*logits.shape[:-1], 1), jnp.uint32))
