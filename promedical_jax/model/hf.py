"""The hub's names for things: HF's config.json and safetensors to and from ours. No other file knows them."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from promedical_jax.atomic import replacing_folder
from promedical_jax.errors import InputError
from promedical_jax.model.qwen3 import Params, Qwen3Config

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


def read_config(folder: Path) -> Qwen3Config:
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
    return Qwen3Config(
        vocabulary=fields["vocab_size"], width=fields["hidden_size"], depth=fields["num_hidden_layers"], kv_heads=kv_heads, query_heads=heads // kv_heads,
        head=fields["head_dim"], feed_forward=fields["intermediate_size"], rope_theta=theta, norm_eps=eps, tied=tied,
    )  # fmt: skip


def hf_config(config: Qwen3Config) -> dict:
    """The config.json of a model."""
    return FIXED | {
        "architectures": ["Qwen3ForCausalLM"], "vocab_size": config.vocabulary, "hidden_size": config.width, "num_hidden_layers": config.depth,
        "num_attention_heads": config.kv_heads * config.query_heads, "num_key_value_heads": config.kv_heads, "head_dim": config.head,
        "intermediate_size": config.feed_forward, "rope_theta": config.rope_theta, "rms_norm_eps": config.norm_eps, "tie_word_embeddings": config.tied,
        "max_position_embeddings": 32768, "dtype": "float32",
    }  # fmt: skip


LAYER_NAMES = {
    "attn_norm": "input_layernorm", "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm", "o": "self_attn.o_proj", "mlp_norm": "post_attention_layernorm", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}  # fmt: skip


def to_hf(params: Params, config: Qwen3Config) -> dict[str, np.ndarray]:
    """Our stacked parameters as HF's named tensors, [out, in] as torch has them."""
    params = jax.tree.map(np.asarray, multihost_utils.process_allgather(params, tiled=True))
    tensors = {"model.embed_tokens.weight": params["embed"], "model.norm.weight": params["norm"]}
    if not config.tied:
        tensors["lm_head.weight"] = params["unembed"].T
    for name, hf in LAYER_NAMES.items():
        for i, w in enumerate(params["layers"][name]):
            inputs = w.shape[-1] if name == "o" else w.shape[0]
            flat = w if w.ndim == 1 else w.reshape(-1, inputs).T if name == "o" else w.reshape(inputs, -1).T
            tensors[f"model.layers.{i}.{hf}.weight"] = flat
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def from_hf(tensors: dict[str, np.ndarray], config: Qwen3Config, where: str) -> Params:
    """HF's named tensors as our stacked float32 parameters. Raises InputError naming a missing, extra or misshapen tensor."""
    c, left = config, dict(tensors)
    q, kv = c.kv_heads * c.query_heads * c.head, c.kv_heads * c.head
    sizes = {"attn_norm": (c.width,), "q": (q, c.width), "k": (kv, c.width), "v": (kv, c.width), "q_norm": (c.head,), "k_norm": (c.head,), "o": (c.width, q),
             "mlp_norm": (c.width,), "gate": (c.feed_forward, c.width), "up": (c.feed_forward, c.width), "down": (c.width, c.feed_forward)}  # fmt: skip
    ours = {"q": (c.width, c.kv_heads, c.query_heads, c.head), "k": (c.width, c.kv_heads, c.head), "v": (c.width, c.kv_heads, c.head),
            "o": (c.kv_heads, c.query_heads, c.head, c.width)}  # fmt: skip

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in left:
            raise InputError(f"{where}: tensor {name} is missing")
        if left[name].shape != shape:
            raise InputError(f"{where}: tensor {name} has shape {left[name].shape}; config.json asks for {shape}")
        return np.asarray(left.pop(name), np.float32)

    layers = {}
    for name, hf in LAYER_NAMES.items():
        rows = [take(f"model.layers.{i}.{hf}.weight", sizes[name]).T for i in range(c.depth)]
        layers[name] = np.stack([row.reshape(ours.get(name, row.shape)) for row in rows])
    params = {"embed": take("model.embed_tokens.weight", (c.vocabulary, c.width)), "layers": layers, "norm": take("model.norm.weight", (c.width,))}
    if c.tied:
        left.pop("lm_head.weight", None)  # some writers store the tied matrix twice
    else:
        params["unembed"] = take("lm_head.weight", (c.vocabulary, c.width)).T
    if left:
        raise InputError(f"{where}: unexpected tensors {', '.join(sorted(left)[:5])}; config.json does not describe this checkpoint")
    return params


def load(folder: Path, config: Qwen3Config) -> Params | None:
    """The weights of a model folder as float32 host arrays, from one or several safetensors; None where the folder has a config and no weights."""
    from safetensors import SafetensorError
    from safetensors.flax import load_file

    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        return None
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        try:
            tensors |= {name: np.asarray(array.astype(jnp.float32)) for name, array in load_file(file).items()}
        except SafetensorError as error:
            raise InputError(f"{file}: not a readable safetensors file ({error}); fetch it again") from None
    return from_hf(tensors, config, str(folder))


def save(folder: Path, params: Params, config: Qwen3Config, tokenizer: Any, extra: dict[str, bytes] | None = None) -> None:
    """Writes a folder that `AutoModelForCausalLM.from_pretrained` reads: it appears whole or not at all, and replaces one of the same name.

    `extra`: further files by name. Only process 0 writes.
    """
    from safetensors.numpy import save_file

    tensors = to_hf(params, config)
    if jax.process_index() > 0:
        return
    with replacing_folder(folder) as part:
        save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})
        (part / "config.json").write_text(json.dumps(hf_config(config), indent=2) + "\n")
        tokenizer.save_pretrained(part)
        for name, content in (extra or {}).items():
            (part / name).write_bytes(content)
