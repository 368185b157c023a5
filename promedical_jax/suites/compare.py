"""Runs of one suite side by side: their figures, the paired difference of what both measured, who wins, and the items on which they differ most.

A paired difference is of the same items, so that what is hard for all drops out: its interval is narrower than two intervals that are held against each other.
The test is a paired permutation test: the signs of the units' differences are flipped, ties stay (bench/intervals.py, `sign_flips`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from promedical_jax.bench.intervals import Interval, bootstrap_of, sign_flips
from promedical_jax.errors import InputError
from promedical_jax.suites.figures import mean
from promedical_jax.suites.known import SUITES
from promedical_jax.suites.report import Against, Report, read_run
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
    """How much more the second run has than the first, of the `n` items for which both have a number; p as `sign_flips` has it."""

    what: str
    interval: Interval
    n: int
    p: float


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
    """Of the items' scores, and of each part that both have. A suite that has points for who wins has no single score of an item."""
    both = [(mark, second.marks[name]) for name, mark in first.marks.items() if name in second.marks]
    parts = list(dict.fromkeys(part for one, other in both for part in one.parts if part in other.parts))
    values = {SCORE: [(one.unit, one.score, other.score) for one, other in both]}
    values |= {part: [(one.unit, one.parts.get(part), other.parts.get(part)) for one, other in both] for part in parts}
    return [found for what, triples in values.items() if (found := _difference(what, triples)).n]


def against(base: Run, other: Run) -> Against | None:
    """How the second run fares against the first, item by item, by the suite's points; None where the suite has none."""
    if (points := _points(base)) is None:
        return None
    won = [mark.model_copy(update={"score": points(mark, other.marks[name])}) for name, mark in base.marks.items() if name in other.marks]
    scores = [mark.score for mark in won if mark.score is not None]
    p = sign_flips([score - 0.5 for score in scores])
    return Against(
        base=base.name, win_rate=mean(won, lambda one: one.score), won=sum(score > 0.5 for score in scores), tied=sum(score == 0.5 for score in scores),
        lost=sum(score < 0.5 for score in scores), p=None if np.isnan(p) else p,
    )  # fmt: skip


def _points(run: Run) -> Callable[[Marked, Marked], float | None] | None:
    return next((suite.points for name, suite in SUITES.items() if name == run.report.suite), None)


def same_judge(one: Report, other: Report) -> bool:
    """Whether figures of the two can be held against each other: another judge gives other ones."""
    return (one.judge, one.judge_version) == (other.judge, other.judge_version)


def _difference(what: str, triples: Sequence[tuple[str, float | None, float | None]]) -> Difference:
    units: dict[str, np.ndarray] = {}
    for unit, one, other in triples:
        if one is not None and other is not None:
            row = units.setdefault(unit, np.zeros(2))
            row += (other - one, 1)
    sums = np.array(list(units.values())).reshape(-1, 2)
    return Difference(what, bootstrap_of(sums, lambda total: float(total[0] / total[1])), int(sums[:, 1].sum()), sign_flips(sums[:, 0]))


def farthest(runs: Sequence[Run]) -> list[str]:
    """The ids of items whose scores lie farthest apart among the runs, the farthest first, or those that the suite's points tell apart most, and among equals
    the parts; those on which nobody differs are none."""
    points, spread = _points(runs[0]), {}
    for name, mark in runs[0].marks.items():
        marks = [run.marks[name] for run in runs if name in run.marks]
        if points:
            won = [points(mark, other) for other in marks[1:]]
            apart = max((abs(one - 0.5) for one in won if one is not None), default=0.0)
        else:
            apart = _apart([one.score for one in marks])
        if apart:
            spread[name] = (apart, sum(_apart([one.parts.get(part) for one in marks]) for part in mark.parts) if points else 0.0)
    return sorted(spread, key=lambda name: spread[name], reverse=True)[:MOST_ITEMS]


def _apart(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return max(known) - min(known) if len(known) > 1 else 0.0
