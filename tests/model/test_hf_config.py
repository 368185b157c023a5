import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import CONFIG

from promedical_jax.errors import InputError
from promedical_jax.model import hf
from promedical_jax.model.rope import Rope

# config.json of Qwen/Qwen3-0.6B on the hub.
HUB = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
    "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 40960,
    "max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip


def read(folder: Path, fields: object):
    (folder / "config.json").write_text(fields if isinstance(fields, str) else json.dumps(fields))
    return hf.read_config(folder)


def test_a_config_of_the_hub_is_read(tmp_path: Path) -> None:
    config = read(tmp_path, HUB)
    assert (config.vocabulary, config.width, config.depth, config.kv_heads, config.query_heads) == (151936, 1024, 28, 8, 2)
    assert (config.head, config.feed_forward, config.rope.theta, config.norm_eps, config.tied) == (128, 3072, 1e6, 1e-6, True)
    assert read(tmp_path, HUB | {"rope_theta": 5e6}).rope.theta == 5e6


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, tied=True, rope=Rope(5e6), norm_eps=1e-5, query_heads=1)])
def test_our_configs_survive_the_round_trip(config, tmp_path: Path) -> None:
    assert read(tmp_path, hf.hf_config(config)) == config


FAULTS = [
    ({"model_type": "llama"}, 'model_type must be "qwen3"'),
    ({"model_type": "qwen3_moe"}, 'model_type must be "qwen3"'),
    ({"hidden_act": "gelu"}, 'hidden_act must be "silu"'),
    ({"attention_bias": True}, "attention_bias must be false"),
    ({"use_sliding_window": True}, "use_sliding_window must be false"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling must be null"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}}, "rope_type 'yarn' is not implemented"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "'sliding_attention'"),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}}, "rope_parameters partial_rotary_factor are not"),
    ({"hidden_size": "1024"}, 'hidden_size is "1024" and must be a whole number > 0'),
    ({"num_key_value_heads": None}, "num_key_value_heads is null and must be a whole number > 0"),
    ({"num_key_value_heads": 0}, "num_key_value_heads is 0 and must"),
    ({"rope_theta": None}, "rope_theta is null and must be a number > 0"),
    ({"head_dim": 127}, "head_dim=127 is odd"),
    ({"num_experts": 8}, "the fields num_experts are not implemented"),
    ({"logit_scale": 2.0, "embedding_multiplier": 3.0}, "the fields embedding_multiplier, logit_scale are not implemented"),
    ({"num_key_value_heads": 3}, "num_key_value_heads=3 does not divide num_attention_heads=16"),
]


@pytest.mark.parametrize(("change", "sentence"), FAULTS, ids=lambda x: str(x)[:40])
def test_what_would_compute_something_else_is_refused(change: dict, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence) as error:
        read(tmp_path, HUB | change)
    assert str(error.value).startswith(str(tmp_path / "config.json")) and "\n" not in str(error.value)


@pytest.mark.parametrize("size", sorted(hf.SIZES))
def test_a_missing_size_is_named(size: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"the fields {size} are missing"):
        read(tmp_path, {name: value for name, value in HUB.items() if name != size})


def test_a_missing_rope_base_is_that_of_transformers(tmp_path: Path) -> None:
    assert read(tmp_path, {name: value for name, value in HUB.items() if name != "rope_theta"}).rope.theta == 1e4


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    for fields in ([1], {}, {name: value for name, value in HUB.items() if name != "model_type"}):
        with pytest.raises(InputError, match=r"not a JSON object|model_type must be"):
            read(tmp_path, fields)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match="not valid UTF-8"):
        hf.read_config(tmp_path)


def test_a_missing_file_and_bad_json_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        hf.read_config(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"config\.json, line 2: not valid JSON"):
        read(tmp_path, '{"model_type": "qwen3",\n "vocab_size": }')
