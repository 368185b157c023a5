"""The stages that ask, beyond one machine: cut into shards that datatrove's executors run (local, Slurm, Ray), and put together again.

Questions and sieve need all texts together, and are made on one machine first. From there on each draft is asked about by itself, so rank r of n takes every
n-th draft from r on through all stages behind, in a folder of its own: `out`/shards/r-of-n, with its own files and its own replies, so that a rank which is
killed pays for nothing twice, and no two write to one database. `merge` makes of them the very files that one machine would have made. All ranks see `out`, a
shared folder, and the sources.

What a recipe says of an endpoint as a whole is divided among the ranks: the budgets and `per_minute`, in equal parts. `concurrency` is each rank's.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from promedical_jax.config import Endpoint
from promedical_jax.corpus.pipeline import REPLIES, Step, alone, make, plan, run
from promedical_jax.corpus.recipe import CorpusConfig
from promedical_jax.corpus.sieve import Dropped
from promedical_jax.corpus.stages import Draft
from promedical_jax.errors import InputError

E = TypeVar("E", bound=Endpoint)


def pipeline(config: CorpusConfig) -> list[Callable[[Any, int, int], None]]:
    """What to hand to a PipelineExecutor of datatrove as its pipeline, with `tasks` as large as one likes."""
    return [partial(_task, config)]


def _task(config: CorpusConfig, _: Any, rank: int, world_size: int) -> None:
    """In the form of a step of datatrove; what it hands on, from one step to the next, is not used."""
    shard(config, rank, world_size)


def shard(config: CorpusConfig, rank: int, world_size: int) -> None:
    """Every stage of a rank's drafts that is not there yet, up to the first whose models are not named.

    Raises InputError where questions and sieve are not made, and what asking raises.
    """
    part = _part(config, rank, world_size)
    sifted, _ = _asking(plan(config))
    drafts = sifted.read()[rank::world_size]
    anew = False
    with alone(part.out):
        for step in _asking(plan(part), made=False)[1]:
            if step.done and not anew:
                drafts = step.read()
                continue
            anew = True
            drafts, dropped = make(step.stage, drafts, part)
            step.write(drafts, dropped)


def merge(config: CorpusConfig, tasks: int) -> None:
    """The stages' files in `out` from those of all ranks, in the order of the drafts; then the cases, their parts and report.json, as one machine makes them.

    Raises InputError for a rank that has not come to its end, and where a stage keeps no question.
    """
    sifted, steps = _asking(plan(config))
    place = {draft.question.id: number for number, draft in enumerate(sifted.read())}
    parts = [_asking(plan(_part(config, rank, tasks)), made=False)[1] for rank in range(tasks)]
    if lacking := next((step.file for part in parts for step in part if not step.done), None):
        raise InputError(f"{lacking} is not there; run that task again, in a new logging_dir if datatrove takes it for completed")
    with alone(config.out):
        for number, step in enumerate(steps):
            kept, dropped = list[Draft](), list[Dropped]()
            for part in parts:
                kept += part[number].read()
                dropped += part[number].read_dropped()
            if not kept:
                raise InputError(f"{config.out}: {step.stage.name} keeps no question; change the recipe, and run the tasks again")
            step.write(sorted(kept, key=lambda one: place[one.question.id]), sorted(dropped, key=lambda one: place[one.id]))
    run(config)


def _asking(steps: list[Step], made: bool = True) -> tuple[Step, list[Step]]:
    """The sieve, which must be there where `made`, and the stages behind it, up to the first that lacks its models."""
    first = next(number for number, step in enumerate(steps) if step.stage.whom or step.stage.missing)
    sifted, behind = steps[first - 1], steps[first:]
    if made and not sifted.done:
        raise InputError(f"{sifted.file} is not there; first run `promedical corpus run` by this recipe without models, which asks nobody")
    end = next((number for number, step in enumerate(behind) if step.stage.missing), len(behind))
    return sifted, behind[:end]


def _part(config: CorpusConfig, rank: int, world_size: int) -> CorpusConfig:
    """A rank's recipe: the same outcome, another folder, and its share of what an endpoint is allowed."""
    own = config.out / "shards" / f"{rank}-of-{world_size}"
    share = partial(_share, out=own, world_size=world_size)
    lone = {name: share(getattr(config, name)) for name in ("difficulty", "topic", "rubric", "contrast")}
    several = {name: tuple(map(share, getattr(config, name))) for name in ("writers", "judges")}
    return config.model_copy(update={"out": own} | lone | several)


def _share(endpoint: E, out: Path, world_size: int) -> E:
    return endpoint.model_copy(update={
        "cache": out / (endpoint.cache.name if endpoint.cache else REPLIES),
        "budget": endpoint.budget / world_size if endpoint.budget else None,
        "budget_tokens": max(endpoint.budget_tokens // world_size, 1) if endpoint.budget_tokens else None,
        "per_minute": max(endpoint.per_minute // world_size, 1) if endpoint.per_minute else None,
    })  # fmt: skip
