"""Writes the folders peft_* beside it: adapters as PEFT saves them, and in golden.npz their base, token ids and logits.

The default tests compare with these, so that they need neither torch nor PEFT. Make them again, when PEFT changes its format, with

    pip install torch==2.13.0 transformers==5.23.0 psutil && pip install --no-deps peft==0.21.2 accelerate==1.15.0
    python tests/goldens/make_peft.py
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

HERE = Path(__file__).parent
SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 20}
ADAPTERS = {
    "peft_all": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=6), {"r": 3, "lora_alpha": 5, "use_rslora": True, "target_modules": "all-linear"}),
    "peft_pattern": (LlamaForCausalLM, LlamaConfig(**SIZES, tie_word_embeddings=True), {"r": 2, "lora_alpha": 7, "target_modules": r".*\.([qo]|down)_proj"}),
}


def randomise(model: torch.nn.Module, part: str, kind: torch.dtype) -> None:
    """Random values that a shorter type holds exactly."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if part in name:
                noise = torch.randn(weight.shape)
                weight.copy_((1 + 0.1 * noise if "norm" in name else 0.3 * noise).to(kind))


def main() -> None:
    for seed, (name, (make, config, fields)) in enumerate(ADAPTERS.items()):
        torch.manual_seed(seed)
        base = make(config).float().eval()
        randomise(base, "", torch.float16)
        golden = {f"weight/{key}": weight.detach().half().numpy() for key, weight in base.named_parameters()}
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **fields)).eval()
        randomise(model, "lora_", torch.bfloat16)
        ids = torch.randint(0, config.vocab_size, (2, 10))
        with torch.no_grad():
            logits = model(ids).logits
        if name == "peft_pattern":
            model.bfloat16()
        model.peft_config["default"].base_model_name_or_path = "a/base"
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as made:
            model.save_pretrained(made, save_embedding_layers=False)
            for file in ("adapter_config.json", "adapter_model.safetensors"):  # not the card
                (folder / file).write_bytes((Path(made) / file).read_bytes())
        np.savez_compressed(folder / "golden.npz", config=config.to_json_string(), ids=ids.numpy(), logits=logits.numpy(), **golden)
        print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir()):,} bytes")


if __name__ == "__main__":
    main()
