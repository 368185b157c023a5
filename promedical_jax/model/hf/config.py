"""HF's config.json to our ModelConfig and back; what we do not implement is refused by name."""

import json
from pathlib import Path

from promedical_jax.errors import InputError
from promedical_jax.model.rope import Rope
from promedical_jax.model.transformer import ModelConfig

# Fields of config.json that say nothing about the computation we do.
IGNORED = {
    "architectures", "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "max_position_embeddings", "torch_dtype",
    "dtype", "transformers_version", "use_cache", "max_window_layers", "sliding_window", "_name_or_path", "chunk_size_feed_forward", "id2label", "label2id",
    "is_encoder_decoder", "output_attentions", "output_hidden_states", "problem_type", "return_dict",
}  # fmt: skip
# Fields that would change the computation, with the only value that we implement.
FIXED = {"model_type": "qwen3", "hidden_act": "silu", "attention_bias": False, "use_sliding_window": False, "rope_scaling": None}
ROPE_FIELDS = {"rope_type", "rope_theta"}
DEFAULT_THETA = 1e4  # what `transformers` takes where a Qwen3's config.json names none
SIZES = {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size"}


def read_config(folder: Path) -> ModelConfig:
    """The config of a model folder. Raises InputError for a missing file, another architecture or a field we do not implement."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; a model is a folder with HF's config.json")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); mend the file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not valid UTF-8; fetch the file again") from None
    if not isinstance(fields, dict):
        raise InputError(f"{path}: not a JSON object; take the config.json of a dense Qwen3")
    rope = fields.pop("rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise InputError(f"{path}: rope_type {rope['rope_type']!r} is not implemented; use a model with the default RoPE")
    if rope.keys() - ROPE_FIELDS:
        raise InputError(f"{path}: the rope_parameters {', '.join(sorted(rope.keys() - ROPE_FIELDS))} are not implemented; use a model with the default RoPE")
    layer_types = set(fields.pop("layer_types", None) or ["full_attention"])
    if layer_types != {"full_attention"}:
        raise InputError(f"{path}: layer_types {sorted(layer_types)} are not implemented; only full_attention is")
    fields.setdefault("model_type", None)  # the one that must be there
    for name, value in FIXED.items():
        if fields.pop(name, value) != value:
            raise InputError(f"{path}: {name} must be {json.dumps(value)}; this model differs and is not implemented")
    missing = SIZES - fields.keys()
    if missing:
        raise InputError(f"{path}: the fields {', '.join(sorted(missing))} are missing; take the config.json of a dense Qwen3")
    theta = fields.pop("rope_theta", rope.get("rope_theta", DEFAULT_THETA))
    eps, tied = fields.pop("rms_norm_eps", 1e-6), fields.pop("tie_word_embeddings", False)
    unknown = fields.keys() - SIZES - IGNORED
    if unknown:
        raise InputError(f"{path}: the fields {', '.join(sorted(unknown))} are not implemented, and leaving them out could change the model")
    for name in sorted(SIZES):
        if type(fields[name]) is not int or fields[name] < 1:
            raise InputError(f"{path}: {name} is {json.dumps(fields[name])} and must be a whole number > 0; mend the file")
    for name, number in {"rope_theta": theta, "rms_norm_eps": eps}.items():
        if type(number) not in (int, float) or number <= 0:
            raise InputError(f"{path}: {name} is {json.dumps(number)} and must be a number > 0; mend the file")
    if fields["head_dim"] % 2:
        raise InputError(f"{path}: head_dim={fields['head_dim']} is odd, and RoPE turns pairs; mend the file")
    heads, kv_heads = fields["num_attention_heads"], fields["num_key_value_heads"]
    if heads % kv_heads:
        raise InputError(f"{path}: num_key_value_heads={kv_heads} does not divide num_attention_heads={heads}; mend the file")
    return ModelConfig(
        vocabulary=fields["vocab_size"], width=fields["hidden_size"], depth=fields["num_hidden_layers"], kv_heads=kv_heads, query_heads=heads // kv_heads,
        head=fields["head_dim"], feed_forward=fields["intermediate_size"], rope=Rope(theta), norm_eps=eps, tied=tied,
    )  # fmt: skip


def hf_config(config: ModelConfig) -> dict:
    """The config.json of a model."""
    return FIXED | {
        "architectures": ["Qwen3ForCausalLM"], "vocab_size": config.vocabulary, "hidden_size": config.width, "num_hidden_layers": config.depth,
        "num_attention_heads": config.kv_heads * config.query_heads, "num_key_value_heads": config.kv_heads, "head_dim": config.head,
        "intermediate_size": config.feed_forward, "rope_theta": config.rope.theta, "rms_norm_eps": config.norm_eps, "tie_word_embeddings": config.tied,
        "max_position_embeddings": 32768, "dtype": "float32",
    }  # fmt: skip
