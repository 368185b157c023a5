"""`promedical score`: a reward model's verdicts on the answers of a file of cases, written back into the cases, with a ledger beside them.

Cases stream through a few at a time. What is done lies in OUT.part until the end: a run that was killed goes on from there, and what it makes is what an
uninterrupted run makes, for cases are read in the same groups. The files appear under their own names when they are whole.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jax
from rich.console import Console

from promedical_jax.atomic import replacing
from promedical_jax.cluster import agree, chief, join, together
from promedical_jax.config import ScoreConfig, Shapes
from promedical_jax.data import long
from promedical_jax.data.load import load_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.model import hf
from promedical_jax.model.sharding import make_mesh
from promedical_jax.model.transformer import Compute
from promedical_jax.reward import RewardJudge, judge_of, load_reward_model
from promedical_jax.reward.folder import check_reward_model
from promedical_jax.reward.ledger import Row, criterion_rows, write_parquet
from promedical_jax.rubric import Case, stream_cases
from promedical_jax.rubric.case import Judgement
from promedical_jax.rubric.files import SUFFIXES, case_text, convert_cases
from promedical_jax.selfcheck import check_tree

RECIPE, DONE, FINISHED = "recipe.json", "done.json", "finished.json"  # in OUT.part


class Done(NamedTuple):
    """How many cases are done, how many of their answers were scored, and how long the two files are then, in bytes."""

    cases: int = 0
    answers: int = 0
    written: int = 0
    ledger: int = 0


def run(config: ScoreConfig) -> Done:
    """Scores what is not scored yet and writes `out` and the ledger. An answer that this very model has judged already keeps its verdicts."""
    join()
    with together():
        ledger = _check(config)
    console = Console(stderr=True, quiet=not chief(), markup=False, emoji=False)  # names of files and cases are no markup
    mesh = make_mesh(config.mesh.fsdp, config.mesh.tp, config.mesh.slice)
    with jax.set_mesh(mesh):
        folder = hf.resolve(config.model)
        check_reward_model(folder)
        model = load_reward_model(folder, mesh, config.dtype)
        if model.kind == "implicit":
            raise InputError(f"{config.model}: is an implicit reward model and has no verdicts, for it is told no criterion; use one of another kind")
        shapes = config.shapes if config.long.cut else Shapes()
        judge = judge_of(model, load_tokenizer(folder, model.config.vocabulary), mesh, config.batch, Compute(config.dtype), shapes)
        with together():
            over, count = _too_long(config, judge)
        check_tree("the reward model", model.params["backbone"], model.config, judge.compute)
        part = _part(config)
        with together():
            done = _resume(config, part, _recipe(config, judge))
        done = done._replace(cases=agree(done.cases), answers=agree(done.answers))
        left_out = _list(config, over, count, console)
        if done.cases:
            console.print(f"{part} holds {done.cases:,} cases that are done; going on behind them", soft_wrap=True)
        done = _score(config, judge, part, done, left_out, console)
    with together():
        if chief():
            _finish(config, part, ledger)
    console.print(f"wrote {config.out}: {done.cases:,} cases, {done.answers:,} answers judged by {model.rater}; ledger {ledger}", soft_wrap=True)
    return done


def _score(config: ScoreConfig, judge: RewardJudge, part: Path, done: Done, left_out: set[str], console: Console) -> Done:
    cases = islice(stream_cases(config.cases), done.cases, None)
    with (part / "cases.jsonl").open("ab") if chief() else open(os.devnull, "ab") as lines, _ledger_of(part) as rows:
        while group := list(islice(cases, config.batch)):
            answers = 0
            for judged, new, about in _judged(judge, group, left_out):
                lines.write(case_text(judged).encode())
                rows.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in about).encode())
                answers += new
            for file in (lines, rows):
                file.flush()
                if chief():
                    os.fsync(file.fileno())
            done = Done(done.cases + len(group), done.answers + answers, lines.tell(), rows.tell())
            if chief():
                _put(part / DONE, json.dumps(done._asdict()))
            if done.cases // config.batch % 64 == 0:
                console.print(f"{done.cases:,} cases done", highlight=False)
    return done


def _judged(judge: RewardJudge, cases: list[Case], left_out: set[str]) -> Iterator[tuple[Case, int, list[Row]]]:
    """Each case with the model's verdicts on those answers that it has not judged yet, how many these are, and their rows of the ledger."""
    rater = judge.model.rater
    fresh = []
    for case in cases:
        said = {(j.answer, j.criterion) for j in case.verdicts if j.rater == rater}
        todo = [answer for answer in case.answers if any((answer.id, c.id) not in said for c in case.rubric.criteria)]
        fresh.append((said, [] if case.id in left_out else todo))
    chosen = [i for i, (_, todo) in enumerate(fresh) if todo]
    answers = iter(judge([cases[i] for i in chosen], [[answer.text for answer in fresh[i][1]] for i in chosen]))
    for case, (said, todo) in zip(cases, fresh, strict=True):
        verdicts, rows = list(case.verdicts), list[Row]()
        word = next(answers) if todo else None
        for a, answer in enumerate(todo):
            assert word is not None
            for criterion, verdict in zip(case.rubric.criteria, word.verdicts[a], strict=True):
                if (answer.id, criterion.id) not in said:
                    verdicts.append(Judgement(answer=answer.id, criterion=criterion.id, verdict=verdict, rater=rater))
            about = {"case": case.id, "answer": answer.id}
            said_of = criterion_rows(case.rubric.criteria, word.score[a], word.probability[a], word.verdicts[a], judge.model.hash)
            rows += [about | row for row in said_of]
        yield case.model_copy(update={"verdicts": tuple(verdicts)}), len(todo), rows


# What lies in OUT.part


def _part(config: ScoreConfig) -> Path:
    return config.out.with_name(config.out.name + ".part")


def _ledger_of(part: Path):
    return (part / "ledger.jsonl").open("ab") if chief() else open(os.devnull, "ab")


def _resume(config: ScoreConfig, part: Path, recipe: str) -> Done:
    """Where an earlier run came to, with the files cut back to it; the beginning where there is none. Process 0 looks, the others hear of it."""
    if not chief():
        return Done()
    done = Done()
    if (part / RECIPE).is_file():
        if (part / RECIPE).read_text() != recipe:
            raise InputError(f"{part}: holds an unfinished run of another model, file of cases or setting; finish that one, delete it, or choose another --out")
        if (part / DONE).is_file():
            try:
                done = Done(**json.loads((part / DONE).read_text()))
            except (ValueError, TypeError) as error:
                raise InputError(f"{part / DONE}: cannot be read ({error}); delete {part} and run again") from error
    else:
        part.mkdir(parents=True, exist_ok=True)
        for name in (DONE, FINISHED):  # of a run that was killed while it tidied up
            (part / name).unlink(missing_ok=True)
        _put(part / RECIPE, recipe)
    for name, size in (("cases.jsonl", done.written), ("ledger.jsonl", done.ledger)):
        file = part / name
        if size and (not file.is_file() or file.stat().st_size < size):
            raise InputError(f"{file}: is shorter than the {size:,} bytes that were written; delete {part} and run again")
        with file.open("ab") as opened:
            opened.truncate(size)
    return done


def _recipe(config: ScoreConfig, judge: RewardJudge) -> str:
    """What another run must have in common to go on with this one: model, cases, and what decides which cases are read together."""
    with config.cases.open("rb") as file:
        cases = hashlib.file_digest(file, "sha256").hexdigest()
    settings = config.model_dump(mode="json", include={"batch", "dtype", "shapes", "long"})
    return json.dumps({"model": judge.model.hash, "cases": cases, **settings}, indent=1)


def _finish(config: ScoreConfig, part: Path, ledger: Path) -> None:
    """The whole files under their names. That these are this run's is noted first: killed in between, the next one comes here again."""
    _put(part / FINISHED, json.dumps([str(path.resolve()) for path in (config.out, ledger)]))
    with replacing(ledger) as file:
        if ledger.suffix == ".jsonl":
            shutil.copyfile(part / "ledger.jsonl", file)
        else:
            write_parquet(file, _lines(part / "ledger.jsonl"))
        _to_disk(file)
    with replacing(config.out) as file:
        if config.out.suffix.lower() == ".jsonl":
            shutil.copyfile(part / "cases.jsonl", file)
        else:
            convert_cases(part / "cases.jsonl", file)
        _to_disk(file)
    (part / RECIPE).unlink()  # without it nothing else in the folder counts
    shutil.rmtree(part)


def _put(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write_text(text)
        _to_disk(file)


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


# What is looked at first


def _check(config: ScoreConfig) -> Path:
    """The ledger's path. Raises InputError for names that are taken or of no known format, for cases that cannot be read, and where none has answers."""
    ledger = config.ledger or config.out.with_suffix(".ledger.parquet")
    if config.out.suffix.lower() not in SUFFIXES:
        raise InputError(f"{config.out}: the file of cases to write ends in {' or '.join(SUFFIXES)}; choose such an --out")
    if ledger.suffix not in SUFFIXES:
        raise InputError(f"{ledger}: a ledger ends in {' or '.join(SUFFIXES)}; choose such a --ledger")
    if len({path.resolve() for path in (config.out, ledger, config.cases)}) < 3:
        raise InputError(f"--out {config.out}, --ledger {ledger} and --cases {config.cases} must be three files; choose other names")
    if _listed(config).resolve() in (config.cases.resolve(), ledger.resolve()):
        raise InputError(f"{_listed(config)} is where cases that are too long are listed; choose another --out, or rename that file")
    if chief() and not config.force:
        taken = [path for path in (config.out, ledger) if path.exists() and str(path.resolve()) not in _own(config)]
        if taken:
            raise InputError(f"{taken[0]} exists; give --force true to replace it, or another name")
    if not sum(len(case.answers) for case in stream_cases(config.cases)):  # to the end: a fault there is better found before anything is scored
        raise InputError(f"{config.cases}: none of its cases has answers, and answers are what is scored; give cases that have some")
    return ledger


def _own(config: ScoreConfig) -> list[str]:
    """The files that an earlier run of this one was about to write, or had written, when it was killed."""
    part = _part(config)
    return json.loads((part / FINISHED).read_text()) if (part / RECIPE).is_file() and (part / FINISHED).is_file() else []


def _listed(config: ScoreConfig) -> Path:
    return config.out.with_suffix(".too_long.jsonl")


def _too_long(config: ScoreConfig, judge: RewardJudge) -> tuple[list[long.TooLong], int]:
    """The cases that are too long, and how many cases there are. Raises InputError if they are more than the recipe allows."""
    found, count = list[long.TooLong](), 0
    if not any(config.shapes.model_dump().values()):
        return found, count
    for case in stream_cases(config.cases):
        count += 1
        if over := long.too_long(judge.encode(case), config.shapes):
            found.append(over)
    long.check(found, count, str(config.cases), config.long)
    return found, count


def _list(config: ScoreConfig, found: list[long.TooLong], count: int, console: Console) -> set[str]:
    """Lists the cases that are too long. Returns the ids of those that are left out: their answers stay unjudged."""
    if not found:
        return set()
    with together():
        if chief():
            long.write_list(_listed(config), found, config.long.action)
    console.print(long.sentence(found, count, str(config.cases), config.long.action, _listed(config)), soft_wrap=True)
    return set() if config.long.cut else {one.case for one in found}
