"""A live `transformers` reads what we write, and we what it writes: through `promedical import` and `promedical export`, bit for bit."""

import json
from pathlib import Path

import pytest

from promedical_jax.cli import main
from promedical_jax.clinic import build_tokenizer
from promedical_jax.model import hf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.live

SIZES = {"vocab_size": 520, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 48}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
MODELS = {
    "qwen3-tied": lambda: transformers.Qwen3Config(**SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=10, tie_word_embeddings=True,
                                                   rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    "qwen3-untied": lambda: transformers.Qwen3Config(**SIZES, num_attention_heads=6, num_key_value_heads=1, head_dim=8, tie_word_embeddings=False,
                                                     rope_parameters={"rope_type": "default", "rope_theta": 5e6}),
    "llama": lambda: transformers.LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False, eos_token_id=[7, 9],
                                              max_position_embeddings=512, rope_parameters=LLAMA3),
}  # fmt: skip


@pytest.fixture(params=MODELS)
def theirs(request):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(MODELS[request.param]()).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(1 + 0.1 * torch.randn(weight.shape) if "norm" in name else 0.2 * torch.randn(weight.shape))
    model.generation_config = transformers.GenerationConfig(temperature=0.6, top_p=0.9, do_sample=True, eos_token_id=[7, 9])
    return model


def read(folder: Path, dtype="auto"):
    model, said = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(torch.arange(300)[None] % 520).logits  # past original_max_position_embeddings


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("gib", [4, 2e4 / 2**30], ids=["one-file", "several"])
def test_through_a_checkpoint_and_back(theirs, dtype: str, gib: float, tmp_path: Path) -> None:
    theirs.to(getattr(torch, dtype)).save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    build_tokenizer().save_pretrained(tmp_path / "theirs")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    assert main(["import", str(tmp_path / "theirs"), "--out", str(tmp_path / "saved")]) == 0
    assert main(["export", str(tmp_path / "saved"), "--out", str(tmp_path / "ours"), "--shard-gib", str(gib)]) == 0
    assert (len(list((tmp_path / "ours").glob("*.safetensors"))) > 1) is (gib < 1)
    before, after = read(tmp_path / "theirs"), read(tmp_path / "ours")
    assert type(after) is type(theirs) and after.dtype == getattr(torch, dtype)
    assert all(torch.equal(one, other) for one, other in zip(before.state_dict().values(), after.state_dict().values(), strict=True))
    assert torch.equal(logits(before), logits(after)) and logits(after).abs().max() > 0.1
    assert after.generation_config.to_dict() == before.generation_config.to_dict() and after.generation_config.temperature == 0.6
    ours, original = (transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("ours", "theirs"))
    talk = [{"role": "user", "content": "Take 40 mg."}]
    assert ours.apply_chat_template(talk, tokenize=False) == original.apply_chat_template(talk, tokenize=False)
    assert ours.encode("Take 40 mg.") == original.encode("Take 40 mg.")


def test_a_type_that_is_asked_for_is_theirs(theirs, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "theirs")
    assert main(["import", str(tmp_path / "theirs"), "--out", str(tmp_path / "saved")]) == 0
    assert main(["export", str(tmp_path / "saved"), "--out", str(tmp_path / "ours"), "--dtype", "bfloat16"]) == 0
    assert torch.equal(logits(read(tmp_path / "ours")), logits(read(tmp_path / "theirs", torch.bfloat16)))  # torch rounds to the nearest, too


def test_the_index_is_the_one_that_they_write(theirs, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="50KB")
    config = hf.read_config(tmp_path / "theirs")
    hf.save(tmp_path / "ours", hf.load(tmp_path / "theirs", config), config, tmp_path / "theirs", card="", shard_bytes=50_000)
    one, other = (json.loads((tmp_path / name / "model.safetensors.index.json").read_text()) for name in ("ours", "theirs"))
    assert one["metadata"] == other["metadata"] and one["weight_map"].keys() == other["weight_map"].keys()
