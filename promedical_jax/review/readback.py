"""`review import`: what the physicians said becomes verdicts and preferences, or corrected rubrics; what they did not say is counted."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.table import Column, Table

from promedical_jax.atomic import replacing
from promedical_jax.errors import InputError
from promedical_jax.review.adjudication import keys_of, settle, settle_preferences
from promedical_jax.review.reading import Page, judged, read_pages
from promedical_jax.review.recipe import ReviewConfig
from promedical_jax.review.rubrics import advice, close, gather, last_round
from promedical_jax.review.seal import check_cases
from promedical_jax.rubric.case import Case, Verdict
from promedical_jax.rubric.files import read_cases, write_cases

REVIEWED, PREFERENCES = "reviewed.jsonl", "preferences.jsonl"
SETTLED_CASES, SETTLED_PREFERENCES = "settled.jsonl", "settled_preferences.jsonl"


def run(config: ReviewConfig) -> None:
    """Reads the newest export back, and its adjudication where there is one. To run it again reads again: nothing is added twice."""
    keys = keys_of(config)
    cases = read_cases(config.cases)
    for sealed in keys:
        by_id = check_cases(sealed, cases, config.cases)
    pages = read_pages(config, keys)
    if all(page.said is None for page in pages):
        raise InputError(f"none of the {len(pages):,} tasks of {keys[0].folder} is submitted yet; import again when some are")
    if config.what == "answers":
        _answers(pages, by_id, config)
    else:
        _rubrics(pages, list(dict.fromkeys(task.case for task in keys[0].key.tasks)), by_id, config)


def _answers(pages: Sequence[Page], cases: dict[str, Case], config: ReviewConfig) -> None:
    made = judged(pages)
    names = {page.task.case for page in pages}
    drawn = [case for name, case in cases.items() if name in names]
    reviewed = [case.model_copy(update={"verdicts": (*case.verdicts, *made.verdicts.get(case.id, ()))}) for case in drawn]
    settled, open_cells = zip(*(settle(case, made.verdicts.get(case.id, ()), config.adjudicator) for case in drawn), strict=True)
    preferences = settle_preferences(made, config.adjudicator)
    write_cases(config.out / REVIEWED, reviewed)
    write_cases(config.out / SETTLED_CASES, settled)
    _write(config.out / PREFERENCES, made.preferences)
    _write(config.out / SETTLED_PREFERENCES, preferences)
    _table(pages, ["met", "unmet", "cannot tell", "preferences"], {
        name: [*(sum(j.verdict is verdict for said in made.verdicts.values() for j in said if j.rater == name) for verdict in Verdict),
               sum(one.physician == name for one in made.preferences)]
        for name in dict.fromkeys(page.task.physician for page in pages)
    })  # fmt: skip
    print(f"on submitted pages {made.unanswered:,} criteria or preferences were left empty; they are no verdicts")
    wanting = len({one.case for one in made.preferences}) - len(preferences)
    print(f"of the settled verdicts {sum(open_cells):,} abstain, and {wanting:,} preferences are left out: the physicians are level there, or could not tell")
    for name in (REVIEWED, PREFERENCES, SETTLED_CASES, SETTLED_PREFERENCES):
        print(f"wrote {config.out / name}")


def _rubrics(pages: Sequence[Page], drawn: Sequence[str], cases: dict[str, Case], config: ReviewConfig) -> None:
    number, _ = last_round(config)
    found = gather(pages, cases)
    if not found:
        raise InputError(f"no submitted page of round {number} says whether the rubric is right; let the physicians choose 1 or 2, and import again")
    record = close(number, drawn, found, cases, config)
    _table(pages, [], {})
    right = f"{record.passed:,} right as they stand ({100 * record.pass_rate:.1f} %)"
    bound = f"at least {100 * record.at_least:.1f} % of all, but for a probability of {100 * record.allowed_error:.2g} %"
    print(f"round {number}: {record.reviewed:,} of {record.drawn:,} rubrics reviewed, {right}; {bound}")
    if record.reviewed < record.drawn:
        print(f"{record.drawn - record.reviewed:,} are not submitted, and count as not right until they are")
    if record.differ:
        print(f"{record.differ:,} were corrected in several ways and are not in the pool; `promedical review adjudicate` asks one more physician")
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in record.edits.items()) or "none"
    print(f"edits: {kinds}; on average {100 * record.mean_distance:.1f} % of a rubric's text changed")
    print(f"wrote {config.pool}")
    print(advice(record, config))


def _table(pages: Sequence[Page], columns: Sequence[str], more: dict[str, list[int]]) -> None:
    """A row a physician: how many tasks, and what became of them."""
    table = Table("", *(Column(name, justify="right") for name in ("tasks", "submitted", "skipped", "open", *columns)), box=box.SIMPLE_HEAD, pad_edge=False)
    for name, tasks in Counter(page.task.physician for page in pages).items():
        submitted = sum(page.said is not None for page in pages if page.task.physician == name)
        skipped = sum(page.skipped for page in pages if page.task.physician == name)
        table.add_row(name, *(f"{count:,}" for count in (tasks, submitted, skipped, tasks - submitted - skipped, *more.get(name, []))))
    Console().print(table)


def _write(path: Path, records: Iterable[BaseModel]) -> None:
    with replacing(path) as file:
        file.write_text("".join(record.model_dump_json(exclude_none=True) + "\n" for record in records), encoding="utf-8", newline="\n")
