"""The ledger: a row for each (answer, criterion) with score, probability, verdict, tier and the hash of the model that said so. As JSON lines or Parquet.

`promedical score` writes one with the verdicts, GRPO one of its rollouts, which has the step, the sample and what became of the answer as further columns.
"""

import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from promedical_jax.atomic import replacing
from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Criterion, Verdict
from promedical_jax.rubric.lines import check_exists, loads

Row = dict[str, Any]
SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "!=": operator.ne, ">=": operator.ge, "<=": operator.le, "=": operator.eq, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_NAMES: dict[type, str] = {bool: "a truth", str: "a text", int: "a whole number", float: "a number"}
BATCH = 8192  # rows of a Parquet file in memory at a time


def criterion_rows(criteria: Sequence[Criterion], scores: np.ndarray, probability: np.ndarray, verdicts: Sequence[Verdict], model: str) -> list[Row]:
    """The rows of one answer: scores and P(met) [K], verdicts K, and the hash of the model. `satisfied` is null where the verdict is to abstain."""
    rows = []
    for criterion, score, p, verdict in zip(criteria, scores, probability, verdicts, strict=True):
        satisfied = criterion.satisfied(verdict)
        rows.append({
            "criterion": criterion.id,
            "tier": criterion.tier.value,
            "polarity": criterion.polarity.value,
            "score": round(float(score), 6),
            "probability": round(float(p), 6),
            "verdict": verdict.value,
            "satisfied": None if np.isnan(satisfied) else satisfied,
            "model": model,
        })  # fmt: skip
    return rows


def read_ledger(path: Path, where: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a .jsonl or .parquet ledger, in order, for which every condition holds, such as "tier=safety" or "probability>0.9".

    Raises InputError for a file that is no ledger, a condition on a column that it does not have, or a number compared with a word.
    """
    conditions = [_condition(text) for text in where]
    for number, row in enumerate(_rows(path), start=1):
        if not isinstance(row, dict) or any(isinstance(value, dict | list) for value in row.values()):
            raise InputError(f"{path}, row {number}: is no row of a ledger; give the file that `promedical score` or `promedical train grpo` wrote")
        for column, _, _ in conditions:
            if column not in row:
                raise InputError(f"{path}, row {number}: has no column {column!r}; its columns are {', '.join(row)}")
        if all(_holds(row[column], sign, value, column) for column, sign, value in conditions):
            yield row


def write_ledger(path: Path, rows: Iterable[Row]) -> int:
    """Writes .jsonl or .parquet by the suffix, whole or not at all; returns how many rows. Raises InputError for another suffix."""
    if path.suffix not in (".jsonl", ".parquet"):
        raise _no_ledger(path)
    with replacing(path) as part:
        return write_parquet(part, rows) if path.suffix == ".parquet" else _write_lines(part, rows)


def _write_lines(path: Path, rows: Iterable[Row]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def write_parquet(path: Path, rows: Iterable[Row]) -> int:
    """Rows as Parquet, a batch of them in memory at a time; returns how many. Raises InputError where columns or their types change from row to row."""
    import pyarrow
    from pyarrow import parquet

    kinds = {bool: pyarrow.bool_(), str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    count, columns = 0, dict[str, type](case=str)  # of no row at all
    with ExitStack() as stack:
        writer = None
        for batch in _batches(rows):
            columns = columns if writer else _columns(batch)
            for number, row in enumerate(batch, start=count + 1):
                _check_row(row, columns, number)
            schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
            writer = writer or stack.enter_context(parquet.ParquetWriter(path, schema))
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
            count += len(batch)
        if not writer:
            parquet.write_table(pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()]).empty_table(), path)
    return count


def _columns(rows: Sequence[Row]) -> dict[str, type]:
    """Texts, truths, whole numbers and numbers; a column of nulls holds numbers, as only those may be null."""
    types = {name: {type(row[name]) for row in rows if row.get(name) is not None} for name in rows[0]}
    return {name: float if len(found) != 1 else next(iter(found)) for name, found in types.items()}


def _check_row(row: Row, columns: dict[str, type], number: int) -> None:
    """Arrow would leave out a column that comes later, and cut a number that is no longer whole, without a word."""
    if row.keys() != columns.keys():
        raise InputError(f"row {number}: its columns are {', '.join(row)}, and before {', '.join(columns)}; write .jsonl, where they may change")
    for name, value in row.items():
        if value is not None and type(value) is not columns[name] and (type(value), columns[name]) != (int, float):
            raise InputError(f"row {number}: {name} is {value!r}, and other rows have {_NAMES[columns[name]]} there; write .jsonl, where that may change")


def print_rows(rows: Iterable[Row], show: int, console: Console) -> None:
    """The first rows as a table, and the number of all."""
    table, count = Table(box=box.SIMPLE_HEAD, pad_edge=False), 0
    for row in rows:
        count += 1
        if count == 1:
            for name, value in row.items():
                table.add_column(Text(name), justify="left" if isinstance(value, str) else "right", overflow="fold")
        if count <= show:
            shown = {name: Text("–" if value is None else str(value)[: 12 if name == "model" else None]) for name, value in row.items()}
            table.add_row(*(shown.get(str(column.header), "") for column in table.columns))
    if count and show:
        console.print(table)
    console.print(f"{count:,} {'row' if count == 1 else 'rows'}" + (f", {show} of them shown" if count > show else ""), highlight=False)


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _rows(path: Path) -> Iterator[Row]:
    check_exists(path)
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=BATCH):
                    yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]}); write it again") from error
    elif path.suffix == ".jsonl":
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = loads(line.decode())
                except ValueError as error:
                    raise InputError(f"{path}, line {number}: not valid JSON ({error}); take the line out") from error
                yield row
    else:
        raise _no_ledger(path)


def _no_ledger(path: Path) -> InputError:
    return InputError(f"{path} has the suffix {path.suffix!r}; a ledger's name ends in .jsonl or .parquet")


def _condition(text: str) -> tuple[str, str, str]:
    found = re.fullmatch(r"\s*(\w+)\s*(!=|>=|<=|==?|>|<)\s*(.+?)\s*", text, re.DOTALL)
    if not found:
        raise InputError(f"--where {text!r}: is no condition; write a column, a sign (= != > >= < <=) and a value, such as tier=safety or 'probability>0.9'")
    return found[1], found[2].replace("==", "="), found[3]


def _holds(value: Any, sign: str, wanted: str, column: str) -> bool:
    """Numbers compare as numbers, words by their letters; null equals null alone, and is neither above nor below anything."""
    if wanted == "null":
        if sign not in ("=", "!="):
            raise InputError(f"--where {column}{sign}null: null is neither above nor below anything; write = or !=")
        return (value is None) == (sign == "=")
    if value is None:
        return sign == "!="
    if isinstance(value, bool):
        if wanted not in ("true", "false") or sign not in ("=", "!="):
            raise InputError(f"--where {column}{sign}{wanted}: {column} is true or false; write {column}=true or {column}=false")
        return value == ((wanted == "true") == (sign == "="))
    if isinstance(value, int | float):
        number = _number(wanted)
        if number is None:
            raise InputError(f"--where {column}{sign}{wanted}: {column} holds numbers, and {wanted!r} is none")
        return bool(SIGNS[sign](value, number))
    return bool(SIGNS[sign](value, wanted))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number
