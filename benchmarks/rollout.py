"""Sampling on the tree, where an instruction is read once for its G samples, beside one copy of it a sample; and the long tail of lengths.

    python -m benchmarks.rollout --cases 4 --prompt 512 --answers 8 --answer 64        # the shared instruction
    python -m benchmarks.rollout --cases 16 --prompt 32 --answers 8 --answer 512 --mean 64    # the tail

Flat is the same sampler with G times the instructions and one sample each. With `--mean`, answers have lengths drawn geometric with that mean, at most R, the
same on both sides: then the tail is measured with finished answers moved away and without, and whether the tokens are the same. Prints one JSON line with
medians of alternate runs; `roofline_s` is what the memory traffic of decoding takes at `--bandwidth` bytes a second (see `traffic`).
"""

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks import sizes

SHAPES = {"cases": 4, "prompt": 128, "answers": 8, "answer": 128}
NEVER = -1  # no token stops an answer


def traffic(config: Any, item: int, prompt: int, lengths: Any) -> float:
    """Bytes that decoding must read whatever it does, for lengths [B, G]: all weights once for each place that some answer still reaches, and there the
    shared instruction once for each case with a running answer, and each running answer's own keys and values so far. `item`: bytes of a number."""
    import numpy as np

    from promedical_jax.plan.flops import matrix_weights

    weights = item * (matrix_weights(config) + config.width * config.vocabulary)
    token = 2 * item * config.depth * config.kv_heads * config.head
    lengths = np.asarray(lengths, np.float64)
    steps = lengths.max() - 1  # the first token comes with the instruction
    shared = prompt * np.maximum(lengths.max(1) - 1, 0).sum()
    own = (lengths * (lengths - 1) / 2).sum()
    return float(steps * weights + token * (shared + own))


def main(arguments: Sequence[str] | None = None) -> None:
    given = sizes.parse(__doc__, arguments, **SHAPES, mean=0, block=0, bandwidth=0)
    import jax
    import jax.numpy as jnp
    import numpy as np

    from promedical_jax.model.transformer import Compute
    from promedical_jax.rollout import Rollout, sample

    b, p, g, r = (getattr(given, name) for name in SHAPES)
    config, rng, compute = sizes.model(given), np.random.default_rng(given.seed), Compute(given.dtype)
    params = sizes.weights(config, given)
    limits = np.minimum(rng.geometric(1 / given.mean, (b, g)), r).astype(np.int32) if given.mean else sizes.full(r, b, g)
    prompts, lengths, cases = sizes.tokens(rng, config.vocabulary, b, p), sizes.full(p, b), np.arange(b, dtype=np.int32)
    draw = partial(sample, params, config, key=jax.random.key(given.seed), answer_tokens=r, stop=NEVER, compute=compute, block=given.block or None)
    grown = partial(draw, jnp.asarray(prompts), jnp.asarray(lengths), cases=jnp.asarray(cases), answers=g, limits=jnp.asarray(limits))
    flat = partial(draw, *(jnp.asarray(np.repeat(x, g, 0)) for x in (prompts, lengths)), cases=jnp.asarray(np.arange(b * g, dtype=np.int32)), answers=1,
                   limits=jnp.asarray(limits.reshape(-1, 1)))  # fmt: skip

    def same(x: Rollout, y: Rollout) -> bool:
        return all(bool((np.asarray(one) == np.asarray(other)).all()) for one, other in zip(x, y, strict=True))

    figures: dict[str, Any] = {"tokens": int(limits.sum())}
    if given.mean:
        ways = {"tail": grown, "tail_without": partial(grown, compact=False)}
        figures["tokens_identical"] = same(ways["tail"](), ways["tail_without"]())
        seconds = {name: statistics.median(each) for name, each in sizes.alternately(ways, given.times).items()}
        figures |= {f"{name}_s": round(each, 6) for name, each in seconds.items()}
        figures["tail_speedup"] = round(seconds["tail_without"] / seconds["tail"], 3)
    else:
        # Flat samples have other numbers of case and sample, and so other draws: the log-probs of the tree's first tokens are compared under greedy choice.
        first, other = (np.asarray(way(temperature=0.0, answer_tokens=1).log_probs).reshape(-1) for way in (grown, flat))
        times = sizes.alternately({"tree": grown, "flat": flat}, given.times)
        figures |= sizes.compare(times, g * (p + r) / (p + g * r)) | {"max_error": sizes.apart(first, other)}
    if given.bandwidth:
        bytes_read = traffic(config, jnp.dtype(given.dtype).itemsize, p, limits)
        figures |= {"traffic_gib": round(bytes_read / 2**30, 2), "roofline_s": round(bytes_read / given.bandwidth, 4)}
    sizes.publish("rollout", figures, given, [*SHAPES, "mean", "block", "bandwidth"])


if __name__ == "__main__":
    main()
