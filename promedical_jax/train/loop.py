"""The loop that every stage runs in: restore, step, log, save. What a step is, each objective's own file says."""

from collections.abc import Callable
from typing import Any, Protocol

import jax

from promedical_jax.cluster import notice
from promedical_jax.config import Stage
from promedical_jax.errors import Stopped
from promedical_jax.train.checkpoint import Checkpoints
from promedical_jax.train.guards import Guard, SkipStep
from promedical_jax.train.metrics import Meter, Metrics
from promedical_jax.train.optimizer import TrainState

# One step: (state, the host batch, step from 0) -> (new state, scalar metrics, some perhaps still on their way from the device).
# In several processes each metric is either on all devices or of process 0, which writes them.
Advance = Callable[[TrainState, dict[str, Any], int], tuple[TrainState, dict[str, Any]]]


class Beside(Protocol):
    """What goes beside a stage's steps: books that are kept along the way, and looks at where it leads. ALONE is nothing."""

    def begin(self, remembered: Any) -> None:
        """Goes on with what `remember` returned; None: from the start."""

    def remember(self) -> Any:
        """What a checkpoint keeps of it, as JSON; what was written along the way is on the disk then."""

    def look(self, policy: Any, done: int) -> float | None:
        """Before the checkpoint of step `done`: how good the policy is, where that is known."""

    def go_back(self) -> int | None:
        """The step of a checkpoint to end with, there and then."""


class Alone:
    """Nothing beside the steps."""

    def begin(self, remembered: Any) -> None:
        pass

    def remember(self) -> Any:
        return None

    def look(self, policy: Any, done: int) -> float | None:
        return None

    def go_back(self) -> int | None:
        return None


ALONE = Alone()


def run_steps(config: Stage, title: str, state: TrainState, where: TrainState, batches: Any, advance: Advance, tokens: Callable[[dict[str, Any]], float],
              shown: tuple[str, ...], beside: Beside = ALONE, policy: Callable[[TrainState], Any] = lambda state: state.params) -> TrainState:
    """Runs the stage's steps from its last checkpoint on. `batches`: an iterator of host batches with get_state and set_state, as JSON; `tokens` counts one's
    real tokens for the speed; `shown` names the figures on the bar; `policy` is what `beside` looks at.

    Told to stop, it finishes the step under way, saves, and raises Stopped, in every process after the same step.
    """
    with Checkpoints(config.out / "checkpoints", config.keep) as checkpoints, notice() as told:
        state, before, first = checkpoints.restore(state, where)
        if before:
            batches.set_state(before["data"])
        beside.begin(before.get("beside"))
        guard, saved = Guard(config, state.params, before.get("guard")), first

        def save(done: int, value: float | None) -> None:
            memory = {"data": batches.get_state(), "guard": guard.remember(), "metrics": metrics.flush(), "beside": beside.remember()}
            checkpoints.save(done, state, memory, value)

        with Metrics(config.out, first, before.get("metrics", 0)) as metrics, Meter(title, config.steps, first) as meter:
            for step in range(first, config.steps):
                if beside.go_back():
                    break
                if told(step):
                    if step > saved:
                        save(step, None)  # without a look: the notice is short, and the looks are to be those of a run that nobody stopped
                    checkpoints.finish()
                    at = f"after step {step} of {config.steps}, which is saved" if step else "before its first step"
                    raise Stopped(f"{config.out}: told to stop, and stopped {at}; the same command goes on from there")
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
                    save(done, beside.look(policy(state), done))
                    saved = done
        best = beside.go_back()
        if best:
            state = checkpoints.restore(state, where, best).state
    return state
