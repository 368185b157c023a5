"""Rows out of files as sources publish them: JSON lines, one JSON list or object, CSV, Parquet, and the XML of MedQuAD. What a row means is sources.py's."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from promedical_jax.errors import InputError
from promedical_jax.rubric.files import parquet_rows
from promedical_jax.rubric.lines import check_exists, loads

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".xml")


def read_rows(path: Path) -> Rows:
    """(place, row) of a file, by its suffix, or of all such files in a folder and those below it, by name.

    Of a .json object of objects each key becomes the field "key". Raises InputError, naming the place, for what cannot be read; a row that is no object is one.
    """
    if path.is_dir():
        files = files_of(path)
        if not files:
            raise InputError(f"{path} holds no file that ends in {', '.join(SUFFIXES)}; give a file, or a folder of such files")
        for file in files:
            yield from read_rows(file)
        return
    check_exists(path)
    readers = {".jsonl": _lines, ".json": _json, ".csv": _csv, ".parquet": parquet_rows, ".xml": _medquad}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} has the suffix {path.suffix!r}; questions are read from files that end in {', '.join(SUFFIXES)}")
    try:
        for place, row in reader(path):
            if not isinstance(row, dict):
                raise InputError(f"{place}: is {type(row).__name__} and should be an object of fields; correct the file")
            yield place, row
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); check its permissions and save it as UTF-8") from error


def files_of(path: Path) -> list[Path]:
    """The files that are read of a folder, by name; of a file itself."""
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES) if path.is_dir() else [path]


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}, line {number}", _parsed(line, f"{path}, line {number}")


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("{") and _is_object(text.lstrip().splitlines()[0]):
        yield from _lines(path)  # lines of JSON by another name, as MedMCQA's are
        return
    whole = _parsed(text, str(path))
    if isinstance(whole, dict):
        for key, row in whole.items():
            yield f"{path}, key {key!r}", {"key": key} | row if isinstance(row, dict) else row
    elif isinstance(whole, list):
        yield from ((f"{path}, entry {number}", row) for number, row in enumerate(whole, start=1))
    else:
        raise InputError(f"{path} holds one {type(whole).__name__}; it should be a list of objects, or an object of them")


def _is_object(line: str) -> bool:
    """Whether a line is a whole object, and not one of objects by their keys."""
    try:
        row = loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and not all(isinstance(value, dict) for value in row.values())


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise InputError(f"{path}, line 1: names a column twice; rename one")
            for cells in reader:
                place = f"{path}, line {reader.line_num}"
                if len(cells) != len(header):
                    raise InputError(f"{place}: has {len(cells)} cells where the header has {len(header)}; mend the line")
                yield place, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: not valid CSV ({error}); mend the quotes") from error


def _medquad(path: Path) -> Iterator[tuple[str, Any]]:
    """A row for each pair of question and answer of a document."""
    try:
        document = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise InputError(f"{path}: not valid XML ({error}); fetch the file again") from error
    publisher, number = document.get("source"), document.get("id")  # the numbers begin anew with each publisher
    about = {"document": f"{publisher}-{number}", "publisher": publisher, "url": document.get("url"), "focus": document.findtext("Focus")}
    for pair in document.iter("QAPair"):
        question = pair.find("Question")
        asked = {} if question is None else {"qid": f"{publisher}-{question.get('qid')}", "qtype": question.get("qtype"), "question": question.text}
        yield f"{path}, pair {pair.get('pid')}", about | asked | {"answer": pair.findtext("Answer")}


def _parsed(text: str, place: str) -> Any:
    try:
        return loads(text)
    except ValueError as error:
        raise InputError(f"{place}: not valid JSON ({error}); mend it") from error


def flat(value: Any) -> str:
    """A field of a row as provenance keeps it: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def hub_rows(dataset: Iterable[Row], name: str) -> Rows:
    """The rows of an HF dataset, with their places."""
    yield from ((f"{name}, row {number}", row) for number, row in enumerate(dataset, start=1))
