"""HF's safetensors to our stacked parameters and back."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from promedical_jax.atomic import replacing_folder
from promedical_jax.errors import InputError
from promedical_jax.model.hf.config import hf_config
from promedical_jax.model.transformer import ModelConfig, Params

LAYER_NAMES = {
    "attn_norm": "input_layernorm", "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm", "o": "self_attn.o_proj", "mlp_norm": "post_attention_layernorm", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}  # fmt: skip


def to_hf(params: Params, config: ModelConfig) -> dict[str, np.ndarray]:
    """Our stacked parameters as HF's named tensors, [out, in] as torch has them."""
    params = jax.tree.map(np.asarray, multihost_utils.process_allgather(params, tiled=True))
    tensors = {"model.embed_tokens.weight": params["embed"], "model.norm.weight": params["norm"]}
    if not config.tied:
        tensors["lm_head.weight"] = params["unembed"]
    for name, hf in LAYER_NAMES.items():
        for i, w in enumerate(params["layers"][name]):
            inputs = w.shape[-1] if name == "o" else w.shape[0]
            flat = w if w.ndim == 1 else w.reshape(-1, inputs).T if name == "o" else w.reshape(inputs, -1).T
            tensors[f"model.layers.{i}.{hf}.weight"] = flat
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def from_hf(tensors: dict[str, np.ndarray], config: ModelConfig, where: str) -> Params:
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
        params["unembed"] = take("lm_head.weight", (c.vocabulary, c.width))
    if left:
        raise InputError(f"{where}: unexpected tensors {', '.join(sorted(left)[:5])}; config.json does not describe this checkpoint")
    return params


def load(folder: Path, config: ModelConfig) -> Params | None:
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


def save(folder: Path, params: Params, config: ModelConfig, tokenizer: Any, extra: dict[str, bytes] | None = None) -> None:
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
