"""ProMedical's own figures of a policy: S1, S2, S3 and the share of safe answers, by whoever judges each answer on each criterion (arXiv 2604.08326).

The answers are a model's behind an endpoint, one to each case, or those sampled of a policy in a folder. Figures are means over cases of each case's mean over
its answers, with intervals over cases. Against another run, answers to the same case are put in the lexicographic order: fewer violations, then S1, then S2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

from promedical_jax.asking import Ask, Plain, Reply, question, turns
from promedical_jax.bench.policy_figures import Measured, means, measure, points
from promedical_jax.rubric.case import Case, Criterion, Tier, Verdict
from promedical_jax.rubric.files import read_cases
from promedical_jax.suites.built import cases_file, source_of
from promedical_jax.suites.figures import mean, part
from promedical_jax.suites.judges import LocalJudge, Named
from promedical_jax.suites.promedical import line_of
from promedical_jax.suites.report import Report, write
from promedical_jax.suites.suite import Figures, Marked, Source, Suite, said

NAMES = {"s1": "S1", "s2": "S2", "s3": "violations", "safe": "safe"}
SHARES = {"safe": "safe answers", "S1": "S1 proficiency", "S2": "S2 excellence"}
SOURCE = Source(
    name="ProMedical, a policy", about="answers to cases with rubrics of three tiers, in our own format; the data is not shipped", licence="that of the cases", url="https://arxiv.org/abs/2604.08326",
    paper="arXiv 2604.08326", version="format only",
    scoring="S1, S2 as the share of the bonus criteria met, violations; an answer of which safety is not judged is neither safe nor unsafe; win rate by the"
    " lexicographic order, ties half",
)  # fmt: skip


@dataclass(frozen=True)
class Spoken:
    """The answers of a policy to one case, and their lengths in tokens."""

    texts: tuple[str, ...]
    lengths: tuple[int, ...]


def read(path: Path) -> list[Case]:
    return read_cases(cases_file(path))


def ask(case: Case) -> Ask:
    return Ask(turns(case.instruction), Plain)


def texts_of(reply: Plain | Spoken | None) -> tuple[str, ...]:
    return () if reply is None else reply.texts if isinstance(reply, Spoken) else (reply.text,)


def judge(case: Case, reply: Plain | Spoken) -> list[Ask]:
    """Each answer by each criterion: answers outside, criteria inside."""
    return [Ask(question(case, text, criterion), Reply) for text in texts_of(reply) for criterion in case.rubric.criteria]


def mark(case: Case, reply: Plain | Spoken | None, verdicts: Sequence[Reply | None]) -> Marked:
    """parts: the case's means; `tokens` where the policy was sampled here. No single number is the score of an answer."""
    texts, criteria = texts_of(reply), case.rubric.criteria
    words = [one.verdict if one else Verdict.ABSTAIN for one in verdicts]
    found = means(measure(criteria, [words[g * len(criteria) : (g + 1) * len(criteria)] for g in range(len(texts))]))
    parts: dict[str, float | None] = {name: None if isnan(found[key]) else found[key] for key, name in NAMES.items()}
    if isinstance(reply, Spoken):
        parts["tokens"] = sum(reply.lengths) / len(reply.lengths)
    return Marked(
        id=case.id, unit=case.id, reply=list(texts) if reply else None, verdicts=tuple(map(said, verdicts)), parts=parts, instruction=case.instruction,
        criteria=tuple(map(line_of, criteria)),
    )  # fmt: skip


def mark_by(judge: LocalJudge, cases: Sequence[Case], replies: Sequence[Plain | Spoken | None]) -> list[Marked]:
    spoke = [place for place, reply in enumerate(replies) if reply is not None]
    told = dict(zip(spoke, judge([cases[place] for place in spoke], [texts_of(replies[place]) for place in spoke]), strict=True))
    verdicts = [[Reply(verdict=verdict) for row in told[place].verdicts for verdict in row] if place in told else [] for place in range(len(cases))]
    return [mark(case, reply, each) for case, reply, each in zip(cases, replies, verdicts, strict=True)]


def figures(marks: Sequence[Marked]) -> Figures:
    made = {title: mean(marks, part(name)) for name, title in SHARES.items()}
    made["S3 violations"] = mean(marks, part("violations"), share=False)
    if any("tokens" in one.parts for one in marks):
        made["length, tokens"] = mean(marks, part("tokens"), share=False)
    return made | {"abstained on S1": _unknown(marks, "S1"), "abstained on safety": _unknown(marks, "safe")}


def _unknown(marks: Sequence[Marked], name: str) -> Any:
    return mean(marks, lambda one: float(one.parts[name] is None))


def measured(mark: Marked) -> Measured:
    """The scores of a mark's answers, from its criteria and verdicts."""
    criteria = [Criterion(id=str(n), text=one.text, tier=Tier(one.group), polarity=one.polarity, weight=one.weight) for n, one in enumerate(mark.criteria)]
    words = [Verdict(str(one["verdict"])) if isinstance(one, dict) else Verdict.ABSTAIN for one in mark.verdicts]
    return measure(criteria, [words[start : start + len(criteria)] for start in range(0, len(words), len(criteria))])


def points_of(base: Marked, other: Marked) -> float | None:
    """How far the second wins; None where nobody could say."""
    found = points(measured(other), measured(base)) if base.verdicts and other.verdicts else float("nan")
    return None if isnan(found) else found


def keep(out: Path, cases: Sequence[Case], spoken: Sequence[Spoken], judge: Named, data: str, policy: Path, version: str) -> Report:
    """Writes answers that were sampled already as the run that `promedical bench run` would have made of them."""
    assert judge.judge
    marks = mark_by(judge.judge, cases, spoken)
    report = Report(
        suite="promedical-policy", source=SOURCE, data=data, answerer=f"policy {policy}", answerer_version=version, judge=judge.name,
        judge_version=judge.version, judge_calibration=judge.calibration, items=len(marks), silent=0, judgements=sum(len(one.verdicts) for one in marks),
        failed=0, figures=figures(marks),
    )  # fmt: skip
    write(out, marks, report)
    return report


POLICY = Suite(SOURCE, read, mark, figures, ask, judge, by=mark_by, samples=True, points=points_of, of=source_of(SOURCE))
