"""The loop that every stage runs in: restore, step, log, save. What a step is, each objective's own file says."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import jax

from promedical_jax.atomic import replacing
from promedical_jax.cluster import agree, chief, together
from promedical_jax.config import Stage
from promedical_jax.errors import InputError
from promedical_jax.recipe import dump
from promedical_jax.train.checkpoint import Checkpoints
from promedical_jax.train.guards import Guard, SkipStep
from promedical_jax.train.metrics import Meter, Metrics
from promedical_jax.train.optimizer import TrainState

# One step: (state, the host batch, step from 0) -> (new state, scalar metrics, some perhaps still on their way from the device).
# In several processes each metric is either on all devices or of process 0, which writes them.
Advance = Callable[[TrainState, dict[str, Any], int], tuple[TrainState, dict[str, Any]]]


def finished(config: Stage, stage: str) -> bool:
    """Whether this recipe's run is in its folder, finished. Raises InputError if another recipe lives there, or another process was started with one.

    Writes nothing; process 0 looks, and the others take its word.
    """
    marker, recipe = config.out / "recipe.yaml", dump(config)
    with together():
        if chief() and marker.exists() and marker.read_text() != recipe:
            raise InputError(f"{config.out}: holds a {stage} run of another recipe (see {marker}); choose another --out")
    mine = crc32(recipe.encode()) >> 1  # `agree` has 31 bits
    same = agree(mine) == mine
    with together():
        if not same:
            raise InputError(f"{marker}: process {jax.process_index()} was started with another recipe; start every process with the same command")
    return bool(agree((config.out / "model" / "config.json").exists()))


def claim(config: Stage) -> None:
    """Makes the run folder this recipe's own. Raises InputError in a process that does not see the folder, which process 0 writes to."""
    marker = config.out / "recipe.yaml"
    with together():
        if chief():
            with replacing(marker) as part:  # half a recipe would be another recipe
                part.write_text(dump(config))
    with together():
        _wait_for(marker)


def _wait_for(marker: Path, seconds: int = 30) -> None:
    """For what process 0 wrote there; a network's file system may show it late."""
    for _ in range(10 * seconds):
        if marker.exists():
            return
        time.sleep(0.1)
    raise InputError(f"{marker}: process {jax.process_index()} does not see the file that process 0 wrote; give --out on a file system that all hosts share")


def run_steps(config: Stage, title: str, state: TrainState, where: TrainState, batches: Iterator, advance: Advance, tokens: Callable[[dict[str, Any]], float],
              shown: tuple[str, ...], begin: Callable[[int], None] = lambda step: None,
              before_save: Callable[[TrainState, int], float | None] = lambda state, done: None,
              go_back: Callable[[], int | None] = lambda: None) -> TrainState:
    """Runs the stage's steps from its last checkpoint on. `tokens` counts a host batch's real tokens for the speed, `shown` names the figures on the bar.

    `begin` hears the step that the run starts or goes on from. `before_save` hears the state and how many steps are done before each checkpoint: files
    written along the way are flushed there, and it may say how good the state is. `go_back` may name a checkpoint's step, to end there and then with its state.
    """
    with Checkpoints(config.out / "checkpoints") as checkpoints:
        state, first = checkpoints.restore(state, where, batches)
        begin(first)
        metrics, guard = Metrics(config.out, first), Guard(config, state.params)
        with Meter(title, config.steps, first) as meter:
            for step in range(first, config.steps):
                if go_back():
                    break
                batch = next(batches)
                done = step + 1
                try:
                    state, values = advance(state, batch, step)
                    values = guard.hear(done, values)
                except SkipStep as reason:
                    values = {}
                    guard.hear_skip(done, str(reason))
                figures = None
                if done % config.log_every == 0 or done == config.steps:
                    figures = {name: float(value) for name, value in jax.device_get(values).items()} | {"skipped": float(guard.look())}
                    metrics.write(step, figures)
                meter.advance(done, tokens(batch), {name: figures[name] for name in shown if name in figures} if figures else None)
                if done % config.save_every == 0 or done == config.steps:
                    checkpoints.save(done, state, batches, before_save(state, done))
        best = go_back()
        if best:
            state = checkpoints.restore(state, where, batches, best)[0]
        metrics.close()
    return state
