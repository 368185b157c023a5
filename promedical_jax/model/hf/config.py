"""HF's config.json to our ModelConfig and back; what we do not implement is refused by name.

Two architectures: dense Qwen3 and Llama 3. RoPE is spelled in two ways: the hub's files have `rope_theta` and `rope_scaling`, those that transformers 5
writes have `rope_parameters`. Both are read. We write the first: transformers 5 reads it too, and older ones would pass over the second in silence.
"""

import json
import math
from pathlib import Path
from typing import Any

from promedical_jax.errors import InputError
from promedical_jax.model.rope import Llama3, Rope, Yarn
from promedical_jax.model.transformer import ModelConfig

Fields = dict[str, Any]

ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
# What `transformers` takes where a file names none. A size that is not here must be named; None follows from other sizes.
SHARED = {"rope_theta": 1e4, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
DEFAULTS: dict[str, Fields] = {
    "qwen3": SHARED | {"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768},
    "llama": SHARED | {"num_key_value_heads": None, "head_dim": None, "max_position_embeddings": 2048},
}
# Fields that would change the computation, with the only value that we implement.
FIXED: dict[str, Fields] = {
    "qwen3": {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False},
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1},
}
# Fields that say nothing about the computation we do; an export keeps them. Qwen3 looks at its window only where use_sliding_window is true.
IGNORED = {
    "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "torch_dtype", "dtype", "transformers_version", "use_cache",
    "_name_or_path", "name_or_path", "_commit_hash", "_attn_implementation_autoset", "tokenizer_class", "chunk_size_feed_forward", "id2label", "label2id",
    "is_encoder_decoder", "output_attentions", "output_hidden_states", "problem_type", "return_dict",
}  # fmt: skip
ALSO_IGNORED = {"qwen3": {"sliding_window", "max_window_layers"}, "llama": set[str]()}
ROPE_FIELDS = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")
YARN_FIELDS = {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor", "truncate"}
LLAMA3_FIELDS = {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}
SCALINGS: dict[str, set[str]] = {"default": set(), "yarn": YARN_FIELDS, "llama3": LLAMA3_FIELDS}


def read_config(folder: Path) -> ModelConfig:
    """The config of a model folder. Raises InputError for a missing file, another architecture or a field we do not implement."""
    path = folder / "config.json"
    fields = read_fields(path, "a model is a folder with HF's config.json", "take the config.json of a dense Qwen3 or Llama 3")
    return parse_config(fields, str(path))


def read_fields(path: Path, absent: str, other: str) -> Fields:
    """The fields of a JSON file as they stand. Raises InputError for one that is missing, with the hint `absent`, or no JSON object, with `other`."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; {absent}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); mend the file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not valid UTF-8; fetch the file again") from None
    if not isinstance(fields, dict):
        raise InputError(f"{path}: not a JSON object; {other}")
    return fields


def parse_config(fields: Fields, where: str) -> ModelConfig:
    """The model that the fields of a config.json describe. `where` names them in an InputError: for another architecture, a value or field that we do
    not implement, and one that cannot be."""
    kind = fields.get("model_type")
    if kind not in ARCHITECTURES:
        raise InputError(f"{where}: model_type is {json.dumps(kind)}, which is not implemented; take a dense Qwen3 (qwen3) or a Llama 3 (llama)")
    allowed = {"model_type", "architectures", "layer_types", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", *SIZES, *ROPE_FIELDS}
    unknown = fields.keys() - allowed - FIXED[kind].keys() - IGNORED - ALSO_IGNORED[kind]
    if unknown:
        raise InputError(f"{where}: the fields {', '.join(sorted(unknown))} are not implemented, and leaving them out could change the model")
    backbone = ARCHITECTURES[kind].replace("ForCausalLM", "Model")  # as one that was trained to embed texts is saved
    if fields.get("architectures") not in (None, [ARCHITECTURES[kind]], [backbone]):
        raise InputError(f"{where}: architectures is {json.dumps(fields['architectures'])}, and only {ARCHITECTURES[kind]} is implemented")
    for name, value in FIXED[kind].items():
        if fields.get(name, value) != value:
            raise InputError(f"{where}: {name} must be {json.dumps(value)} and is {json.dumps(fields[name])}; this model differs and is not implemented")
    full = DEFAULTS[kind] | fields
    missing = [name for name in SIZES if name not in full]
    if missing:
        raise InputError(f"{where}: the fields {', '.join(sorted(missing))} are missing; take the config.json that came with the weights")
    heads, width = (_whole(full[name], name, where) for name in ("num_attention_heads", "hidden_size"))
    if kind == "llama" and width % heads:
        raise InputError(f"{where}: num_attention_heads={heads} does not divide hidden_size={width}, as Llama's must; mend the file")
    if full["num_key_value_heads"] is None:
        full["num_key_value_heads"] = heads
    if full["head_dim"] is None and kind == "llama":
        full["head_dim"] = width // heads
    vocabulary, _, depth, _, kv_heads, head, feed_forward = (_whole(full[name], name, where) for name in SIZES)
    if head % 2:
        raise InputError(f"{where}: head_dim={head} is odd, and RoPE turns pairs; mend the file")
    if heads % kv_heads:
        raise InputError(f"{where}: num_key_value_heads={kv_heads} does not divide num_attention_heads={heads}; mend the file")
    if full.get("layer_types") not in (None, ["full_attention"] * depth):
        raise InputError(f"{where}: layer_types is {json.dumps(full['layer_types'])}, and only full_attention in each of {depth} layers is implemented")
    return ModelConfig(
        vocabulary=vocabulary, width=width, depth=depth, kv_heads=kv_heads, query_heads=heads // kv_heads, head=head, feed_forward=feed_forward,
        rope=_rope(full, fields, where), norm_eps=_number(full["rms_norm_eps"], "rms_norm_eps", where),
        tied=_truth(full["tie_word_embeddings"], "tie_word_embeddings", where), qk_norm=kind == "qwen3",
    )  # fmt: skip


def hf_config(config: ModelConfig, base: Fields | None = None) -> Fields:
    """The config.json of a model, without the type of its weights, which who writes them adds.

    `base`: the original's fields. Those that do not describe the computation are kept, and so is each that does in base's own spelling where it says the
    same; `rope_parameters` alone is spelled anew. Raises InputError for a base that is no config.json of this architecture.
    """
    kind = "qwen3" if config.qk_norm else "llama"
    ours = FIXED[kind] | {
        "architectures": [ARCHITECTURES[kind]], "model_type": kind, "vocab_size": config.vocabulary, "hidden_size": config.width,
        "num_hidden_layers": config.depth, "num_attention_heads": config.kv_heads * config.query_heads, "num_key_value_heads": config.kv_heads,
        "head_dim": config.head, "intermediate_size": config.feed_forward, "rms_norm_eps": config.norm_eps, "tie_word_embeddings": config.tied,
    }  # fmt: skip
    rope = {"rope_theta": config.rope.theta, "rope_scaling": _scaling_fields(config.rope)}
    if base is None:
        window = {"sliding_window": None} if kind == "qwen3" else {}  # as on the hub; some versions of `transformers` 4 else warn of one
        return ours | rope | window | {"max_position_embeddings": _positions(config.rope)}
    same_rope = parse_config(base, "the base's config.json").rope == config.rope
    if base["model_type"] != kind:
        raise InputError(f"the base's config.json: model_type is {base['model_type']}, and the model to write is of {kind}; take the original of this model")
    if "layer_types" in base:
        ours["layer_types"] = ["full_attention"] * config.depth
    if not same_rope or base.get("rope_parameters"):
        base = {name: value for name, value in base.items() if name not in ROPE_FIELDS}
        ours |= rope
    kept = {name: value for name, value in base.items() if name not in ("dtype", "torch_dtype")}
    return kept | {name: value for name, value in ours.items() if name not in kept or kept[name] != value}


# RoPE


def _rope(full: Fields, given: Fields, where: str) -> Rope:
    """The RoPE of either spelling, or of both where they agree. `full`: the fields with the defaults, `given`: without them."""
    spellings = [(name, _mapping(given[name], name, where)) for name in ("rope_scaling", "rope_parameters") if given.get(name) is not None]
    spellings = [(name, dict(spelled)) for name, spelled in spellings if spelled]
    thetas = {"rope_theta": given["rope_theta"]} if "rope_theta" in given else {}
    partial = {"partial_rotary_factor": given["partial_rotary_factor"]} if "partial_rotary_factor" in given else {}
    for name, spelled in spellings:
        thetas |= {f"{name}.rope_theta": spelled.pop("rope_theta")} if "rope_theta" in spelled else {}
        partial |= {f"{name}.partial_rotary_factor": spelled.pop("partial_rotary_factor")} if "partial_rotary_factor" in spelled else {}
    for field, value in partial.items():
        if value not in (None, 1):
            raise InputError(f"{where}: {field} is {json.dumps(value)}, and only the whole head's rotation (1) is implemented")
    theta = {field: _number(value, field, where) for field, value in thetas.items()} or {"rope_theta": full["rope_theta"]}
    if len(set(theta.values())) > 1:
        raise InputError(f"{where}: {' and '.join(theta)} differ; keep the one that the model was trained with")
    if len(spellings) == 2 and spellings[0][1] != spellings[1][1]:
        raise InputError(f"{where}: rope_scaling and rope_parameters differ; keep the one that the model was trained with")
    name, scaling = spellings[0] if spellings else ("rope_scaling", {})
    base = next(iter(theta.values()))
    if base <= 1:
        raise InputError(f"{where}: {next(iter(theta))} is {base} and must be above 1, for frequencies that fall; mend the file")
    return Rope(base, _scaling(scaling, name, full, where))


def _scaling(fields: Fields, name: str, full: Fields, where: str) -> Yarn | Llama3 | None:
    """The scaling that a `rope_scaling` or `rope_parameters` names, by its `rope_type` or, in old files, its `type`."""
    kinds = [fields[key] for key in ("rope_type", "type") if key in fields]
    if len(kinds) == 2 and kinds[0] != kinds[1]:
        raise InputError(f"{where}: {name} has rope_type {json.dumps(kinds[0])} and type {json.dumps(kinds[1])}; keep one")
    kind = kinds[0] if kinds else "default"
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise InputError(f"{where}: rope_type {json.dumps(kind)} is not implemented; only {', '.join(SCALINGS)} are")
    left = {key for key, value in fields.items() if not (key in ("mscale", "mscale_all_dim") and value is None)} - {"rope_type", "type"}
    if left - SCALINGS[kind]:
        raise InputError(f"{where}: the {name} fields {', '.join(sorted(left - SCALINGS[kind]))} are not implemented with rope_type {kind}")
    if kind == "default":
        return None
    absent = {"factor"} if kind == "yarn" else LLAMA3_FIELDS - {"original_max_position_embeddings"}
    if absent - left:
        raise InputError(f"{where}: the {name} fields {', '.join(sorted(absent - left))} are missing; rope_type {kind} needs them")

    def number(key: str) -> float:
        return _number(fields[key], f"{name}.{key}", where)

    if "original_max_position_embeddings" in fields:
        original = _whole(fields["original_max_position_embeddings"], f"{name}.original_max_position_embeddings", where)
    else:
        original = _whole(full["max_position_embeddings"], "max_position_embeddings", where)
    if kind == "llama3":
        low, high = number("low_freq_factor"), number("high_freq_factor")
        if low >= high:
            raise InputError(f"{where}: {name}.low_freq_factor must be below {name}.high_freq_factor; mend the file")
        return Llama3(number("factor"), low, high, original)
    positions = full["max_position_embeddings"]  # where there is no factor, it is the ratio of the two lengths, as in `transformers`
    factor = _whole(positions, "max_position_embeddings", where) / original if fields["factor"] is None else number("factor")
    optional = {"beta_fast": "fast", "beta_slow": "slow", "attention_factor": "attention"}
    betas = {ours: number(key) for key, ours in optional.items() if fields.get(key) is not None}
    return Yarn(factor, original, **betas, truncate=_truth(fields.get("truncate", True), f"{name}.truncate", where))  # type: ignore[arg-type]


def _scaling_fields(rope: Rope) -> Fields | None:
    """`rope_scaling` of the hub's files: what differs from the defaults of `transformers`."""
    match rope.scaling:
        case None:
            return None
        case Yarn() as yarn:
            all_of = {"beta_fast": yarn.fast, "beta_slow": yarn.slow, "attention_factor": yarn.attention, "truncate": yarn.truncate}
            default = {"beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": None, "truncate": True}
            differ = {name: value for name, value in all_of.items() if value != default[name]}
            return {"rope_type": "yarn", "factor": float(yarn.factor), "original_max_position_embeddings": yarn.original} | differ
        case Llama3() as llama:
            return {"rope_type": "llama3", "factor": float(llama.factor), "low_freq_factor": float(llama.low), "high_freq_factor": float(llama.high),
                    "original_max_position_embeddings": llama.original}  # fmt: skip


def _positions(rope: Rope) -> int:
    """`max_position_embeddings` of a model that has no original. Some versions of `transformers` 4 take YaRN's factor from it."""
    return 32768 if rope.scaling is None else math.ceil(rope.scaling.factor * rope.scaling.original)


# Values


def _whole(value: Any, name: str, where: str) -> int:
    if type(value) is not int or value < 1:
        raise InputError(f"{where}: {name} is {json.dumps(value)} and must be a whole number > 0; mend the file")
    return value


def _number(value: Any, name: str, where: str) -> float:
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise InputError(f"{where}: {name} is {json.dumps(value)} and must be a number > 0; mend the file")
    return float(value)


def _truth(value: Any, name: str, where: str) -> bool:
    if type(value) is not bool:
        raise InputError(f"{where}: {name} is {json.dumps(value)} and must be true or false; mend the file")
    return value


def _mapping(value: Any, name: str, where: str) -> Fields:
    if not isinstance(value, dict):
        raise InputError(f"{where}: {name} is {json.dumps(value)} and must be a mapping or null; mend the file")
    return value
