"""Products of activations with weights, whose backward pass runs at nearly the forward's rate on a CPU.

JAX's own gradient of a weight is dy^T x: what comes from behind stands first, so XLA on the CPU writes it out turned, and to do so computes all that it is
fused with (a gated feed-forward, a norm) once more while it reads across the rows, which takes longer than the product. Here the gradient is x^T dy, save
where x is so much the wider (a feed-forward's way back) that turning it costs more.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from promedical_jax.model.sharding import in_mesh


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def product(rows: str, ins: str, outs: str, placed: PartitionSpec | None, x: jax.Array, w: jax.Array) -> jax.Array:
    """x [rows, ins] times w [ins, outs]: [rows, outs], placed as `placed`. rows, ins and outs are strings of letters, one an axis."""
    return jnp.einsum(f"{rows}{ins},{ins}{outs}->{rows}{outs}", x, w, out_sharding=placed)


def _forward(rows: str, ins: str, outs: str, placed: PartitionSpec | None, x: jax.Array, w: jax.Array):
    return product(rows, ins, outs, placed, x, w), (x, w)


def _backward(rows: str, ins: str, outs: str, placed: PartitionSpec | None, kept: tuple[jax.Array, jax.Array], given: jax.Array):
    x, w = kept
    to_x = jnp.einsum(f"{rows}{outs},{ins}{outs}->{rows}{ins}", given, w, out_sharding=_place(x))
    first, second = (x, given) if x.size <= 2 * given.size else (given, x)
    a, b = (ins, outs) if first is x else (outs, ins)
    to_w = jnp.einsum(f"{rows}{a},{rows}{b}->{ins}{outs}", first, second, out_sharding=_place(w))
    return to_x, to_w


def _place(x: jax.Array) -> PartitionSpec | None:
    return jax.typeof(x).sharding.spec if in_mesh() else None


product.defvjp(_forward, _backward)
