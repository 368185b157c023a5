"""`review export`: what each physician is to see goes to Label Studio, as projects or as files, and the key to it stays here.

Files are written before the key, and projects made after it: a folder with a key is an export, and an export over HTTP that broke off is gone on with.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from promedical_jax.atomic import replacing
from promedical_jax.errors import InputError
from promedical_jax.review.page import labelling, task_data
from promedical_jax.review.recipe import ReviewConfig
from promedical_jax.review.rounds import draw
from promedical_jax.review.rubrics import last_round, round_folder, seen_before
from promedical_jax.review.seal import FILE, Asked, Sealed, broken, check_cases, deal, read_key, seal, seal_of, write_key
from promedical_jax.review.studio import Project, Studio
from promedical_jax.rubric.case import Case
from promedical_jax.rubric.files import read_cases


def run(config: ReviewConfig) -> None:
    """Draws the cases, deals them, seals who sees what, and sends it. A second run goes on with what broke off, and refuses what is done."""
    cases = read_cases(config.cases)
    folder = folder_of(config)
    send(config, folder, cases, [] if (folder / FILE).exists() else planned(config, cases))


def folder_of(config: ReviewConfig) -> Path:
    """Where the key of this review lies; of rubrics, each round has a folder, and a round that was read back is followed by the next."""
    if config.what == "answers":
        return config.out
    number, is_read = last_round(config)
    return round_folder(config, number + 1 if is_read else number)


def planned(config: ReviewConfig, cases: Sequence[Case]) -> list[Asked]:
    """What would be asked of whom. Raises InputError where there is no case to ask about, or a physician has judged one before."""
    if config.what == "answers":
        able = [case for case in cases if len(case.answers) > 1]
        if not able:
            raise InputError(f"{config.cases} has no case with two answers; give cases that have, or review rubrics")
        people = {*config.physicians, config.adjudicator}
        if taken := next(((j.rater, case.id) for case in able for j in case.verdicts if j.rater in people), None):
            raise InputError(f"{config.cases}: case {taken[1]!r} has verdicts of a rater {taken[0]!r} already; call that physician by another name")
    else:
        before = seen_before(config)
        able = [case for case in cases if case.id not in before]
        if not able:
            raise InputError(f"{config.cases}: each case is in {config.pool} or was seen in an earlier round; add cases, or stop")
    return deal(draw(able, config.size, config.seed), config)


def send(config: ReviewConfig, folder: Path, cases: Sequence[Case], asked: Sequence[Asked]) -> None:
    """`asked`: what to seal, if there is no key in the folder yet."""
    say = Console(stderr=True, soft_wrap=True).print
    exists = (folder / FILE).exists()
    if exists and config.studio.url is None:
        raise InputError(f"{folder} holds an export already; read it back with `promedical review import`, or give another out")
    sealed = read_key(folder) if exists else _sealed(config, folder, asked)
    by_id = check_cases(sealed, cases, config.cases)
    if config.studio.url is None:
        _write_files(sealed, by_id)
        write_key(folder, sealed.key)
        say(f"wrote {folder}: for each physician a NAME.config.xml and a NAME.tasks.json, and the key {FILE}, which stays with you")
    else:
        if not exists:
            write_key(folder, sealed.key)
        _fill_projects(Studio(config.studio), sealed, by_id, exists)
    for name in sealed.key.physicians:
        print(f"{name}: {len(sealed.key.of(name)):,} tasks")


def _sealed(config: ReviewConfig, folder: Path, asked: Sequence[Asked]) -> Sealed:
    key = seal(asked, config.what)
    return Sealed(folder, key, seal_of(key))


def _write_files(sealed: Sealed, cases: dict[str, Case]) -> None:
    for name in sealed.key.physicians:
        tasks = [task_data(task, cases[task.case], sealed) for task in sealed.key.of(name)]
        for path, text in ((f"{name}.tasks.json", json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"), (f"{name}.config.xml", labelling(sealed.key.what))):
            with replacing(sealed.folder / path) as file:
                file.write_text(text, encoding="utf-8", newline="\n")


def _fill_projects(studio: Studio, sealed: Sealed, cases: dict[str, Case], again: bool) -> None:
    """Makes the projects that are not there, and adds the tasks that they lack."""
    say = Console(stderr=True, soft_wrap=True).print
    there = projects_of(studio, sealed)
    if again and all(name in there and there[name].tasks >= len(sealed.key.of(name)) for name in sealed.key.physicians):
        raise InputError(f"{sealed.folder} holds an export, and Label Studio has all of it; read it back with `promedical review import`, or give another out")
    done: list[str] = []
    try:
        for name in sealed.key.physicians:
            project = there.get(name) or studio.make(name, sealed.key.what, sealed)
            done.append(f"project {project.id} of {name}")
            held = {row.get("data", {}).get("code") for row in studio.export(project)} if project.tasks else set()
            lacking = [task for task in sealed.key.of(name) if task.code not in held]
            if lacking:
                studio.add(project, [task_data(task, cases[task.case], sealed) for task in lacking])
            say(f"project {project.id}: {name}, {len(lacking):,} tasks added")
    except InputError as error:
        raise InputError(f"{error} (there are: {', '.join(done) or 'no projects yet'}; the same command goes on)") from None


def projects_of(studio: Studio, sealed: Sealed) -> dict[str, Project]:
    """By physician. Raises InputError where the key was changed after they were made."""
    found = {project.physician: project for project in studio.projects(sealed.key.review)}
    for name, project in found.items():
        if project.seal != sealed.seal:
            raise InputError(broken(sealed, f"project {project.id} of {name}", project.seal))
    return found
