"""The loop that every stage runs in: restore, step, log, save. What a step is, each objective's own file says."""

from collections.abc import Callable, Iterator
from typing import Any

import jax

from promedical_jax.atomic import replacing
from promedical_jax.config import Stage
from promedical_jax.errors import InputError
from promedical_jax.recipe import dump
from promedical_jax.train.checkpoint import Checkpoints
from promedical_jax.train.metrics import Meter, Metrics
from promedical_jax.train.optimizer import TrainState

# One step: (state, this process's host batch, step from 0) -> (new state, scalar metrics, some perhaps still on their way from the device).
Advance = Callable[[TrainState, dict[str, Any], int], tuple[TrainState, dict[str, Any]]]


def claim(config: Stage, stage: str) -> bool:
    """Makes the run folder this recipe's own: True if its run has finished already. Raises InputError if another recipe lives there."""
    marker = config.out / "recipe.yaml"
    recipe = dump(config)
    if marker.exists() and marker.read_text() != recipe:
        raise InputError(f"{config.out}: holds a {stage} run of another recipe (see {marker}); choose another --out")
    if jax.process_index() == 0:
        with replacing(marker) as part:  # half a recipe would be another recipe
            part.write_text(recipe)
    return (config.out / "model" / "config.json").exists()


def run_steps(config: Stage, title: str, state: TrainState, where: TrainState, batches: Iterator, advance: Advance, tokens: Callable[[dict[str, Any]], float],
              shown: tuple[str, ...], begin: Callable[[int], None] = lambda step: None, before_save: Callable[[], None] = lambda: None) -> TrainState:
    """Runs the stage's steps from its last checkpoint on. `tokens` counts a host batch's real tokens for the speed, `shown` names the figures on the bar.

    `begin` hears the step that the run starts or goes on from, `before_save` runs before each checkpoint: files written along the way are flushed there.
    """
    with Checkpoints(config.out / "checkpoints") as checkpoints:
        state, first = checkpoints.restore(state, where, batches)
        begin(first)
        metrics = Metrics(config.out, first)
        with Meter(title, config.steps, first) as meter:
            for step in range(first, config.steps):
                batch = next(batches)
                state, values = advance(state, batch, step)
                done = step + 1
                figures = None
                if done % config.log_every == 0 or done == config.steps:
                    figures = {name: float(value) for name, value in jax.device_get(values).items()}
                    metrics.write(step, figures)
                meter.advance(done, tokens(batch), {name: figures[name] for name in shown if name in figures} if figures else None)
                if done % config.save_every == 0 or done == config.steps:
                    before_save()
                    checkpoints.save(done, state, batches)
        metrics.close()
    return state
