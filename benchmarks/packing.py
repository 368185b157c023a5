"""Cases of unlike sizes scored in shared rows, beside the same cases each padded to the largest.

    python -m benchmarks.packing

Lengths are log-normal about the means given (standard deviation 0.7 of the logarithm, as answers and criteria spread in real rubrics), cut at three times the
mean; each answer has one to K criteria. Both sides compute the same scores alternately. Prints one JSON line: medians, the speed-up, the ratio of tokens
(padding included), and how much of the rows is real.
"""

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks import sizes

SHAPES = {"cases": 8, "prompt": 48, "answers": 2, "answer": 96, "criteria": 8, "criterion": 16, "row": 2048}


def main(arguments: Sequence[str] | None = None) -> None:
    given = sizes.parse(__doc__, arguments, **SHAPES)
    import jax
    import numpy as np

    from promedical_jax.model import packing
    from promedical_jax.model.heads import init_heads
    from promedical_jax.model.transformer import Compute
    from promedical_jax.reward import RewardBatch, jit_score

    b, p, a, r, k, c, row = (getattr(given, name) for name in SHAPES)
    config, rng, compute = sizes.model(given), np.random.default_rng(given.seed), Compute(given.dtype, "none")
    params = {"backbone": sizes.weights(config, given), "heads": init_heads(3, config.width, jax.random.key(1))}

    def lengths(mean: int, *shape: int) -> Any:
        drawn = mean * rng.lognormal(-(0.7**2) / 2, 0.7, shape)
        return np.clip(drawn.astype(np.int32), min(4, mean), 3 * mean)

    prompt, answer, criterion = lengths(p, b), lengths(r, b, a), lengths(c, b, k)
    criterion *= np.arange(k) < rng.integers(1, k + 1, (b, 1))
    grids = (sizes.tokens(rng, config.vocabulary, *shape) for shape in ((b, prompt.max()), (b, a, answer.max()), (b, k, criterion.max())))
    ids, answers, criteria = grids
    batch = RewardBatch(ids, prompt, answers, answer, criteria, criterion, sizes.tokens(rng, 3, b, k))
    wanted = [prompt[:, None], answer, np.broadcast_to(criterion[:, None], (b, a, k)).reshape(b, a * k)]
    every = np.broadcast_to(criteria[:, None], (b, a, *criteria.shape[1:])).reshape(b, a * k, -1)
    rows, fill = packing.pack(packing.fit(wanted, row), [ids[:, None], answers, every], wanted)
    packed, padded = jax.device_put((batch._replace(rows=rows), batch))
    space = b * (prompt.max() + a * answer.max() + a * k * criterion.max())

    ways = {name: partial(jit_score, params, config, one, compute=compute) for name, one in {"packed": packed, "padded": padded}.items()}
    there = np.broadcast_to(criterion[:, None] > 0, (b, a, k))
    error = sizes.apart(*(np.asarray(way())[there] for way in ways.values()))
    seconds = {name: statistics.median(each) for name, each in sizes.alternately(ways, given.times).items()}
    figures = {
        "padded_s": round(seconds["padded"], 6),
        "packed_s": round(seconds["packed"], 6),
        "speedup": round(seconds["padded"] / seconds["packed"], 3),
        "token_ratio": round(float(space / sum(x.size for x in rows.tokens)), 3),
        "padded_fill": round(float(sum(x.sum() for x in wanted) / space), 3),
        "packed_fill": round(fill, 3),
        "max_error": error,
    }
    sizes.publish("packing", figures, given, list(SHAPES))


if __name__ == "__main__":
    main()
