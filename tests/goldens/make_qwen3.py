"""Writes the golden files beside it: tiny Qwen3 models of `transformers`, their weights by HF's names, token ids and logits.

The default tests compare with these, so that they need no torch. Make them again, when `transformers` changes its Qwen3, with

    pip install torch==2.13.0
    python tests/goldens/make_qwen3.py
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

# Head sizes unlike width / heads, all groupings of query heads, both thetas in use, tied and untied.
MODELS = {
    "tied_kv1": {"num_key_value_heads": 1, "head_dim": 6, "rope_theta": 1e4, "tie_word_embeddings": True},
    "untied_kv2": {"num_key_value_heads": 2, "head_dim": 10, "rope_theta": 1e6, "tie_word_embeddings": False},
    "tied_kv2": {"num_key_value_heads": 2, "head_dim": 16, "rope_theta": 1e6, "tie_word_embeddings": True, "rms_norm_eps": 1e-2},
    "untied_kv4": {"num_key_value_heads": 4, "head_dim": 2, "rope_theta": 1e4, "tie_word_embeddings": False},
}
SIZES = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}


def make(seed: int, **fields) -> Qwen3ForCausalLM:
    """A model whose arrays are all random, the norms too."""
    torch.manual_seed(seed)
    theta = fields.pop("rope_theta")
    config = Qwen3Config(**SIZES, **fields, rope_parameters={"rope_type": "default", "rope_theta": theta}, attn_implementation="eager")
    model = Qwen3ForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape)
            weight.copy_(1 + 0.1 * noise if "norm" in name else 0.3 * noise)
    return model


def main() -> None:
    for seed, (name, fields) in enumerate(MODELS.items()):
        model = make(seed, **fields)
        ids = torch.randint(0, SIZES["vocab_size"], (2, 24))
        with torch.no_grad():
            logits = model(ids).logits
        tensors = {key: value.numpy() for key, value in model.state_dict().items() if not (fields["tie_word_embeddings"] and key == "lm_head.weight")}
        config = json.loads(model.config.to_json_string())
        file = Path(__file__).with_name(f"qwen3_{name}.npz")
        np.savez_compressed(file, config=json.dumps(config), ids=ids.numpy(), logits=logits.numpy(), **tensors)
        print(f"{file}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
