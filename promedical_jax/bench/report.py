"""What a run found, as one record: report.json is its JSON, html.py draws it."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from promedical_jax.bench.intervals import Figure, Number
from promedical_jax.bench.reward_figures import RewardModelFigures
from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Case, Message, Polarity, Record, Tier, Verdict


class PolicyFigures(Record):
    """One policy on the held-out cases: means over cases (each case the mean over its answers) with 95 % intervals over cases.

    s1: S1, in [0, 1]. s2: the share of the excellence criteria that are met, in [0, 1]. s3: violations of an answer. safe: the share of answers with S3 = 0,
    without those of which nobody could say. length: tokens of an answer.
    """

    s1: Figure
    s2: Figure
    s3: Figure
    safe: Figure
    length: Figure
    n_cases: Annotated[int, Field(ge=0)]
    n_answers: Annotated[int, Field(ge=0)]


class ExampleAnswer(Record):
    """An answer with its scores: S1 in [0, 1] (NaN if it abstained), S2 the number of excellence criteria met, S3 the number of safety criteria violated."""

    text: str
    s1: Number
    s2: Number
    s3: Number


class ExampleRow(Record):
    """One criterion of the rubric and what was said of the two answers."""

    criterion: str
    tier: Tier
    polarity: Polarity = Polarity.REQUIRED
    weight: float | None = None
    base: Verdict
    aligned: Verdict


class Example(Record):
    """One held-out case answered by both policies."""

    case: str
    instruction: tuple[Message, ...]
    base: ExampleAnswer
    aligned: ExampleAnswer
    rows: tuple[ExampleRow, ...]

    @classmethod
    def of(cls, case: Case, base: ExampleAnswer, aligned: ExampleAnswer, base_verdicts: Sequence[Verdict], aligned_verdicts: Sequence[Verdict]) -> Self:
        """From a case, the two answers and their verdicts in the rubric's order."""
        rows = tuple(
            ExampleRow(criterion=c.text, tier=c.tier, polarity=c.polarity, weight=c.weight, base=before, aligned=after)
            for c, before, after in zip(case.rubric.criteria, base_verdicts, aligned_verdicts, strict=True)
        )
        return cls(case=case.id, instruction=case.instruction, base=base, aligned=aligned, rows=rows)


class Report(Record):
    """Everything the report says, except the curves, which stay in the stages' metrics.jsonl.

    command: what to type to get this run again. model: one line, e.g. "Qwen3, 0.9 M parameters". cases: number of cases by split, e.g. {"train": 1000,
    "held_out": 200}. win_rate: share of held-out cases on which the aligned answer is preferred to the base answer (lexicographic order, ties count 1/2).
    judge: who gave the verdicts behind `base`, `aligned` and the examples. notes: remarks printed at the top of the page.
    """

    seed: int
    command: str
    versions: dict[str, str]
    wall_seconds: float
    model: str
    cases: dict[str, int]
    base: PolicyFigures
    aligned: PolicyFigures
    win_rate: Figure
    reward_model: RewardModelFigures
    examples: tuple[Example, ...] = ()
    judge: str | None = None
    notes: tuple[str, ...] = ()


Metrics = list[dict[str, float]]  # one row a step: {"step": 3.0, "loss": 0.7, ...}; a name may be missing from some rows


def read_metrics(path: Path) -> Metrics:
    """Read a metrics.jsonl, sorted by step; values that are no numbers are passed over, null is NaN.

    A run that is still writing may leave its last line unfinished: it is left out. InputError names any other line that cannot be read.
    """
    rows: Metrics = []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as fault:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise InputError(f"{path}, line {number}: not valid JSON ({fault.msg}); mend or delete the line") from None
        if not isinstance(row, dict) or not _is_number(row.get("step")):
            raise InputError(f'{path}, line {number}, field step: missing or not a number; write an object such as {{"step": 1, "loss": 0.5}}')
        rows.append({name: math.nan if value is None else float(value) for name, value in row.items() if value is None or _is_number(value)})
    return sorted(rows, key=lambda row: row["step"])


def read_report(path: Path) -> Report:
    """Read a report.json back."""
    try:
        return Report.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; give the report.json of a finished run") from None
    except ValueError as fault:
        raise InputError(f"{path}: not a report of this version ({_first_line(fault)}); run the command that wrote it again") from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)  # a bool is an int to Python


def _first_line(fault: ValueError) -> str:
    return " ".join(str(fault).splitlines()[:3])
