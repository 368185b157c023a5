import json
import math
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from tiny import CONFIG

from promedical_jax.errors import InputError
from promedical_jax.model import hf
from promedical_jax.model.hf.config import DEFAULTS, SIZES, parse_config
from promedical_jax.model.hf.known import KNOWN, known_config
from promedical_jax.model.rope import Llama3, Rope, Yarn
from promedical_jax.model.transformer import shapes

# config.json of Qwen/Qwen3-0.6B and meta-llama/Llama-3.2-1B-Instruct on the hub.
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
    "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 40960,
    "max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072,
    "mlp_bias": False, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
    "rope_type": "llama3"}, "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.45.0.dev0",
    "use_cache": True, "vocab_size": 128256,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA3 = LLAMA["rope_scaling"]


def read(folder: Path, fields: object):
    (folder / "config.json").write_text(fields if isinstance(fields, str) else json.dumps(fields))
    return hf.read_config(folder)


def without(fields: dict, *names: str) -> dict:
    return {name: value for name, value in fields.items() if name not in names}


# Reading


def test_configs_of_the_hub_are_read(tmp_path: Path) -> None:
    config = read(tmp_path, QWEN3)
    assert (config.vocabulary, config.width, config.depth, config.kv_heads, config.query_heads) == (151936, 1024, 28, 8, 2)
    assert (config.head, config.feed_forward, config.rope, config.norm_eps, config.tied, config.qk_norm) == (128, 3072, Rope(1e6), 1e-6, True, True)
    config = read(tmp_path, LLAMA)
    assert (config.vocabulary, config.width, config.depth, config.kv_heads, config.query_heads) == (128256, 2048, 16, 8, 4)
    assert (config.head, config.feed_forward, config.norm_eps, config.tied, config.qk_norm) == (64, 8192, 1e-5, True, False)
    assert config.rope == Rope(5e5, Llama3(32.0, 1.0, 4.0, 8192))


ROPES = [
    ({"rope_theta": 5000000}, Rope(5e6)),
    ({"rope_scaling": {"rope_type": "default"}}, Rope(1e6)),
    ({"rope_scaling": {}}, Rope(1e6)),
    ({"rope_scaling": YARN}, Rope(1e6, Yarn(4.0, 32768))),
    ({"rope_scaling": {"type": "yarn", "factor": 2}}, Rope(1e6, Yarn(2.0, 40960))),  # the length that the file has
    ({"rope_scaling": YARN | {"type": "yarn", "beta_fast": 16, "beta_slow": None, "mscale": None}}, Rope(1e6, Yarn(4.0, 32768, fast=16.0))),
    ({"rope_scaling": YARN | {"attention_factor": 1.5, "truncate": False}}, Rope(1e6, Yarn(4.0, 32768, attention=1.5, truncate=False))),
    ({"rope_scaling": YARN | {"factor": None}, "max_position_embeddings": 65536}, Rope(1e6, Yarn(2.0, 32768))),
    ({"rope_scaling": LLAMA3 | {"factor": 8}}, Rope(1e6, Llama3(8.0, 1.0, 4.0, 8192))),
    ({"rope_scaling": without(LLAMA3, "original_max_position_embeddings")}, Rope(1e6, Llama3(32.0, 1.0, 4.0, 40960))),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 1.0}, "partial_rotary_factor": None}, Rope(1e6)),
    ({"rope_parameters": {"rope_theta": 1e6} | YARN, "rope_scaling": YARN}, Rope(1e6, Yarn(4.0, 32768))),  # twice the same
]


@pytest.mark.parametrize(("change", "rope"), ROPES, ids=range(len(ROPES)))
def test_every_spelling_of_rope_is_read(change: dict, rope: Rope) -> None:
    assert parse_config(QWEN3 | change, "config.json").rope == rope


def test_rope_of_transformers_5_needs_no_older_spelling() -> None:
    fields = without(QWEN3, "rope_theta", "rope_scaling")
    assert parse_config(fields | {"rope_parameters": YARN | {"rope_theta": 5e6}}, "config.json").rope == Rope(5e6, Yarn(4.0, 32768))
    assert parse_config(fields | {"rope_parameters": YARN}, "config.json").rope == Rope(1e4, Yarn(4.0, 32768))


def test_absent_fields_are_what_transformers_takes() -> None:
    """That these are its defaults, a live test pins."""
    qwen3 = parse_config(without(QWEN3 | {"num_attention_heads": 32}, *DEFAULTS["qwen3"]), "config.json")
    assert (qwen3.rope.theta, qwen3.norm_eps, qwen3.tied, qwen3.kv_heads, qwen3.query_heads, qwen3.head) == (1e4, 1e-6, False, 32, 1, 128)
    llama = parse_config(without(LLAMA, *DEFAULTS["llama"]), "config.json")
    assert (llama.rope.theta, llama.norm_eps, llama.tied, llama.kv_heads, llama.query_heads, llama.head) == (1e4, 1e-6, False, 32, 1, 64)
    assert parse_config(LLAMA | {"num_key_value_heads": None, "head_dim": None}, "config.json") == replace(
        parse_config(LLAMA, "config.json"), kv_heads=32, query_heads=1
    )
    scaling = without(LLAMA3, "original_max_position_embeddings")
    assert parse_config(without(LLAMA, "max_position_embeddings") | {"rope_scaling": scaling}, "config.json").rope.scaling.original == 2048
    assert parse_config(without(QWEN3, "max_position_embeddings") | {"rope_scaling": scaling}, "config.json").rope.scaling.original == 32768


def test_reading_changes_no_field() -> None:
    fields = json.loads(json.dumps(QWEN3 | {"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 1}}))
    before = json.dumps(fields)
    parse_config(fields, "config.json")
    hf.hf_config(parse_config(fields, "config.json"), fields)
    assert json.dumps(fields) == before


FAULTS = [
    ({"model_type": "qwen3_moe"}, 'model_type is "qwen3_moe", which is not implemented'),
    ({"model_type": "qwen2"}, 'model_type is "qwen2"'),
    ({"model_type": "mistral"}, 'model_type is "mistral"'),
    ({"model_type": None}, "model_type is null"),
    ({"architectures": ["Qwen3ForSequenceClassification"]}, r'architectures is \["Qwen3ForSequenceClassification"\], and only Qwen3ForCausalLM'),
    ({"hidden_act": "gelu"}, 'hidden_act must be "silu" and is "gelu"'),
    ({"attention_bias": True}, "attention_bias must be false and is true"),
    ({"use_sliding_window": True}, "use_sliding_window must be false and is true"),
    ({"quantization_config": {"quant_method": "fp8"}}, "the fields quantization_config are not implemented"),
    ({"num_experts": 8}, "the fields num_experts are not implemented"),
    ({"mlp_bias": False}, "the fields mlp_bias are not implemented"),  # it is Llama's
    ({"logit_scale": 2.0, "embedding_multiplier": 3.0}, "the fields embedding_multiplier, logit_scale are not implemented"),
    ({"layer_types": ["full_attention"] * 27 + ["sliding_attention"]}, '"sliding_attention"'),
    ({"layer_types": ["full_attention"] * 27}, "only full_attention in each of 28 layers"),
    ({"hidden_size": "1024"}, 'hidden_size is "1024" and must be a whole number > 0'),
    ({"hidden_size": True}, "hidden_size is true and must be a whole number > 0"),
    ({"num_key_value_heads": 0}, "num_key_value_heads is 0 and must"),
    ({"head_dim": None}, "head_dim is null and must"),  # as `transformers` has it for Qwen3
    ({"num_key_value_heads": 3}, "num_key_value_heads=3 does not divide num_attention_heads=16"),
    ({"head_dim": 127}, "head_dim=127 is odd"),
    ({"tie_word_embeddings": "false"}, 'tie_word_embeddings is "false" and must be true or false'),
    ({"rms_norm_eps": 0}, "rms_norm_eps is 0 and must be a number > 0"),
    ({"rope_theta": None}, "rope_theta is null and must be a number > 0"),
    ({"rope_theta": 1}, "rope_theta is 1.0 and must be above 1"),
    ({"rope_scaling": "yarn"}, 'rope_scaling is "yarn" and must be a mapping or null'),
    ({"rope_parameters": []}, "rope_parameters is .. and must be a mapping or null"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, and only the whole"),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}}, "rope_parameters.partial_rotary_factor is 0.5"),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}}, "rope_theta and rope_parameters.rope_theta differ"),
    ({"rope_parameters": YARN | {"factor": 2.0}, "rope_scaling": YARN}, "rope_scaling and rope_parameters differ"),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "the rope_parameters fields full_attention are not implemented"),
    *[({"rope_scaling": {"rope_type": kind, "factor": 2.0}}, f'rope_type "{kind}" is not implemented') for kind in ("linear", "dynamic", "longrope", "mrope")],
    ({"rope_scaling": {"type": "default", "mrope_section": [16, 24, 24]}}, "the rope_scaling fields mrope_section are not implemented"),
    ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}}, 'rope_type "yarn" and type "linear"; keep one'),
    ({"rope_scaling": {"factor": 2.0}}, "the rope_scaling fields factor are not implemented with rope_type default"),
    ({"rope_scaling": YARN | {"mscale": 1.0}}, "the rope_scaling fields mscale are not implemented with rope_type yarn"),
    ({"rope_scaling": YARN | {"low_freq_factor": 1.0}}, "the rope_scaling fields low_freq_factor are not implemented with rope_type yarn"),
    ({"rope_scaling": without(YARN, "factor")}, "the rope_scaling fields factor are missing; rope_type yarn needs them"),
    ({"rope_scaling": YARN | {"factor": "4"}}, 'rope_scaling.factor is "4" and must be a number > 0'),
    ({"rope_scaling": YARN | {"truncate": 0}}, "rope_scaling.truncate is 0 and must be true or false"),
    ({"rope_scaling": YARN | {"original_max_position_embeddings": None}}, "rope_scaling.original_max_position_embeddings is null and must be a whole"),
    ({"rope_scaling": LLAMA3 | {"factor": None}}, "rope_scaling.factor is null and must be a number > 0"),
    ({"rope_scaling": without(LLAMA3, "low_freq_factor", "high_freq_factor")}, "fields high_freq_factor, low_freq_factor are missing; rope_type llama3"),
    ({"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "low_freq_factor must be below rope_scaling.high_freq_factor"),
]
LLAMA_FAULTS = [
    ({"mlp_bias": True}, "mlp_bias must be false and is true"),
    ({"attention_bias": True}, "attention_bias must be false and is true"),
    ({"pretraining_tp": 2}, "pretraining_tp must be 1 and is 2"),
    ({"sliding_window": 4096}, "the fields sliding_window are not implemented"),
    ({"num_attention_heads": 24}, "num_attention_heads=24 does not divide hidden_size=2048"),
    ({"architectures": ["Qwen3ForCausalLM"]}, "only LlamaForCausalLM is implemented"),
]


@pytest.mark.parametrize(("base", "change", "sentence"), [(QWEN3, *fault) for fault in FAULTS] + [(LLAMA, *fault) for fault in LLAMA_FAULTS],
                         ids=range(len(FAULTS) + len(LLAMA_FAULTS)))  # fmt: skip
def test_what_would_compute_something_else_is_refused(base: dict, change: dict, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence) as error:
        read(tmp_path, base | change)
    assert str(error.value).startswith(str(tmp_path / "config.json")) and "\n" not in str(error.value)


@pytest.mark.parametrize("size", sorted(set(SIZES) - DEFAULTS["qwen3"].keys()))
def test_a_missing_size_is_named(size: str, tmp_path: Path) -> None:
    for fields in (QWEN3, LLAMA):
        with pytest.raises(InputError, match=f"the fields {size} are missing"):
            read(tmp_path, without(fields, size))


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    for fields in ([1], {}, without(QWEN3, "model_type")):
        with pytest.raises(InputError, match=r"not a JSON object|model_type is null"):
            read(tmp_path, fields)
    with pytest.raises(InputError, match="rope_theta is NaN and must be a number"):
        read(tmp_path, QWEN3 | {"rope_theta": math.nan})
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match="not valid UTF-8"):
        hf.read_config(tmp_path)


def test_a_missing_file_and_bad_json_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        hf.read_config(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"config\.json, line 2: not valid JSON"):
        read(tmp_path, '{"model_type": "qwen3",\n "vocab_size": }')


# Writing

SCALINGS = [None, Yarn(4.0, 32768), Yarn(2.5, 4096, 16.0, 2.0, 1.25, False), Llama3(8.0, 1.0, 4.0, 8192)]


@pytest.mark.parametrize("scaling", SCALINGS, ids=range(len(SCALINGS)))
@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, tied=True, norm_eps=1e-5, query_heads=1), replace(CONFIG, qk_norm=False)], ids=range(3))
def test_our_configs_survive_the_round_trip(config, scaling, tmp_path: Path) -> None:
    config = replace(config, rope=Rope(5e6, scaling))
    fields = hf.hf_config(config)
    assert read(tmp_path, fields) == config
    assert "dtype" not in fields and "rope_parameters" not in fields
    if scaling:  # some versions of `transformers` 4 take the factor from these two
        assert fields["max_position_embeddings"] == fields["rope_scaling"]["factor"] * fields["rope_scaling"]["original_max_position_embeddings"]


@pytest.mark.parametrize("fields", [QWEN3, LLAMA, QWEN3 | {"rope_scaling": YARN | {"truncate": True}, "layer_types": ["full_attention"] * 28}], ids=range(3))
def test_an_export_keeps_the_original(fields: dict) -> None:
    written = hf.hf_config(parse_config(fields, "config.json"), fields)
    assert list(written.items()) == list(without(fields, "torch_dtype").items())  # which goes with the weights


def test_an_export_changes_what_describes_the_computation() -> None:
    config = replace(CONFIG, rope=Rope(5e6, Yarn(4.0, 32768)), norm_eps=1e-5, tied=True)
    base = QWEN3 | {"layer_types": ["full_attention"] * 28, "dtype": "bfloat16", "rope_parameters": {"rope_theta": 1e6}}
    written = hf.hf_config(config, base)
    assert parse_config(written, "config.json") == config and written["layer_types"] == ["full_attention"] * 2
    kept = ("eos_token_id", "bos_token_id", "max_position_embeddings", "initializer_range", "attention_dropout", "max_window_layers", "transformers_version")
    assert all(written[name] == base[name] for name in kept)
    assert not {"dtype", "torch_dtype", "rope_parameters"} & written.keys()


def test_rope_parameters_alone_are_spelled_anew() -> None:
    fields = without(LLAMA, "rope_theta", "rope_scaling") | {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}}
    written = hf.hf_config(parse_config(fields, "config.json"), fields)
    assert (written["rope_theta"], written["rope_scaling"]) == (5e5, LLAMA3) and "rope_parameters" not in written


def test_an_export_beside_another_architecture_is_refused() -> None:
    with pytest.raises(InputError, match="model_type is llama, and the model to write is of qwen3"):
        hf.hf_config(CONFIG, LLAMA)
    with pytest.raises(InputError, match="the fields num_experts are not implemented"):
        hf.hf_config(CONFIG, QWEN3 | {"num_experts": 8})


# Models known by name

# As the hub counts them in the safetensors; of tied models once what some files hold twice.
PARAMETERS = {
    "Qwen/Qwen3-0.6B": 596_049_920, "Qwen/Qwen3-1.7B": 1_720_574_976, "Qwen/Qwen3-4B": 4_022_468_096, "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200, "Qwen/Qwen3-32B": 32_762_123_264, "meta-llama/Llama-3.2-1B": 1_235_814_400, "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248, "meta-llama/Llama-3.1-70B": 70_553_706_496,
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_known_models_have_the_published_number_of_parameters(name: str) -> None:
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes(known_config(name)))) == PARAMETERS[name]


def test_known_models_are_what_their_files_say() -> None:
    assert known_config("Qwen/Qwen3-0.6B") == parse_config(QWEN3, "hub") and known_config("meta-llama/Llama-3.2-1B-Instruct") == parse_config(LLAMA, "hub")
    for fields, name in ((QWEN3, "Qwen/Qwen3-0.6B"), (LLAMA, "meta-llama/Llama-3.2-1B-Instruct")):
        assert KNOWN[name] == {field: fields[field] for field in KNOWN[name]}
    thetas = {name: known_config(name).rope.theta for name in KNOWN}
    assert all(thetas[name] == (5e5 if "Llama" in name else 5e6 if "2507" in name else 1e6) for name in thetas)
    scalings = {name: known_config(name).rope.scaling for name in KNOWN}
    assert all((scalings[name] is None) == ("Qwen3" in name or "Llama-3-" in name) for name in KNOWN)
    assert scalings["meta-llama/Llama-3.1-8B"] == Llama3(8.0, 1.0, 4.0, 8192)


def test_every_size_comes_with_its_variants() -> None:
    qwen3 = {name.removeprefix("Qwen/Qwen3-") for name in KNOWN if name.startswith("Qwen")}
    bases = {f"{size}-Base" for size in ("0.6B", "1.7B", "4B", "8B", "14B")}
    assert qwen3 == {"0.6B", "1.7B", "4B", "8B", "14B", "32B", "4B-Instruct-2507", "4B-Thinking-2507"} | bases
    positions = {name: KNOWN[name]["max_position_embeddings"] for name in KNOWN}
    assert positions["Qwen/Qwen3-8B"] == 40960 and positions["Qwen/Qwen3-8B-Base"] == 32768 and positions["Qwen/Qwen3-4B-Thinking-2507"] == 262144
    assert positions["meta-llama/Meta-Llama-3-8B-Instruct"] == 8192 and positions["meta-llama/Llama-3.2-3B"] == 131072


@pytest.mark.parametrize(("name", "hint"), [
    ("Qwen/Qwen3-8b", "did you mean 'Qwen/Qwen3-8B'?"),
    ("Qwen3-8B", "did you mean 'Qwen/Qwen3-8B'?"),
    ("meta-llama/Llama-3.1-8B-Instuct", "did you mean 'meta-llama/Llama-3.1-8B-Instruct'?"),
    ("gpt2", "known are dense Qwen3 and Llama 3"),
])  # fmt: skip
def test_an_unknown_name_gets_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(InputError) as error:
        known_config(name)
    assert str(error.value).startswith(f"model '{name}' is not known") and hint in str(error.value)
