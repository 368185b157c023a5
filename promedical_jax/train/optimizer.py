"""AdamW with warm-up and cosine, and the training state with its placement."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from promedical_jax.config import Optimizer
from promedical_jax.model.sharding import shardings


class TrainState(NamedTuple):
    params: Any
    moments: Any  # the optimizer's state
    step: Any  # updates done, a scalar


def make_optimizer(config: Optimizer, steps: int) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW; norms and biases are not decayed."""
    warmup = min(config.warmup, steps)
    rate = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else config.learning_rate, peak_value=config.learning_rate, warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1), end_value=config.final * config.learning_rate,
    )  # fmt: skip
    matrices = lambda params: jax.tree.map_with_path(lambda path, x: not any("norm" in str(k) or "bias" in str(k) for k in path), params)  # noqa: E731
    adamw = optax.adamw(rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=matrices)
    return optax.chain(optax.clip_by_global_norm(config.clip), adamw)


def state_shardings(mesh: Mesh, axes: Any, optimizer: optax.GradientTransformation, params: Any) -> TrainState:
    """Where each array of the state lives: moments beside their parameters, counters everywhere. `params` may be abstract.

    Pinned and not left to the compiler, which returned replicated float32 gradients when asked to choose.
    """
    placed = shardings(mesh, axes)
    everywhere = NamedSharding(mesh, PartitionSpec())
    abstract = jax.eval_shape(optimizer.init, params)
    moments = optax.tree.map_params(optimizer, lambda _, where: where, abstract, placed, transform_non_params=lambda _: everywhere)
    return TrainState(placed, moments, everywhere)


def start(params: Any, axes: Any, optimizer: optax.GradientTransformation, mesh: Mesh) -> tuple[TrainState, TrainState]:
    """The state before the first step, and its shardings. `params`: host arrays, or a function of no argument that makes them on the devices."""
    make: Callable[[], Any] = params if callable(params) else lambda: params
    where = state_shardings(mesh, axes, optimizer, jax.eval_shape(make))
    placed = jax.jit(make, out_shardings=where.params)() if callable(params) else jax.device_put(params, where.params)
    moments = jax.jit(optimizer.init, out_shardings=where.moments)(placed)
    return TrainState(placed, moments, jax.device_put(jnp.zeros((), jnp.int32), where.step)), where


def update(state: TrainState, gradients: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """One optimizer step."""
    moves, moments = optimizer.update(gradients, state.moments, state.params)
    return TrainState(optax.apply_updates(state.params, moves), moments, state.step + 1)
