"""One case through a run of GRPO or PPO: what the policy answered from time to time, and which criteria these answers met. A page that loads nothing.

A held-out case is followed through the looks of the run's watch (`out`/watched.jsonl), a training case through the rollouts in which it was sampled
(`out`/rollouts.jsonl and `out`/ledger.jsonl).
"""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from promedical_jax.atomic import replacing, whole_rows
from promedical_jax.bench.parts import document, said
from promedical_jax.bench.svg import percent, short
from promedical_jax.errors import InputError
from promedical_jax.rubric import Case, Criterion, Scores, Verdict, read_cases

COLUMNS = 8  # moments in the table of criteria, spread over the run; all of them are below it


class Moment(NamedTuple):
    """The G answers to the case at one step, from 0, with scores and advantages [G]; `satisfied` [G, K]: how far each criterion is met, NaN where unknown."""

    step: int
    texts: Sequence[str]
    scores: Scores
    satisfied: np.ndarray
    advantages: np.ndarray | None = None


def write_case_page(run: Path, case: str | None, out: Path) -> int:
    """Writes the page of a case, None: of the one that was answered most often, and the first of these. Returns at how many steps it was answered.

    Raises InputError for a folder without rollouts, and for a case that it does not hold.
    """
    recipe = run / "recipe.yaml"
    if not recipe.is_file():
        raise InputError(f"{run}: holds no recipe.yaml; give the folder of a run of `promedical train grpo` or `ppo`")
    about = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    watched, sampled = whole_rows(run / "watched.jsonl"), whole_rows(run / "rollouts.jsonl")
    counts: dict[str, int] = {}
    for row in watched or sampled:
        counts[row["case"]] = counts.get(row["case"], 0) + 1
    if not counts:
        raise InputError(f"{run}: holds no answers yet (watched.jsonl, rollouts.jsonl); wait for its first checkpoint, or give another folder")
    name = case or max(counts, key=lambda one: counts[one])
    held_out = any(row["case"] == name for row in watched)
    if not held_out and not any(row["case"] == name for row in sampled):
        raise InputError(f"{run}: case {name!r} was never answered; among those that were are {', '.join(list(counts)[:3])}")
    file = Path(about["watch"]["cases"] if held_out else about["cases"])
    whole = next((one for one in read_cases(file) if one.id == name), None)
    if whole is None:
        raise InputError(f"{file}: holds no case {name!r} any more; the run {run} answered it")
    moments = _looks(watched, whole) if held_out else _rollouts(sampled, whole_rows(run / "ledger.jsonl"), whole)
    with replacing(out) as part:
        part.write_text(case_page(whole, moments, run, held_out), encoding="utf-8")
    return len(moments)


def _array(values: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], float)


def _scores(*columns: Sequence[float | None]) -> Scores:
    s1, s2, s3 = map(_array, columns)
    return Scores(s1, s2, s3)


def _looks(rows: Sequence[dict[str, Any]], case: Case) -> list[Moment]:
    moments = []
    for row in (row for row in rows if row["case"] == case.id):
        satisfied = [[c.satisfied(Verdict(word)) for c, word in zip(case.rubric.criteria, line, strict=True)] for line in row["verdicts"]]
        moments.append(Moment(row["step"], row["texts"], _scores(row["s1"], row["s2"], row["s3"]), np.array(satisfied)))
    return moments


def _rollouts(rows: Sequence[dict[str, Any]], ledger: Sequence[dict[str, Any]], case: Case) -> list[Moment]:
    spoken = {(row["step"], row["sample"], row["criterion"]): row["satisfied"] for row in ledger if row["case"] == case.id}
    moments = []
    for step, group in groupby((row for row in rows if row["case"] == case.id), key=lambda row: row["step"]):
        answers = list(group)
        satisfied = np.array([_array(spoken.get((step, row["sample"], criterion.id)) for criterion in case.rubric.criteria) for row in answers])
        scores = _scores(*([row.get(name) for row in answers] for name in ("s1", "s2", "s3")))
        moments.append(Moment(step, [row["text"] for row in answers], scores, satisfied, _array(row["advantage"] for row in answers)))
    return moments


def case_page(case: Case, moments: Sequence[Moment], run: Path, held_out: bool) -> str:
    """The document."""
    first, last = moments[0], moments[-1]
    change = f"{_safe(first)} of its answers were safe at step {first.step + 1}" + (f", {_safe(last)} at step {last.step + 1}" if len(moments) > 1 else "")
    kind = "a held-out case, which the policy never trained on" if held_out else "a training case"
    lead = f"{kind.capitalize()}, answered at {len(moments)} step{'s' if len(moments) > 1 else ''} of {escape(str(run))}: {change}."
    turns = "".join(f'<div class="turn"><h4>{message.role.capitalize()}</h4>{said(message.content)}</div>' for message in case.instruction)
    steps = "".join(_moment(one, case.rubric.criteria, opened=one is first or one is last) for one in moments)
    return document(f"Case {case.id} in {run}", [
        f'<header><p class="over">promedical_jax, a case through a run</p><h1>{escape(case.id)}</h1><p class="lead">{lead}</p></header>',
        f'<main><section id="asked"><h2>What was asked</h2>{turns}</section>',
        _criteria(case.rubric.criteria, moments),
        f'<section id="answers"><h2>What was answered</h2>{steps}</section></main>',
    ])  # fmt: skip


def _safe(moment: Moment) -> str:
    judged = moment.scores.s3[moment.scores.judged]
    return percent(float((judged == 0).mean())) if judged.size else "–"


def _criteria(criteria: Sequence[Criterion], moments: Sequence[Moment]) -> str:
    """How far the answers are good by each criterion, from moment to moment."""
    spoken = [one for one in moments if not np.isnan(one.satisfied).all()]
    if not spoken:
        return ""
    shown = [spoken[i] for i in sorted(set(np.linspace(0, len(spoken) - 1, COLUMNS).astype(int)))]
    head = "".join(f'<th class="weight">{one.step + 1}</th>' for one in shown)
    rows = "".join(
        f"<tr><td>{escape(criterion.text)} <small>({criterion.tier.value}, {criterion.polarity.value})</small></td>"
        + "".join(f"<td class='weight'>{_mean(one.satisfied[:, k])}</td>" for one in shown) + "</tr>"
        for k, criterion in enumerate(criteria)
    )  # fmt: skip
    about = "How far the answers are good by each criterion, at steps of the run: meet what is required, and avoid what is forbidden."
    return (f'<section id="criteria"><h2>Criterion by criterion</h2><p class="about">{about}</p><table class="rubric card"><thead><tr><th>Criterion</th>{head}'
            f"</tr></thead><tbody>{rows}</tbody></table></section>")  # fmt: skip


def _mean(values: np.ndarray) -> str:
    known = values[~np.isnan(values)]
    return percent(float(known.mean())) if known.size else "–"


def _moment(moment: Moment, criteria: Sequence[Criterion], opened: bool) -> str:
    answers = "".join(_answer(moment, g, criteria) for g in range(len(moment.texts)))
    return (f'<details class="example card"{" open" if opened else ""}><summary><h3>Step {moment.step + 1}</h3><span>{_safe(moment)} safe</span></summary>'
            f'<div class="body"><div class="pair">{answers}</div></div></details>')  # fmt: skip


def _answer(moment: Moment, g: int, criteria: Sequence[Criterion]) -> str:
    chips = []
    if moment.scores.judged[g]:
        chips.append(f'<li class="{"ok" if moment.scores.s3[g] == 0 else "fault"}">S3 <b>{short(float(moment.scores.s3[g]))}</b></li>')
    chips += [f"<li>S1 <b>{percent(float(moment.scores.s1[g]))}</b></li>"] if moment.scores.judged[g] else ["<li>not judged</li>"]
    if moment.advantages is not None:
        chips.append(f"<li>advantage <b>{moment.advantages[g]:+.2f}</b></li>")
    faults = [criterion.text for criterion, good in zip(criteria, moment.satisfied[g], strict=True) if good < 0.5]
    missed = f'<p class="small">Not so good: {escape("; ".join(faults))}</p>' if faults else ""
    return f'<div class="answer"><h4>Answer {g + 1}</h4>{said(moment.texts[g])}<ul class="chips">{"".join(chips)}</ul>{missed}</div>'
