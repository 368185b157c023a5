"""JSON text read strictly into records: nothing is dropped, coerced or guessed, and each fault names its place and the fix."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from promedical_jax.errors import InputError
from promedical_jax.rubric.faults import sentence

R = TypeVar("R", bound=BaseModel)


def read_records(path: Path, model: type[R]) -> Iterator[tuple[str, R]]:
    """(place, record) of each line that is not blank; place is 'FILE, line N'.

    Raises InputError for a missing or unreadable file, bytes that are not UTF-8, text that is not JSON, a key given twice, a record that `model` refuses.
    """
    check_exists(path)
    try:
        with path.open("rb") as file:  # as bytes: text mode would also split lines at a lone carriage return
            for number, line in enumerate(file, start=1):
                place = f"{path}, line {number}"
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError as error:
                    raise InputError(f"{place}: not valid UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8") from error
                if text:
                    try:
                        loads(text)
                    except ValueError as error:
                        raise InputError(f"{place}: not valid JSON ({error}); mend or delete the line") from error
                    yield place, parse(model, text, place)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the file and its permissions") from error


def parse(model: type[R], text: str, place: str) -> R:
    """A record from JSON text, in pydantic's strict JSON mode: lists become tuples and names enums, but "0.5" does not become 0.5."""
    try:
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        fault = sentence(error, model)
        raise InputError(f"{place}{', ' if fault.startswith('field ') else ': '}{fault}") from error


def loads(text: str) -> Any:
    """json.loads that refuses what other readers drop or guess: keys given twice, NaN and Infinity. Raises ValueError, also for nesting too deep to read."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_exists(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; give the path of a file")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(name for n, (name, _) in enumerate(pairs) if name in dict(pairs[:n]))
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
