"""What every stage does before its first step: cases, model and tokenizer from their folders to token arrays and placed parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from promedical_jax.config import Stage
from promedical_jax.data.encode import Encoded
from promedical_jax.data.load import encode_file, load_tokenizer
from promedical_jax.model import hf
from promedical_jax.model.qwen3 import Qwen3Config
from promedical_jax.model.sharding import check_divisible, make_mesh


@dataclass(frozen=True)
class Setup:
    """A stage's mesh, model config, tokenizer and encoded training cases."""

    mesh: jax.sharding.Mesh
    model: Qwen3Config
    tokenizer: Any
    cases: Sequence[Encoded]
    dtype: Any


def prepare(config: Stage) -> Setup:
    """Reads what the recipe names. Raises InputError before anything is compiled or written."""
    mesh = make_mesh(config.mesh.fsdp, config.mesh.tp)
    model = hf.read_config(config.model)
    check_fits(mesh, model, config.batch)
    tokenizer = load_tokenizer(config.tokenizer or config.model, model.vocabulary)
    return Setup(mesh, model, tokenizer, encode_file(config.cases, tokenizer), jnp.dtype(config.dtype))


def check_fits(mesh: jax.sharding.Mesh, model: Qwen3Config, batch: int) -> None:
    """Raises InputError where the mesh does not divide the batch or a size of the model."""
    sizes = {"width": model.width, "kv_heads": model.kv_heads, "feed_forward": model.feed_forward, "vocabulary": model.vocabulary}
    check_divisible(mesh, {"batch": batch, **sizes})
