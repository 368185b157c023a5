"""Runs of one suite side by side: their figures, the paired difference of what both measured, and the items on which they differ most.

A paired difference is of the same items, so that what is hard for all drops out: its interval is narrower than two intervals that are held against each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from promedical_jax.bench.intervals import Interval, bootstrap_of
from promedical_jax.errors import InputError
from promedical_jax.suites.report import Report, read_run
from promedical_jax.suites.suite import Marked

SCORE = "score of an item"
MOST_ITEMS = 12  # on the page


@dataclass(frozen=True)
class Run:
    name: str
    report: Report
    marks: dict[str, Marked]


@dataclass(frozen=True)
class Difference:
    """How much more the second run has than the first, of the `n` items for which both have a number."""

    what: str
    interval: Interval
    n: int


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Raises InputError for fewer than two folders, one that holds no whole run, and runs of different suites or without an item in common."""
    if len(folders) < 2:
        raise InputError(f"{len(folders)} run to compare; give the folders of two or more runs of one suite")
    runs = []
    for folder in folders:
        report, marks = read_run(folder)
        runs.append(Run(_name(folder, folders), report, {mark.id: mark for mark in marks}))
    for folder, run in zip(folders[1:], runs[1:], strict=True):
        if run.report.suite != runs[0].report.suite:
            raise InputError(f"{folder} is a run of {run.report.suite} and {folders[0]} one of {runs[0].report.suite}; compare runs of one suite")
        if not run.marks.keys() & runs[0].marks.keys():
            raise InputError(f"{folder} and {folders[0]} have no item in common; compare runs on the same data")
    return runs


def _name(folder: Path, folders: Sequence[Path]) -> str:
    """The folder's own name, or its path where two are called so."""
    return folder.name if sum(other.name == folder.name for other in folders) == 1 else str(folder)


def differences(first: Run, second: Run) -> list[Difference]:
    """Of the items' scores, and of each part that both have."""
    both = [(mark, second.marks[name]) for name, mark in first.marks.items() if name in second.marks]
    parts = list(dict.fromkeys(part for one, other in both for part in one.parts if part in other.parts))
    values = {SCORE: [(one.unit, one.score, other.score) for one, other in both]}
    values |= {part: [(one.unit, one.parts.get(part), other.parts.get(part)) for one, other in both] for part in parts}
    return [found for what, triples in values.items() if (found := _difference(what, triples)).n]


def _difference(what: str, triples: Sequence[tuple[str, float | None, float | None]]) -> Difference:
    units: dict[str, np.ndarray] = {}
    for unit, one, other in triples:
        if one is not None and other is not None:
            row = units.setdefault(unit, np.zeros(2))
            row += (other - one, 1)
    sums = np.array(list(units.values())).reshape(-1, 2)
    return Difference(what, bootstrap_of(sums, lambda total: float(total[0] / total[1])), int(sums[:, 1].sum()))


def farthest(runs: Sequence[Run]) -> list[str]:
    """The ids of items whose scores lie farthest apart among the runs, the farthest first; those on which nobody differs are none."""
    spread = {}
    for name in runs[0].marks:
        scores = [run.marks[name].score for run in runs if name in run.marks]
        known = [score for score in scores if score is not None]
        if len(known) > 1 and max(known) > min(known):
            spread[name] = max(known) - min(known)
    return sorted(spread, key=lambda name: -spread[name])[:MOST_ITEMS]
