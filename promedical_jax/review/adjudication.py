"""`review adjudicate`: what physicians differ on goes to one who was not among them, whose word settles it; what nobody settles abstains.

To differ is to say met and unmet, or to prefer otherwise. Who cannot tell differs from nobody.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from promedical_jax.errors import InputError
from promedical_jax.review.export import folder_of, send
from promedical_jax.review.reading import Judged, Page, Preference, judged, read_pages
from promedical_jax.review.recipe import SETTLED, ReviewConfig
from promedical_jax.review.rubrics import agreed, gather, last_round, round_folder
from promedical_jax.review.seal import FILE, Asked, Sealed, check_cases, check_people, in_order, read_key
from promedical_jax.rubric.case import Case, Judgement, Verdict
from promedical_jax.rubric.files import read_cases
from promedical_jax.rubric.labels import majority

FOLDER = "adjudication"


def run(config: ReviewConfig) -> None:
    """Reads the review back, and sends what its physicians differ on to the adjudicator, sealed as the review was."""
    if config.adjudicator is None:
        raise InputError("nobody is named to adjudicate; give adjudicator, a physician who is not among physicians")
    keys, cases = keys_of(config), read_cases(config.cases)
    folder = keys[0].folder / FOLDER
    if (folder / FILE).exists():
        send(config, folder, cases, [])
        return
    by_id = check_cases(keys[0], cases, config.cases)
    pages = read_pages(config, keys)
    if waiting := sum(page.said is None and not page.skipped for page in pages):
        raise InputError(f"{waiting:,} tasks of {keys[0].folder} are open yet, and what is sent to adjudicate is sent once; let them be submitted or skipped")
    if asked := disputed(pages, by_id, config):
        send(config, folder, cases, asked)
    else:
        print("the physicians differ on nothing; there is nothing to adjudicate")


def current(config: ReviewConfig) -> Path:
    """The folder of the export that is read back: of rubrics, that of the newest round."""
    number, _ = last_round(config) if config.what == "rubrics" else (0, True)
    return round_folder(config, number) if number else folder_of(config)


def keys_of(config: ReviewConfig) -> list[Sealed]:
    """The review's key, and that of its adjudication where there is one."""
    folder = current(config)
    keys = [read_key(folder), *([read_key(folder / FOLDER)] if (folder / FOLDER / FILE).exists() else [])]
    for sealed in keys:
        check_people(sealed, config)
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
