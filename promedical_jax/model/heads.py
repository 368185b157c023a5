"""Scalar heads on hidden states: one a criterion tier, so that a veto and a bonus are not read off the same direction."""

import jax
import jax.numpy as jnp

HEADS_AXES = {"weight": (None, None), "bias": (None,), "tie_bias": (None,)}


def init_heads(heads: int, width: int, key: jax.Array) -> dict[str, jax.Array]:
    """`heads` linear maps of D to a score: weight [heads, D] of std 1 / sqrt(D), so that a normed state scores of order one; bias [heads] zero.

    tie_bias [heads] says how readily a head calls two scores equal, where ties are modelled; no score depends on it.
    """
    return {"weight": jax.random.normal(key, (heads, width)) * width**-0.5, "bias": jnp.zeros((heads,)), "tie_bias": jnp.zeros((heads,))}


def head_scores(heads: dict[str, jax.Array], states: jax.Array, which: jax.Array) -> jax.Array:
    """The score of each state by the head named for it. states: [B, n, D], which: [B, n] head numbers -> float32 [B, n]."""
    every = jnp.einsum("bnd,hd->bnh", states.astype(jnp.float32), heads["weight"]) + heads["bias"]
    return jnp.sum(jnp.where(jnp.arange(heads["bias"].shape[0]) == which[..., None], every, 0.0), -1)
