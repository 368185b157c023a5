"""Floating-point operations of a stage, counted from the sizes: a multiplication and an addition are two.

Letters: B rows, P instruction, G answers, R answer tokens, L layers, D width, H head size, F feed-forward, V vocabulary.
"""

from dataclasses import dataclass

from promedical_jax.model.layout import Layout, tree
from promedical_jax.model.transformer import ModelConfig, Remat


@dataclass(frozen=True)
class Work:
    """Over all devices. `model` is what the mathematics asks for, `computed` also what the backward pass computes again; `attention` is the latter's
    part in attention's kernels, and `traffic` the bytes that a sampler must read from memory whatever it does."""

    model: float
    computed: float
    attention: float
    traffic: float = 0.0


def matrix_weights(c: ModelConfig) -> int:
    """Weights of all layers' matrices."""
    heads = c.kv_heads * c.query_heads
    return c.depth * (c.width * c.head * (2 * heads + 2 * c.kv_heads) + 3 * c.width * c.feed_forward)


def attention_forward(c: ModelConfig, layout: Layout) -> float:
    """Scores and weighted sums of one row over all layers, for the pairs of tokens that see each other."""
    pairs = 0.0
    for i, level in enumerate(layout.levels):
        own = level.length * (level.length + 1) / 2
        above = level.length * sum(ancestor.length for ancestor in layout.levels[:i])
        pairs += level.nodes * (own + above)
    return 4 * pairs * c.kv_heads * c.query_heads * c.head * c.depth


def forward(c: ModelConfig, layout: Layout, rows: int, scored: int = 0) -> Work:
    """One forward pass of `rows` rows, with logits for `scored` tokens of each."""
    attention = rows * attention_forward(c, layout)
    total = 2.0 * rows * layout.tokens * matrix_weights(c) + attention + 2.0 * rows * scored * c.width * c.vocabulary
    return Work(total, total, attention)


def update(c: ModelConfig, layout: Layout, rows: int, scored: int, remat: Remat, lora: bool) -> Work:
    """Forward and backward. The backward pass costs two forwards, one with frozen weights (attention has none: two); its own kernel five products for two.

    Computed again: each layer, unless `remat` is "none", its attention unless it was kept; and the logits, always.
    """
    once = forward(c, layout, rows, scored)
    matrices, logits = 2.0 * rows * layout.tokens * matrix_weights(c), 2.0 * rows * scored * c.width * c.vocabulary
    back = 1 if lora else 2
    model = once.model + back * (matrices + logits) + 2 * once.attention
    again = 0 if remat == "none" else matrices + (once.attention if remat == "full" else 0)
    attention = once.attention * (1 + 2.5 + (1 if remat == "full" else 0))
    return Work(model, model + again + logits + 0.5 * once.attention, attention)


def rollout(c: ModelConfig, rows: int, prompt: int, answers: int, answer: int, replicas: int) -> Work:
    """Prefill once a row, then `answer` tokens of each of its answers. `replicas`: how often the devices together hold the weights, each read every token."""
    prefill = forward(c, tree(prompt), rows, 1)
    pairs = answers * (answer * prompt + answer * (answer + 1) / 2)
    decoded = rows * answers * answer * 2.0 * (matrix_weights(c) + c.width * c.vocabulary) + rows * 4 * pairs * c.kv_heads * c.query_heads * c.head * c.depth
    cache = 2 * 2 * c.depth * c.kv_heads * c.head  # bytes a token: keys and values in bfloat16
    read = answer * (replicas * 2 * (matrix_weights(c) + c.width * c.vocabulary) + rows * cache * (prompt + answers * (answer + 1) / 2))
    total = prefill.model + decoded
    return Work(total, total, prefill.attention, read)
