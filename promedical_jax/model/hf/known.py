"""The configs of the hub's dense Qwen3 and Llama 3 models by their ids, so that a plan needs no download."""

import difflib

from promedical_jax.errors import InputError
from promedical_jax.model.hf.config import Fields, parse_config
from promedical_jax.model.transformer import ModelConfig

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "tie_word_embeddings")
QWEN3 = {
    "0.6B": (1024, 28, 16, 8, 128, 3072, True),
    "1.7B": (2048, 28, 16, 8, 128, 6144, True),
    "4B": (2560, 36, 32, 8, 128, 9728, True),
    "8B": (4096, 36, 32, 8, 128, 12288, False),
    "14B": (5120, 40, 40, 8, 128, 17408, False),
    "32B": (5120, 64, 64, 8, 128, 25600, False),
}
LLAMA = {
    "1B": (2048, 16, 32, 8, 64, 8192, True),
    "3B": (3072, 28, 24, 8, 128, 8192, True),
    "8B": (4096, 32, 32, 8, 128, 14336, False),
    "70B": (8192, 80, 64, 8, 128, 28672, False),
}
# Family: its sizes, and what its RoPE is scaled by.
LLAMAS = {
    "Meta-Llama-3": (("8B", "70B"), None),
    "Llama-3.1": (("8B", "70B"), 8.0),
    "Meta-Llama-3.1": (("8B", "70B"), 8.0),  # the same under their first names
    "Llama-3.2": (("1B", "3B"), 32.0),
}


def _qwen3(size: str, theta: float, positions: int, end: int) -> Fields:
    return dict(zip(SIZES, QWEN3[size], strict=True)) | {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": theta, "rope_scaling": None,
        "max_position_embeddings": positions, "bos_token_id": 151643, "eos_token_id": end,
    }  # fmt: skip


def _llama(size: str, factor: float | None, end: int | list[int]) -> Fields:
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    return dict(zip(SIZES, LLAMA[size], strict=True)) | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "rms_norm_eps": 1e-5, "rope_theta": 5e5,
        "rope_scaling": scaling if factor else None, "max_position_embeddings": 131072 if factor else 8192, "bos_token_id": 128000, "eos_token_id": end,
    }  # fmt: skip


# From hub id to the fields of its config.json that describe the computation, its context and its special tokens.
KNOWN: dict[str, Fields] = {}
KNOWN |= {f"Qwen/Qwen3-{size}": _qwen3(size, 1e6, 40960, 151645) for size in QWEN3}
KNOWN |= {f"Qwen/Qwen3-{size}-Base": _qwen3(size, 1e6, 32768, 151643) for size in QWEN3 if size != "32B"}  # whose base is not published
KNOWN |= {f"Qwen/Qwen3-4B-{kind}-2507": _qwen3("4B", 5e6, 262144, 151645) for kind in ("Instruct", "Thinking")}
for _family, (_sizes, _factor) in LLAMAS.items():
    _instruct: int | list[int] = [128001, 128008, 128009] if _factor else 128009
    KNOWN |= {f"meta-llama/{_family}-{size}": _llama(size, _factor, 128001) for size in _sizes}
    KNOWN |= {f"meta-llama/{_family}-{size}-Instruct": _llama(size, _factor, _instruct) for size in _sizes}
KNOWN["meta-llama/Llama-3.3-70B-Instruct"] = _llama("70B", 8.0, [128001, 128008, 128009])


def known_config(name: str) -> ModelConfig:
    """The config of a hub id such as Qwen/Qwen3-8B. Raises InputError for one that is not known, with the nearest that is."""
    if name in KNOWN:
        return parse_config(KNOWN[name], name)
    whole = {known.lower(): known for known in KNOWN}
    names = {known.rsplit("/", 1)[-1].lower(): known for known in reversed(list(KNOWN))} | whole  # also without the owner
    close = difflib.get_close_matches(name.lower(), names, 1, 0.7)
    hint = f"did you mean '{names[close[0]]}'?" if close else f"known are dense Qwen3 and Llama 3, such as {next(iter(KNOWN))}; or give a folder"
    raise InputError(f"model '{name}' is not known; {hint}")
