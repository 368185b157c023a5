"""Qwen3 (dense): Flax NNX declares and names the parameters, pure functions on their stacked arrays compute.

Layers are stacked on a leading axis L and run by `lax.scan`: 14 leaves whatever the depth, small code, cheap dispatch. One `block` serves
training, scoring and sampling. Placement lives in sharding.py, the tree in layout.py and attention.py, HF's names in hf.py.

Letters: B batch, T row tokens, D width, K KV heads, Q query heads of a KV head, H head size, F feed-forward, V vocabulary, L layers.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from promedical_jax.model.attention import decode_attention, tree_attention
from promedical_jax.model.layout import Layout, TreeBatch
from promedical_jax.model.sharding import gather, out

Params = dict[str, Any]  # {"embed": [V, D], "layers": {name: [L, ...]}, "norm": [D], and "unembed": [D, V] where it is not tied}
Cache = tuple[jax.Array, jax.Array]  # keys and values


@dataclass(frozen=True)
class Qwen3Config:
    """The sizes of a dense Qwen3, by HF's config.json (see hf.py)."""

    vocabulary: int
    width: int
    depth: int
    kv_heads: int
    query_heads: int  # of each KV head
    head: int
    feed_forward: int
    rope_theta: float = 1e6
    norm_eps: float = 1e-6
    tied: bool = False


LAYER_AXES = {
    "attn_norm": ("layers", None),
    "q": ("layers", "width", "kv_heads", None, None),
    "k": ("layers", "width", "kv_heads", None),
    "v": ("layers", "width", "kv_heads", None),
    "q_norm": ("layers", None),
    "k_norm": ("layers", None),
    "o": ("layers", "kv_heads", None, None, "width"),
    "mlp_norm": ("layers", None),
    "gate": ("layers", "width", "feed_forward"),
    "up": ("layers", "width", "feed_forward"),
    "down": ("layers", "feed_forward", "width"),
}
EMBED_AXES = ("vocabulary", "width")
UNEMBED_AXES = ("width", "vocabulary")
COPY_GAIN = 0.3  # of the copying heads at the start, beside a residual stream of order one after the norm


class Qwen3(nnx.Module):
    """The parameters of a Qwen3 before training, each with the names of its axes as metadata `axes`.

    Matrices are normal with variance 1 / fan-in (HF's 0.02 is that at width 2,500, and far too little for a small model); those that write to the
    residual stream are scaled down with the depth. In the first query head of every second KV head the queries start equal to the keys and the output
    equal to the transposed values: it attends to earlier copies of its token and copies (mimetic initialisation, arXiv 2305.09828). Matching and copying
    are what a criterion or a card ask for, and a small model takes thousands of steps to find them from nothing.
    """

    def __init__(self, config: Qwen3Config, rngs: nnx.Rngs):
        c = config
        writes = (2 * c.depth) ** -0.5

        def normal(*shape: int, fan_in: int, scale: float = 1.0) -> jax.Array:
            return scale * fan_in**-0.5 * jax.random.normal(rngs.params(), shape)

        k, v = (normal(c.depth, c.width, c.kv_heads, c.head, fan_in=c.width) for _ in range(2))
        q = normal(c.depth, c.width, c.kv_heads, c.query_heads, c.head, fan_in=c.width)
        o = normal(c.depth, c.kv_heads, c.query_heads, c.head, c.width, fan_in=c.kv_heads * c.query_heads * c.head, scale=writes)
        values = {
            "attn_norm": jnp.ones((c.depth, c.width)),
            "q": q.at[:, :, ::2, 0].set(k[:, :, ::2]),
            "k": k,
            "v": v,
            "q_norm": jnp.ones((c.depth, c.head)),
            "k_norm": jnp.ones((c.depth, c.head)),
            "o": o.at[:, ::2, 0].set(COPY_GAIN * jnp.moveaxis(v, 1, 3)[:, ::2]),
            "mlp_norm": jnp.ones((c.depth, c.width)),
            "gate": normal(c.depth, c.width, c.feed_forward, fan_in=c.width),
            "up": normal(c.depth, c.width, c.feed_forward, fan_in=c.width),
            "down": normal(c.depth, c.feed_forward, c.width, fan_in=c.feed_forward, scale=writes),
        }
        self.embed = nnx.Param(normal(c.vocabulary, c.width, fan_in=c.width), axes=EMBED_AXES)
        self.layers = nnx.Dict({name: nnx.Param(value, axes=LAYER_AXES[name]) for name, value in values.items()})
        self.norm = nnx.Param(jnp.ones((c.width,)), axes=(None,))
        if not c.tied:
            self.unembed = nnx.Param(normal(c.width, c.vocabulary, fan_in=c.width), axes=UNEMBED_AXES)


def init(config: Qwen3Config, key: jax.Array) -> Params:
    """Fresh float32 parameters. Call it under jit with pinned `out_shardings` (see train/loop.py): no device then holds them whole."""
    return nnx.to_pure_dict(nnx.state(Qwen3(config, nnx.Rngs(params=key))))


def axes(config: Qwen3Config) -> Params:
    """The tree of parameters with the names of each array's axes in its place."""
    state = nnx.state(nnx.eval_shape(lambda: Qwen3(config, nnx.Rngs(0))))
    return nnx.to_pure_dict(jax.tree.map(lambda p: p.get_metadata()["axes"], state, is_leaf=lambda x: isinstance(x, nnx.Variable)))


def forward(params: Params, config: Qwen3Config, batch: TreeBatch, layout: Layout, dtype: jnp.dtype = jnp.float32, cache: bool = False,
            remat: bool = True):
    """Hidden states [B, T, D] after the last norm; with `cache` also the keys and values of each layer, [L, B, K, T, H].

    `dtype` is what matrix products compute in; norms, RoPE and softmax are float32. `remat`: the backward pass computes each layer again.
    """
    x = embed(params, batch.tokens, dtype)
    sin, cos = rope_angles(batch.positions, config)

    def layer(x: jax.Array, weights: Params):
        w = ready(weights, dtype)
        q, k, v = project(w, x, sin, cos, config)
        with jax.named_scope("attention"):
            mixed = tree_attention(q, k, v, batch.valid, layout)
        return finish(w, x, mixed, config), (k.swapaxes(1, 2), v.swapaxes(1, 2)) if cache else None

    x, kept = jax.lax.scan(jax.checkpoint(layer, prevent_cse=False) if remat else layer, x, params["layers"])
    hidden = rms_norm(x, params["norm"], config.norm_eps)
    return (hidden, kept) if cache else hidden


def decode(params: Params, config: Qwen3Config, tokens: jax.Array, positions: jax.Array, prefix: Cache, prefix_valid: jax.Array, suffix: Cache,
           written: jax.Array, dtype: jnp.dtype = jnp.float32) -> tuple[jax.Array, Cache]:
    """One token of each of G answers. tokens, positions: [B, G]; prefix: [L, B, K, P, H] of the instruction; suffix: [L, B, K, G, R, H], filled below
    `written`. Returns hidden states [B, G, D] and the token's own keys and values [L, B, K, G, 1, H], which the caller writes into slot `written`."""
    x = embed(params, tokens, dtype)
    sin, cos = rope_angles(positions, config)

    def layer(x: jax.Array, scanned):
        weights, prefix, suffix = scanned
        w = ready(weights, dtype)
        q, k, v = project(w, x, sin, cos, config)
        own = (k.swapaxes(1, 2)[..., None, :], v.swapaxes(1, 2)[..., None, :])
        mixed = decode_attention(q.swapaxes(1, 2), prefix, suffix, own, prefix_valid, written).swapaxes(1, 2)
        return finish(w, x, mixed, config), own

    x, own = jax.lax.scan(layer, x, (params["layers"], prefix, suffix))
    return rms_norm(x, params["norm"], config.norm_eps), own


def embed(params: Params, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """[B, T] -> [B, T, D]."""
    return gather(params["embed"].astype(dtype), EMBED_AXES).at[tokens].get(out_sharding=out("batch", None, None))


def unembedding(params: Params, dtype: jnp.dtype) -> jax.Array:
    """The [D, V] matrix to logits, gathered for use."""
    if "unembed" in params:
        return gather(params["unembed"].astype(dtype), UNEMBED_AXES)
    return gather(params["embed"].astype(dtype), EMBED_AXES).T


def ready(weights: Params, dtype: jnp.dtype) -> Params:
    """One layer's weights, cast and then gathered along fsdp once: on TPU XLA would else turn each product into a windowed einsum, 1.6 times slower."""
    return {name: w if "norm" in name else gather(w.astype(dtype), LAYER_AXES[name][1:]) for name, w in weights.items()}


def project(w: Params, x: jax.Array, sin: jax.Array, cos: jax.Array, c: Qwen3Config) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x: [B, T, D] -> q [B, T, K, Q, H], k and v [B, T, K, H], with RMS norm over the head and RoPE on q and k."""
    h = rms_norm(x, w["attn_norm"], c.norm_eps)
    q = jnp.einsum("btd,dkqh->btkqh", h, w["q"], out_sharding=out("batch", None, "kv_heads", None, None))
    k = jnp.einsum("btd,dkh->btkh", h, w["k"], out_sharding=out("batch", None, "kv_heads", None))
    v = jnp.einsum("btd,dkh->btkh", h, w["v"], out_sharding=out("batch", None, "kv_heads", None))
    q = rope(rms_norm(q, w["q_norm"], c.norm_eps), sin[:, :, None, None], cos[:, :, None, None])
    return q, rope(rms_norm(k, w["k_norm"], c.norm_eps), sin[:, :, None], cos[:, :, None]), v


def finish(w: Params, x: jax.Array, mixed: jax.Array, c: Qwen3Config) -> jax.Array:
    """Attention's output projection and the gated feed-forward, each added to x: [B, T, D]."""
    x = x + jnp.einsum("btkqh,kqhd->btd", mixed, w["o"], out_sharding=out("batch", None, None))
    h = rms_norm(x, w["mlp_norm"], c.norm_eps)
    with jax.named_scope("mlp"):
        gate = jnp.einsum("btd,df->btf", h, w["gate"], out_sharding=out("batch", None, "feed_forward"))
        up = jnp.einsum("btd,df->btf", h, w["up"], out_sharding=out("batch", None, "feed_forward"))
        return x + jnp.einsum("btf,fd->btd", jax.nn.silu(gate) * up, w["down"], out_sharding=out("batch", None, None))


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """In float32 over the last axis, returned in x's type."""
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + eps) * scale).astype(x.dtype)


def rope_angles(positions: jax.Array, c: Qwen3Config) -> tuple[jax.Array, jax.Array]:
    """sin and cos, float32 [B, T, H / 2]."""
    frequencies = c.rope_theta ** (-jnp.arange(0, c.head, 2, dtype=jnp.float32) / c.head)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.sin(angles), jnp.cos(angles)


def rope(x: jax.Array, sin: jax.Array, cos: jax.Array) -> jax.Array:
    """Rotates the two halves of the head (HF's convention) in float32. x: [..., H], sin and cos broadcast over [..., H / 2]."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)

