"""Figures of marks: means, rare events, and what a test of yes or no finds. Whole units are resampled (see bench/intervals.py); abstentions are left out."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from promedical_jax.bench.intervals import Interval, bootstrap_of, bootstrap_ratio, clopper_pearson
from promedical_jax.rubric.agreement import Coefficient, closeness, gwet_ac2, weighted_kappa
from promedical_jax.suites.suite import Figure, Figures, Marked

Value = Callable[[Marked], float | None]


def part(name: str) -> Value:
    return lambda mark: mark.parts.get(name)


def figure(interval: Interval, n: int, share: bool = True) -> Figure:
    mean, low, high = (value if math.isfinite(value) else None for value in (interval.mean, interval.low, interval.high))
    return Figure(mean=mean, low=low, high=high, n=n, share=share)


def mean(marks: Sequence[Marked], value: Value, share: bool = True) -> Figure:
    """The mean over items that have the value, with a bootstrap over units."""
    units: dict[str, list[float]] = {}
    for mark in marks:
        if (found := value(mark)) is not None:
            units.setdefault(mark.unit, []).append(found)
    interval = bootstrap_ratio([sum(each) for each in units.values()], [len(each) for each in units.values()])
    return figure(interval, sum(map(len, units.values())), share)


def clipped(found: Figure) -> Figure:
    """Into [0, 1]; clipping keeps the order, so a resample's percentiles are clipped with it."""
    return found.model_copy(update={name: None if value is None else min(max(value, 0.0), 1.0) for name in ("mean", "low", "high")
                                    for value in [getattr(found, name)]})  # fmt: skip


def rare(marks: Sequence[Marked], value: Value) -> Figure:
    """The share of items whose value is 1, with the exact interval, which also holds where none is. Every item is taken for a unit of its own."""
    found = [one for mark in marks if (one := value(mark)) is not None]
    return figure(clopper_pearson(round(sum(found)), len(found)), len(found))


def by_group(marks: Sequence[Marked], make: Callable[[Sequence[Marked]], Figure], prefix: str = "") -> Figures:
    """A figure for each group that begins with `prefix`, by name."""
    names = sorted({group for mark in marks for group in mark.groups if group.startswith(prefix)})
    return {name: make([mark for mark in marks if name in mark.groups]) for name in names}


def abstained(marks: Sequence[Marked]) -> Figure:
    """The share of items without a score."""
    return mean(marks, lambda mark: float(mark.score is None))


def detection(marks: Sequence[Marked], truth: str, found: str) -> Figures:
    """Precision, recall and F1 of the positive class, and balanced accuracy, of items that have `truth`, a part or belief, and the part `found`, each 0 or
    1."""
    units: dict[str, np.ndarray] = {}
    n = 0
    for mark in marks:
        true, said = mark.parts.get(truth, mark.beliefs.get(truth)), mark.parts.get(found)
        if true is not None and said is not None:
            units.setdefault(mark.unit, np.zeros((2, 2)))[int(true), int(said)] += 1
            n += 1
    table = np.array(list(units.values())).reshape(-1, 2, 2)  # [units, truth, found]
    right = table[:, 1, 1]
    return {
        "precision": figure(bootstrap_ratio(right, table[:, :, 1].sum(1)), int(table[:, :, 1].sum())),
        "recall": figure(bootstrap_ratio(right, table[:, 1].sum(1)), int(table[:, 1].sum())),
        "F1": figure(bootstrap_of(table, _f1), n),
        "balanced accuracy": figure(bootstrap_of(table, _balanced), n),
    }


def agreement(marks: Sequence[Marked], truth: str, found: str) -> Figures:
    """Cohen's kappa and Gwet's AC1 of two raters of yes or no, by the beliefs of these names; the second holds where one answer is rare."""
    weights = closeness(2)
    rated = [(mark.unit, mark.beliefs.get(truth), mark.beliefs.get(found)) for mark in marks]
    both = [(unit, int(one), int(other)) for unit, one, other in rated if one is not None and other is not None]
    places = {unit: place for place, unit in enumerate(dict.fromkeys(unit for unit, _, _ in both))}
    made: Figures = {}
    for name, coefficient in (("kappa", weighted_kappa), ("AC1", gwet_ac2)):
        parts = coefficient.parts(np.array([[one, other] for _, one, other in both], int).reshape(-1, 2), weights)
        rows = np.zeros((len(places), *parts.shape[1:]))
        np.add.at(rows, [places[unit] for unit, _, _ in both], parts)
        made[name] = figure(bootstrap_of(rows, partial(_coefficient, coefficient, weights)), len(both), share=False)
    return made


def macro_f1(marks: Sequence[Marked], classes: Sequence[float], truth: str, found: str) -> Figure:
    """The mean over classes of the F1 of each; what is found may be of no class, which is then right for none."""
    at = {one: index for index, one in enumerate(classes)}
    units: dict[str, np.ndarray] = {}
    for mark in marks:
        table = units.setdefault(mark.unit, np.zeros((len(at), len(at) + 1)))
        true, said = mark.parts[truth], mark.parts.get(found)
        assert true is not None
        table[at[true], len(at) if said is None else at.get(said, len(at))] += 1
    return figure(bootstrap_of(np.array(list(units.values())).reshape(-1, len(at), len(at) + 1), _macro_f1), len(marks))


def _coefficient(which: Coefficient, weights: np.ndarray, sums: np.ndarray) -> float:
    return float(which.of(sums, weights))


def named(prefix: str, figures: Figures) -> Figures:
    return {f"{prefix}{name}": found for name, found in figures.items()}


def _over(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def _f1(table: np.ndarray) -> float:
    return _over(2 * table[1, 1], table[1].sum() + table[:, 1].sum())


def _balanced(table: np.ndarray) -> float:
    return (_over(table[1, 1], table[1].sum()) + _over(table[0, 0], table[0].sum())) / 2


def _macro_f1(table: np.ndarray) -> float:
    right = np.array([table[i, i] for i in range(len(table))])
    whole = table.sum(1) + table.sum(0)[: len(table)]
    return float(np.mean(np.divide(2 * right, whole, out=np.zeros(len(table)), where=whole > 0)))
