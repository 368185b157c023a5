"""A suite's figures as a table for the terminal."""

from math import isfinite

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from promedical_jax.suites.report import Against, Report
from promedical_jax.suites.suite import Figure


def print_report(report: Report, console: Console) -> None:
    """The figures with their intervals and counts, who answered and judged, and what the suite is."""
    source = report.source
    table = Table(title=escape(f"{source.name}, {report.data}"), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    table.add_column("figure", justify="right", no_wrap=True)
    table.add_column("items", justify="right", no_wrap=True)
    for name, figure in report.figures.items():
        table.add_row(escape(name), shown(figure), f"{figure.n:,}")
    console.print(table)
    roles = (("answerer", titled(report.answerer, report.answerer_version)), ("judge", titled(report.judge, report.judge_version)))
    for line in (
        "in brackets: 95 % intervals",
        f"{report.items:,} items, {report.silent:,} without a sound reply; {report.judgements:,} judgements, {report.failed:,} failed, which abstain",
        *(f"{role}: {name}" for role, name in roles if name),
        *([f"the judge's calibration: {report.judge_calibration}"] if report.judge_calibration else []),
        *([f"raw and calibrated: {report.calibration}"] if report.calibration else []),
        *([fared(report.against)] if report.against else []),
        f"{source.name}, {source.version}: {source.licence}, {source.url}",
    ):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def titled(name: str | None, version: str | None) -> str | None:
    return f"{name}, version {version}" if name and version else name


def fared(one: Against) -> str:
    counts = f"{one.won:,} items won, {one.tied:,} tied, {one.lost:,} lost"
    p = "" if one.p is None else f"; {PAIRED}: p {chance(one.p)}"
    return f"against {one.base}: win rate {shown(one.win_rate)}, ties half; {counts}{p}"


PAIRED = "paired permutation test, signs of the items' differences flipped, two-sided, ties kept"


def chance(p: float) -> str:
    """As '< 0.001' or '= 0.013'."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def shown(figure: Figure) -> str:
    """As '72.4 % (70.1 to 74.6)', or as a number to three places where the figure is no share."""
    mean, low, high = (figure.interval.mean, figure.interval.low, figure.interval.high)
    if not isfinite(mean):
        return "–"
    if not figure.share:
        return f"{mean:.3f} ({low:.3f} to {high:.3f})"
    return f"{100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
