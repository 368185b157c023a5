"""`review adjudicate`: what physicians differ on goes to one who was not among them, and his word settles it; what nobody settles abstains.

To differ is to say met and unmet, or to prefer otherwise. Who cannot tell differs from nobody.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from promedical_jax.errors import InputError
from promedical_jax.review.export import folder_of, send
from promedical_jax.review.reading import Judged, Page, Preference, judged, read_pages
from promedical_jax.review.recipe import SETTLED, ReviewConfig
from promedical_jax.review.rubrics import agreed, gather, last_round, round_folder
from promedical_jax.review.seal import FILE, Asked, Sealed, check_cases, in_order, read_key
from promedical_jax.rubric.case import Case, Judgement, Verdict
from promedical_jax.rubric.files import read_cases

FOLDER = "adjudication"

T = TypeVar("T", bound=Hashable)


def run(config: ReviewConfig) -> None:
    """Reads the review back, and sends what its physicians differ on to the adjudicator, sealed as the review was."""
    if config.adjudicator is None:
        raise InputError("nobody is named to adjudicate; give adjudicator, a physician who is not among physicians")
    keys, cases = keys_of(config), read_cases(config.cases)
    by_id = check_cases(keys[0], cases, config.cases)
    folder = keys[0].folder / FOLDER
    pages = [page for page in read_pages(config, keys) if page.task.physician != config.adjudicator]
    if waiting := sum(page.said is None and not page.skipped for page in pages):
        raise InputError(f"{waiting:,} tasks of {keys[0].folder} are open yet, and what is sent to adjudicate is sent once; let them be submitted or skipped")
    asked = [] if (folder / FILE).exists() else disputed(pages, by_id, config)
    if not asked and not (folder / FILE).exists():
        print("the physicians differ on nothing; there is nothing to adjudicate")
        return
    send(config, folder, cases, asked)


def current(config: ReviewConfig) -> Path:
    """The folder of the export that is read back: of rubrics, that of the newest round."""
    number, _ = last_round(config) if config.what == "rubrics" else (0, True)
    return round_folder(config, number) if number else folder_of(config)


def keys_of(config: ReviewConfig) -> list[Sealed]:
    """The review's key, and that of its adjudication where there is one. Raises InputError where the recipe is of another kind of review."""
    keys = [read_key(folder) for folder in (current(config), current(config) / FOLDER) if folder == current(config) or (folder / FILE).exists()]
    if keys[0].key.what != config.what:
        raise InputError(f"{keys[0].folder / FILE} is of a review of {keys[0].key.what}, and the recipe says what: {config.what}; give that review's recipe")
    return keys


def disputed(pages: Sequence[Page], cases: dict[str, Case], config: ReviewConfig) -> list[Asked]:
    """What to ask the adjudicator: of each case only the criteria on which two differ, and the preference where that is so."""
    assert config.adjudicator
    if config.what == "rubrics":
        differ = [name for name, rubrics in gather(pages, cases).items() if agreed(rubrics, None) is None]
        return [Asked(config.adjudicator, cases[name], (), in_order(cases[name]), False) for name in differ]
    made = judged(pages)
    preferred = _by_case(made.preferences)
    asked = []
    for name, answers in {page.task.case: page.task.answers for page in pages}.items():
        rows = {criterion for (_, criterion), said in _cells(made.verdicts.get(name, ())).items() if len(_heard(said)) > 1}
        overall = len({_outcome(one) for one in preferred.get(name, ())}) > 1
        if rows or overall:
            asked.append(Asked(config.adjudicator, cases[name], answers, tuple(one for one in in_order(cases[name]) if one in rows), overall))
    return asked


def settle(case: Case, judgements: Sequence[Judgement], adjudicator: str | None) -> tuple[Case, int]:
    """The case with one human verdict on each cell that was judged, and how many of these abstain for want of a majority. Judges' verdicts stay."""
    settled = []
    for (answer, criterion), said in _cells(judgements).items():
        physicians = [one.verdict for one in said if one.rater != adjudicator and one.verdict is not Verdict.ABSTAIN]
        last = [one.verdict for one in said if one.rater == adjudicator and one.verdict is not Verdict.ABSTAIN]
        verdict = last[0] if last and len(set(physicians)) > 1 else majority(physicians)
        settled.append(Judgement(answer=answer, criterion=criterion, verdict=verdict or Verdict.ABSTAIN, rater=SETTLED, human=True))
    cells = {(one.answer, one.criterion) for one in settled}
    others = [one for one in case.verdicts if not one.human or (one.answer, one.criterion) not in cells]
    return case.model_copy(update={"verdicts": (*others, *settled)}), sum(one.verdict is Verdict.ABSTAIN for one in settled)


def settle_preferences(made: Judged, adjudicator: str | None) -> list[Preference]:
    """One preference a case, where the adjudicator or a majority has one."""
    settled = []
    for said in _by_case(made.preferences).values():
        outcomes = {one.physician: _outcome(one) for one in said}
        last = outcomes.pop(adjudicator, None) if adjudicator else None
        outcome = last if last and len(set(outcomes.values())) > 1 else majority(outcomes.values())
        settled += [one.model_copy(update={"physician": SETTLED}) for one in said if _outcome(one) == outcome][:1]
    return settled


def majority(values: Iterable[T]) -> T | None:
    """What more say than anything else; None where two are level, or nobody said anything."""
    counts = Counter(values).most_common(2)
    return counts[0][0] if counts and (len(counts) == 1 or counts[0][1] > counts[1][1]) else None


def _cells(judgements: Iterable[Judgement]) -> dict[tuple[str, str], list[Judgement]]:
    cells: dict[tuple[str, str], list[Judgement]] = {}
    for one in judgements:
        cells.setdefault((one.answer, one.criterion), []).append(one)
    return cells


def _heard(judgements: Iterable[Judgement]) -> set[Verdict]:
    return {one.verdict for one in judgements} - {Verdict.ABSTAIN}


def _by_case(preferences: Iterable[Preference]) -> dict[str, list[Preference]]:
    cases: dict[str, list[Preference]] = {}
    for one in preferences:
        cases.setdefault(one.case, []).append(one)
    return cases


def _outcome(preference: Preference) -> str:
    return preference.better or ""
