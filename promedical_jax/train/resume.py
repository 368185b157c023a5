"""Whose a run folder is: this recipe's, to go on with or finished, or another's, and then what differs."""

import json
import shutil
import time
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal
from zlib import crc32

import jax

from promedical_jax.atomic import replacing
from promedical_jax.cluster import agree, chief, together
from promedical_jax.config import Stage
from promedical_jax.errors import InputError
from promedical_jax.recipe import Change, changes, dump, keys, suggestion
from promedical_jax.train.checkpoint import steps
from promedical_jax.train.inputs import digests

INPUTS = "inputs.json"  # what the files and folders were that its keys name
FREE = ("out", "mesh", "keep")  # where a run lies, on which devices, and which checkpoints stay: the run is the same by another one


@dataclass(frozen=True)
class Resume:
    """How to take a folder that holds a run: `auto` goes on with it, `never` refuses. `allow`: keys, or groups of keys, that may differ from its recipe."""

    mode: Literal["auto", "never"] = "auto"
    allow: tuple[str, ...] = ()


AUTO = Resume()


def finished(config: Stage, stage: str, resume: Resume = AUTO) -> bool:
    """Whether this recipe's run is in its folder, finished. Raises InputError if another recipe's run lives there, naming the keys that differ and are not
    allowed to, or another process was started with one.

    Writes nothing; process 0 looks, and the others take its word.
    """
    done = False
    with together():
        if chief():
            done = look(config, stage, resume)
    mine = crc32(f"{dump(config)}{resume}".encode()) >> 1  # `agree` has 31 bits
    same = agree(mine) == mine
    with together():
        if not same:
            raise InputError(
                f"{config.out / 'recipe.yaml'}: process {jax.process_index()} was started with another recipe; start every process with the same command"
            )
    return bool(agree(done))


def look(config: Stage, stage: str, resume: Resume) -> bool:
    """The same as this process alone sees it; touches no device."""
    _check_allowed(config, resume)
    try:
        found = changed(config)
    except InputError as error:
        raise InputError(f"{config.out}: holds a run of another stage than {stage}, or of another version ({error}); choose another --out") from error
    if found is None:
        return False
    marker = config.out / "recipe.yaml"
    if resume.mode == "never":
        raise InputError(f"{config.out}: holds a run, and --resume is never; choose another --out, or leave --resume out to go on with it")
    refused = [change for change in found if not _under(change.key, resume.allow)]
    if refused:
        what = ", ".join(f"{one.key} is {one.old} there and {one.new} here" for one in refused)
        flags = " ".join(f"--allow-change {one.key}" for one in refused)
        raise InputError(f"{config.out}: holds a {stage} run of another recipe ({marker}): {what}; choose another --out, or go on with the changes by {flags}")
    now = digests(config)
    for key, digest in _began_with(config).items():
        if now.get(key, digest) != digest and not _under(key, resume.allow):
            fix = f"put it back, choose another --out, or give --allow-change {key}"
            raise InputError(f"{attrgetter(key)(config)}: is not what it was when the run in {config.out} began; {fix}")
    saved = steps(config.out / "checkpoints")
    if saved and saved[-1] > config.steps:
        raise InputError(f"{config.out}: its checkpoint of step {saved[-1]} is past steps, which is {config.steps}; raise steps, or choose another --out")
    return not found and (config.out / "model" / "config.json").exists()


def changed(config: Stage) -> list[Change] | None:
    """The keys in which the folder's recipe differs from this one, but for those that may; None where the folder holds no run.

    Raises InputError where its recipe is no recipe of this stage.
    """
    marker = config.out / "recipe.yaml"
    if not marker.is_file():
        return None
    return [change for change in changes(marker, config) if not _under(change.key, FREE)]


def _began_with(config: Stage) -> dict[str, int]:
    """The digests of what the run began with, as far as they are known."""
    noted = config.out / INPUTS
    return json.loads(noted.read_text()) if noted.is_file() else {}


def _under(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _check_allowed(config: Stage, resume: Resume) -> None:
    known = [key.name for key in keys(type(config))]
    for name in resume.allow:
        if not any(_under(key, (name,)) for key in known):
            raise InputError(f"--allow-change {name}: no such key; {suggestion(name, known)}")


def claim(config: Stage) -> None:
    """Makes the run folder this recipe's own; what `finished` allowed to change is noted in changes.jsonl, and a model that was trained before is set aside.

    Raises InputError in a process that does not see the folder, which process 0 writes to.
    """
    marker = config.out / "recipe.yaml"
    with together():
        if chief():
            found = changed(config)
            if found:
                model, aside = config.out / "model", config.out / "model.before"
                if model.exists():  # it would say that the run is finished
                    number = 1
                    while aside.exists():
                        number += 1
                        aside = config.out / f"model.before.{number}"
                    model.rename(aside)
                with (config.out / "changes.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({one.key: [one.old, one.new] for one in found}) + "\n")
            for left in config.out.glob(".*.tmp"):  # half-made by a process that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            with replacing(marker) as part:  # half a recipe would be another recipe
                part.write_text(dump(config))
            with replacing(config.out / INPUTS) as part:
                part.write_text(json.dumps(digests(config)) + "\n")
    with together():
        _wait_for(config)


def _wait_for(config: Stage, seconds: int = 30) -> None:
    """For what process 0 wrote there; a network's file system may show it late."""
    marker = config.out / "recipe.yaml"
    for _ in range(10 * seconds):
        if marker.exists() and marker.read_text() == dump(config):
            return
        time.sleep(0.1)
    raise InputError(f"{marker}: process {jax.process_index()} does not see what process 0 wrote there; give --out on a file system that all hosts share")
