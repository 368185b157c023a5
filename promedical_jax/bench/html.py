"""The page of a run, one file that asks nothing of the network: what came of it, how sure that is, how it got there, and what the answers look like.

All text from outside (answers, criteria, names) is escaped, and nothing outside the page is loaded (parts.py).
"""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Literal

from promedical_jax.atomic import replacing
from promedical_jax.bench.intervals import Interval
from promedical_jax.bench.parts import SCALE, between, cell, change, clear, document, said, verdict
from promedical_jax.bench.report import Example, ExampleAnswer, ExampleRow, Metrics, Report, read_metrics
from promedical_jax.bench.reward_page import reward_section
from promedical_jax.bench.svg import THIN_SPACE, Series, interval_track, line_chart, percent, short
from promedical_jax.rubric.case import Tier, Verdict

STAGES = ("sft", "rm", "grpo")  # the folders of a run whose metrics.jsonl the page plots, in the order in which they run
OPEN_EXAMPLES = 2  # shown unfolded; the rest fold, so that the foot of the page stays near
Kind = Literal["main", "side", "truth"]

# A chart: title, note, is it a share, and its lines (metric name, name in the legend, kind).
Chart = tuple[str, str, bool, list[tuple[str, str, Kind]]]
# A group of charts: the stage whose metrics it shows, its layout (a class of the style sheet), title, what it is about, charts.
GROUPS: list[tuple[str, str, str, str, list[Chart]]] = [
    (
        "sft",
        "one",
        "1. Imitate",
        "Fine-tuning makes the base policy.",
        [("Loss", "nats per token", False, [("loss", "training", "main"), ("eval_loss", "held out", "side")])],
    ),
    (
        "rm",
        "two",
        "2. Judge",
        "The reward model learns whether one criterion holds of one answer.",
        [
            ("Loss", "on pairs and single verdicts", False, [("loss", "training", "main"), ("eval_loss", "held out", "side")]),
            ("Accuracy", "verdicts that agree with the labels", True, [("accuracy", "training", "main"), ("eval_accuracy", "held out", "side")]),
        ],
    ),
    (
        "grpo",
        "",
        "3. Align",
        "GRPO against the frozen reward model. Dashed is the truth on the same answers, which training never sees: where they part, the reward model is gamed.",
        [
            ("Reward", "mean of the answers sampled at a step", False, [("reward", "reward", "main")]),
            ("Safe answers", "share without a violation", True, [("safe", "reward model", "main"), ("true/safe", "truth", "truth")]),
            ("Proficiency S1", "weighted share of the criteria met", True, [("s1", "reward model", "main"), ("true/s1", "truth", "truth")]),
            ("Bonuses S2, violations S3", "criteria per answer, by the reward model", False, [("s2", "bonuses", "main"), ("s3", "violations", "side")]),
            ("Answer length", "tokens", False, [("completions/mean_length", "mean", "main")]),
            ("KL from the base", "nats per token", False, [("kl", "KL", "main")]),
        ],
    ),
    (
        "grpo",
        "",
        "Is it sound?",
        "A policy should keep some entropy, and answers should be sampled from the very distribution that is trained.",
        [
            ("Entropy", "nats per token", False, [("entropy", "entropy", "main")]),
            ("Sampler gap", "mean |Δ log-prob| to the trainer, per token", False, [("sampling/sampling_logp_difference/mean", "gap", "main")]),
            ("Gradient norm", "before clipping", False, [("grad_norm", "norm", "main")]),
        ],
    ),
]
TIERS = {Tier.PROFICIENCY: "weighted, together 100 %", Tier.EXCELLENCE: "bonus", Tier.SAFETY: "veto: one violation outweighs any skill"}


def write_report(out: Path, report: Report) -> None:
    """Write out/report.json and out/report.html, the page with the curves of out/{sft,rm,grpo}/metrics.jsonl where they exist."""
    curves = {stage: read_metrics(out / stage / "metrics.jsonl") for stage in STAGES if (out / stage / "metrics.jsonl").is_file()}
    texts = {"report.json": report.model_dump_json(indent=2) + "\n", "report.html": page(report, curves)}
    for name, text in texts.items():  # both are made before either is written
        with replacing(out / name) as file:
            file.write_text(text, encoding="utf-8")


def page(report: Report, curves: Mapping[str, Metrics]) -> str:
    """The whole document; `curves` holds the metric rows of the stages that ran (see GROUPS)."""
    body = [_head(report), "<main>", _figures(report), _curves(curves), reward_section(report.reward_model), _examples(report), _made(report), "</main>"]
    return document(f"promedical_jax report: {report.model}", body)


def _head(report: Report) -> str:
    base, aligned, win = report.base, report.aligned, report.win_rate
    lead = f"A win rate of <strong>{percent(win.mean)}</strong> over the base policy on {aligned.n_cases:,} held-out cases" if isfinite(win.mean) else ""
    by = f", judged by {escape(report.judge)}" if report.judge else ""
    tiles = [
        _tile("Safe answers", aligned.safe, base.safe),
        _tile("Proficiency S1", aligned.s1, base.s1),
        _tile("Excellence S2", aligned.s2, base.s2),
        _tile("Win rate", win, None),
    ]
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    return (
        f'<header>\n<p class="over">promedical_jax, report of a run</p>\n<h1>{_headline(base.safe, aligned.safe)}</h1>\n'
        f'<p class="lead">{lead}{by}{"." if lead else ""} Policy and reward model: {escape(report.model)}.</p>\n'
        + (f'<ul class="notes">{notes}</ul>\n' if notes else "")
        + f'<div class="tiles">{"".join(tiles)}</div>\n</header>'
    )


def _headline(base: Interval, aligned: Interval) -> str:
    """Says that something rose or fell only where the intervals do not touch."""
    if not (isfinite(base.mean) and isfinite(aligned.mean)):
        return "No answer could be judged for safety."
    before, after = percent(base.mean), f"<em>{percent(aligned.mean)}</em>"
    if clear(base, aligned):
        return f"Safe answers {'rose' if aligned.mean > base.mean else 'fell'} from {before} to {after}."
    return f"Safe answers: {before} before, {after} after, no clear change."


def _tile(name: str, aligned: Interval, base: Interval | None) -> str:
    number = f"{100 * aligned.mean:.0f}<small>{THIN_SPACE}%</small>" if isfinite(aligned.mean) else "–"
    beside = f"where even is 50{THIN_SPACE}%" if base is None else f"from {percent(base.mean)}, {change(base, aligned)} points"
    return f'<div class="tile card"><h3>{name}</h3><p class="big">{number}</p><p>{beside}</p></div>'


def _figures(report: Report) -> str:
    base, aligned = report.base, report.aligned
    rows = [
        ("Safe answers", "no safety criterion violated", base.safe, aligned.safe),
        ("Proficiency S1", "weighted share of the criteria met", base.s1, aligned.s1),
        ("Excellence S2", "share of the bonus criteria met", base.s2, aligned.s2),
    ]
    body = ""
    for name, what, old, new in rows:
        spoken = f"{name}: base {percent(old.mean, 1)}, {between(old, digits=1)}; aligned {percent(new.mean, 1)}, {between(new, digits=1)}"
        body += (
            f"<tr><td>{name}<span>{what}</span></td>{cell('Base', old)}{cell('Aligned', new, css='new')}"
            f'<td data-name="Change">{change(old, new, digits=1)}<small>points</small></td>'
            f'<td class="picture">{interval_track(new, old, label=spoken)}</td></tr>'
        )
    win = report.win_rate
    body += (
        '<tr><td>Win rate<span>aligned preferred, ties half</span></td><td data-name="Even"><b>50.0' + THIN_SPACE + "%</b><small>&nbsp;</small></td>"
        f'{cell("Aligned", win, css="new")}<td data-name="Change">{change(Interval(0.5, 0.5, 0.5), win, digits=1)}<small>points</small></td>'
        f'<td class="picture">{interval_track(win, tick=0.5, label=f"Win rate {percent(win.mean, 1)}, {between(win, digits=1)}")}</td></tr>'
        f"<tr><td>Violations S3<span>of an answer</span></td>{cell('Base', base.s3, share=False)}{cell('Aligned', aligned.s3, share=False, css='new')}"
        f'<td data-name="Change">{change(base.s3, aligned.s3, unit=1, digits=2, judged=False)}<small>violations</small></td><td class="picture"></td></tr>'
        f"<tr><td>Answer length<span>tokens</span></td>{cell('Base', base.length, share=False)}{cell('Aligned', aligned.length, share=False, css='new')}"
        f'<td data-name="Change">{change(base.length, aligned.length, unit=1, digits=1, judged=False)}<small>tokens</small></td><td class="picture"></td></tr>'
    )
    counts = f"{aligned.n_answers:,} answers to {aligned.n_cases:,} held-out cases"
    if (base.n_answers, base.n_cases) != (aligned.n_answers, aligned.n_cases):
        counts += f" (base: {base.n_answers:,} answers to {base.n_cases:,})"
    return (
        '<section id="figures"><h2>Base against aligned</h2>'
        f'<p class="about">{counts}. Preference is lexicographic: fewer violations first, then higher S1, then higher S2.</p>'
        '<ul class="key"><li><i></i>base</li><li><i class="aligned"></i>aligned</li><li><i class="tick"></i>even</li>'
        "<li>bands: 95 % intervals, from 0 to 100 %</li></ul>"
        '<div class="card"><table class="figures"><thead><tr><th></th><th>Base</th><th>Aligned</th><th>Change</th>'
        f'<th class="picture">{SCALE}</th></tr></thead><tbody>{body}</tbody></table></div>'
        '<p class="small">Intervals are bootstrapped over cases. A change is coloured where the two intervals do not touch.</p></section>'
    )


def _curves(curves: Mapping[str, Metrics]) -> str:
    stages = ""
    for stage, layout, title, about, charts in GROUPS:
        rows = curves.get(stage, [])
        drawn = [line_chart(name, note, _series(rows, lines), share) for name, note, share, lines in charts]
        if any(drawn):
            stages += f'<div class="stage {layout}"><h3>{title}</h3><p>{about}</p><div class="charts">{"".join(drawn)}</div></div>'
    if not stages:
        return ""
    about = "Over the steps of each stage. Faint: what was logged; strong: its running mean, whose last value stands in the legend."
    return f'<section id="curves"><h2>How it got there</h2><p class="about">{about}</p><div class="stages">{stages}</div></section>'


def _series(rows: Metrics, lines: Sequence[tuple[str, str, Kind]]) -> list[Series]:
    series = []
    for metric, name, kind in lines:
        logged = [row for row in rows if metric in row]  # some are logged every few steps only: no gap, they are joined up
        series.append(Series(name, [row["step"] for row in logged], [row[metric] for row in logged], kind))
    return series


def _examples(report: Report) -> str:
    if not report.examples:
        return ""
    cards = "".join(_example(example, opened=i < OPEN_EXAMPLES) for i, example in enumerate(report.examples))
    about = "Held-out cases, answered before and after. A tick is good for the answer and a cross bad, whether the criterion asks for something or forbids it."
    return f'<section id="examples"><h2>Side by side</h2><p class="about">{about}</p>{cards}</section>'


def _example(example: Example, opened: bool) -> str:
    turns = "".join(f'<div class="turn"><h4>{message.role.capitalize()}</h4>{said(message.content)}</div>' for message in example.instruction)
    rows = ""
    for tier, members in groupby(sorted(example.rows, key=lambda row: list(Tier).index(row.tier)), key=lambda row: row.tier):
        rows += f'<tr class="tier"><th colspan="4" scope="colgroup">{tier.value.capitalize()} <span>({TIERS[tier]})</span></th></tr>'
        rows += "".join(
            f"<tr><td>{escape(row.criterion)}</td><td class='weight'>{percent(row.weight) if row.weight is not None else ''}</td>"
            f'<td class="verdict">{_verdict(row, row.base)}</td><td class="verdict">{_verdict(row, row.aligned)}</td></tr>'
            for row in members
        )
    return (
        f'<details class="example card"{" open" if opened else ""}><summary><h3>{escape(example.case)}</h3>'
        f"<span>S1 {percent(example.base.s1)} → {percent(example.aligned.s1)}, "
        f"violations {short(example.base.s3)} → {short(example.aligned.s3)}</span></summary>"
        f'<div class="body">{turns}<div class="pair">'
        f"{_answer('Base answer', example.base, example)}{_answer('Aligned answer', example.aligned, example, 'new')}</div>"
        '<table class="rubric"><thead><tr><th>Criterion</th><th class="weight">Weight</th>'
        '<th class="verdict">Base</th><th class="verdict">Aligned</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _answer(name: str, answer: "ExampleAnswer", example: Example, css: str = "") -> str:
    bonus = sum(row.tier is Tier.EXCELLENCE for row in example.rows)
    if not isfinite(answer.s3):
        veto = "<li>safety not judged</li>"
    elif answer.s3 > 0:
        veto = f'<li class="fault">{short(answer.s3)} violation{"s" if answer.s3 != 1 else ""}</li>'
    else:
        veto = '<li class="ok">no violation</li>'
    chips = f"{veto}<li>S1 <b>{percent(answer.s1)}</b></li>" + (f"<li>S2 <b>{short(answer.s2)} of {bonus}</b></li>" if bonus else "")
    return f'<div class="answer {css}"><h4>{name}</h4>{said(answer.text)}<ul class="chips">{chips}</ul></div>'


def _verdict(row: ExampleRow, said_of: Verdict) -> str:
    return verdict(None if said_of is Verdict.ABSTAIN else said_of is Verdict.MET, row.polarity)


def _made(report: Report) -> str:
    minutes, seconds = divmod(round(report.wall_seconds), 60)
    hours, minutes = divmod(minutes, 60)
    wall = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    cases = {f"Cases, {name.replace('_', ' ')}": f"{count:,}" for name, count in report.cases.items()}
    run = {"Model": report.model, **cases, "Seed": str(report.seed), "Wall time": wall}
    return (
        '<section id="made"><h2>How it was made</h2><p class="about">What to type to get this run again, and what it ran on.</p>'
        f'<div class="made card"><pre>{escape(report.command)}</pre>'
        f"<div><h3>Run</h3>{_pairs(run)}</div><div><h3>Versions</h3>{_pairs(report.versions)}</div></div></section>"
    )


def _pairs(pairs: Mapping[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs.items()) + "</dl>"
