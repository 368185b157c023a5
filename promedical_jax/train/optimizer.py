"""AdamW with warm-up and cosine, and the training state with its placement."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from optax import GradientTransformation as GradientTransformation

from promedical_jax.config import Optimizer
from promedical_jax.model.sharding import shardings
from promedical_jax.model.transformer import NORMS


class TrainState(NamedTuple):
    params: Any  # what is trained, in the type that the recipe's `weights` names
    masters: Any  # the same in float32 where params are narrower, else (): a step of 1e-6 is lost in bfloat16
    moments: Any  # the optimizer's state, float32
    step: Any  # updates done, a scalar


def make_optimizer(config: Optimizer, steps: int) -> GradientTransformation:
    """Clip by global norm, then AdamW; norms and biases are not decayed."""
    warmup = min(config.warmup, steps)
    rate = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else config.learning_rate, peak_value=config.learning_rate, warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1), end_value=config.final * config.learning_rate,
    )  # fmt: skip
    matrices = lambda params: jax.tree.map_with_path(lambda path, x: not any("norm" in str(k) or "bias" in str(k) for k in path), params)  # noqa: E731
    adamw = optax.adamw(rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, mask=matrices)
    return optax.chain(optax.clip_by_global_norm(config.clip), adamw)


def state_shardings(mesh: Mesh, axes: Any, optimizer: GradientTransformation, params: Any, weights: str = "float32") -> TrainState:
    """Where each array of the state lives: moments and masters beside their parameters, counters everywhere. `params` may be abstract.

    Pinned and not left to the compiler, which returned replicated float32 gradients when asked to choose.
    """
    placed = shardings(mesh, axes)
    everywhere = NamedSharding(mesh, PartitionSpec())
    abstract = jax.eval_shape(optimizer.init, params)
    moments = optax.tree.map_params(optimizer, lambda _, where: where, abstract, placed, transform_non_params=lambda _: everywhere)
    return TrainState(placed, () if weights == "float32" else placed, moments, everywhere)


def first_state(params: Any, optimizer: GradientTransformation, weights: str = "float32") -> TrainState:
    """The state before the first step, of float32 parameters; `weights` is the type that they are kept in."""
    masters = () if weights == "float32" else params
    return TrainState(jax.tree.map(lambda x: x.astype(weights), params), masters, optimizer.init(params), jnp.zeros((), jnp.int32))


def start(params: Any, axes: Any, optimizer: GradientTransformation, mesh: Mesh, weights: str = "float32") -> tuple[TrainState, TrainState]:
    """The state before the first step on the mesh, and its shardings. `params`: arrays in float32, or a function of no argument that makes them."""
    make: Callable[[], Any] = params if callable(params) else lambda: params
    where = state_shardings(mesh, axes, optimizer, jax.eval_shape(make), weights)
    placed = jax.jit(make, out_shardings=where.params)() if callable(params) else jax.device_put(params, where.params)
    return jax.jit(lambda params: first_state(params, optimizer, weights), out_shardings=where, donate_argnums=0)(placed), where


def narrowed(params: Any, dtype: str) -> Any:
    """What a loss is differentiated by: the layers' matrices in the type that products compute in, all else as it is kept.

    A layer casts its matrices before anything else, so their gradients come out of the products, and travel between devices, in that type whatever they
    are kept in. Asked for in it, they take half the memory until `update` widens them one by one.
    """

    def narrow(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
        names = [getattr(key, "key", None) for key in path]
        smaller = jnp.dtype(dtype).itemsize < x.dtype.itemsize
        return x.astype(dtype) if smaller and "layers" in names and names[-1] not in NORMS else x

    return jax.tree.map_with_path(narrow, params)


def update(state: TrainState, gradients: Any, optimizer: GradientTransformation) -> TrainState:
    """One optimizer step, in float32."""
    wide = state.masters or state.params
    gradients = jax.tree.map(lambda g: g.astype(jnp.float32), gradients)
    moves, moments = optimizer.update(gradients, state.moments, wide)
    wide = optax.apply_updates(wide, moves)
    params = jax.tree.map(lambda x, old: x.astype(old.dtype), wide, state.params)
    return TrainState(params, wide if state.masters else (), moments, state.step + 1)
