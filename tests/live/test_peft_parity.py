"""Parity with a live PEFT on torch: adapters in both directions, and merged weights."""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import close

from promedical_jax.model import hf, lora, transformer
from promedical_jax.model.hf.peft import load_adapter, read_adapter_config, save_adapter
from promedical_jax.model.layout import assemble, tree

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.live

SIZES = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
IDS = np.random.default_rng(0).integers(0, 120, (3, 40))


@pytest.fixture(params=["qwen3", "llama"])
def folder(request, tmp_path: Path) -> Path:
    """A base as `transformers` writes it, with every array random."""
    torch.manual_seed(0)
    if request.param == "qwen3":
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES, head_dim=10, tie_word_embeddings=True))
    else:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(1 + 0.1 * torch.randn(weight.shape) if "norm" in name else 0.2 * torch.randn(weight.shape))
    model.float().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def ours(folder: Path):
    config = hf.read_config(folder)
    return hf.load(folder, config), config


def theirs(folder: Path):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@partial(jax.jit, static_argnums=1)
def logits_of(params, config, ids):
    layout = tree(ids.shape[1])
    hidden = transformer.forward(params, config, assemble(layout, [ids[:, None]], [jnp.full((ids.shape[0], 1), ids.shape[1])]), layout)
    return hidden @ transformer.unembedding(params).T


def logits_of_theirs(model) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits.numpy()


def random_adapters(config, targets, rank: int) -> lora.Adapters:
    rng = np.random.default_rng(1)
    return {name: (0.2 * rng.normal(size=x.shape)).astype(np.float32) for name, x in lora.shapes(config, rank, targets).items()}


def test_the_config_that_we_write_is_theirs_and_their_defaults_pass(ours, tmp_path: Path) -> None:
    config = replace(ours[1], adapter_scale=2.0)
    save_adapter(tmp_path / "adapter", random_adapters(config, ["q", "v"], 4), config, "a/base")
    found = peft.PeftConfig.from_pretrained(tmp_path / "adapter")
    fields = {"task_type": "CAUSAL_LM", "base_model_name_or_path": "a/base", "inference_mode": True}
    wanted = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], **fields)
    assert asdict(found) == asdict(wanted)
    wanted.save_pretrained(tmp_path / "plain")  # each default of theirs passes
    about = read_adapter_config(tmp_path / "plain")
    assert about == read_adapter_config(tmp_path / "adapter") and (about.rank, about.scale, about.targets) == (4, 2.0, ("q", "v"))


@pytest.mark.parametrize("targets", [lora.TARGETS, ("q", "v"), ("down", "o")], ids=lambda targets: "-".join(targets))
def test_peft_reads_what_we_save(targets, ours, folder: Path, tmp_path: Path) -> None:
    params, config = ours
    config = replace(config, adapter_scale=1.75)
    adapters = random_adapters(config, targets, 4)
    save_adapter(tmp_path / "adapter", adapters, config, str(folder))
    alone = logits_of_theirs(theirs(folder))
    adapted = peft.PeftModel.from_pretrained(theirs(folder), tmp_path / "adapter").eval()
    wanted = logits_of_theirs(adapted)
    assert np.abs(wanted - alone).max() > 0.1 * np.abs(alone).max()
    whole = lora.join(params, {"adapters": adapters})
    close(logits_of(whole, config, IDS), wanted, 1e-5)

    merged = lora.merge(whole, config)
    close(logits_of(merged, config, IDS), wanted, 1e-5)
    weights = {name: x.numpy() for name, x in adapted.merge_and_unload().state_dict().items() if not (config.tied and name == "lm_head.weight")}
    close(hf.to_hf(jax.device_get(merged), config), weights, 1e-6)
    auto = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32).eval()  # finds base and adapter by itself
    close(logits_of_theirs(auto), wanted, 1e-6)


@pytest.mark.parametrize("fields", [
    {"r": 4, "lora_alpha": 6, "target_modules": "all-linear"},
    {"r": 3, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1},
    {"r": 5, "lora_alpha": 4, "target_modules": ["o_proj", "gate_proj", "down_proj"], "use_rslora": True, "init_lora_weights": "gaussian"},
    {"r": 2, "lora_alpha": 2, "target_modules": r".*self_attn\.[kv]_proj"},
    {"r": 2, "lora_alpha": 2},  # PEFT's choice for the architecture
], ids=["all-linear", "q-v", "rslora", "pattern", "default"])  # fmt: skip
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_we_read_what_peft_saves(fields: dict, kind: str, ours, folder: Path, tmp_path: Path) -> None:
    params, config = ours
    torch.manual_seed(1)
    model = peft.get_peft_model(theirs(folder), peft.LoraConfig(task_type="CAUSAL_LM", **fields)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_((0.2 * torch.randn(weight.shape)).to(getattr(torch, kind)))
    wanted = logits_of_theirs(model)
    model.to(getattr(torch, kind)).save_pretrained(tmp_path / "adapter")
    adapters, scale = load_adapter(tmp_path / "adapter", config)
    assert read_adapter_config(tmp_path / "adapter").base_model == str(folder)
    config = replace(config, adapter_scale=scale)
    close(logits_of(lora.join(params, {"adapters": adapters}), config, IDS), wanted, 1e-5)


def test_ours_and_theirs_start_alike(ours, folder: Path) -> None:
    """The bounds of PEFT's start are those of ours, for every target."""
    model = peft.get_peft_model(theirs(folder), peft.LoraConfig(r=64, target_modules="all-linear", task_type="CAUSAL_LM"))
    found = lora.init(ours[1], 64, lora.TARGETS, jax.random.key(0))
    tensors = {name: weight.detach().numpy() for name, weight in model.named_parameters() if ".layers.1." in name}
    for target in lora.TARGETS:
        (a,) = (x for name, x in tensors.items() if f"{target}_proj.lora_A" in name)
        (b,) = (x for name, x in tensors.items() if f"{target}_proj.lora_B" in name)
        assert not b.any() and not np.asarray(found[f"{target}_b"]).any()
        mine = np.abs(np.asarray(found[f"{target}_a"]))
        assert abs(np.abs(a).max() / mine.max() - 1) < 0.01 and abs(np.abs(a).mean() / mine.mean() - 1) < 0.05
