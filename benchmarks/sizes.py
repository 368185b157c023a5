"""What the benchmarks of the tree share: a random Qwen3 of the sizes asked for, shapes as flags, and timings of two ways taken alternately."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

SHAPES = {"cases": "B, instructions", "prompt": "P, tokens of an instruction", "answers": "G, answers of an instruction", "answer": "R, tokens of an answer",
          "criteria": "K, criteria of an answer", "criterion": "C, tokens of a criterion"}  # fmt: skip


def parse(description: str, arguments: Sequence[str] | None, paths: Mapping[str, str] | None = None, switches: Mapping[str, str] | None = None, /,
          **defaults: int) -> argparse.Namespace:
    """The shapes that `defaults` names, as flags, and those of every benchmark: --width --depth --vocab, or --model; --dtype, --times, --seed, --out.

    `paths`: further flags that name a path, `switches`: ones that are there or not, with their help.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in defaults.items():
        words = name.replace("_", " ")
        help_ = f"{SHAPES.get(name, words)} (default {value})"
        parser.add_argument("--" + words.replace(" ", "-"), type=_positive if value else int, default=value, help=help_)
    for name, help_ in (paths or {}).items():
        parser.add_argument(f"--{name}", type=Path, help=help_)
    for name, help_ in (switches or {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=help_)
    parser.add_argument("--width", type=_positive, default=512, help="D, a multiple of 64: heads of 64, one KV head for two of them, feed-forward of 3 D")
    parser.add_argument("--depth", type=_positive, default=8, help="layers")
    parser.add_argument("--vocab", type=_positive, default=4096)
    parser.add_argument("--model", help="a known model, such as Qwen/Qwen3-8B, with random weights, in place of width, depth and vocab")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of weights and products")
    parser.add_argument("--times", type=_positive, default=5, help="runs of each way, of which the median counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    given = parser.parse_args(arguments)
    if not given.model and given.width % 64:
        parser.error(f"--width {given.width} is no multiple of 64, the size of a head")
    return given


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def model(given: argparse.Namespace) -> Any:
    """The ModelConfig that the flags ask for."""
    from promedical_jax.model.hf.known import known_config
    from promedical_jax.model.transformer import ModelConfig

    if given.model:
        return known_config(given.model)
    heads = given.width // 64
    kv_heads = max(heads // 2, 1)
    return ModelConfig(given.vocab, given.width, given.depth, kv_heads, heads // kv_heads, 64, 3 * given.width, tied=True)


def weights(config: Any, given: argparse.Namespace) -> Any:
    """Random parameters, made on the device in the dtype asked for."""
    import jax

    from promedical_jax.model import transformer

    return jax.jit(lambda key: jax.tree.map(lambda x: x.astype(given.dtype), transformer.init(config, key)))(jax.random.key(given.seed))


def tokens(rng: Any, vocabulary: int, *shape: int) -> Any:
    """Random token ids of a shape, NumPy."""
    return rng.integers(0, vocabulary, shape, dtype="int32")


def full(length: int, *shape: int) -> Any:
    """Lengths of nodes that are all whole, NumPy."""
    import numpy as np

    return np.full(shape, length, np.int32)


def alternately(ways: Mapping[str, Callable[[], Any]], times: int) -> dict[str, list[float]]:
    """Seconds of each run of each way, the ways in turn, after one run of each that is not counted."""
    import jax

    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(times + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            jax.block_until_ready(way())
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def compare(seconds: dict[str, list[float]], token_ratio: float) -> dict[str, float]:
    """tree_s and flat_s, medians; the speed-up; the ratio of the tokens; and what share of it is reached."""
    tree, flat = (statistics.median(seconds[name]) for name in ("tree", "flat"))
    return {"tree_s": round(tree, 6), "flat_s": round(flat, 6), "speedup": round(flat / tree, 3), "token_ratio": round(token_ratio, 3),
            "share_of_token_ratio": round(flat / tree / token_ratio, 3)}  # fmt: skip


def apart(ours: Any, theirs: Any) -> float:
    """The largest difference of two trees of arrays, each relative to its largest entry."""
    import jax
    import numpy as np

    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    worst = max(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)).max() / np.abs(np.asarray(y, np.float64)).max() for x, y in pairs)
    return float(f"{worst:.1e}")


def publish(benchmark: str, figures: dict[str, Any], given: argparse.Namespace, shapes: Sequence[str]) -> None:
    """Prints the one JSON line, and writes it where `--out` says."""
    import jax

    of_model = ("model",) if given.model else ("width", "depth", "vocab")
    named = [name for name in (*shapes, *of_model, "dtype") if getattr(given, name)]
    flags = " ".join(f"--{name.replace('_', '-')}" + ("" if getattr(given, name) is True else f" {getattr(given, name)}") for name in named)
    result = {
        "benchmark": benchmark,
        "command": f"python -m benchmarks.{benchmark} {flags} --times {given.times}",
        **figures,
        "shapes": {name: getattr(given, name) for name in named},
        "machine": {"device": jax.devices()[0].device_kind, "cpus": len(os.sched_getaffinity(0)), "processor": platform.machine(), "load": os.getloadavg()[0]},
        "versions": {name: version(name) for name in ("promedical-jax", "jax")},
    }
    print(json.dumps(result))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")
