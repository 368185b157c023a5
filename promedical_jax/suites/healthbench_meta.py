"""HealthBench's meta-evaluation (Arora et al. 2025, section 8): how well does a judge agree with physicians on whether an answer meets a criterion?

Each row is an answer, one of the 34 consensus criteria, and what physicians said of it. The judge is asked what HealthBench asks it, and its verdict is held
against each of theirs. Balanced F1 is the mean of the F1 of "met" and that of "not met", over all such pairs: the official score. Beside it stands the mean of
the criteria's own, as the paper reports it, and what physicians reach among themselves: each held against the others of the same row.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from promedical_jax.asking import Ask, turns
from promedical_jax.bench.intervals import bootstrap_of
from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Message, Text
from promedical_jax.suites.figures import abstained, figure, mean
from promedical_jax.suites.healthbench import PUBLISHED, TASK, Met
from promedical_jax.suites.rows import Foreign, records
from promedical_jax.suites.suite import Figures, Marked, Source, Suite, asked, said

FILE, LABELS = "2025-05-07-06-14-12_oss_meta_eval.jsonl", 60_896
SOURCE = Source(
    name="HealthBench meta-evaluation",
    about="60,896 verdicts of physicians on answers by 34 consensus criteria; what is measured is the judge",
    licence="MIT",
    url="https://github.com/openai/simple-evals",
    paper="arXiv 2505.08775",
    version=FILE,
    scoring="official balanced F1 over pairs of a verdict and a physician's; the judge's question is worded by us; a row without a verdict is left out; the"
    " physicians' own is pooled over physicians, where the paper takes the mean of them",
)


class Judged(Foreign):
    """A line of the file."""

    prompt: Annotated[tuple[Message, ...], Field(min_length=1)]
    prompt_id: Text
    completion: str
    completion_id: Text
    rubric: Text
    category: Text
    binary_labels: Annotated[tuple[bool, ...], Field(min_length=1)]
    anonymized_physician_ids: tuple[str | int, ...]

    @model_validator(mode="after")
    def _each_label_has_a_physician(self) -> Self:
        if len(self.binary_labels) != len(self.anonymized_physician_ids):
            labels, physicians = len(self.binary_labels), len(self.anonymized_physician_ids)
            raise ValueError(f"binary_labels holds {labels} and anonymized_physician_ids {physicians}; correct the row")
        return self


Item = tuple[str, Judged]


def read(path: Path) -> list[Item]:
    """(id, row) of each line of the file, or of that file in a folder. By its published name it must have all its labels."""
    file = path / FILE if path.is_dir() else path
    rows = [row for _, row in records(file, Judged, SOURCE.name)]
    if file.name == FILE and (labels := sum(len(row.binary_labels) for row in rows)) != LABELS:
        raise InputError(f"{file} holds {labels:,} labels of physicians and {SOURCE.name} has {LABELS:,}; fetch {PUBLISHED}{FILE}")
    return [(f"{n}:{row.completion_id}", row) for n, row in enumerate(rows, start=1)]


def judge(item: Item, _: None = None) -> list[Ask]:
    row = item[1]
    return [asked(TASK, {"conversation": turns(row.prompt), "answer": row.completion, "criterion": row.rubric}, Met)]


def mark(item: Item, _: None, verdicts: Sequence[Met | None]) -> Marked:
    """parts: what the judge said, and how many physicians said met and how many not. The score is the share of physicians who say what the judge does."""
    (name, row), verdict = item, verdicts[0]
    met, unmet = sum(row.binary_labels), len(row.binary_labels) - sum(row.binary_labels)
    parts = {"said": float(verdict.met) if verdict else None, "met": float(met), "not met": float(unmet)}
    score = (met if verdict.met else unmet) / (met + unmet) if verdict else None
    return Marked(id=name, unit=row.prompt_id, groups=(row.category,), verdicts=tuple(map(said, verdicts)), score=score, parts=parts)


# Figures


def _of_the_judge(mark: Marked) -> np.ndarray | None:
    """[said, physician]: how often the judge's verdict meets which of a physician, 0 for not met and 1 for met."""
    if (found := mark.parts["said"]) is None:
        return None
    table = np.zeros((2, 2))
    table[int(found)] = mark.parts["not met"], mark.parts["met"]
    return table


def _of_physicians(mark: Marked) -> np.ndarray:
    """The same for each physician of the row, held against each other one."""
    met, unmet = mark.parts["met"] or 0.0, mark.parts["not met"] or 0.0
    return np.array([[unmet * (unmet - 1), unmet * met], [met * unmet, met * (met - 1)]])


def _tables(marks: Sequence[Marked], of: Callable[[Marked], np.ndarray | None], names: Sequence[str]) -> tuple[np.ndarray, int]:
    """[units, categories, said, physician], and how many rows they are of."""
    at, units, rows = {name: n for n, name in enumerate(names)}, dict[str, np.ndarray](), 0
    for mark in marks:
        if (table := of(mark)) is not None and table.any():
            units.setdefault(mark.unit, np.zeros((len(names), 2, 2)))[at[mark.groups[0]]] += table
            rows += 1
    return np.array(list(units.values())).reshape(-1, len(names), 2, 2), rows


def _f1(table: np.ndarray, of: int) -> float:
    """Of one class; NaN where the rater never says it, or no physician does, as in the official code."""
    right, found, true = table[of, of], table[of].sum(), table[:, of].sum()
    return float(2 * right / (found + true)) if found and true else math.nan


def balanced(table: np.ndarray) -> float:
    return (_f1(table, 0) + _f1(table, 1)) / 2


def _mean_of_categories(tables: np.ndarray) -> float:
    known = [value for table in tables if not math.isnan(value := balanced(table))]
    return float(np.mean(known)) if known else math.nan


def figures(marks: Sequence[Marked]) -> Figures:
    names = sorted({mark.groups[0] for mark in marks})
    tables, rows = _tables(marks, _of_the_judge, names)
    theirs, shared = _tables(marks, _of_physicians, names)
    pooled = tables.sum(1)
    found = {"balanced F1": figure(bootstrap_of(pooled, balanced), rows)}
    found["balanced F1, mean of criteria"] = figure(bootstrap_of(tables, _mean_of_categories), rows)
    found["physicians among themselves, mean of criteria"] = figure(bootstrap_of(theirs, _mean_of_categories), shared)
    found["F1, met"] = figure(bootstrap_of(pooled, lambda sums: _f1(sums, 1)), rows)
    found["F1, not met"] = figure(bootstrap_of(pooled, lambda sums: _f1(sums, 0)), rows)
    found["share of physicians who agree"] = mean(marks, lambda one: one.score)
    for n, name in enumerate(names):
        of_it = tables[:, n][tables[:, n].any((1, 2))]
        found[f"balanced F1, {name}"] = figure(bootstrap_of(of_it, balanced), sum(mark.groups[0] == name and mark.score is not None for mark in marks))
    return found | {"abstained": abstained(marks)}


SUITE = Suite(SOURCE, read, mark, figures, judge=judge)
