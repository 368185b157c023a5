"""The hub's names and files: HF's config.json and safetensors to and from ours. No other room knows them."""

from promedical_jax.model.hf.config import hf_config, read_config
from promedical_jax.model.hf.weights import from_hf, load, save, to_hf

__all__ = ["from_hf", "hf_config", "load", "read_config", "save", "to_hf"]
