"""Cases in and out of files: JSON lines (one case a line) and Parquet, and HF datasets of the same columns.

Reading is strict. Writing checks every case first and replaces the target in one step.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticSerializationError

from promedical_jax.atomic import replacing
from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Case
from promedical_jax.rubric.lines import check_exists, loads, parse, read_records

if TYPE_CHECKING:
    from datasets import Dataset, Features

SUFFIXES = (".jsonl", ".parquet")
BATCH = 256  # cases of a Parquet file in memory at a time


def read_cases(path: str | Path) -> list[Case]:
    """The cases of a .jsonl or .parquet file, in order. InputError names the file, the line (or row) and the field of the first fault."""
    return list(stream_cases(path))


def stream_cases(path: str | Path) -> Iterator[Case]:
    """The same, one after another: of a large file only a few are in memory at a time. A fault is found when it is come to."""
    path = Path(path)
    suffix = _suffix(path)
    check_exists(path)
    nothing = True
    for case in _unique(read_records(path, Case) if suffix == ".jsonl" else _rows(path)):
        yield case
        nothing = False
    if nothing:
        raise InputError(f"{path} holds no case; write one case a line, or remove the file")


def write_cases(path: str | Path, cases: Iterable[Case]) -> None:
    """Writes .jsonl or .parquet, chosen by the suffix; missing folders are made.

    All cases are checked before anything is written (InputError names the case), and a failure leaves the target as it was.
    """
    path, cases = Path(path), list(cases)
    suffix = _suffix(path)
    texts = _checked(cases)
    if not texts:
        raise InputError(f"there is no case to write to {path}; a file of cases holds at least one")
    try:
        with replacing(path) as temporary:
            if suffix == ".jsonl":
                temporary.write_text("".join(text + "\n" for text in texts), encoding="utf-8", newline="\n")
            else:
                _write_parquet(temporary, _dataset(texts))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); check the folder, its permissions and the free space") from error


def unique(places: Iterable[tuple[str, Case]]) -> list[Case]:
    """The cases of (place, case) pairs. Raises InputError where an id repeats, naming both places."""
    return list(_unique(places))


def _unique(places: Iterable[tuple[str, Case]]) -> Iterator[Case]:
    found: dict[str, str] = {}
    for place, case in places:
        if case.id in found:
            raise InputError(f"{place}, field id: {case.id!r} is already the id of the case at {found[case.id]}; rename or delete one of them")
        found[case.id] = place
        yield case


def to_dataset(cases: Iterable[Case]) -> "Dataset":
    """An HF dataset with one row a case and the fixed columns of `features`; provenance is a column of JSON text."""
    return _dataset(_checked(list(cases)))


def from_dataset(dataset: "Dataset") -> list[Case]:
    """The cases of an HF dataset with the columns of `to_dataset`. Null means absent; an unknown column is refused."""
    return unique((f"dataset, row {row}", _from_row(values, f"dataset, row {row}")) for row, values in enumerate(dataset, start=1))


def features() -> "Features":
    """The columns of a dataset of cases. Null stands for an absent optional field."""
    from datasets import Features, List, Value

    text, number = Value("string"), Value("float64")
    criterion = {"id": text, "text": text, "tier": text, "polarity": text, "weight": number, "dimension": text}
    judgement = {"answer": text, "criterion": text, "verdict": text, "rater": text, "human": Value("bool")}
    columns = {
        "id": text,
        "instruction": List({"role": text, "content": text}),
        "answers": List({"id": text, "text": text, "source": text}),
        "rubric": {"criteria": List(criterion)},
        "verdicts": List(judgement),
        "specialty": text,
        "category": text,
        "difficulty": number,
        "provenance": text,
    }
    return Features(columns)


def _suffix(path: Path) -> str:
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} has the suffix {path.suffix!r}, which is no format of cases; use a name that ends in {' or '.join(SUFFIXES)}")
    return path.suffix.lower()


def _rows(path: Path) -> Iterator[tuple[str, Case]]:
    for place, values in parquet_rows(path):
        yield place, _from_row(values, place)


def parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, values) of each row of a Parquet file, one batch of rows in memory at a time. Raises InputError for a file that cannot be read."""
    import pyarrow
    from pyarrow import parquet

    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                for values in batch.to_pylist():
                    row += 1
                    yield f"{path}, row {row}", values
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]}); write it again") from error


def _from_row(values: dict[str, Any], place: str) -> Case:
    """The case of a row: nulls left out, provenance from its JSON text."""
    row = _without_nulls(values)
    if isinstance(row.get("provenance"), str):
        try:
            row["provenance"] = loads(row["provenance"])
        except ValueError as error:
            raise InputError(f"{place}, field provenance: not valid JSON ({error}); write an object of texts") from error
    try:
        return parse(Case, json.dumps(row), place)
    except TypeError as error:
        raise InputError(f"{place}: holds a value that JSON has no form for ({error}); convert or remove the column") from error


def _without_nulls(value: Any) -> Any:
    """Arrow has no absent fields, only nulls."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _checked(cases: Sequence[Case]) -> list[str]:
    """The JSON text of each case, read back and found equal: a case changed past validation (model_copy, model_construct) is caught here."""
    texts: list[str] = []
    copies: list[tuple[str, Case]] = []
    for number, case in enumerate(cases, start=1):
        place = f"case {number} of those to write"
        try:
            text = case.model_dump_json(exclude_none=True, warnings="error")
        except (PydanticSerializationError, UnicodeError, AttributeError) as error:
            raise InputError(f"{place}: has no JSON text ({str(error).splitlines()[0]}); build it from valid values") from error
        copies.append((place, parse(Case, text, place)))
        texts.append(text)
        if copies[-1][1] != case:
            raise InputError(f"{place}: would not read back equal; build it from valid values")
    unique(copies)
    return texts


def case_text(case: Case) -> str:
    """The line of a .jsonl file that holds this case."""
    return case.model_dump_json(exclude_none=True) + "\n"


def convert_cases(lines: Path, out: Path) -> None:
    """Writes a .jsonl file of cases, made of `case_text`, as a .parquet file, a few cases in memory at a time."""
    from pyarrow import parquet

    with lines.open(encoding="utf-8") as file:
        writer = None
        while texts := list(islice(file, BATCH)):
            table = _dataset(texts).data.table
            writer = writer or parquet.ParquetWriter(out, table.schema)
            writer.write_table(table)
        if writer:
            writer.close()


def _dataset(texts: Sequence[str]) -> "Dataset":
    from datasets import Dataset

    schema = features()
    rows = [json.loads(text) for text in texts]
    for row in rows:
        row["provenance"] = json.dumps(row["provenance"], ensure_ascii=False)
    return Dataset.from_list([{name: row.get(name) for name in schema} for row in rows], features=schema)


def _write_parquet(path: Path, dataset: "Dataset") -> None:
    """By pyarrow, for Dataset.to_parquet prints a progress bar; the schema carries the HF features along."""
    from pyarrow import parquet

    parquet.write_table(dataset.data.table, path)
