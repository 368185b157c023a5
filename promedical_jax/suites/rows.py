"""Rows of an official file as records of a suite's form: the first that is not of that form is refused by its place."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from promedical_jax.corpus.formats import Row, read_rows
from promedical_jax.errors import InputError
from promedical_jax.rubric.faults import sentence


class Foreign(BaseModel):
    """A row of somebody else's file: the fields that a suite reads are checked strictly, others are let be."""

    model_config = ConfigDict(frozen=True, extra="ignore")


R = TypeVar("R", bound=BaseModel)


def records(path: Path, form: type[R], suite: str) -> Iterator[tuple[str, R]]:
    """(place, record) of each row. Raises InputError for a file that cannot be read, and for the first row that `form` refuses."""
    yield from checked(read_rows(path), form, suite)


def checked(rows: Iterable[tuple[str, Row]], form: type[R], suite: str) -> Iterator[tuple[str, R]]:
    """The same of rows that were read already."""
    for place, row in rows:
        yield place, _record(place, row, form, suite)


def _record(place: str, row: Any, form: type[R], suite: str) -> R:
    try:
        return form.model_validate_json(json.dumps(row, default=str), strict=True)  # as JSON: strict, and lists still become tuples
    except ValidationError as error:
        fault = sentence(error, form)
        raise InputError(f"{place}{', ' if fault.startswith('field ') else ': '}{fault}; that is no item of {suite}") from None


def only_once(items: Iterable[tuple[str, str]]) -> None:
    """Of (place, id). Raises InputError, naming the place of the second, where an id occurs twice."""
    seen: dict[str, str] = {}
    for place, name in items:
        if first := seen.get(name):
            raise InputError(f"{place}: the id {name!r} was already given at {first}; leave one of them out")
        seen[name] = place
