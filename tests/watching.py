"""Processes that are watched from a test: their children, and waiting for something to come about."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def children(process: subprocess.Popen) -> list[int]:
    """The processes that any thread of it started, in their order; Linux only."""
    return sorted(int(pid) for file in Path(f"/proc/{process.pid}/task").glob("*/children") for pid in file.read_text().split())


def until(holds: Callable[[], object], seconds: float = 30.0) -> float:
    """Waits until something holds, and says for how long; fails if it never does."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, "it never came to that"
        time.sleep(0.01)
    return time.monotonic() - began
