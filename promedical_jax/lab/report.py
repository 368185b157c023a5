"""What a table shows, as one record: for the terminal, as JSON, and for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as Drawn

from promedical_jax.bench.intervals import Interval, over_seeds
from promedical_jax.lab.findings import Checked, Figures, Judged, figure
from promedical_jax.lab.tables import Column, Part, Row, Table

Curve = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class Made:
    """How it came about. `seconds`: of all trainings and measurements of the table, added up, however many ran side by side; `other_code`: how many of the
    `measured` were made by another state of the code than this one's."""

    command: str
    seeds: int
    budget: str
    versions: Mapping[str, str]
    machine: str
    seconds: float
    other_code: int
    measured: int


@dataclass(frozen=True)
class Shown:
    table: Table
    figures: Figures
    claims: Sequence[Judged]
    checks: Sequence[Checked]
    curves: Mapping[str, Sequence[Curve]]  # row -> one a seed
    made: Made


def measured(shown: Shown, part: Part) -> list[Row]:
    """The rows of which one of the part's figures was measured."""
    return [row for row in shown.table.rows if any(isfinite(of(shown, row, column).mean) for column in part.columns)]


def of(shown: Shown, row: Row, column: Column) -> Interval:
    return over_seeds(figure(shown.figures, row.name, column.figure))


def within(interval: Interval, column: Column) -> Interval:
    """The interval with its ends where shares end: Student's goes beyond."""
    if not column.share or column.signed or not isfinite(interval.low):
        return interval
    return Interval(interval.mean, max(0.0, interval.low), min(1.0, interval.high))


def number(interval: Interval, share: bool) -> tuple[str, str]:
    """The mean, and the interval, as words."""
    if not isfinite(interval.mean):
        return "–", ""
    mean, low, high = (f"{100 * x:.1f}" if share else f"{x:.3g}" for x in (interval.mean, interval.low, interval.high))
    return mean, f"{low} to {high}" if isfinite(interval.low) else ""


def _narrow(interval: Interval, share: bool) -> str:
    """Mean and half the interval, which over seeds has its mean in the middle."""
    mean, between = number(interval, share)
    half = interval.high - interval.mean
    return f"{mean} ±{100 * half:.1f}" if between and share else f"{mean} ±{half:.2g}" if between else mean


def print_table(shown: Shown, console: Console) -> None:
    table, made = shown.table, shown.made
    seeds = f"{made.seeds} seeds" if made.seeds > 1 else "1 seed"
    console.print(f"\n[bold]{table.name}  {table.title}[/bold]   {made.budget} budget, {seeds}; means and 95 % intervals over seeds", soft_wrap=True)
    for part in table.parts:
        drawn = Drawn(title=part.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        drawn.add_column("", no_wrap=True)
        for column in part.columns:
            drawn.add_column(column.title + (", %" if column.share else ""), justify="right")
        for row in measured(shown, part):
            cells = []
            for column in part.columns:
                paper = f"\npaper {row.paper[column.figure]:.1f}" if column.figure in row.paper else ""
                cells.append(_narrow(of(shown, row, column), column.share) + paper)
            drawn.add_row(row.name, *cells)
        console.print(drawn)
    for one in shown.claims:
        mean, between = number(one.difference.interval, share=True)
        least = f" (more than {100 * one.claim.least:+.1f})" if one.claim.least else ""
        paper = f"; paper {one.claim.paper[0] - one.claim.paper[1]:+.1f}" if one.claim.paper else ""
        said = f"{mean} points{least}" + (f", {between}" if between else "") + effect(one) + paper
        console.print(f"  {one.verdict:12} {one.claim.says}: {said}", soft_wrap=True, highlight=False)
    for check in shown.checks:
        console.print(f"  {'passed' if check.passed else 'FAILED':12} {check.check.says}: {check.value:.4g}", soft_wrap=True, highlight=False)
    if made.other_code:
        told = f"{made.other_code} of {made.measured} measurements were made by another state of the code; a new --out makes them anew"
        console.print(f"  {told}", soft_wrap=True)


def effect(one: Judged) -> str:
    return f", effect {one.difference.effect:.1f}" if isfinite(one.difference.effect) else ""


def as_json(shown: Shown) -> dict[str, Any]:
    """Everything that the page is drawn of, but for the curves."""
    table = shown.table
    columns = [column for part in table.parts for column in part.columns]
    return {
        "table": table.name,
        "title": table.title,
        "made": vars(shown.made) | {"versions": dict(shown.made.versions)},
        "rows": [
            {
                "name": row.name,
                "about": row.about,
                "paper": dict(row.paper),
                "figures": {c.figure: _three(of(shown, row, c)) for c in columns if isfinite(of(shown, row, c).mean)},
                "seeds": {seed: {key: _known(value) for key, value in held.items()} for seed, held in shown.figures[row.name].items()},
            }
            for row in table.rows
        ],
        "claims": [
            {
                "says": one.claim.says, "figure": one.claim.figure, "ahead": one.claim.ahead, "behind": one.claim.behind, "more_than": one.claim.least,
                "paper": one.claim.paper, "difference": _three(one.difference.interval), "effect": _known(one.difference.effect),
                "intervals_apart": one.difference.apart, "verdict": one.verdict,
            }
            for one in shown.claims
        ],
        "checks": [{"says": one.check.says, "value": _known(one.value), "passed": one.passed} for one in shown.checks],
        "notes": list(table.notes),
    }  # fmt: skip


def _three(interval: Interval) -> list[float | None]:
    return [_known(x) for x in (interval.mean, interval.low, interval.high)]


def _known(value: float) -> float | None:
    return round(float(value), 6) if isfinite(value) else None
