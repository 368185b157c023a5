"""The corpus, stage by stage: each stage's outcome is a Parquet file named by a hash of all that it depends on, and is made once.

Change a prompt, a model or a source, and the stages behind it are made anew; everything before stands. A run that is killed in a stage asks again for nothing
that was replied, for replies lie in one SQLite file. What a stage takes out stands beside what it keeps, with the reason: no question ends without a word.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, get_args

import pyarrow
from pyarrow import parquet
from rich.console import Console

from promedical_jax.asking import Ask, Asker
from promedical_jax.atomic import replacing
from promedical_jax.config import Endpoint
from promedical_jax.corpus.formats import files_of
from promedical_jax.corpus.pairs import Outcome, criterion_pairs, split
from promedical_jax.corpus.progress import progress
from promedical_jax.corpus.recipe import CorpusConfig
from promedical_jax.corpus.sieve import Dropped
from promedical_jax.corpus.stages import Draft, Made, Stage, stages
from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Record, Tier
from promedical_jax.rubric.files import write_cases

VERSION = 1  # of what stages do; raised when the same recipe would give something else
REPLIES = "replies.sqlite"
PATIENCE = 64  # questions in a row without any reply, after which an endpoint is taken to be down
SCHEMA = pyarrow.schema([("id", pyarrow.string()), ("reason", pyarrow.string()), ("record", pyarrow.string())])

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Step:
    """A stage with its place among the others, and the file of what it keeps."""

    stage: Stage
    file: Path

    @property
    def dropped(self) -> Path:
        return self.file.with_suffix(".dropped.parquet")

    @property
    def done(self) -> bool:
        return self.file.exists()

    def read(self) -> list[Draft]:
        return _read(self.file, Draft)

    def read_dropped(self) -> list[Dropped]:
        return _read(self.dropped, Dropped)

    def write(self, kept: Sequence[Draft], dropped: Sequence[Dropped]) -> None:
        _write(self.dropped, dropped)
        _write(self.file, kept)  # last: it says that the stage is done

    def kept(self) -> int:
        return len(_column(self.file, "id"))

    def reasons(self) -> Counter[str]:
        return Counter(_column(self.dropped, "reason"))


def run(config: CorpusConfig) -> None:
    """Every stage that is not there yet, and those behind it, up to the first whose models are not named; then, of questions that have rubrics by then, the
    cases in their parts, and report.json."""
    say, steps = Console(stderr=True).print, plan(config)
    if config.rubric.pool and not config.rubric.pool.exists():
        say(f"rubric.pool: {config.rubric.pool} is not there yet, so that no approved rubric is shown to who writes them", soft_wrap=True)
    with alone(config.out):
        drafts, made = None, list[Step]()
        for step in steps:
            if step.stage.missing and (drafts is not None or not step.done):
                say(f"the corpus ends before {step.stage.name}: {step.stage.missing} is not given", soft_wrap=True)
                break
            if drafts is not None or not step.done:
                drafts = _make_anew(step, made[-1].read() if made and drafts is None else drafts or [], config)
            made.append(step)
        if any(step.stage.name == "rubric" for step in made):
            _finish(made, made[-1].read() if drafts is None else drafts, config)
    print(table(steps))


def status(config: CorpusConfig) -> None:
    """What is there, and what each stage took out."""
    print(table(plan(config)))


def cost(config: CorpusConfig) -> None:
    """How many questions the next stage would ask, and about what that costs: what later stages ask depends on its replies."""
    steps = plan(config)
    place = next((place for place, step in enumerate(steps) if not step.done), None)
    if place is None:
        print("nothing is left to ask")
        return
    step = steps[place]
    if not step.stage.whom or step.stage.missing:
        print(f"{step.stage.name} is next, and asks nobody" + (f": {step.stage.missing} is not given" if step.stage.missing else ""))
        return
    assert step.stage.asks
    drafts = steps[place - 1].read()
    for i, (where, task) in enumerate(step.stage.whom):
        asker = _asker(where, task, config)
        count, tokens, money = asker.left(step.stage.asks(drafts, i))
        print(f"{step.stage.name}, {where} ({task.model}): {count:,} questions, about {money:.4g} and {tokens:,} tokens; spent so far {asker.spent():.4g}")


def lineage(config: CorpusConfig, name: str) -> Iterator[str]:
    """Why a question is in the corpus or not, a line a stage. Raises InputError for an id that no source has."""
    last: dict[str, Any] = {}
    for step in plan(config):
        if not step.done:
            yield f"{step.stage.name}: not made yet"
            return
        out = next(iter(_read(step.dropped, Dropped, name)), None)
        draft = next(iter(_read(step.file, Draft, name)), None)
        if out:
            yield f"{step.stage.name}: taken out, {out.reason}: {out.because}"
            return
        if draft is None:
            raise InputError(f"{name!r} is no id of a question of {config.out}; ids begin with the name of their source")
        said = draft.model_dump(mode="json", exclude_none=True)
        new = {key: value for key, value in said.items() if last.get(key) != value and value not in ([], {})}
        who = ", ".join(f"{task.model} at {task.url}" for _, task in step.stage.whom)
        yield f"{step.stage.name}{f' by {who}' if who else ''}: " + (json.dumps(new, ensure_ascii=False) if new else "kept")
        last = said


def plan(config: CorpusConfig) -> list[Step]:
    """The stages with their files, which need not be there. Reads the sources' files, to know whether they changed."""
    key, steps = "", []
    for number, stage in enumerate(stages(config, _digest)):
        key = sha256(json.dumps([VERSION, stage.name, stage.told, key]).encode()).hexdigest()
        steps.append(Step(stage, config.out / f"{number}-{stage.name}-{key[:12]}.parquet"))
    return steps


def table(steps: Sequence[Step]) -> str:
    """A line a stage: how many came out, and what was taken out for which reason."""
    width, lines = max(len(step.stage.name) for step in steps), []
    for step in steps:
        if not step.done:
            lines.append(f"{step.stage.name:{width}}  {'not made yet' if not step.stage.missing else f'waits for {step.stage.missing}'}")
            continue
        out = ", ".join(f"{count:,} {reason}" for reason, count in sorted(step.reasons().items()))
        lines.append(f"{step.stage.name:{width}}  {step.kept():>9,} kept" + (f"; out: {out}" if out else ""))
    return "\n".join(lines)


def _make_anew(step: Step, drafts: list[Draft], config: CorpusConfig) -> list[Draft]:
    """What the stage keeps, once it is in its file. Raises InputError where that is nothing."""
    say = Console(stderr=True).print
    say(f"{step.stage.name}: {len(drafts):,} questions" if drafts else f"{step.stage.name}: reading {len(config.sources)} sources", soft_wrap=True)
    kept, dropped = make(step.stage, drafts, config)
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(one.reason for one in dropped).most_common())
        raise InputError(f"{config.out}: {step.stage.name} keeps no question ({reasons or 'there was none'}); change the recipe, and run again")
    step.write(kept, dropped)
    if silent := sum(one.reason == "no reply" for one in dropped):
        say(f"  {silent:,} had no reply and are out; to ask for them again, delete {step.file}", soft_wrap=True)
    return kept


def make(stage: Stage, drafts: list[Draft], config: CorpusConfig) -> Made:
    """What a stage keeps and takes out, once all have replied whom it asks. Raises what Asker raises."""
    if stage.work:
        return stage.work(drafts)
    assert stage.asks and stage.take
    replies = []
    for i, (where, task) in enumerate(stage.whom):
        asks: list[Ask] = stage.asks(drafts, i)
        asker = _asker(where, task, config)
        with progress(f"{where} ({task.model})", asker.spent) as tell:
            replies.append(asker(asks, tell))
        counts = ", ".join(f"{count:,} {name}" for name, count in sorted(asker.counts.items()) if count)
        Console(stderr=True).print(f"  {where} ({task.model}): {counts}; spent {asker.spent():.4g}", soft_wrap=True)
    return stage.take(drafts, replies)


def _asker(where: str, task: Endpoint, config: CorpusConfig) -> Asker:
    return Asker(task if task.cache else task.model_copy(update={"cache": config.out / REPLIES}), where, patience=PATIENCE)


@contextmanager
def alone(out: Path, what: str = "the corpus") -> Iterator[None]:
    """One run of `what` at a time in a folder: two would pay for the same replies. The lock is the process's, and goes with it."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except OSError:
            raise InputError(f"{out}: another run of {what} is at work there; wait for it, or choose another out") from None
        yield


def _finish(steps: Sequence[Step], drafts: Sequence[Draft], config: CorpusConfig) -> None:
    """cases.parquet, a file for each part that has cases, and report.json."""
    cases = [draft.case() for draft in drafts]
    parts = split(cases, config.parts.model_dump(), config.seed, config.sieve.near)
    balance = sum((criterion_pairs(case)[1] for case in cases), Counter())
    for name in parts:
        (config.out / f"{name}.jsonl").unlink(missing_ok=True)  # of an earlier recipe: parts of two would share questions
    write_cases(config.out / "cases.parquet", cases)
    for name, each in parts.items():
        if each:
            write_cases(config.out / f"{name}.jsonl", each)
    report = {
        "stages": {step.stage.name: {"kept": step.kept(), "out": step.reasons()} for step in steps},
        "parts": {name: len(each) for name, each in parts.items()},
        "pairs": {tier.value: {kind: balance[tier, kind] for kind in get_args(Outcome)} for tier in Tier},
    }  # fmt: skip
    with replacing(config.out / "report.json") as file:
        file.write_text(json.dumps(report, indent=1) + "\n")


def _read(path: Path, record: type[R], name: str | None = None) -> list[R]:
    """All records, or those with an id."""
    return [record.model_validate_json(text) for text in _column(path, "record", [("id", "==", name)] if name is not None else None)]


def _column(path: Path, column: str, filters: Any = None) -> list[str]:
    try:
        return parquet.read_table(path, columns=[column], filters=filters)[column].to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]}); delete it, and run the corpus again") from None


def _write(path: Path, records: Sequence[Draft | Dropped]) -> None:
    ids = [record.id if isinstance(record, Dropped) else record.question.id for record in records]
    reasons = [record.reason if isinstance(record, Dropped) else None for record in records]
    texts = [record.model_dump_json(exclude_none=True) for record in records]
    with replacing(path) as file:
        parquet.write_table(pyarrow.table({"id": ids, "reason": reasons, "record": texts}, schema=SCHEMA), file)


def _digest(path: Path | None) -> str:
    """Of a file's bytes, or those of all files in a folder with their names; of a source on the hub nothing, for it is fetched once."""
    if path is None:
        return "hub"
    if not path.exists():
        raise InputError(f"{path} does not exist; give the path of a source or suite")
    whole = sha256()
    for file in files_of(path):
        whole.update(file.name.encode())
        with file.open("rb") as opened:
            for block in iter(partial(opened.read, 1 << 20), b""):
                whole.update(block)
    return whole.hexdigest()
