"""What physicians said, read back: from Label Studio over HTTP, or from its JSON exports; and what it means by the key.

Nothing is invented: what was not submitted, skipped or not answered is no verdict, and is counted. Of several annotations of a task the last one counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from pydantic import AwareDatetime, BaseModel, ValidationError, model_validator

from promedical_jax.errors import InputError
from promedical_jax.review.recipe import ReviewConfig
from promedical_jax.review.seal import FILE, Sealed, Task, broken, read_key
from promedical_jax.review.studio import Studio
from promedical_jax.rubric.case import Judgement, Record, Text, Verdict
from promedical_jax.rubric.faults import sentence
from promedical_jax.rubric.lines import loads

CHANGED = "was the project's labelling configuration changed? put the exported one back"


class Preference(Record):
    """Which of two answers a physician holds for better on the whole, by their ids; `tie`: neither."""

    case: Text
    physician: Text
    better: Text | None = None
    worse: Text | None = None
    tie: tuple[Text, Text] | None = None

    @model_validator(mode="after")
    def _is_one_of_the_two(self) -> Self:
        if (self.better is None) != (self.worse is None) or (self.better is None) == (self.tie is None):
            raise ValueError("a preference has better and worse, or tie; give one of the two")
        return self


@dataclass(frozen=True)
class Page:
    """What came back of one task. `said`: from the name of a field of the page to what it holds; None where nothing was submitted."""

    task: Task
    place: str
    said: dict[str, list[Any]] | None = None
    skipped: bool = False


@dataclass
class Judged:
    """What the pages of a review of answers mean. `unanswered`: cells of submitted pages, a criterion of an answer or a preference, that were left empty."""

    verdicts: dict[str, list[Judgement]] = field(default_factory=dict)  # by case
    preferences: list[Preference] = field(default_factory=list)
    unanswered: int = 0


class _Result(BaseModel):
    from_name: str
    value: dict[str, Any]


class _Annotation(BaseModel):
    id: int = 0
    result: list[_Result]
    was_cancelled: bool = False
    updated_at: AwareDatetime = datetime.min.replace(tzinfo=UTC)


class _Row(BaseModel):
    """Of Label Studio's export, as much as we read."""

    data: dict[str, Any]
    annotations: list[_Annotation]


def read_pages(config: ReviewConfig, keys: Sequence[Sealed]) -> list[Page]:
    """A page for each task of these keys, in their order; exports of other rounds of this review may lie beside. Raises InputError for what is not of this
    review, and for a key that was changed after the export."""
    found: dict[str, list[tuple[str, _Annotation]]] = {}
    known = {code: sealed for sealed in keys for code in sealed.key.by_code}
    other_rounds = {read_key(file.parent).key.review for file in config.out.glob(f"round-*/**/{FILE}")} - {sealed.key.review for sealed in keys}
    for place, row in _rows(config, keys):
        if row.data.get("review") in other_rounds:
            continue
        found.setdefault(_code(place, row, known, keys), []).extend((place, annotation) for annotation in row.annotations)
    pages = []
    for sealed in keys:
        for task in sealed.key.tasks:
            place, last = max(found.get(task.code, []), key=lambda entry: (entry[1].updated_at, entry[1].id), default=("", None))
            if last is None or last.was_cancelled:
                pages.append(Page(task, place, skipped=last is not None))
            else:
                pages.append(Page(task, place, {result.from_name: _values(result.value) for result in last.result}))
    return pages


def _rows(config: ReviewConfig, keys: Sequence[Sealed]) -> Iterator[tuple[str, _Row]]:
    if config.studio.url is not None:
        studio = Studio(config.studio)
        for sealed in keys:
            projects = studio.projects(sealed)
            for name in sealed.key.physicians:
                if name not in projects:
                    raise InputError(f"Label Studio has no project of this review for {name}; run the export of {sealed.folder} again, which makes it")
                yield from _parsed(f"project {projects[name].id} of {name}", studio.export(projects[name]))
    elif config.exports is not None:
        files = sorted(config.exports.glob("*.json"))
        if not files:
            raise InputError(f"{config.exports} holds no .json file; put Label Studio's exports there (Export, JSON), one a project")
        for file in files:
            try:
                rows = loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise InputError(f"{file} is no JSON that can be read ({error}); export the project again, as JSON") from None
            yield from _parsed(str(file), rows)
    else:
        raise InputError("nothing says where the annotations are; give studio.url and studio.key, or exports, a folder of Label Studio's JSON exports")


def _parsed(place: str, rows: Any) -> Iterator[tuple[str, _Row]]:
    if not isinstance(rows, list):
        raise InputError(f"{place} holds no list of tasks; export the project again, as JSON")
    for number, row in enumerate(rows, start=1):
        try:
            yield place, _Row.model_validate(row)
        except ValidationError as error:
            raise InputError(f"{place}, task {number}: {sentence(error, _Row)} (is it an export as JSON, and not as JSON-MIN?)") from None


def _code(place: str, row: _Row, known: dict[str, Sealed], keys: Sequence[Sealed]) -> str:
    code, review, seal = (str(row.data.get(name)) for name in ("code", "review", "seal"))
    mine = {sealed.key.review: sealed for sealed in keys}
    if review not in mine:
        raise InputError(f"{place} has a task {code!r} of another review ({review}); leave it out, or give the recipe of that review")
    if seal != mine[review].seal:
        raise InputError(broken(mine[review], place, seal))
    if code not in known:
        raise InputError(f"{place} has a task {code!r}, which {mine[review].folder / FILE} does not know; leave it out")
    return code


def _values(value: dict[str, Any]) -> list[Any]:
    """Of choices, texts, or a number, which stand under their kind's name."""
    held: Any = next((value[kind] for kind in ("choices", "text", "number") if kind in value), [])
    return held if isinstance(held, list) else [held]


def judged(pages: Sequence[Page]) -> Judged:
    """Verdicts and preferences by the key, of submitted pages. Raises InputError for what the exported page cannot hold."""
    made = Judged()
    for page in pages:
        if page.said is None:
            continue
        task, said = page.task, dict(page.said)
        for letter, answer in zip("ab", task.answers, strict=True):
            for row, criterion in enumerate(task.criteria):
                verdict = choice(page, said.pop(f"{letter}_{row}", []), tuple(Verdict))
                if verdict is None:
                    made.unanswered += 1
                else:
                    judgement = Judgement(answer=answer, criterion=criterion, verdict=Verdict(verdict), rater=task.physician, human=True)
                    made.verdicts.setdefault(task.case, []).append(judgement)
        if task.overall:
            better = choice(page, said.pop("better_0", []), ("a", "b", "equal"))
            made.unanswered += better is None
            if better is not None:
                made.preferences.append(_preference(task, better))
        refuse_rest(page, said)
    return made


def _preference(task: Task, better: str) -> Preference:
    a, b = task.answers
    if better == "equal":
        first, second = sorted((a, b))  # so that a tie does not tell the order of the page
        return Preference(case=task.case, physician=task.physician, tie=(first, second))
    return Preference(case=task.case, physician=task.physician, better=a if better == "a" else b, worse=b if better == "a" else a)


def choice(page: Page, values: Sequence[Any], allowed: Sequence[str]) -> str | None:
    """The one that was chosen, or None. Raises InputError for a value that the page does not offer."""
    if not values:
        return None
    if len(values) > 1 or values[0] not in allowed:
        raise InputError(f"{page.place}, task {page.task.code}: holds {values!r:.60} where one of {', '.join(allowed)} is expected; {CHANGED}")
    return str(values[0])


def refuse_rest(page: Page, said: dict[str, list[Any]]) -> None:
    """What is left of a page when all that it can hold was read."""
    if said:
        raise InputError(f"{page.place}, task {page.task.code}: has a field {min(said)!r}, which the exported page does not have; {CHANGED}")
