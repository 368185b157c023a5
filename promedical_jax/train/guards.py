"""What keeps numbers that are none out of the weights: a step with one is skipped and counted, and too many in a row stop the run and name the first.

And what watches the numbers that are some: alarms of GRPO, which say when something begins to go wrong, and stop nothing.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from promedical_jax.cluster import chief
from promedical_jax.config import OnPolicy, Stage
from promedical_jax.errors import InputError
from promedical_jax.train.optimizer import GradientTransformation, TrainState, update

SKIPPED, CULPRIT = "skipped", "culprit"


class SkipStep(Exception):
    """Raised by a stage, in every process, where a step has nothing sound to learn from; its text says what is wrong. Nothing is updated."""


def sound_update(state: TrainState, gradients: Any, optimizer: GradientTransformation, loss: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimizer step, or the state as it was where the loss or a gradient is NaN or infinite; under jit.

    Metrics: grad_norm, the global norm before it is clipped; skipped, 0 or 1; culprit, which of the loss (0) and the gradients in their order (from 1) is
    the first that is not finite.
    """
    squares = [jnp.sum(g.astype(jnp.float32) ** 2) for g in jax.tree.leaves(gradients)]
    finite = jnp.isfinite(jnp.stack([loss.astype(jnp.float32), *squares]))
    sound = jnp.all(finite)
    moved = update(state, gradients, optimizer)
    kept = jax.tree.map(lambda new, old: jnp.where(sound, new, old), moved, state)
    return kept, {"grad_norm": jnp.sqrt(sum(squares)), SKIPPED: 1 - sound.astype(jnp.int32), CULPRIT: jnp.argmin(finite)}


class Guard:
    """Hears of each step of a run, and looks at what it heard when figures are fetched anyway."""

    def __init__(self, config: Stage, params: Any, remembered: dict[str, Any] | None = None):
        """`remembered`: by a guard that heard of the steps before."""
        self._out, self._most = config.out, config.max_skips
        leaves = jax.tree.leaves_with_path(params)
        self._names = ["the loss is", *(f"the gradient of {jax.tree_util.keystr(path, simple=True, separator='.')} is" for path, _ in leaves)]
        before = remembered or {"heard": [], "row": 0, "first": ""}
        self._heard: list[tuple[int, Any, Any]] = [tuple(one) for one in before["heard"]]  # steps, from 1, whether each was skipped, why; some on devices
        self._row = before["row"]  # skipped steps in a row
        self._first = before["first"]

    def remember(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as JSON; waits for the steps that it heard of."""
        heard = [(step, int(skipped), why if isinstance(why, str) else int(why)) for step, skipped, why in jax.device_get(self._heard)]
        return {"heard": heard, "row": self._row, "first": self._first}

    def hear(self, step: int, values: dict[str, Any]) -> dict[str, Any]:
        """Step `step`, from 1, with its metrics; returns these without what is meant for the guard."""
        if SKIPPED in values:
            self._heard.append((step, values[SKIPPED], values[CULPRIT]))
        return {name: value for name, value in values.items() if name not in (SKIPPED, CULPRIT)}

    def hear_skip(self, step: int, reason: str) -> None:
        """Step `step` was not done at all."""
        self._heard.append((step, 1, reason))

    def look(self) -> int:
        """How many steps were skipped since the last look. Raises InputError, in every process alike, where too many were in a row."""
        heard, self._heard = jax.device_get(self._heard), []
        for step, skipped, culprit in heard:
            if not skipped:
                self._row = 0
                continue
            if not self._row:
                reason = culprit if isinstance(culprit, str) else f"{self._names[int(culprit)]} NaN or infinite"
                self._first = f"at step {step} {reason}"
            self._row += 1
            if self._row >= self._most:
                raise InputError(
                    f"{self._out}: {self._row} steps in a row were skipped, for {self._first}; the weights are still those of the last sound step."
                    " Lower optimizer.learning_rate, look at that step's cases, or raise max_skips"
                )
        return sum(int(skipped) for _, skipped, _ in heard)


GAP, KL, ENTROPY = "sampling/sampling_logp_difference/mean", "kl", "entropy"
GAPS = {"float32": 1e-4, "bfloat16": 0.05}  # of two programs that compute the same log-probs in this type
WHY = {
    GAP: "the log-probs of sampler and trainer are {value:.2g} apart, more than {limit:g}: the sampler's weights are stale, or it computes otherwise",
    KL: "the policy is {value:.2g} nats a token from its start, more than {limit:g}: raise kl, or lower optimizer.learning_rate",
    ENTROPY: "the entropy is {value:.2g} nats a token, less than {limit:g}: the policy has stopped exploring; raise kl, entropy or temperature",
}


class Alarms:
    """Hears the figures of each step of GRPO; says once when one leaves what the recipe's `alarms` allow, and once when it is back."""

    def __init__(self, config: OnPolicy):
        wanted = config.alarms
        limits = {GAP: GAPS[config.dtype] if wanted.gap is None else wanted.gap, KL: wanted.kl, ENTROPY: wanted.entropy}
        self._limits = {name: limit for name, limit in limits.items() if limit is not None}
        self._on: set[str] = set()
        self._console = Console(stderr=True, quiet=not chief())

    def begin(self, remembered: Sequence[str]) -> None:
        """Goes on with the alarms that were on, which were said already."""
        self._on = set(remembered)

    def remember(self) -> list[str]:
        """What a checkpoint keeps of it, as JSON."""
        return sorted(self._on)

    def hear(self, step: int, values: dict[str, Any]) -> dict[str, float]:
        """The figures of step `step`, from 1, which it waits for; returns how many alarms are on."""
        figures = jax.device_get({name: values[name] for name in self._limits if name in values})
        for name in [name for name in self._limits if name in figures]:
            value, limit = figures[name], self._limits[name]
            over = value < limit if name == ENTROPY else value > limit
            if over and name not in self._on:
                self._say(f"alarm at step {step}: {WHY[name].format(value=value, limit=limit)}")
            elif not over and name in self._on:
                self._say(f"step {step}: {name} is {value:.2g}, within {limit:g} again")
            self._on = self._on | {name} if over else self._on - {name}
        return {"alarms": float(len(self._on))}

    def _say(self, sentence: str) -> None:
        self._console.print(sentence, soft_wrap=True, highlight=False)
