"""Attention on the tree behind one function, and the kernel that each platform has for it.

On TPU splash attention with the tree as a mask that the kernel computes (splash.py), on GPU cuDNN's fused attention level by level (cudnn.py), elsewhere
and wherever a kernel does not take the shapes plain matrix products level by level (levels.py). All three give the same numbers; each takes padded rows
as they are, and packed rows level by level (packed.py).

Letters: B batch, T row tokens, P instruction, G answers, R answer tokens, K KV heads, Q query heads of a KV head, H head size.
"""

from collections.abc import Callable

import jax

from promedical_jax.model import cudnn, splash
from promedical_jax.model.layout import Layout, TreeBatch
from promedical_jax.model.levels import level_attention, nodes_attention
from promedical_jax.model.packed import packed_attention
from promedical_jax.model.sharding import platform


def attend(q: jax.Array, k: jax.Array, v: jax.Array, batch: TreeBatch, layout: Layout) -> jax.Array:
    """q: [B, T, K, Q, H], k and v: [B, T, K, H] -> [B, T, K, Q, H]. Softmax in float32; what padding tokens attend to is not defined.

    What a kernel gives, and what its backward pass reads beside q, k and v, is named "attention" for remat.
    """
    rows: Callable[..., jax.Array]
    nodes: Callable[..., jax.Array]
    match platform():
        case "tpu":
            rows, nodes = splash.splash_attention, splash.nodes_attention
        case "gpu" | "cuda" if cudnn.takes(q):
            rows, nodes = cudnn.cudnn_attention, cudnn.nodes_attention
        case _:
            rows, nodes = level_attention, nodes_attention
    return packed_attention(q, k, v, batch.nodes, layout, nodes) if layout.packed else rows(q, k, v, batch.valid, layout)
