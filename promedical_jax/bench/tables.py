"""The figures of a report as tables for the terminal; they fit 80 columns."""

from math import isfinite

from rich import box
from rich.console import Console
from rich.table import Table

from promedical_jax.bench.intervals import Interval
from promedical_jax.bench.report import PolicyFigures, Report, RewardModelFigures
from promedical_jax.rubric.case import Tier


def print_report(report: Report, console: Console) -> None:
    """Base beside aligned on the held-out cases: share safe, S1, S2, win rate and length, each with its 95 % interval."""
    base, aligned = report.base, report.aligned
    table = _table(f"{aligned.n_cases:,} held-out cases, {aligned.n_answers:,} answers", "", "base", "aligned", "change")
    for name, before, after in [("safe answers", base.safe, aligned.safe), ("S1 proficiency", base.s1, aligned.s1), ("S2 excellence", base.s2, aligned.s2)]:
        table.add_row(name, _share(before), _share(after), _points(after.mean - before.mean))
    table.add_row("win rate", "", _share(report.win_rate), "")
    table.add_row("length, tokens", _number(base.length), _number(aligned.length), _difference(aligned.length.mean - base.length.mean))
    console.print(table)


def print_policy(figures: PolicyFigures, console: Console) -> None:
    """One policy's figures, each with its 95 % interval."""
    table = _table(f"{figures.n_cases:,} cases, {figures.n_answers:,} answers", "", "figure")
    for name, share in [("safe answers", figures.safe), ("S1 proficiency", figures.s1), ("S2 excellence", figures.s2)]:
        table.add_row(name, _share(share))
    table.add_row("length, tokens", _number(figures.length))
    console.print(table)


def print_accuracy(figures: RewardModelFigures, console: Console) -> None:
    """Held-out accuracy of the reward model's verdicts, per tier, beside the majority class."""
    table = _table("reward model, held-out verdicts", "tier", "verdicts", "majority", "accuracy", "gain")
    for tier in Tier:
        if tier in figures.accuracy:
            accuracy, majority = figures.accuracy[tier], figures.majority[tier]
            table.add_row(tier.value, f"{figures.counts[tier]:,}", _percent(majority), _share(accuracy), _points(accuracy.mean - majority))
    table.add_section()
    total, majority = figures.overall, figures.overall_majority
    table.add_row("all", f"{sum(figures.counts.values()):,}", _percent(majority), _share(total), _points(total.mean - majority))
    console.print(table)


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, caption="in brackets: 95 % intervals over cases")
    table.caption_justify = "left"
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True, style="bold" if name in ("aligned", "accuracy") else None)
    return table


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if isfinite(value) else "–"


def _share(interval: Interval) -> str:
    return f"{_percent(interval.mean)} ({100 * interval.low:.1f} to {100 * interval.high:.1f})" if isfinite(interval.mean) else "–"


def _number(interval: Interval) -> str:
    return f"{interval.mean:.1f} ({interval.low:.1f} to {interval.high:.1f})" if isfinite(interval.mean) else "–"


def _points(difference: float) -> str:
    return _difference(100 * difference)


def _difference(value: float) -> str:
    return f"{value:+.1f}" if isfinite(value) else "–"
