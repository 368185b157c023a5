"""What `promedical bench build` leaves, and how a run reads it: cases, their items as flat rows, what was left out and why, and bench.json with the counts."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Message, Polarity, Record, Text, Tier, Verdict
from promedical_jax.rubric.lines import parse
from promedical_jax.suites.suite import Source

CASES, POINTWISE, PAIRWISE, LEFT_OUT, MANIFEST = "cases.jsonl", "pointwise.jsonl", "pairwise.jsonl", "left_out.jsonl", "bench.json"
How = Literal["agreed", "adjudicated"]
# Of a judgement the first four, of a case the others.
Reason = Literal["too few physicians", "the physicians differ", "the adjudicator could not tell", "answer without a verdict", "trained on", "nothing left"]


class Point(Record):
    """A row of pointwise.jsonl: does the criterion's text hold of the answer? `how`: whether the physicians agree on the verdict, or it was adjudicated."""

    id: Text
    case: Text
    instruction: tuple[Message, ...]
    answer: Text
    text: str
    criterion: Text
    criterion_text: Text
    tier: Tier
    polarity: Polarity
    verdict: Verdict
    how: How
    licence: Text
    provenance: dict[str, str]


class Pair(Record):
    """A row of pairwise.jsonl: by the criterion, `better` is the better answer."""

    id: Text
    case: Text
    instruction: tuple[Message, ...]
    better: Text
    better_text: str
    worse: Text
    worse_text: str
    criterion: Text
    criterion_text: Text
    tier: Tier
    polarity: Polarity
    licence: Text
    provenance: dict[str, str]


class LeftOut(Record):
    """A row of left_out.jsonl. A whole case where answer and criterion are null, an answer where only the criterion is."""

    case: Text
    answer: Text | None = None
    criterion: Text | None = None
    tier: Tier | None = None
    reason: Reason
    because: Text


class Manifest(Record):
    """bench.json. `pointwise` and `pairwise`: items by tier. `verdicts`: of those kept, how many were agreed on and how many adjudicated. `left_out`: rows of
    left_out.jsonl by reason. `train`: SHA-256 of the files that no instruction is shared with. `digest`: SHA-256 of cases.jsonl."""

    name: Text
    licences: dict[str, int]
    sources: dict[str, int]
    cases: int
    answers: int
    pointwise: dict[Tier, int]
    pairwise: dict[Tier, int]
    verdicts: dict[How, int]
    violations: int
    left_out: dict[Reason, int]
    physicians: int
    from_cases: str
    from_digest: str
    train: dict[str, str]
    likeness: float
    meaning: float | None
    digest: str
    version: str


def cases_file(path: Path) -> Path:
    """The file of cases in a bench's folder; any other path is one itself. Raises InputError for a folder that is no bench."""
    if not path.is_dir():
        return path
    read_manifest(path)
    return path / CASES


def read_manifest(folder: Path) -> Manifest:
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} holds no {MANIFEST}; give a file of cases, or the folder that `promedical bench build` wrote")
    return parse(Manifest, (folder / MANIFEST).read_text(encoding="utf-8"), str(folder / MANIFEST))


def source_of(default: Source) -> Callable[[Path], Source]:
    """What a report says of its source: of a bench that was built, its own name, licences and digest."""

    def of(path: Path) -> Source:
        if not path.is_dir():
            return default
        made = read_manifest(path)
        about = f"{made.cases:,} cases that {made.physicians} physicians judged double blind: {made.verdicts.get('agreed', 0):,} verdicts agreed on"
        adjudicated = f"{made.verdicts.get('adjudicated', 0):,} adjudicated"
        return default.model_copy(update={"name": made.name, "about": f"{about}, {adjudicated}", "licence": ", ".join(made.licences),
                                          "version": f"cases {made.digest[:12]}"})  # fmt: skip

    return of
