"""What the benchmarks over seeds share: means with Student's interval, and the one JSON line."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from scipy.stats import t as student


def over_seeds(values: Sequence[float]) -> dict[str, float | None]:
    """Mean over seeds with Student's 95 % interval, null of one seed; seeds are few, and each is one draw of everything."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return {"mean": round(mean, 4), "low": None, "high": None}
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


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
