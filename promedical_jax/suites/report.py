"""What a run of a suite found: report.json, and items.jsonl with a line an item, of which it is made."""

import json
from collections.abc import Sequence
from pathlib import Path

from promedical_jax import __version__
from promedical_jax.atomic import replacing
from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Record
from promedical_jax.rubric.lines import parse, read_records
from promedical_jax.suites.suite import Figures, Marked, Source

ITEMS, REPORT = "items.jsonl", "report.json"


class Report(Record):
    """report.json. `items`: how many there are; `silent`: without a sound reply; `judgements`, and `failed` of these: they abstain, and are no zeros."""

    suite: str
    source: Source
    data: str
    answerer: str | None
    judge: str | None
    items: int
    silent: int
    judgements: int
    failed: int
    figures: Figures
    version: str = __version__


def write(out: Path, marks: Sequence[Marked], report: Report) -> None:
    """items.jsonl, then report.json: the last says that both are whole."""
    with replacing(out / ITEMS) as file:
        file.write_text("".join(json.dumps(mark.model_dump(mode="json"), ensure_ascii=False) + "\n" for mark in marks), encoding="utf-8", newline="\n")
    with replacing(out / REPORT) as file:
        file.write_text(json.dumps(report.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")


def read_run(folder: Path) -> tuple[Report, list[Marked]]:
    """What `write` wrote. Raises InputError for a folder that holds no whole run, or one of another version of this library that cannot be read."""
    if not (folder / REPORT).is_file():
        raise InputError(f"{folder} holds no {REPORT}; give the folder of a finished run of `promedical bench run`")
    report = parse(Report, (folder / REPORT).read_text(encoding="utf-8"), str(folder / REPORT))
    return report, [mark for _, mark in read_records(folder / ITEMS, Marked)]
