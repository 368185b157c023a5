"""What looks wrong with a rubric before a physician reads it: each finding names the criterion, what is amiss and why that matters.

Findings are hints, not verdicts: nothing is dropped for one. Those about answers need their verdicts, and say nothing where too few were judged.
"""

import re
from collections.abc import Iterator
from typing import Literal

import numpy as np

from promedical_jax.likeness.letters import shingled_jaccard
from promedical_jax.rubric.case import Case, Criterion, Polarity, Record, Tier, Verdict

Kind = Literal["several things", "nearly the same", "vague", "leaks the reference", "light", "no veto", "all alike", "wrong polarity"]
ALIKE = 0.8  # Jaccard's index of two criteria from which they look the same; one that names another side effect in the same sentence has about 0.7
LEAKED = 8  # words in a row of the reference
LIGHTEST = 0.02  # a weight below that decides nothing
JUDGED = 3  # answers, of which a criterion that all or none meet tells nothing apart
SEVERAL = re.compile(r"\b(?:and|as well as|or)\b.*\b(?:and|as well as)\b|;", re.IGNORECASE)
VAGUE = re.compile(r"\b(?:appropriate(?:ly)?|adequate(?:ly)?|proper(?:ly)?|correct(?:ly)?|relevant|good|right)\b", re.IGNORECASE)
NEGATED = re.compile(r"^(?:does not|do not|doesn't|avoids|never|no )\b", re.IGNORECASE)


class Finding(Record):
    criterion: str | None  # None: the rubric as a whole
    kind: Kind
    text: str


def lint(case: Case, reference: str | None = None) -> list[Finding]:
    """The findings about a case's rubric, criterion by criterion. `reference`: what its source gave as the answer."""
    criteria = case.rubric.criteria
    found = [finding for criterion in criteria for finding in _alone(criterion, reference)]
    twice = "says nearly what {!r} says; leave one out, or it counts twice"
    found += [Finding(criterion=b.id, kind="nearly the same", text=twice.format(a.text)) for a, b in _twins(criteria)]
    if all(criterion.tier is not Tier.SAFETY for criterion in criteria):
        found.append(Finding(criterion=None, kind="no veto", text="nothing an answer says is unsafe by this rubric; say what would harm the patient"))
    return found + list(_of_answers(case))


def _alone(criterion: Criterion, reference: str | None) -> Iterator[Finding]:
    say = lambda kind, text: Finding(criterion=criterion.id, kind=kind, text=text)  # noqa: E731
    if match := SEVERAL.search(criterion.text):
        yield say("several things", f"asks several things at once ({match[0].strip()!r:.40}); who meets one of them can be judged neither way; split it")
    if match := VAGUE.search(criterion.text):
        yield say("vague", f"says {match[0]!r}, which each rater fills in otherwise; name what is meant")
    if criterion.polarity is Polarity.FORBIDDEN and NEGATED.search(criterion.text):
        yield say("wrong polarity", "is forbidden and its text says what is not done, so that good answers are faulted; turn one of the two round")
    if criterion.weight is not None and criterion.weight < LIGHTEST:
        yield say("light", f"weighs {criterion.weight:.3f}, which decides nothing; give it more, or make it excellence")
    if reference and (leaked := _leaked(criterion.text, reference)):
        yield say("leaks the reference", f"quotes the source's answer ({leaked!r:.60}); who repeats it is rewarded for the words")


def _leaked(text: str, reference: str) -> str | None:
    words, source = text.casefold().split(), f" {' '.join(reference.casefold().split())} "
    spans = (" ".join(words[start : start + LEAKED]) for start in range(len(words) - LEAKED + 1))
    return next((span for span in spans if f" {span} " in source), None)


def _twins(criteria: tuple[Criterion, ...]) -> Iterator[tuple[Criterion, Criterion]]:
    pairs = [(a, b) for b in range(len(criteria)) for a in range(b)]
    alike = shingled_jaccard([criterion.text for criterion in criteria], np.array(pairs).reshape(-1, 2)) >= ALIKE
    return ((criteria[a], criteria[b]) for (a, b), same in zip(pairs, alike, strict=True) if same)


def _of_answers(case: Case) -> Iterator[Finding]:
    for criterion in case.rubric.criteria:
        said: dict[str, set[Verdict]] = {}
        for judgement in case.verdicts:
            if judgement.criterion == criterion.id and judgement.verdict is not Verdict.ABSTAIN:
                said.setdefault(judgement.answer, set()).add(judgement.verdict)
        whole = {verdict for verdicts in said.values() for verdict in verdicts}
        if len(said) >= JUDGED and len(whole) == 1 and criterion.tier is not Tier.SAFETY:  # a veto that nobody violates is as it should be
            text = f"each of {len(said)} answers {'meets' if whole == {Verdict.MET} else 'fails'} it, so it tells none from another; make it sharper"
            yield Finding(criterion=criterion.id, kind="all alike", text=text)
