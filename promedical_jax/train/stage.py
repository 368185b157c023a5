"""What every stage does before its first step: cases, model and tokenizer from their folders to token arrays and placed parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from promedical_jax.config import Stage
from promedical_jax.data.encode import Encoded
from promedical_jax.data.load import encode_file, load_tokenizer
from promedical_jax.model import hf
from promedical_jax.model.sharding import check_divisible, make_mesh
from promedical_jax.model.transformer import Compute, ModelConfig


@dataclass(frozen=True)
class Setup:
    """A stage's mesh, model config, tokenizer and encoded training cases."""

    mesh: jax.sharding.Mesh
    model: ModelConfig
    tokenizer: Any
    cases: Sequence[Encoded]
    compute: Compute


def prepare(config: Stage) -> Setup:
    """Reads what the recipe names. Raises InputError before anything is compiled or written."""
    mesh = make_mesh(config.mesh.fsdp, config.mesh.tp, config.mesh.slice)
    model = hf.read_config(config.model)
    check_fits(mesh, model, config.batch)
    tokenizer = load_tokenizer(config.tokenizer or config.model, model.vocabulary)
    return Setup(mesh, model, tokenizer, encode_file(config.cases, tokenizer), Compute(config.dtype, config.remat))


def check_fits(mesh: jax.sharding.Mesh, model: ModelConfig, batch: int) -> None:
    """Raises InputError where the mesh does not divide the batch or a size of the model."""
    sizes = {"width": model.width, "kv_heads": model.kv_heads, "feed_forward": model.feed_forward, "vocabulary": model.vocabulary}
    check_divisible(mesh, {"batch": batch, **sizes})
