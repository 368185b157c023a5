"""Writes the golden files beside it: small Qwen3 and Llama models of `transformers` in float32 on a CPU, and what they compute.

The default tests compare with these, so that they need no torch. Make them again, when `transformers` changes its models, with

    pip install torch==2.13.0 transformers==5.23.0
    python tests/goldens/make_goldens.py

Each model's file holds its config.json, its weights by HF's names, three rows of tokens (whole, padded on the left, padded on the right), logits of the
real tokens near position 0 and far along, gradients of the mean cross-entropy (all but those of the layers behind the first, to which they lead), and 64
greedy tokens after each row. rope.npz holds frequencies.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

KINDS = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}
SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}  # as Qwen3 documents it
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # 3.1
# kind, fields, and the position at which the far rows begin. Head sizes unlike width / heads but once, where Llama's follows from them.
MODELS = {
    "qwen3_tied_kv1": ("qwen3", 40_000, {"num_key_value_heads": 1, "head_dim": 6, "rope_theta": 1e4, "tie_word_embeddings": True}),
    "qwen3_untied_kv2": ("qwen3", 40_000, {"num_key_value_heads": 2, "head_dim": 10, "rope_theta": 1e6, "tie_word_embeddings": False}),
    "qwen3_tied_kv4": ("qwen3", 200_000, {"num_key_value_heads": 4, "head_dim": 8, "rope_theta": 5e6, "tie_word_embeddings": True, "rms_norm_eps": 1e-2}),
    "qwen3_yarn": ("qwen3", 100_000, {"num_key_value_heads": 2, "head_dim": 16, "rope_theta": 1e6, "rope_scaling": YARN, "tie_word_embeddings": True}),
    "llama_untied_kv2": ("llama", 40_000, {"num_key_value_heads": 2, "rope_theta": 5e5, "tie_word_embeddings": False, "rms_norm_eps": 1e-5}),
    "llama_scaled_kv1": ("llama", 100_000, {"num_key_value_heads": 1, "head_dim": 16, "rope_theta": 5e5, "rope_scaling": LLAMA3, "tie_word_embeddings": True}),
}
# Frequencies at the sizes in use and with every option: theta, head size, scaling.
ROPES = [(theta, head, None) for theta in (1e4, 5e5, 1e6, 5e6) for head in (2, 6, 64, 128)] + [
    (1e6, 128, YARN),
    (5e6, 64, YARN | {"factor": 2.5, "original_max_position_embeddings": 4096}),
    (1e6, 128, YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.25}),
    (1e6, 64, YARN | {"truncate": False}),
    (1e4, 16, YARN | {"factor": 1.0, "original_max_position_embeddings": 8}),  # both ends of the ramp in one place
    (5e5, 128, LLAMA3),
    (5e5, 64, LLAMA3 | {"factor": 32.0}),
]
ROWS, LENGTH, PADDING = 3, 14, 4


def build(seed: int, kind: str, **fields):
    """A model whose arrays are all random, the norms too, and exact in float16, which halves the files."""
    make_config, make_model = KINDS[kind]
    torch.manual_seed(seed)
    model = make_model(make_config(**SIZES | fields, attn_implementation="eager")).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape)
            weight.copy_((1 + 0.1 * noise if "norm" in name else 0.3 * noise).half())
    return model


def rows(rng: np.random.Generator, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Random ids [3, T], garbage also in the padding, and which are real: all of row 0, the last of row 1, the first of row 2."""
    mask = np.ones((ROWS, LENGTH), bool)
    mask[1, :PADDING] = mask[2, -PADDING:] = False
    return rng.integers(0, vocabulary, (ROWS, LENGTH)), mask


def positions_of(mask: np.ndarray, start: int) -> np.ndarray:
    """[B, T]: the first real token of a row stands at `start`."""
    return start + np.maximum(np.cumsum(mask, 1) - 1, 0)


def compute(model, ids: np.ndarray, mask: np.ndarray, start: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits [real tokens, V], and the gradients of the mean cross-entropy of the next tokens by HF's names."""
    tokens, real = torch.tensor(ids, dtype=torch.int64), torch.tensor(mask)
    logits = model(tokens, attention_mask=real.long(), position_ids=torch.tensor(positions_of(mask, start)), use_cache=False).logits
    both = real[:, 1:] & real[:, :-1]
    model.zero_grad()
    torch.nn.functional.cross_entropy(logits[:, :-1][both], tokens[:, 1:][both]).backward()
    return logits[real].detach().numpy(), {name: weight.grad.numpy() for name, weight in model.named_parameters()}


def greedy(model, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """64 greedy tokens after each row's real ones, [B, 64]. Asserts that no choice is one that logits 1e-5 apart could turn."""
    answers = []
    for row, real in zip(ids, mask, strict=True):
        prompt = torch.tensor(row[real], dtype=torch.int64)[None]
        said = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0)
        with torch.no_grad():
            first, second = model(said).logits[0, prompt.shape[1] - 1 : -1].topk(2, -1).values.T
        assert (first - second).min() > 2e-5 * first.abs().max(), "a choice is near a tie; take another seed"
        answers.append(said[0, prompt.shape[1] :].numpy())
    return np.stack(answers)


def rope_of(theta: float, head: int, scaling: dict | None) -> tuple[np.ndarray, float]:
    """Frequencies [H / 2] and the factor on sin and cos."""
    config = Qwen3Config(**SIZES | {"head_dim": head}, rope_theta=theta, rope_scaling=scaling, max_position_embeddings=131_072)
    default = Qwen3ForCausalLM(Qwen3Config(**SIZES)).model.rotary_emb.compute_default_rope_parameters
    frequencies, factor = (ROPE_INIT_FUNCTIONS[scaling["rope_type"]] if scaling else default)(config)
    return frequencies.numpy(), factor


def main() -> None:
    folder = Path(__file__).parent
    for seed, (name, (kind, start, fields)) in enumerate(MODELS.items(), start=10):
        model = build(seed, kind, **fields)
        ids, mask = rows(np.random.default_rng(seed), SIZES["vocab_size"])
        tensors = {f"weight/{key}": weight.detach().half().numpy() for key, weight in model.named_parameters()}
        near, gradients = compute(model, ids, mask, 0)
        gradients = {f"gradient/{key}": x for key, x in gradients.items() if not key.startswith("model.layers.") or key.startswith("model.layers.0.")}
        far, _ = compute(model, ids, mask, start)
        golden = {"config": model.config.to_json_string(), "ids": ids.astype(np.int32), "mask": mask, "near": near, "far": far, "start": start}
        np.savez_compressed(folder / f"{name}.npz", **golden, **tensors, **gradients, greedy=greedy(model, ids, mask).astype(np.int32))
        print(f"{name}: {(folder / f'{name}.npz').stat().st_size:,} bytes")
    found = [rope_of(*rope) for rope in ROPES]
    frequencies = {f"frequencies/{i}": x for i, (x, _) in enumerate(found)}
    np.savez_compressed(folder / "rope.npz", ropes=json.dumps(ROPES), factors=np.array([factor for _, factor in found]), **frequencies)


if __name__ == "__main__":
    main()
