"""What a run of a suite found: report.json, and items.jsonl with a line an item, of which it is made."""

import json
from collections.abc import Sequence
from pathlib import Path

from promedical_jax import __version__
from promedical_jax.atomic import replacing
from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Record, Text
from promedical_jax.rubric.lines import parse, read_records
from promedical_jax.suites.suite import Figure, Figures, Marked, Source

ITEMS, REPORT = "items.jsonl", "report.json"


class Against(Record):
    """This run against a base, item by item. `p`: two-sided, of the points of each unit above and below even, by flipping their signs (intervals.py)."""

    base: Text
    win_rate: Figure
    won: int
    tied: int
    lost: int
    p: float | None


class Report(Record):
    """report.json. `items`: how many there are; `silent`: without a sound reply; `judgements`, and `failed` of these: they abstain, and are no zeros.

    judge_version: what tells this judge from another one of its name: a hash of a folder; null where an endpoint does not say. judge_calibration: what makes
    verdicts of what it says. calibration: how the figures called raw and calibrated came about. against: of a run with a base.
    """

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
    answerer_version: str | None = None
    judge_version: str | None = None
    judge_calibration: str | None = None
    calibration: str | None = None
    against: Against | None = None
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
