"""The reward model's scores of all K criteria of all G answers in one pass over the tree, beside one flat row for each criterion.

    python -m benchmarks.tree_scoring --prompt 128 --answers 1 --answer 256 --criteria 8 --criterion 24

A flat row is instruction, answer and criterion, causal, in batches of the rows of `--cases` cases (or of `--flat-rows`, where memory asks for it). Both run the
same forward, heads and attention code; every node has its full length, so that no padding flatters either. Prints one JSON line: medians of alternate runs,
the speed-up, the ratio of tokens, and the largest difference of the scores relative to the largest score.
"""

from collections.abc import Sequence

from benchmarks import sizes

SHAPES = {"cases": 4, "prompt": 128, "answers": 1, "answer": 256, "criteria": 8, "criterion": 24}


def main(arguments: Sequence[str] | None = None) -> None:
    given = sizes.parse(__doc__, arguments, **SHAPES, flat_rows=1024)
    import jax
    import jax.numpy as jnp
    import numpy as np

    from promedical_jax.model import transformer
    from promedical_jax.model.heads import head_scores, init_heads
    from promedical_jax.model.layout import assemble, tree
    from promedical_jax.model.transformer import Compute
    from promedical_jax.reward import RewardBatch, jit_score

    b, p, g, r, k, c = (getattr(given, name) for name in SHAPES)
    config, rng, compute = sizes.model(given), np.random.default_rng(given.seed), Compute(given.dtype, "none")
    params = {"backbone": sizes.weights(config, given), "heads": init_heads(3, config.width, jax.random.key(1))}

    prompt, answers, criteria = (sizes.tokens(rng, config.vocabulary, *shape) for shape in ((b, p), (b, g, r), (b, k, c)))
    tiers = sizes.tokens(rng, 3, b, k)
    batch = RewardBatch(prompt, sizes.full(p, b), answers, sizes.full(r, b, g), criteria, sizes.full(c, b, k), tiers)

    shape = (b, g, k)
    parts = prompt[:, None, None], answers[:, :, None], criteria[:, None]
    rows = np.concatenate([np.broadcast_to(part, (*shape, part.shape[-1])).reshape(b * g * k, -1) for part in parts], axis=1)
    heads_of = np.broadcast_to(tiers[:, None], shape).reshape(-1, 1)
    layout = tree(p + r + c)

    @jax.jit
    def flat_scores(params, rows, tiers):
        ends = sizes.full(layout.tokens, len(rows), 1)
        hidden = transformer.forward(params["backbone"], config, assemble(layout, [rows[:, None]], [ends]), layout, compute)
        return head_scores(params["heads"], hidden[:, -1:], tiers)[:, 0]

    pieces = [slice(start, start + given.flat_rows) for start in range(0, len(rows), given.flat_rows)]
    batch, rows, heads_of = jax.device_put((batch, [rows[piece] for piece in pieces], [heads_of[piece] for piece in pieces]))
    ways = {
        "tree": lambda: jit_score(params, config, batch, compute=compute),
        "flat": lambda: [flat_scores(params, some, tiers) for some, tiers in zip(rows, heads_of, strict=True)],
    }
    error = sizes.apart(ways["tree"](), jnp.concatenate(ways["flat"]()).reshape(shape))
    ratio = g * k * (p + r + c) / (p + g * (r + k * c))
    sizes.publish("tree_scoring", sizes.compare(sizes.alternately(ways, given.times), ratio) | {"max_error": error}, given, [*SHAPES, "flat_rows"])


if __name__ == "__main__":
    main()
