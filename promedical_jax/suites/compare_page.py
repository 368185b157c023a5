"""The page of `promedical bench compare`: one file, without a network and without JavaScript."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from promedical_jax.atomic import replacing
from promedical_jax.bench.intervals import NOTHING, Interval
from promedical_jax.bench.parts import SCALE, between, cell, document
from promedical_jax.bench.svg import RUNS, THIN_SPACE, interval_rows, percent, short
from promedical_jax.suites.compare import Run, against, differences, farthest, read_runs, same_judge
from promedical_jax.suites.item_page import item
from promedical_jax.suites.report import Report
from promedical_jax.suites.tables import PAIRED, chance, titled


def write_comparison(folders: Sequence[Path], out: Path) -> list[Run]:
    """Reads the runs, writes the page, and returns what was compared."""
    runs = read_runs(folders)
    with replacing(out) as file:
        file.write_text(page(runs), encoding="utf-8")
    return runs


def page(runs: Sequence[Run]) -> str:
    source = runs[0].report.source
    title = f"{source.name}: {', '.join(run.name for run in runs)}"
    head = (
        f'<header>\n<p class="over">promedical_jax, a comparison</p>\n<h1>{escape(source.name)}</h1>\n'
        f'<p class="lead">{escape(source.about[:1].upper() + source.about[1:])}. Licence: {escape(source.licence)}. {escape(source.paper)}.</p>\n</header>'
    )
    return document(f"promedical_jax: {title}", [head, "<main>", _figures(runs), _wins(runs), _paired(runs), _items(runs), _made(runs), "</main>"])


def _figures(runs: Sequence[Run]) -> str:
    """A row a figure: the runs' numbers, and their intervals drawn below each other."""
    body = ""
    for name in dict.fromkeys(name for run in runs for name in run.report.figures):
        held = [run.report.figures.get(name) for run in runs]
        shares = all(found.share for found in held if found)
        cells, counts = "", []
        for run, found in zip(runs, held, strict=True):
            cells += cell(escape(run.name), found.interval, found.share) if found else f'<td data-name="{escape(run.name)}">–</td>'
            counts.append(f"{found.n:,}" if found else "none")
        of = f"of {counts[0] if len(set(counts)) == 1 else ' and '.join(counts)} items"
        picture = _drawn(name, runs, [found.interval if found else NOTHING for found in held], shares)
        body += f'<tr><td>{escape(name)}<span>{of}</span></td>{cells}<td class="picture">{picture}</td></tr>'
    heads = "".join(f"<th>{escape(run.name)}</th>" for run in runs)
    about = f"With 95 % intervals, of as many items as stand below the name. Scoring: {escape(runs[0].report.source.scoring)}."
    return (
        f'<section id="figures"><h2>Figures</h2><p class="about">{about}</p>{_key(runs)}<div class="card">'
        f'<table class="figures plain runs"><thead><tr><th></th>{heads}<th class="picture">{SCALE}</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )


def _drawn(name: str, runs: Sequence[Run], held: Sequence[Interval], shares: bool) -> str:
    """Shares from 0 to 100 %; other numbers on a scale of their own, whose ends are written."""
    known = [one for one in held if one.low == one.low]
    if not known:
        return ""
    spoken = "; ".join(f"{run.name} {percent(one.mean, 1) if shares else short(one.mean)}" for run, one in zip(runs, held, strict=True))
    if shares:
        return interval_rows(held, label=f"{name}: {spoken}")
    low, high = min(0.0, *(one.low for one in known)), max(0.0, *(one.high for one in known))
    ends = f'<div class="ends"><span>{short(low)}</span><span>{short(high)}</span></div>'
    return interval_rows(held, low, high if high > low else low + 1, f"{name}: {spoken}") + ends


def _key(runs: Sequence[Run]) -> str:
    """Which colour is whose, and beside it who judged: by another judge a figure is another one."""
    rows = "".join(
        f'<li><i class="run{place % RUNS}"></i><span><b>{escape(run.name)}</b>{_by(run.report)}</span></li>' for place, run in enumerate(runs)
    )
    return f'<ul class="key who">{rows}</ul>'


def _by(report: Report) -> str:
    judge = titled(report.judge, report.judge_version)
    said = [f"judge: {judge}"] if judge else []
    said += [f"calibration: {report.judge_calibration}"] if report.judge_calibration else []
    return f": {escape('; '.join(said))}" if said else ""


def _wins(runs: Sequence[Run]) -> str:
    """Each run against the first, where the suite has an order of two answers."""
    body = ""
    for place, run in enumerate(runs[1:], start=1):
        if (found := against(runs[0], run)) is None:
            return ""
        p = "–" if found.p is None else f"p{THIN_SPACE}{escape(chance(found.p))}"
        picture = interval_rows([found.win_rate.interval], label=f"win rate {percent(found.win_rate.interval.mean, 1)}", first=place)
        body += (
            f"<tr><td>{escape(run.name)}<span>against {escape(runs[0].name)}, {found.win_rate.n:,} cases</span></td>"
            f"{cell('Win rate', found.win_rate.interval)}"
            f'<td data-name="Won, tied, lost"><b>{found.won:,} / {found.tied:,} / {found.lost:,}</b><small>cases</small></td>'
            f'<td data-name="Test"><b>{p}</b></td><td class="picture">{picture}</td></tr>'
        )
    warning = "" if all(same_judge(runs[0].report, run.report) for run in runs) else " <strong>The runs have different judges, and this means little.</strong>"
    about = (
        "Answers to the same case, one run’s against the other’s: fewer violations first, then higher S1, then higher S2; ties count half, and even is 50 %."
        f" Test: {PAIRED}.{warning}"
    )
    return (
        f'<section id="wins"><h2>Who wins</h2><p class="about">{about}</p><div class="card"><table class="figures plain runs"><thead><tr><th></th>'
        f'<th>Win rate</th><th>Won, tied, lost</th><th>Test</th><th class="picture">{SCALE}</th></tr></thead><tbody>{body}</tbody></table></div></section>'
    )


def _paired(runs: Sequence[Run]) -> str:
    """Each run against the first."""
    body = ""
    for run in runs[1:]:
        for one in differences(runs[0], run):
            sure = "differs" if one.interval.low > 0 or one.interval.high < 0 else "may be chance"
            p = f"p{THIN_SPACE}{escape(chance(one.p))}"
            body += (
                f"<tr><td>{escape(one.what)}<span>{escape(run.name)} minus {escape(runs[0].name)}, {one.n:,} items</span></td>"
                f'<td data-name="Difference"><b>{short(one.interval.mean)}</b><small>{between(one.interval, share=False)}</small></td>'
                f'<td data-name="Test"><b>{p}</b><small>{sure}</small></td></tr>'
            )
    about = (
        "The same items, one run minus the other: what is hard for both drops out. Intervals are bootstrapped over items, or over the cases that they share,"
        f" and say whether it differs. Test: {PAIRED}."
    )
    return (
        f'<section id="paired"><h2>Paired differences</h2><p class="about">{about}</p><div class="card"><table class="figures plain"><thead><tr><th></th>'
        f"<th>Difference</th><th>Test</th></tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _items(runs: Sequence[Run]) -> str:
    names = farthest(runs)
    if not names:
        return '<section id="items"><h2>Items</h2><p class="about">The runs differ on no item.</p></section>'
    cards = "".join(item(name, [(run.name, run.marks[name]) for run in runs if name in run.marks], place == 0) for place, name in enumerate(names))
    about = f"{len(names)} item{'s' if len(names) > 1 else ''}, the farthest apart first. A tick is good for the answer and a cross bad."
    return f'<section id="items"><h2>Where they differ most</h2><p class="about">{about}</p>{cards}</section>'


def _made(runs: Sequence[Run]) -> str:
    rows = ""
    for run in runs:
        report = run.report
        items = f"{report.items:,} items of {escape(report.data)}, {report.silent:,} without a sound reply"
        lines = [f"{items}; {report.judgements:,} judgements, {report.failed:,} failed", *_roles(report)]
        lines += [f"raw and calibrated: {escape(report.calibration)}"] if report.calibration else []
        rows += f"<dt>{escape(run.name)}</dt><dd>{'<br>'.join(lines)}</dd>"
    source = runs[0].report.source
    about = f"{escape(source.name)}, {escape(source.version)}: {escape(source.licence)}, {escape(source.url)}."
    return f'<section id="made"><h2>Who answered and judged</h2><p class="about">{about}</p><div class="made card"><dl>{rows}</dl></div></section>'


def _roles(report: Report) -> list[str]:
    roles = (("answerer", titled(report.answerer, report.answerer_version)), ("judge", titled(report.judge, report.judge_version)),
             ("the judge’s calibration", report.judge_calibration))  # fmt: skip
    return [f"{role}: {escape(name)}" for role, name in roles if name]
