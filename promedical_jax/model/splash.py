"""Tree attention on TPU: the splash kernel over the whole row, with the tree as a mask that it computes from the row's layout.

Blocks of the row in which no query sees a key are skipped, so that attention costs what the tree costs, and no [T, T] array exists.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from promedical_jax.model.layout import Layout
from promedical_jax.model.sharding import on_each_device, spec

LANES = 128  # the kernel's unit of tokens and of head size


class TreeMask(masks._ComputableMask):
    """Which key a query of the padded row sees: its ancestors, and causally its own node. The row's padding at the end sees itself."""

    def __init__(self, layout: Layout, tokens: int):
        self.layout = layout
        super().__init__(shape=(tokens, tokens), mask_function=partial(_sees, layout), shard_count=1)

    def __hash__(self) -> int:
        return hash((type(self), self.layout, self.shape))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TreeMask) and (self.layout, self.shape) == (other.layout, other.shape)


def _sees(layout: Layout, q: Any, k: Any) -> Any:
    """Whether query position q sees key position k, broadcast. Integer arrays, of numpy on the host and of JAX inside the kernel."""
    spans = [*zip(layout.levels, layout.spans(), strict=True)]
    seen = (q >= layout.tokens) & (k <= q)  # rows of the padding: never empty, and never read
    for i, (level, (start, end)) in enumerate(spans):
        mine = (q >= start) & (q < end)
        node = (q - start) // level.length
        seen = seen | (mine & (k >= start) & (k <= q) & ((k - start) // level.length == node))
        for above, (first, last) in spans[:i]:
            parent = node // (level.nodes // above.nodes)
            seen = seen | (mine & (k >= first) & (k < last) & ((k - first) // above.length == parent))
    return seen


def splash_attention(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array, layout: Layout, interpret: bool = False) -> jax.Array:
    """q: [B, T, K, Q, H], k and v: [B, T, K, H], valid: [B, T] -> [B, T, K, Q, H]. `interpret` runs the kernel's program without a TPU."""
    heads, rows = spec("batch", None, "kv_heads"), spec("batch")
    local = partial(_on_one_device, layout=layout, interpret=interpret)
    return on_each_device(local, (heads, heads, heads, rows), heads)(q, k, v, valid)


def _on_one_device(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array, layout: Layout, interpret: bool) -> jax.Array:
    b, t, kv, heads, size = q.shape
    block = block_size(t)
    tokens, width = -(-t // block) * block, -(-size // LANES) * LANES

    def ready(x: jax.Array) -> jax.Array:  # [B, T, N, H] -> [B, N, T, H], with whole blocks of tokens and whole lanes of a head
        return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, tokens - t), (0, width - size)))

    # A kernel of its own for the queries' gradient: the fused one writes a partial gradient for each block of keys, [T / block, heads, T, H], and sums them,
    # which by the compiler's estimate costs a fifth of an 8B step at 9,216 tokens; computing scores twice costs a fiftieth.
    sizes = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    blocks = kernels.BlockSizes(**dict[str, Any]({f"block_{name}": block for name in sizes}))
    mask = masks.MultiHeadMask([TreeMask(layout, tokens)] * (kv * heads))
    kernel = kernels.make_splash_mha(mask, block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret)
    # A key of another segment than the query is not seen: padding keys are in segment 1, and every query in segment 0.
    hidden = jnp.pad(~valid, ((0, 0), (0, tokens - t))).astype(jnp.int32)

    def one(q: jax.Array, k: jax.Array, v: jax.Array, hidden: jax.Array) -> jax.Array:
        return kernel(q, k, v, kernels.SegmentIds(jnp.zeros_like(hidden), hidden))

    mixed = jax.vmap(one)(ready(q.reshape(b, t, kv * heads, size) * size**-0.5), ready(k), ready(v), hidden)
    return mixed[:, :, :t, :size].swapaxes(1, 2).reshape(q.shape).astype(q.dtype)


def block_size(tokens: int) -> int:
    """The largest block, of at most 512 tokens, that pads a row by at most a sixteenth."""
    return next((block for block in (512, 384, 256) if -(-tokens // block) * block <= tokens * 17 / 16), LANES)
