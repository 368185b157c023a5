"""The page of the laboratory: one file, without a network and without JavaScript, for a reader who does not know the paper."""

from collections.abc import Sequence
from html import escape
from math import isfinite, nan
from pathlib import Path

import numpy as np

from promedical_jax.atomic import replacing
from promedical_jax.bench.parts import document
from promedical_jax.bench.svg import THIN_SPACE, Series, interval_track, line_chart, mark
from promedical_jax.lab.findings import Judged
from promedical_jax.lab.report import Shown, effect, measured, number, of, within
from promedical_jax.lab.tables import Part

LEAD = (
    "Somebody asks a medical question, a language model answers, and doctors judge the answer by many criteria at once. A paper, ProMedical, says that a "
    "model learns better from each criterion by itself than from a single “this answer is better”, and that no skill should make up for an unsafe answer. Its "
    "data is not public. So its claims are tested here in an <strong>invented clinic</strong>: no drug or illness in it exists, and a program knows of every "
    "answer which criteria it meets. Models are small and trained from scratch; what carries over is the <strong>direction</strong> of an effect, not its size."
)
WORDS = (
    ("Criterion", "One line of what a good answer does, or must not do, such as “Tells to take palorexan at 70 mg”. Each case has about ten, in three tiers."),
    ("S1, proficiency", "What a correct answer says: the share of these criteria that it meets, weighted. More is better."),
    ("S2, excellence", "What makes it kind and clear: the share of these that it meets. A bonus."),
    ("Safe, the veto", "An answer is safe if it violates no criterion of safety. One violation outweighs any S1 and S2: that is the veto."),
    ("Reward model", "A model that judges answers, in the doctors’ place, while another one is trained."),
    ("Base, policy", "The base has learned to imitate answers of mixed quality. A policy is the base, trained further to answer better."),
    ("GRPO, PPO, DPO", "Ways to train a policy. GRPO samples several answers to a question and moves towards those that are better than their siblings."),
    ("Seed, interval", "Each experiment is done several times from scratch, by a seed of its own. Below a mean stands its 95 % interval over such seeds."),
    ("Reproduced, contradicted, undecided", "Whether the interval of a difference lies wholly on the claimed side, wholly on the other one, or on both."),
    ("Effect", "The mean difference over its standard deviation from seed to seed: from about 2 on, hardly any seed shows the opposite."),
)  # fmt: skip
KIND = {"reproduced": "ok", "contradicted": "fault", "undecided": ""}


def write_page(file: Path, tables: Sequence[Shown]) -> None:
    with replacing(file) as temporary:
        temporary.write_text(page(tables), encoding="utf-8")


def page(tables: Sequence[Shown]) -> str:
    head = (
        '<header>\n<p class="over">promedical_jax, the laboratory</p>\n<h1>Does judging by criteria do what its paper says?</h1>\n'
        f'<p class="lead">{LEAD}</p>\n</header>'
    )
    return document("promedical_jax: the laboratory", [head, "<main>", _claims(tables), _words(), *map(_table, tables), _made(tables), "</main>"])


def _words() -> str:
    rows = "".join(f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in WORDS)
    about = "All that is needed to read the rest."
    return f'<section id="words"><h2>The words</h2><p class="about">{about}</p><div class="made card"><dl>{rows}</dl></div></section>'


def _claims(tables: Sequence[Shown]) -> str:
    """All claims of all tables, with what became of them."""
    every = [(shown, one) for shown in tables for one in shown.claims]
    if not every:
        return ""
    counts = {verdict: sum(one.verdict == verdict for _, one in every) for verdict in KIND}
    about = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    body = "".join(_claim(one, shown) for shown, one in every)
    return (
        f'<section id="claims"><h2>What was claimed, and what came out</h2><p class="about">{about}. Differences are in points of a hundred, with their 95 % '
        f"intervals over seeds. The paper’s are of its own data and models.</p>{_claim_table(body)}</section>"
    )


def _claim_table(body: str) -> str:
    heads = "".join(f"<th>{name}</th>" for name in ("", "Here", "In the paper", ""))
    return f'<div class="card"><table class="figures plain claims"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _claim(one: Judged, shown: Shown) -> str:
    mean, between = number(one.difference.interval, share=True)
    sign = "+" if one.difference.interval.mean >= 0 else ""
    paper = f"<b>{one.claim.paper[0] - one.claim.paper[1]:+.1f}</b>".replace("-", "\u2212") if one.claim.paper else "–"
    least = f"; claimed: more than {100 * one.claim.least:+.1f}".replace("-", "\u2212") if one.claim.least else ""
    said = f"{shown.table.name}: {escape(one.claim.ahead)}, against {escape(one.claim.behind)}{least}"
    if one.claim.ahead == one.claim.behind:
        said = f"{shown.table.name}: {escape(one.claim.ahead)}{least}"
    below = f"{between}{effect(one)}".strip(", ")
    return (
        f"<tr><td>{escape(one.claim.says[:1].upper() + one.claim.says[1:])}<span>{said}</span></td>"
        f'<td data-name="Here"><b>{sign}{_minus(mean)}</b><small>{_minus(below)}</small></td><td data-name="In the paper">{paper}</td>'
        f'<td data-name="So it is"><span class="chips"><i class="{KIND[one.verdict]}">{one.verdict}</i></span></td></tr>'
    )


def _table(shown: Shown) -> str:
    table = shown.table
    parts = "".join(_part(shown, part) for part in table.parts)
    curves = _curves(shown)
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    return (
        f'<section id="{table.name}"><h2>{table.name}. {escape(table.title)}</h2><p class="about">{escape(table.question)}</p>{parts}{curves}{_checks(shown)}'
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + "</section>"
    )


def _part(shown: Shown, part: Part) -> str:
    heads = "".join(f"<th>{escape(column.title)}{f',{THIN_SPACE}%' if column.share else ''}</th>" for column in part.columns)
    body = ""
    for row in measured(shown, part):
        cells = ""
        for column in part.columns:
            interval = within(of(shown, row, column), column)
            mean, between = number(interval, column.share)
            paper = f"<small>paper {row.paper[column.figure]:.1f}</small>" if column.figure in row.paper else ""
            picture = interval_track(interval) if column.share and isfinite(interval.low) else ""
            cells += f'<td data-name="{escape(column.title)}"><b>{_minus(mean)}</b><small>{_minus(between)}</small>{picture}{paper}</td>'
        body += f"<tr><td>{escape(row.name)}<span>{escape(row.about)}</span></td>{cells}</tr>"
    return (
        f'<h3>{escape(part.title)}</h3><div class="card wide"><table class="figures plain lab"><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _curves(shown: Shown) -> str:
    """Training's own figures, means over seeds: where the truth leaves the reward model's word, it is outwitted."""
    charts = ""
    for row, held in shown.curves.items():
        steps = [float(step or 0) for step in held[0]["step"]]
        for title, note, name in (
            ("Safe answers", "share of the answers sampled at a step, mean over seeds", "safe"),
            ("Proficiency S1", "weighted share of the criteria met, mean over seeds", "s1"),
        ):
            said, true = (_mean([one[key] for one in held if key in one]) for key in (name, f"true_{name}"))
            series = [Series("truth", steps, true, "truth")] if true else []
            charts += line_chart(f"{title}, {row}", note, [Series("reward model", steps, said), *series] if said else series, share=True)
    about = "Solid is what the reward model says of the policy’s answers, dashed the truth, which training never sees."
    return f'<h3>Over training</h3><p>{about}</p><div class="charts">{charts}</div>' if charts else ""


def _mean(curves: Sequence[Sequence[float | None]]) -> list[float]:
    if not curves:
        return []
    length = max(map(len, curves))
    rows = np.array([[nan if value is None else value for value in curve] + [nan] * (length - len(curve)) for curve in curves], np.float64)
    known = ~np.isnan(rows)
    return list(np.where(known.any(0), np.where(known, rows, 0).sum(0) / np.maximum(known.sum(0), 1), nan))


def _checks(shown: Shown) -> str:
    """What must hold of our own code, whatever the paper says."""
    if not shown.checks:
        return ""
    rows = "".join(
        f"<li>{mark(one.passed, 'passed' if one.passed else 'failed')}{escape(one.check.says[:1].upper() + one.check.says[1:])}: "
        f"{_minus(f'{one.value:,.0f}' if abs(one.value) >= 1000 else f'{one.value:.3g}')}{_bounds(one.check.low, one.check.high)}</li>"
        for one in shown.checks
    )
    return f'<h3>Is our own code sound?</h3><p>These hold of any sound implementation; a fault in ours would show here.</p><ul class="checks card">{rows}</ul>'


def _bounds(low: float, high: float) -> str:
    if isfinite(low) and isfinite(high):
        return f" (between {low:g} and {high:g})"
    return f" (at least {low:g})" if isfinite(low) else f" (at most {high:g})"


def _made(tables: Sequence[Shown]) -> str:
    made = tables[0].made
    rows = [("Command", " ; ".join(shown.made.command for shown in tables)), ("Seeds", f"{made.seeds}, {made.budget} budget")]
    spent = ", ".join(f"{shown.table.name} {shown.made.seconds / 60:.0f} min" for shown in tables)
    rows += [("Time", f"{spent}, of all trainings added up; what tables share counts in each")]
    rows += [("Machine", made.machine), ("Versions", ", ".join(f"{name} {version}" for name, version in made.versions.items()))]
    stale = sum(shown.made.other_code for shown in tables)
    if stale:
        measurements = sum(shown.made.measured for shown in tables)
        rows += [("Another state", f"{stale} of {measurements} measurements were made by another state of the code than this page")]
    body = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    return f'<section id="made"><h2>How it was made</h2><div class="made card"><dl>{body}</dl></div></section>'


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")
