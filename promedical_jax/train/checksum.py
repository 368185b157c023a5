"""Whether arrays are, to the last bit, what they were: two numbers an array, which no mesh changes.

Orbax's files carry checksums of their indices alone: a flipped bit in an array's bytes is read back as another number, without a word. These are of the
arrays themselves, computed where they lie, so that nothing between device, disk and device goes unseen, and whoever reads but a part of a checkpoint can
check that part.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
ODD = np.uint32(0x9E3779B1)


def checksums(tree: Any) -> dict[str, str]:
    """Of each array of a tree by its path, as in params.embed: 16 hex digits. Waits for the arrays; several processes call it together and get the same."""
    paths, arrays = zip(*jax.tree.leaves_with_path(tree), strict=True)
    words = np.asarray(jax.device_get(_words(arrays)))
    return {jax.tree_util.keystr(path, simple=True, separator="."): f"{a:08x}{b:08x}" for path, (a, b) in zip(paths, words, strict=True)}


@jax.jit
def _words(arrays: tuple[jax.Array, ...]) -> jax.Array:
    """[n, 2]. A sum modulo 2^32 of an array's bits by odd weights that its places have: any order of summing gives the same, and a change in one entry shows
    for certain, others with a chance of 1 - 2^-64 or so."""
    return jnp.stack([jnp.stack([jnp.sum(bits * (2 * place + 1)), jnp.sum(bits * (place * ODD | 1))]) for bits, place in map(_bits, arrays)])


def _bits(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """An array's entries as unsigned numbers, and the place of each."""
    x = x.astype(jnp.uint8) if x.dtype == bool else x
    place, stride = jnp.zeros((1,) * x.ndim, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        along = [-1 if i == axis else 1 for i in range(x.ndim)]
        place = place + (jnp.arange(x.shape[axis], dtype=jnp.uint32) * np.uint32(stride % 2**32)).reshape(along)
        stride *= x.shape[axis]
    return jax.lax.bitcast_convert_type(x, BITS[x.dtype.itemsize]).astype(jnp.uint32), place
