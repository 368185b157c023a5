"""A review of rubrics, round by round: what a physician changed becomes a rubric, the reviewed ones a pool, and each round a record that says when to stop.

A round's folder has its key. A rubric that nobody submitted counts as not right when it is asked whether to stop: so looking before all is submitted can only
err to the safe side, and looking again costs nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from promedical_jax.atomic import replacing
from promedical_jax.errors import InputError
from promedical_jax.review.reading import Page, choice, refuse_rest
from promedical_jax.review.recipe import ReviewConfig
from promedical_jax.review.rounds import allowed, as_seen, at_least, compare, enough, needed
from promedical_jax.review.seal import FILE, read_key
from promedical_jax.rubric.case import WEIGHT_SUM_TOLERANCE, Case, Criterion, Polarity, Record, Rubric, Tier
from promedical_jax.rubric.files import read_cases, write_cases
from promedical_jax.rubric.lines import read_records

ROUNDS = "rounds.jsonl"
REMOVED = "removed"
MORE = {
    "add_safety_forbidden": (Tier.SAFETY, Polarity.FORBIDDEN),
    "add_safety_required": (Tier.SAFETY, Polarity.REQUIRED),
    "add_proficiency_required": (Tier.PROFICIENCY, Polarity.REQUIRED),
    "add_excellence_required": (Tier.EXCELLENCE, Polarity.REQUIRED),
}


class Round(Record):
    """What came of a round. `differ`: reviewed rubrics that several physicians corrected each otherwise; they are in no pool until somebody adjudicates.

    `pass_rate` is of the reviewed ones; of those drawn, `at_least` are right but for a probability of `allowed_error`.
    """

    number: int
    drawn: int
    reviewed: int
    passed: int
    differ: int
    pass_rate: float
    at_least: float
    allowed_error: float
    mean_distance: float
    edits: dict[str, int]


# From a page to a rubric


def correction(page: Page, case: Case) -> Rubric | None:
    """The rubric as the physician leaves it; None where the page was not submitted, or says neither that it is right nor that it is not.

    Weights are scaled to sum to 1. A criterion that is new among the weighted ones, and was given no weight, gets the mean of the weights as written.
    Raises InputError where no weighted criterion is left.
    """
    if page.said is None:
        return None
    said = dict(page.said)
    verdict = choice(page, said.pop("rubric", []), ("passed", "corrected"))
    if verdict != "corrected":
        return case.rubric if verdict else None
    written = {criterion.id: criterion for criterion in case.rubric.criteria}
    mean = 1 / sum(criterion.weight is not None for criterion in written.values())
    changed = {name: _changed(page, said, row, written[name], mean) for row, name in enumerate(page.task.criteria)}
    criteria = [one for name in written if (one := changed[name]) is not None]
    for name, (tier, polarity) in MORE.items():
        for text in dict.fromkeys(str(text).strip() for text in said.pop(name, [])):  # Enter pressed twice is one criterion
            if text:
                weight = mean if tier is Tier.PROFICIENCY else None
                criteria.append(Criterion(id=_new_id(criteria, written), text=text, tier=tier, polarity=polarity, weight=weight))
    refuse_rest(page, said)
    return Rubric(criteria=tuple(_scaled(page, criteria)))


def _changed(page: Page, said: dict[str, list[Any]], row: int, criterion: Criterion, mean: float) -> Criterion | None:
    place = choice(page, said.pop(f"place_{row}", []), (*(tier.value for tier in Tier), REMOVED))
    polarity = choice(page, said.pop(f"polarity_{row}", []), tuple(polarity.value for polarity in Polarity))
    text, weight = _text(said.pop(f"text_{row}", []), criterion.text), _weight(page, said.pop(f"weight_{row}", []))
    if place == REMOVED:
        return None
    tier = Tier(place) if place else criterion.tier
    share = (weight or criterion.weight or mean) if tier is Tier.PROFICIENCY else None
    return criterion.model_copy(update={"text": text, "tier": tier, "weight": share, "polarity": Polarity(polarity) if polarity else criterion.polarity})


def _text(texts: Sequence[Any], written: str) -> str:
    """Label Studio fills the field with what was written, and on a second submission may send that along with the physician's words."""
    own = [str(text).strip() for text in texts if str(text).strip() and str(text).split() != written.split()]  # a browser writes line ends its own way
    return own[-1] if own else written


def _weight(page: Page, values: Sequence[Any]) -> float | None:
    if not values:
        return None
    if isinstance(values[0], bool) or not isinstance(values[0], int | float) or not 0 < values[0] <= 100:
        raise InputError(f"{page.place}, task {page.task.code}: a weight is {values[0]!r:.40}; it must lie above 0 and be at most 100")
    return values[0] / 100


def _scaled(page: Page, criteria: Sequence[Criterion]) -> list[Criterion]:
    total = sum(criterion.weight or 0.0 for criterion in criteria)
    if not total:
        which = f"{page.place}, task {page.task.code} of {page.task.physician} (case {page.task.case!r})"
        raise InputError(f"{which}: the correction leaves no criterion of what an answer must do; keep or add one there, submit it again, and import again")
    if abs(total - 1) <= WEIGHT_SUM_TOLERANCE:
        return list(criteria)
    return [criterion if criterion.weight is None else criterion.model_copy(update={"weight": criterion.weight / total}) for criterion in criteria]


def _new_id(criteria: Sequence[Criterion], written: Iterable[str]) -> str:
    taken = {criterion.id for criterion in criteria} | set(written)
    return next(name for number in range(1, len(taken) + 2) if (name := f"added_{number}") not in taken)


# Rounds


def round_folder(config: ReviewConfig, number: int) -> Path:
    return config.out / f"round-{number}"


def last_round(config: ReviewConfig) -> tuple[int, bool]:
    """The number of the newest round, 0 where there is none, and whether it was read back."""
    number = 0
    while (round_folder(config, number + 1) / FILE).exists():
        number += 1
    return number, number == 0 or any(one.number == number for one in read_rounds(config))


def read_rounds(config: ReviewConfig) -> list[Round]:
    path = config.out / ROUNDS
    return [record for _, record in read_records(path, Round)] if path.exists() else []


def seen_before(config: ReviewConfig) -> set[str]:
    """The ids of cases that are in the pool, or were in a round."""
    rounds = range(1, last_round(config)[0] + 1)
    return {case.id for case in read_pool(config)} | {task.case for number in rounds for task in read_key(round_folder(config, number)).key.tasks}


def read_pool(config: ReviewConfig) -> list[Case]:
    assert config.pool
    return read_cases(config.pool) if config.pool.exists() else []


def gather(pages: Sequence[Page], cases: dict[str, Case]) -> dict[str, dict[str, Rubric]]:
    """Of each case that somebody reviewed: the physicians' rubrics, by their names."""
    found: dict[str, dict[str, Rubric]] = {}
    for page in pages:
        rubric = correction(page, cases[page.task.case])
        if rubric is not None:
            found.setdefault(page.task.case, {})[page.task.physician] = rubric
    return found


def agreed(rubrics: dict[str, Rubric], adjudicator: str | None) -> Rubric | None:
    """The one that counts: the adjudicator's, or that on which all agree; None where they differ."""
    if adjudicator in rubrics:
        return rubrics[str(adjudicator)]
    first, *others = rubrics.values()
    return first if all(_content(other) == _content(first) for other in others) else None


def _content(rubric: Rubric) -> Counter[tuple[Any, ...]]:
    """What a rubric says, whatever its criteria are called and in which order they stand."""
    return Counter((one.text, one.tier, one.polarity, one.weight and round(one.weight, 2)) for one in rubric.criteria)


def close(number: int, drawn: Sequence[str], found: dict[str, dict[str, Rubric]], cases: dict[str, Case], config: ReviewConfig) -> Round:
    """The record of a round; puts it beside those of earlier rounds, and the reviewed rubrics into the pool. The same round again replaces what it said."""
    final = {name: rubric for name, rubrics in found.items() if (rubric := agreed(rubrics, config.adjudicator)) is not None}
    corrections = [compare(cases[name].rubric, rubric) for name, rubrics in found.items() for rubric in rubrics.values()]
    passed = sum(compare(cases[name].rubric, rubric).passed for name, rubric in final.items())
    edits = sum((one.edits for one in corrections), Counter[Any]())
    share = allowed(config.error, number)
    record = Round(number=number, drawn=len(drawn), reviewed=len(found), passed=passed, differ=len(found) - len(final), pass_rate=passed / len(found),
                   at_least=at_least(passed, len(drawn), share), allowed_error=share, mean_distance=sum(one.distance for one in corrections) / len(corrections),
                   edits=dict(sorted(edits.items())))  # fmt: skip
    golds = {name: _gold(case, final[name], number) for name, case in cases.items() if name in final}
    assert config.pool
    pool = {case.id: case for case in read_pool(config)} | golds
    if pool:
        write_cases(config.pool, pool.values())
    records = sorted([*(one for one in read_rounds(config) if one.number != number), record], key=lambda one: one.number)
    with replacing(config.out / ROUNDS) as file:
        file.write_text("".join(one.model_dump_json() + "\n" for one in records), encoding="utf-8", newline="\n")
    return record


def _gold(case: Case, rubric: Rubric, number: int) -> Case:
    """The case with its reviewed rubric, and without verdicts on criteria that say something else now."""
    texts = {criterion.id: criterion.text for criterion in case.rubric.criteria}
    same = {criterion.id for criterion in rubric.criteria if texts.get(criterion.id) == criterion.text}
    said = "passed" if compare(case.rubric, rubric).passed else "corrected"
    return case.model_copy(update={"rubric": rubric, "verdicts": tuple(judgement for judgement in case.verdicts if judgement.criterion in same),
                                   "provenance": case.provenance | {"review": f"{said} in round {number}"}})  # fmt: skip


def advice(record: Round, config: ReviewConfig) -> str:
    """Whether it is enough, or what the next round needs; of what passes, the recipe's share `missed` of the wrong ones is not believed."""
    after, goal, seen = record.number + 1, f"{100 * config.threshold:g} %", as_seen(config.threshold, config.missed)
    if enough(record.passed, record.drawn, record.number, seen, config.error):
        return f"enough: more than {goal} are right, but for the probability that this round may err with; no further round is needed"
    if record.pass_rate <= seen:
        return f"not enough: at this pass rate no number of reviews shows that {goal} are right; let the pool teach the writer, and review again"
    count = needed(record.pass_rate, after, seen, config.error)
    return f"not enough to say that more than {goal} are right: if as many pass, round {after} needs {count:,} rubrics, all of them submitted"
