"""What the benchmarks over seeds share: their flags, figures with intervals, means over seeds, and the one JSON line."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from promedical_jax.bench import intervals


def parser(description: str | None, out: str, sizes: Mapping[str, int]) -> argparse.ArgumentParser:
    """The flags that all have: --seeds, --first, --out, and the numbers of cases in `sizes`."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--first", type=int, default=0, help="the first seed")
    made.add_argument("--out", type=Path, default=Path(out))
    for name, size in sizes.items():
        made.add_argument(f"--{name}", type=int, default=size)
    return made


def three(interval: Any) -> list[float | None]:
    """[mean, low, high] of an Interval, null where there is none."""
    return [round(x, 4) if x == x else None for x in (interval.mean, interval.low, interval.high)]


def over_seeds(values: Sequence[float]) -> dict[str, float | None]:
    """Mean over seeds with Student's 95 % interval, null of one seed."""
    return dict(zip(("mean", "low", "high"), three(intervals.over_seeds(values)), strict=True))


def publish(benchmark: str, arguments: Sequence[str] | None, found: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Prints the line: what was typed, on what, what was `found` over the seeds, and a row a seed."""
    typed = sys.argv[1:] if arguments is None else list(arguments)
    print(json.dumps({
        "benchmark": benchmark,
        "command": " ".join([f"python -m benchmarks.{benchmark}", *typed]),
        "machine": {"cpus": len(os.sched_getaffinity(0)), "processor": platform.machine()},
        "versions": {name: version(name) for name in ("promedical-jax", "jax", "flax")},
        **found,
        "seeds": list(rows),
    }))  # fmt: skip
