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
    block = block_size(q.shape[1])
    tokens = _padded(q.shape[1], block)
    return _kernel(q, k, v, valid, TreeMask(layout, tokens), (block, block), interpret)


class NodeMask(masks._ComputableMask):
    """Which key a query of one node sees: every key before the node, and causally its own; `before` keys stand before, t queries and own keys after them."""

    def __init__(self, before: int, shape: tuple[int, int]):
        self.before = before
        super().__init__(shape=shape, mask_function=lambda q, k: k <= q + before, shard_count=1)

    def __hash__(self) -> int:
        return hash((type(self), self.before, self.shape))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NodeMask) and (self.before, self.shape) == (other.before, other.shape)


def nodes_attention(q: jax.Array, keys: list[jax.Array], values: list[jax.Array], seen: list[jax.Array], interpret: bool = False) -> jax.Array:
    """One level's nodes, each behind its ancestors. q: [B, n, t, K, Q, H]; keys, values: ancestors' from the top and its own, each [B, n, s, K, H]; seen: which
    keys are real, each [B, n, s] -> [B, n, t, K, Q, H]. Inside `shard_map`, where there is a mesh."""
    b, n, t, kv, heads, size = q.shape
    k, v, real = (jnp.concatenate(parts, axis=2).reshape(b * n, -1, *parts[0].shape[3:]) for parts in (keys, values, seen))
    blocks = block_size(t), block_size(k.shape[1])
    mask = NodeMask(k.shape[1] - t, (_padded(t, blocks[0]), _padded(k.shape[1], blocks[1])))
    return _kernel(q.reshape(b * n, t, kv, heads, size), k, v, real, mask, blocks, interpret).reshape(q.shape)


def _kernel(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array, mask: Any, blocks: tuple[int, int], interpret: bool) -> jax.Array:
    """q: [B, t, K, Q, H], k and v: [B, s, K, H], valid: [B, s] under a mask of whole blocks of (queries, keys) -> [B, t, K, Q, H]."""
    b, t, kv, heads, size = q.shape
    width = _padded(size, LANES)

    def ready(x: jax.Array, tokens: int) -> jax.Array:  # [B, T, N, H] -> [B, N, T, H], with whole blocks of tokens and whole lanes of a head
        return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, tokens - x.shape[1]), (0, width - size)))

    # A kernel of its own for the queries' gradient: the fused one writes a partial gradient for each block of keys, [T / block, heads, T, H], and sums them,
    # which by the compiler's estimate costs a fifth of an 8B step at 9,216 tokens; computing scores twice costs a fiftieth.
    of_queries, of_keys = ("q", "q_dkv", "q_dq"), ("kv", "kv_compute", "kv_dkv", "kv_dkv_compute", "kv_dq")
    sizes = dict.fromkeys(of_queries, blocks[0]) | dict.fromkeys(of_keys, blocks[1])
    chosen = kernels.BlockSizes(**dict[str, Any]({f"block_{name}": block for name, block in sizes.items()}))
    # What the backward pass reads, the mixed values and each row's log-sum, is named: where remat keeps both, the forward kernel is not run again.
    every = masks.MultiHeadMask([mask] * (kv * heads))
    kernel = kernels.make_splash_mha(every, block_sizes=chosen, head_shards=1, q_seq_shards=1, interpret=interpret, residual_checkpoint_name="attention")
    # A key of another segment than the query is not seen: padding keys are in segment 1, and every query in segment 0.
    hidden = jnp.pad(~valid, ((0, 0), (0, mask.shape[1] - valid.shape[1]))).astype(jnp.int32)

    def one(q: jax.Array, k: jax.Array, v: jax.Array, hidden: jax.Array) -> jax.Array:
        return kernel(q, k, v, kernels.SegmentIds(jnp.zeros(mask.shape[0], jnp.int32), hidden))

    mixed = jax.vmap(one)(ready(q.reshape(b, t, kv * heads, size) * size**-0.5, mask.shape[0]), ready(k, mask.shape[1]), ready(v, mask.shape[1]), hidden)
    return mixed[:, :, :t, :size].swapaxes(1, 2).reshape(q.shape).astype(q.dtype)


def _padded(tokens: int, block: int) -> int:
    return -(-tokens // block) * block


def block_size(tokens: int) -> int:
    """The largest block, of at most 512 tokens, that pads a row by at most a sixteenth."""
    return next((block for block in (512, 384, 256) if _padded(tokens, block) <= tokens * 17 / 16), LANES)
