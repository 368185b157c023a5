"""The hub's names and files: HF's config.json and safetensors to and from ours, and PEFT's adapters. No other room knows them."""

from promedical_jax.model.hf.companions import companions, keep_companions
from promedical_jax.model.hf.config import hf_config, read_config
from promedical_jax.model.hf.hub import is_hub_name, resolve
from promedical_jax.model.hf.known import known_config
from promedical_jax.model.hf.names import from_hf, to_hf
from promedical_jax.model.hf.peft import is_adapter, load_adapter, read_adapter_config, save_adapter
from promedical_jax.model.hf.reader import check, has_weights, load, load_trained, stored_dtype
from promedical_jax.model.hf.writer import Classifier, packed, save, unpacked

__all__ = [
    "Classifier", "check", "companions", "from_hf", "has_weights", "hf_config", "is_adapter", "is_hub_name", "keep_companions", "known_config", "load",
    "load_adapter", "load_trained", "packed", "read_adapter_config", "read_config", "resolve", "save", "save_adapter", "stored_dtype", "to_hf", "unpacked",
]  # fmt: skip
