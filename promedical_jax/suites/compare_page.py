"""The page of `promedical bench compare`: one file, without a network and without JavaScript."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from pydantic import JsonValue

from promedical_jax.atomic import replacing
from promedical_jax.bench.parts import between, cell, document, said
from promedical_jax.bench.svg import short
from promedical_jax.suites.compare import Run, differences, farthest, read_runs
from promedical_jax.suites.suite import Marked


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
        f'<p class="lead">{escape(source.about)}. {escape(source.licence)}, {escape(source.paper)}.</p>\n</header>'
    )
    return document(f"promedical_jax: {escape(title)}", [head, "<main>", _figures(runs), _paired(runs), _items(runs), _made(runs), "</main>"])


def _figures(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run.report.figures))
    body = ""
    for name in names:
        cells = ""
        for run in runs:
            found = run.report.figures.get(name)
            cells += cell(escape(run.name), found.interval, found.share) if found else f'<td data-name="{escape(run.name)}">–</td>'
        body += f"<tr><td>{escape(name)}</td>{cells}</tr>"
    heads = "".join(f"<th>{escape(run.name)}</th>" for run in runs)
    about = f"With 95 % intervals. Scoring: {escape(runs[0].report.source.scoring)}."
    return (
        f'<section id="figures"><h2>Figures</h2><p class="about">{about}</p><div class="card">'
        f'<table class="figures plain"><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )


def _paired(runs: Sequence[Run]) -> str:
    """Each run against the first."""
    body = ""
    for run in runs[1:]:
        for one in differences(runs[0], run):
            sure = "differs" if one.interval.low > 0 or one.interval.high < 0 else "may be chance"
            body += (
                f"<tr><td>{escape(one.what)}<span>{escape(run.name)} minus {escape(runs[0].name)}, {one.n:,} items</span></td>"
                f"<td><b>{short(one.interval.mean)}</b><small>{between(one.interval, share=False)}</small></td><td>{sure}</td></tr>"
            )
    about = (
        "The same items, one run minus the other: what is hard for both drops out. Intervals are bootstrapped over items, or over the cases that they share."
    )
    return (
        f'<section id="paired"><h2>Paired differences</h2><p class="about">{about}</p><div class="card"><table class="figures plain"><thead><tr><th></th>'
        f"<th>Difference</th><th></th></tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _items(runs: Sequence[Run]) -> str:
    names = farthest(runs)
    if not names:
        return '<section id="items"><h2>Items</h2><p class="about">The runs differ on no item.</p></section>'
    cards = "".join(_item(name, [(run.name, run.marks[name]) for run in runs if name in run.marks]) for name in names)
    return f'<section id="items"><h2>Where they differ most</h2><p class="about">{len(names)} items, the farthest apart first.</p>{cards}</section>'


def _item(name: str, marks: Sequence[tuple[str, Marked]]) -> str:
    scores = ", ".join(f"{escape(run)} {_number(mark.score)}" for run, mark in marks)
    answers = "".join(
        f'<div class="answer"><h4>{escape(run)}</h4>{said(_text(mark.reply))}<ul class="chips"><li>score <b>{_number(mark.score)}</b></li>'
        f"{''.join(f'<li>{escape(part)} <b>{_number(value)}</b></li>' for part, value in mark.parts.items())}</ul></div>"
        for run, mark in marks
    )
    return (
        f'<details class="example card"><summary><h3>{escape(name)}</h3><span>{scores}</span></summary>'
        f'<div class="body"><div class="pair">{answers}</div></div></details>'
    )


def _text(reply: JsonValue) -> str:
    """A reply in a model's own words as it is, any other as JSON, and none as nothing."""
    if isinstance(reply, dict) and isinstance(reply.get("text"), str):
        return str(reply["text"])
    return "" if reply is None else json.dumps(reply, ensure_ascii=False)


def _number(value: float | None) -> str:
    return "abstained" if value is None else short(value)


def _made(runs: Sequence[Run]) -> str:
    rows = ""
    for run in runs:
        report = run.report
        items = f"{report.items:,} items of {escape(report.data)}, {report.silent:,} without a sound reply"
        judged = f"{report.judgements:,} judgements, {report.failed:,} failed"
        rows += f"<dt>{escape(run.name)}</dt><dd>{escape(_who(run))}; {items}; {judged}</dd>"
    return f'<section id="made"><h2>Who answered and judged</h2><div class="made card"><dl>{rows}</dl></div></section>'


def _who(run: Run) -> str:
    roles = (("answerer", run.report.answerer), ("judge", run.report.judge))
    return ", ".join(f"{role} {name}" for role, name in roles if name)
