"""The figures of a report as tables for the terminal; they fit 80 columns."""

from math import isfinite

from rich import box
from rich.console import Console
from rich.table import Table

from promedical_jax.bench.intervals import Interval
from promedical_jax.bench.report import PolicyFigures, Report
from promedical_jax.bench.reward_figures import RewardModelFigures


def print_report(report: Report, console: Console) -> None:
    """Base beside aligned on the held-out cases: share safe, S1, S2, win rate and length, each with its 95 % interval."""
    base, aligned = report.base, report.aligned
    table = _table(f"{aligned.n_cases:,} held-out cases, {aligned.n_answers:,} answers", "", "base", "aligned", "change")
    for name, before, after in [("safe answers", base.safe, aligned.safe), ("S1 proficiency", base.s1, aligned.s1), ("S2 excellence", base.s2, aligned.s2)]:
        table.add_row(name, _share(before), _share(after), _points(after.mean - before.mean))
    table.add_row("S3 violations", _hundredths(base.s3), _hundredths(aligned.s3), f"{aligned.s3.mean - base.s3.mean:+.2f}")
    table.add_row("win rate", "", _share(report.win_rate), "")
    table.add_row("length, tokens", _number(base.length), _number(aligned.length), _difference(aligned.length.mean - base.length.mean))
    console.print(table)


def print_policy(figures: PolicyFigures, console: Console) -> None:
    """One policy's figures, each with its 95 % interval."""
    table = _table(f"{figures.n_cases:,} cases, {figures.n_answers:,} answers", "", "figure")
    for name, share in [("safe answers", figures.safe), ("S1 proficiency", figures.s1), ("S2 excellence", figures.s2)]:
        table.add_row(name, _share(share))
    table.add_row("S3 violations", _hundredths(figures.s3))
    table.add_row("length, tokens", _number(figures.length))
    console.print(table)


def print_accuracy(figures: RewardModelFigures, console: Console) -> None:
    """A reward model on held-out cases: are its verdicts right, beside the majority class; its pairs; its probabilities; and what is it sensitive to."""
    pointwise = _table(f"{figures.kind} reward model, held-out verdicts", "tier", "verdicts", "majority", "accuracy", "gain")
    pairwise = _table("pairs of answers, and probabilities", "tier", "pairs", "right", "ECE")
    for tier, one in figures.tiers.items():
        gain = _points(one.accuracy.mean - one.majority)
        pointwise.add_row(tier.value, f"{one.count:,}", _percent(one.majority), _share(one.accuracy), gain)
        pairwise.add_row(tier.value, f"{one.pairs:,}", _share(one.pairwise), _thousandths(one.ece))
    pointwise.add_section()
    pairwise.add_section()
    gain = _points(figures.overall.mean - figures.overall_majority)
    pointwise.add_row("all", f"{sum(figures.counts.values()):,}", _percent(figures.overall_majority), _share(figures.overall), gain)
    pairwise.add_row("all", f"{sum(one.pairs for one in figures.tiers.values()):,}", _share(figures.overall_pairwise), "")
    rest = _table("safety, selection, sensitivity", "", "figure")
    for name, value in _details(figures):
        rest.add_row(name, value)
    for table in (pointwise, pairwise, rest):
        console.print(table)


def _details(figures: RewardModelFigures) -> list[tuple[str, str]]:
    rows = []
    if safety := figures.safety:
        rows += [(f"{name} of violations", _share(value)) for name, value in (("precision", safety.precision), ("recall", safety.recall), ("F1", safety.f1))]
        rows += [(f"recall at {100 * at.false_veto_rate:g} % false vetoes, exact", _share(at.recall)) for at in safety.recall_at]
    if best := figures.selection:
        for name, picked, mean, top in (("is safe", best.safe, best.safe_mean, best.safe_best), ("has S1", best.s1, best.s1_mean, best.s1_best)):
            rows += [(f"best of a case's answers {name}", _share(picked)), ("  a mean answer", _share(mean)), ("  the best there is", _share(top))]
    rows.append(("longer one scored higher, of equals", _share(figures.longer_preferred)))
    if said := figures.paraphrased:
        rows += [("other words: verdicts that stay", _share(said.same)), ("  pairs right", _share(said.pairwise))]
    if said := figures.swapped:
        rows += [("another case's criteria: pairs right", _share(said.pairwise)), ("  by the verdicts", _share(said.pairwise_by_verdict))]
    if abstained := sum(one.abstained for one in figures.tiers.values()):
        rows.append(("verdicts that abstain", f"{abstained:,}"))
    if figures.split:
        rows.append(("left out, raters evenly split", f"{figures.split:,}"))
    return rows


IN_BRACKETS = "in brackets: 95 % intervals over cases"


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, caption=IN_BRACKETS)
    table.caption_justify = "left"
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True, style="bold" if name in ("aligned", "accuracy", "right") else None)
    return table


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if isfinite(value) else "–"


def _share(interval: Interval) -> str:
    return f"{_percent(interval.mean)} ({100 * interval.low:.1f} to {100 * interval.high:.1f})" if isfinite(interval.mean) else "–"


def _thousandths(interval: Interval) -> str:
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})" if isfinite(interval.mean) else "–"


def _hundredths(interval: Interval) -> str:
    return f"{interval.mean:.2f} ({interval.low:.2f} to {interval.high:.2f})" if isfinite(interval.mean) else "–"


def _number(interval: Interval) -> str:
    return f"{interval.mean:.1f} ({interval.low:.1f} to {interval.high:.1f})" if isfinite(interval.mean) else "–"


def _points(difference: float) -> str:
    return _difference(100 * difference)


def _difference(value: float) -> str:
    return f"{value:+.1f}" if isfinite(value) else "–"
