"""Which state of the code made a figure: a figure that is kept must not pass for one of today's code."""

import hashlib
from functools import cache
from pathlib import Path

ROOMS = ("rubric", "clinic", "data", "model", "rollout", "reward", "train")  # what trains, and what truth is
FILES = ("answering.py", "bench/local.py", "bench/reward_figures.py", "bench/reward_model.py", "bench/policy_figures.py", "lab/make.py", "lab/measure.py")


@cache
def fingerprint() -> str:
    """A hash of the source of everything that a figure depends on, but for the libraries."""
    root = Path(__file__).parents[1]
    files = sorted(file for room in ROOMS for file in (root / room).rglob("*.py")) + [root / name for name in FILES]
    whole = hashlib.sha256()
    for file in files:
        whole.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return whole.hexdigest()[:12]
