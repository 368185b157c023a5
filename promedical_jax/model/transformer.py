"""The decoder of dense Qwen3 and Llama 3: Flax NNX declares and names the parameters, pure functions on their stacked arrays compute.

Layers are stacked on a leading axis L and run by `lax.scan`: 14 leaves whatever the depth, small code, cheap dispatch. One `layer` serves
training, scoring and sampling. Placement lives in sharding.py, the tree in layout.py, attention by platform in attention.py, HF's names in hf/.

Letters: B batch, T row tokens, D width, K KV heads, Q query heads of a KV head, H head size, F feed-forward, V vocabulary, L layers, r adapter rank.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from promedical_jax.model.attention import attend
from promedical_jax.model.layout import Layout, TreeBatch
from promedical_jax.model.product import product
from promedical_jax.model.rope import Rope, rope_angles, rotate
from promedical_jax.model.sharding import gather, out, pin

# {"embed": [V, D], "layers": {name: [L, ...]}, "norm": [D]}, "unembed": [V, D] where it is not tied, "adapters" where there are some (see lora.py).
Params = dict[str, Any]
Cache = tuple[jax.Array, jax.Array]  # keys and values
Remat = Literal["none", "full", "attention", "offload"]
Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class ModelConfig:
    """The sizes of a dense Qwen3 or Llama 3, by HF's config.json (see hf/config.py)."""

    vocabulary: int
    width: int
    depth: int
    kv_heads: int
    query_heads: int  # of each KV head
    head: int
    feed_forward: int
    rope: Rope = field(default_factory=Rope)
    norm_eps: float = 1e-6
    tied: bool = False
    qk_norm: bool = True  # Qwen3's RMS norm over each head's query and key; Llama has none
    adapter_scale: float = 1.0  # on what low-rank adapters add: LoRA's alpha / rank


@dataclass(frozen=True)
class Compute:
    """How the forward computes, whatever the model: the type of matrix products, and what the backward pass keeps instead of computing it again.

    Norms, RoPE, softmax and log-probs are float32 with either type. `remat`: "none" keeps everything, "full" only what enters a layer,
    "attention" also what attention gives, "offload" both, in the host's memory.
    """

    dtype: Dtype = "float32"
    remat: Remat = "full"


FLOAT32 = Compute()


# A weight takes the left letters of an activation to the right ones.
LETTERS = {"q": ("d", "kqh"), "k": ("d", "kh"), "v": ("d", "kh"), "o": ("kqh", "d"), "gate": ("d", "f"), "up": ("d", "f"), "down": ("f", "d")}
NAMES = {"d": "width", "k": "kv_heads", "f": "feed_forward"}  # of the parameters' axes; an activation's width is whole on each device
NORMS = ("attn_norm", "q_norm", "k_norm", "mlp_norm")
LAYER_AXES = {name: ("layers", *map(NAMES.get, ins + outs)) for name, (ins, outs) in LETTERS.items()} | dict.fromkeys(NORMS, ("layers", None))
ADAPTER_AXES = {f"{name}_a": ("layers", *map(NAMES.get, ins), None) for name, (ins, _) in LETTERS.items()}
ADAPTER_AXES |= {f"{name}_b": ("layers", None, *map(NAMES.get, outs)) for name, (_, outs) in LETTERS.items()}
EMBED_AXES = ("vocabulary", "width")
COPY_GAIN = 0.3  # of the copying heads at the start, beside a residual stream of order one after the norm


class Transformer(nnx.Module):
    """The parameters before training, each with the names of its axes as metadata `axes`.

    Matrices are normal with variance 1 / fan-in (HF's 0.02 is that at width 2,500, and far too little for a small model); those that write to the
    residual stream are scaled down with the depth. In the first query head of every second KV head the queries start equal to the keys and the output
    equal to the transposed values: it attends to earlier copies of its token and copies (mimetic initialisation, arXiv 2305.09828). Matching and copying
    are what a criterion or a card ask for, and a small model takes thousands of steps to find them from nothing.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
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
            "o": o.at[:, ::2, 0].set(COPY_GAIN * jnp.moveaxis(v, 1, 3)[:, ::2]),
            "mlp_norm": jnp.ones((c.depth, c.width)),
            "gate": normal(c.depth, c.width, c.feed_forward, fan_in=c.width),
            "up": normal(c.depth, c.width, c.feed_forward, fan_in=c.width),
            "down": normal(c.depth, c.feed_forward, c.width, fan_in=c.feed_forward, scale=writes),
        } | ({name: jnp.ones((c.depth, c.head)) for name in ("q_norm", "k_norm")} if c.qk_norm else {})
        self.embed = nnx.Param(normal(c.vocabulary, c.width, fan_in=c.width), axes=EMBED_AXES)
        self.layers = nnx.Dict({name: nnx.Param(value, axes=LAYER_AXES[name]) for name, value in values.items()})
        self.norm = nnx.Param(jnp.ones((c.width,)), axes=(None,))
        if not c.tied:
            self.unembed = nnx.Param(normal(c.vocabulary, c.width, fan_in=c.width), axes=EMBED_AXES)


def init(config: ModelConfig, key: jax.Array) -> Params:
    """Fresh float32 parameters. Call it under jit with pinned `out_shardings` (see train/optimizer.py): no device then holds them whole."""
    return nnx.to_pure_dict(nnx.state(Transformer(config, nnx.Rngs(params=key))))


def axes(config: ModelConfig) -> Params:
    """The tree of parameters with the names of each array's axes in its place."""
    state = nnx.state(nnx.eval_shape(lambda: Transformer(config, nnx.Rngs(0))))
    return nnx.to_pure_dict(jax.tree.map(lambda p: p.get_metadata()["axes"], state, is_leaf=lambda x: isinstance(x, nnx.Variable)))


def shapes(config: ModelConfig) -> Params:
    """The tree of parameters with a float32 jax.ShapeDtypeStruct in each array's place."""
    return jax.eval_shape(partial(init, config), jax.eval_shape(lambda: jax.random.key(0)))


def forward(params: Params, config: ModelConfig, batch: TreeBatch, layout: Layout, compute: Compute = FLOAT32, cache: bool = False):
    """Hidden states [B, T, D] after the last norm; with `cache` also the keys and values of each layer, [L, B, K, T, H]."""
    dtype = jnp.dtype(compute.dtype)
    x = embed(params, batch.tokens, dtype)
    sin, cos = rope_angles(batch.positions, config.rope, config.head)

    def layer(x: jax.Array, weights: Params):
        x = checkpoint_name(x, "layer")
        w = ready(weights, dtype)
        q, k, v = project(w, x, sin, cos, config)
        with jax.named_scope("attention"):
            mixed = attend(q, k, v, batch, layout)
        return finish(w, x, mixed, config), (k.swapaxes(1, 2), v.swapaxes(1, 2)) if cache else None

    x, kept = jax.lax.scan(rematerialised(layer, compute.remat), x, stack_of(params))
    hidden = rms_norm(x, params["norm"], config.norm_eps)
    return (hidden, kept) if cache else hidden


def rematerialised(layer, remat: Remat):
    """The layer with a backward pass that computes again what it did not keep."""
    policies = jax.checkpoint_policies
    match remat:
        case "none":
            return layer
        case "full":
            policy = None
        case "attention":
            policy = policies.save_only_these_names("attention")
        case "offload":
            policy = policies.save_and_offload_only_these_names(
                names_which_can_be_saved=[], names_which_can_be_offloaded=["layer", "attention"], offload_src="device", offload_dst="pinned_host"
            )
    return jax.checkpoint(layer, prevent_cse=False, policy=policy)


def stack_of(params: Params) -> Params:
    """What the scan runs over: the layers' weights, and their adapters where there are some."""
    return params["layers"] | params.get("adapters", {})


def embed(params: Params, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """[B, T] -> [B, T, D]. Each device looks its part of the width up for the whole slice's tokens, then rows move home: the table never travels."""
    looked_up = _look_up(params["embed"], pin(tokens, "slice_batch", None))
    return pin(looked_up.astype(dtype), "batch", None, None)


@jax.custom_vjp
def _look_up(table: jax.Array, tokens: jax.Array) -> jax.Array:
    return table.at[tokens].get(out_sharding=out("slice_batch", None, "width"))


def _look_up_backward(kept, given: jax.Array):
    """The gradients of a token's places are summed in float32, whatever the table's type: a common token has thousands of places."""
    table, tokens = kept
    _, pull = jax.vjp(lambda wide: wide.at[tokens].get(out_sharding=out("slice_batch", None, "width")), table.astype(jnp.float32))
    return pull(given.astype(jnp.float32))[0].astype(table.dtype), None


_look_up.defvjp(lambda table, tokens: (_look_up(table, tokens), (table, tokens)), _look_up_backward)


def unembedding(params: Params) -> jax.Array:
    """The [V, D] matrix to logits, placed as it is stored."""
    return params["unembed"] if "unembed" in params else params["embed"]


def ready(weights: Params, dtype: jnp.dtype) -> Params:
    """One layer's weights, cast and then gathered along fsdp once: on TPU XLA would else turn each product into a windowed einsum, 1.6 times slower."""
    axes = LAYER_AXES | ADAPTER_AXES
    return {name: w if name in NORMS else gather(w.astype(dtype), axes[name][1:]) for name, w in weights.items()}


def linear(w: Params, name: str, x: jax.Array, c: ModelConfig) -> jax.Array:
    """x [B, T, ins] times the weight `name`, [B, T, outs], with its low-rank adapter where it has one; the letters are those of LETTERS."""
    ins, outs = LETTERS[name]
    placed = out("batch", None, *(None if letter == "d" else NAMES.get(letter) for letter in outs))
    y = product("bt", ins, outs, placed, x, w[name])
    if f"{name}_a" in w:
        low = product("bt", ins, "r", out("batch", None, None), x, w[f"{name}_a"])
        y = y + c.adapter_scale * product("bt", "r", outs, placed, low, w[f"{name}_b"])
    return y


def project(w: Params, x: jax.Array, sin: jax.Array, cos: jax.Array, c: ModelConfig) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x: [B, T, D] -> q [B, T, K, Q, H], k and v [B, T, K, H], with RoPE on q and k, and before it Qwen3's RMS norm over the head."""
    h = rms_norm(x, w["attn_norm"], c.norm_eps)
    q, k, v = (linear(w, name, h, c) for name in ("q", "k", "v"))
    if c.qk_norm:
        q, k = rms_norm(q, w["q_norm"], c.norm_eps), rms_norm(k, w["k_norm"], c.norm_eps)
    return rotate(q, sin[:, :, None, None], cos[:, :, None, None]), rotate(k, sin[:, :, None], cos[:, :, None]), v


def finish(w: Params, x: jax.Array, mixed: jax.Array, c: ModelConfig) -> jax.Array:
    """Attention's output projection and the gated feed-forward, each added to x: [B, T, D]."""
    x = x + linear(w, "o", mixed, c)
    h = rms_norm(x, w["mlp_norm"], c.norm_eps)
    with jax.named_scope("mlp"):
        return x + linear(w, "down", jax.nn.silu(linear(w, "gate", h, c)) * linear(w, "up", h, c), c)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """In float32 over the last axis, returned in x's type."""
    return _rms_norm(x, scale, eps)[0]


def _rms_norm(x: jax.Array, scale: jax.Array, eps: float):
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + eps)
    return (wide * inverse * scale).astype(x.dtype), (x, inverse, scale)


def _rms_norm_backward(eps: float, kept: tuple[jax.Array, jax.Array, jax.Array], given: jax.Array):
    """Autodiff's sum of products over the last axis takes XLA on the CPU nine times as long as this einsum, which is the same sum."""
    x, inverse, scale = kept
    given, normed = given.astype(jnp.float32), x.astype(jnp.float32) * inverse
    to_normed = given * scale
    mean = jnp.einsum("...d,...d->...", to_normed, normed, precision="highest")[..., None] / x.shape[-1]
    to_scale = jnp.sum(given * normed, range(x.ndim - 1)).astype(scale.dtype)
    return (inverse * (to_normed - normed * mean)).astype(x.dtype), to_scale


rms_norm.defvjp(_rms_norm, _rms_norm_backward)
