"""Can the judge be trusted? A reward model's figures as a section of a run's page, and as a page of their own."""

from collections.abc import Iterator
from html import escape
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from promedical_jax.atomic import replacing
from promedical_jax.bench.intervals import NOTHING, Interval
from promedical_jax.bench.parts import NOTHING_BELOW, SCALE, between, cell, change, document
from promedical_jax.bench.reward_figures import RewardModelFigures, TierFigures
from promedical_jax.bench.svg import interval_track, percent, reliability

EVEN = 0.5


class Row(NamedTuple):
    """A line of the last table: what was measured, in what words, the share, and where on its track to put a mark."""

    name: str
    what: str
    share: Interval
    tick: float | None = None


def write_reward_page(path: Path, figures: RewardModelFigures, title: str) -> None:
    """The page of one reward model."""
    counts = f"{figures.n_cases:,} held-out cases, {figures.n_answers:,} answers, {sum(figures.counts.values()):,} judgements"
    head = f'<header>\n<p class="over">promedical_jax, a reward model</p>\n<h1>{escape(title)}</h1>\n<p class="lead">{counts}.</p>\n</header>'
    with replacing(path) as file:
        file.write_text(document(f"promedical_jax: {title}", [head, "<main>", reward_section(figures), "</main>"]), encoding="utf-8")


def reward_section(figures: RewardModelFigures) -> str:
    return (
        f'<section id="reward-model"><h2>Can the judge be trusted?</h2><p class="about">{_about(figures)}</p>'
        f"{_accuracy(figures)}{_diagrams(figures)}{_pairs(figures)}{_details(figures)}"
        '<p class="small">Intervals are bootstrapped over cases. Exact bounds (Clopper and Pearson) take judgements for independent.</p></section>'
    )


def _about(figures: RewardModelFigures) -> str:
    kinds = {"explicit": "is told each criterion", "blind": "has a head for each tier and is told no criterion", "implicit": "scores an answer as a whole"}
    about = f"The reward model {kinds.get(figures.kind, escape(figures.kind))}. It is compared with the majority of the raters on held-out cases."
    if abstained := sum(one.abstained for one in figures.tiers.values()):
        about += f" It abstains from {abstained:,} verdicts, which are left out of accuracy."
    if figures.split:
        about += f" {figures.split:,} judgements are left out, for their raters are evenly split."
    return about


def _accuracy(figures: RewardModelFigures) -> str:
    if not isfinite(figures.overall.mean):
        return ""  # it gives no verdicts
    rows = [(tier.value.capitalize(), one.count, one.majority, one.accuracy) for tier, one in figures.tiers.items()]
    rows.append(("All", sum(figures.counts.values()), figures.overall_majority, figures.overall))
    body = ""
    for name, count, majority, accuracy in rows:
        spoken = f"{name}: accuracy {_spoken(accuracy)}; majority class {percent(majority, 1)}"
        body += (
            f"<tr{' class=total' if name == 'All' else ''}><td>{name}<span>{count:,} verdicts</span></td>"
            f'<td data-name="Majority"><b>{percent(majority, 1)}</b>{NOTHING_BELOW}</td>{cell("Accuracy", accuracy, css="new")}'
            f'<td data-name="Gain">{change(Interval(majority, majority, majority), accuracy, digits=1)}<small>points</small></td>'
            f'<td class="picture">{interval_track(accuracy, tick=majority, label=spoken)}</td></tr>'
        )
    return (
        "<h3>Are its verdicts right?</h3><p>Beside the majority class, the score of always saying the same.</p>"
        f"{_key('majority class')}"
        '<div class="card"><table class="figures"><thead><tr><th>Tier</th><th>Majority</th><th>Accuracy</th><th>Gain</th>'
        f'<th class="picture">{SCALE}</th></tr></thead><tbody>{body}</tbody></table></div>'
    )


def _diagrams(figures: RewardModelFigures) -> str:
    drawn = "".join(reliability(tier.value.capitalize(), _calibration(one), one.reliability) for tier, one in figures.tiers.items())
    about = (
        "Across: the probability with which a criterion is said to hold. Upwards: how often it does. On the dashed line the two agree; a bar is what they are "
        "apart, and a dot is larger where more judgements lie. ECE is the mean length of a bar, over judgements."
    )
    return f'<h3>Are its probabilities true?</h3><p>{about}</p><div class="charts">{drawn}</div>' if drawn else ""


def _calibration(one: TierFigures) -> str:
    return f"ECE {one.ece.mean:.3f}, {one.ece.low:.3f} to {one.ece.high:.3f}; Brier score {one.brier.mean:.3f}"


def _pairs(figures: RewardModelFigures) -> str:
    rows = [(tier.value.capitalize(), one.pairs, one.pairwise, one.pairwise_by_verdict) for tier, one in figures.tiers.items()]
    rows.append(("All", sum(one.pairs for one in figures.tiers.values()), figures.overall_pairwise, NOTHING))
    body = "".join(
        f"<tr{' class=total' if name == 'All' else ''}><td>{name}<span>{count:,} pairs</span></td>{cell('By score', by_score, css='new')}"
        f"{cell('By verdict', by_verdict)}"
        f'<td class="picture">{interval_track(by_score, tick=EVEN, label=f"{name}: pairs right {_spoken(by_score)}")}</td></tr>'
        for name, count, by_score, by_verdict in rows
    )
    return (
        "<h3>Does it put the right answer first?</h3>"
        "<p>Pairs of answers on which the raters differ: how often the one of which a criterion’s text holds is put above the other. Ties count half.</p>"
        f"{_key('even')}"
        '<div class="card"><table class="figures pairs"><thead><tr><th>Tier</th><th>By score</th><th>By verdict</th>'
        f'<th class="picture">{SCALE}</th></tr></thead><tbody>{body}</tbody></table></div>'
    )


def _details(figures: RewardModelFigures) -> str:
    body = "".join(
        f"<tr><td>{row.name}<span>{row.what}</span></td>{cell('Share', row.share, css='new')}"
        f'<td class="picture">{interval_track(row.share, tick=row.tick, label=f"{row.name}: {_spoken(row.share)}")}</td></tr>'
        for row in _rows(figures)
    )
    return (
        f"<h3>Violations, selection, and what it is sensitive to</h3><p>A violation is what the safety tier’s verdicts are to find.</p>{_key('even')}"
        '<div class="card"><table class="figures details"><thead><tr><th></th><th>Share</th>'
        f'<th class="picture">{SCALE}</th></tr></thead><tbody>{body}</tbody></table></div>'
    )


def _rows(figures: RewardModelFigures) -> Iterator[Row]:
    if safety := figures.safety:
        yield Row("Violations found", f"recall, of {safety.violations:,} violations", safety.recall)
        yield Row("Violations rightly called", "precision, of all that it calls one", safety.precision)
        yield Row("F1 of violations", "harmonic mean of the two", safety.f1)
        for at in safety.recall_at:
            what = f"Violations found at {percent(at.false_veto_rate)} false vetoes"
            yield Row(what, "where so large a share of the harmless is called one; exact bounds", at.recall)
    if best := figures.selection:
        yield Row("Picked answer is safe", f"the best of a case by its scores; {_beside(best.safe_mean, best.safe_best)}", best.safe)
        yield Row("S1 of the picked answer", _beside(best.s1_mean, best.s1_best), best.s1)
    yield Row("Longer answer scored higher", "of pairs on which the raters agree; even is no bias", figures.longer_preferred, EVEN)
    if said := figures.paraphrased:
        yield Row("Verdicts that stay in other words", "criteria paraphrased", said.same)
        yield Row("Pairs right in other words", "by score", said.pairwise, EVEN)
    if said := figures.swapped:
        yield Row("Pairs right by another case’s criteria", "by score; who reads the criterion has nothing to go by, and comes out even", said.pairwise, EVEN)
        yield Row("Pairs right by another case’s criteria", "by verdict", said.pairwise_by_verdict, EVEN)


def _beside(mean: Interval, best: Interval) -> str:
    return f"a mean answer {percent(mean.mean, 1)}, the best there is {percent(best.mean, 1)}"


def _key(tick: str) -> str:
    return f'<ul class="key"><li><i class="aligned"></i>reward model</li><li><i class="tick"></i>{tick}</li><li>from 0 to 100 %</li></ul>'


def _spoken(share: Interval) -> str:
    return f"{percent(share.mean, 1)}, {between(share, digits=1)}"
