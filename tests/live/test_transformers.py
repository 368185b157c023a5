"""Parity with a live `transformers` on torch: logits, gradients, greedy answers, configs, and files in both directions."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from goldens import parity
from tiny import close, ragged

from promedical_jax.clinic import build_tokenizer
from promedical_jax.likeness.last_token import END, open_last_token
from promedical_jax.model import hf
from promedical_jax.model.hf.config import parse_config
from promedical_jax.model.hf.known import KNOWN, known_config
from promedical_jax.model.rope import Llama3, Yarn, frequencies
from promedical_jax.model.sharding import make_mesh
from promedical_jax.train import sft
from promedical_jax.train.policy import AnswerBatch

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
make_goldens = pytest.importorskip("goldens.make_goldens")
pytestmark = pytest.mark.live

YARN, LLAMA3 = make_goldens.YARN, make_goldens.LLAMA3
OPTIONS = {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.25, "truncate": False}
# kind, heads, KV heads, head size (None: what Llama makes of the width), theta, tied, other fields
MODELS = {
    "tied-kv1": ("qwen3", 4, 1, 6, 1e4, True, {}),
    "untied-kv2": ("qwen3", 8, 2, 10, 1e6, False, {}),
    "tied-kv4": ("qwen3", 8, 4, 16, 5e6, True, {"rms_norm_eps": 1e-5}),
    "untied-equal": ("qwen3", 4, 4, 12, 1e6, False, {}),
    "qwen3-2507": ("qwen3", 4, 2, 128, 5e6, True, {}),  # heads as wide as the hub's
    "yarn": ("qwen3", 4, 2, 128, 1e6, False, {"rope_scaling": YARN}),
    "yarn-options": ("qwen3", 4, 1, 64, 1e6, True, {"rope_scaling": YARN | OPTIONS}),
    "llama-3": ("llama", 4, 4, None, 5e5, False, {"rms_norm_eps": 1e-5}),
    "llama-3.1": ("llama", 8, 2, 24, 5e5, False, {"rope_scaling": LLAMA3}),
    "llama-3.2": ("llama", 4, 1, 64, 5e5, True, {"rope_scaling": LLAMA3 | {"factor": 32.0}}),
}
SIZES = {"vocab_size": 520, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 48, "max_position_embeddings": 131_072}
SEED = 100


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model of theirs, and the same model as ours by way of the folder that they write."""
    kind, heads, kv_heads, head, theta, tied, more = MODELS[request.param]
    fields = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "rope_theta": theta, "tie_word_embeddings": tied} | more
    theirs = make_goldens.build(SEED + list(MODELS).index(request.param), kind, **SIZES | fields | ({"head_dim": head} if head else {}))
    folder = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    config = hf.read_config(folder)
    ids, mask = make_goldens.rows(np.random.default_rng(SEED), SIZES["vocab_size"])
    return SimpleNamespace(theirs=theirs, params=hf.load(folder, config), config=config, folder=folder, ids=ids.astype(np.int32), mask=mask)


@pytest.mark.parametrize("start", [0, 40_000])
def test_logits(pair, start: int) -> None:
    """Rows whole, padded on the left and on the right, near and past 32,768."""
    wanted, _ = make_goldens.compute(pair.theirs, pair.ids, pair.mask, start)
    close(parity.logits(pair.params, pair.config, pair.ids, pair.mask, start), wanted, 1e-5)


def test_logits_where_the_last_bit_of_a_frequency_shows(pair) -> None:
    """At 120,000 the logits of `transformers` itself move by 1.1e-5 between processors, with the vector instructions by which torch rounds a power: at
    theta 5e6 and head size 128 one frequency of 64 differs by a bit. With the frequencies rounded to the nearest, as ours are, the bound holds."""
    found = parity.logits(pair.params, pair.config, pair.ids, pair.mask, 120_000)
    close(found, make_goldens.compute(pair.theirs, pair.ids, pair.mask, 120_000)[0], 3e-5)
    nearest, frequency = copy.deepcopy(pair.theirs), frequencies(pair.config.rope, pair.config.head)[0]
    held = nearest.model.rotary_emb.inv_freq
    np.testing.assert_allclose(held, frequency, rtol=2**-22)
    held.copy_(torch.tensor(frequency))
    close(found, make_goldens.compute(nearest, pair.ids, pair.mask, 120_000)[0], 1e-5)


@pytest.mark.parametrize("start", [0, 40_000])
def test_gradients(pair, start: int) -> None:
    _, wanted = make_goldens.compute(pair.theirs, pair.ids, pair.mask, start)
    found = hf.to_hf(parity.gradients(pair.params, pair.config, pair.ids, pair.mask, start), pair.config)
    assert found.keys() == wanted.keys()
    for name in wanted:
        close({name: found[name]}, {name: wanted[name]}, 1e-4)


def test_the_loss_of_a_tree_and_its_gradients(pair) -> None:
    """Ours computes each instruction once for its three answers, theirs each answer with its instruction."""
    rng = np.random.default_rng(1)
    batch = AnswerBatch(*ragged(rng, 2, 9, vocabulary=520), *ragged(rng, 2, 3, 12, vocabulary=520))
    (value, _), gradients = jax.jit(jax.value_and_grad(sft.loss, has_aux=True), static_argnums=1)(pair.params, pair.config, batch)

    total, tokens = torch.zeros(()), 0
    for b in range(2):
        for g in range(3):
            p, n = batch.prompt_length[b], batch.answer_lengths[b, g]
            ids = torch.tensor([[*batch.prompt[b, :p].tolist(), *batch.answers[b, g, :n].tolist()]])
            labels = ids.clone()
            labels[:, :p] = -100
            total = total + pair.theirs(ids, labels=labels).loss * n
            tokens += int(n)
    pair.theirs.zero_grad()
    (total / tokens).backward()
    assert np.isclose(value, total.item() / tokens, rtol=1e-5)
    wanted = {name: weight.grad.numpy() for name, weight in pair.theirs.named_parameters()}
    found = hf.to_hf(gradients, pair.config)
    assert found.keys() == wanted.keys()
    for name in wanted:
        close({name: found[name]}, {name: wanted[name]}, 1e-4)


def test_sixty_four_greedy_tokens(pair) -> None:
    assert (parity.greedy(pair.params, pair.config, pair.ids, pair.mask) == make_goldens.greedy(pair.theirs, pair.ids, pair.mask)).all()


def test_transformers_reads_what_we_write_and_so_do_we(pair, tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(pair.folder)
    hf.save(tmp_path / "ours", pair.params, pair.config, pair.folder, card="")
    model, said = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True, attn_implementation="eager")
    assert type(model) is type(pair.theirs) and not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.float32
    weights = dict(model.named_parameters())
    assert all(torch.equal(weights[name], weight) for name, weight in pair.theirs.named_parameters())
    assert len(weights) == len(dict(pair.theirs.named_parameters()))
    for start in (0, 40_000):  # so rope, norms and heads are as they were
        assert (make_goldens.compute(model, pair.ids, pair.mask, start)[0] == make_goldens.compute(pair.theirs, pair.ids, pair.mask, start)[0]).all()
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "ours").encode("Take 40 mg.") == build_tokenizer().encode("Take 40 mg.")
    config = hf.read_config(tmp_path / "ours")
    assert config == pair.config
    again = hf.load(tmp_path / "ours", config)
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), again, pair.params))


def test_a_checkpoint_in_bfloat16_is_read(pair, tmp_path: Path) -> None:
    theirs = type(pair.theirs)(pair.theirs.config)
    theirs.load_state_dict(pair.theirs.state_dict())
    theirs.to(torch.bfloat16).save_pretrained(tmp_path)
    wide = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)  # theirs.float() would keep rounded RoPE frequencies
    config = hf.read_config(tmp_path)
    assert config == pair.config
    wanted, _ = make_goldens.compute(wide, pair.ids, pair.mask, 0)
    close(parity.logits(hf.load(tmp_path, config), config, pair.ids, pair.mask, 0), wanted, 1e-5)


def test_the_models_span_what_differs_among_checkpoints() -> None:
    kinds, heads, kv_heads, head, theta, tied, more = zip(*MODELS.values(), strict=True)
    assert set(kinds) == {"qwen3", "llama"} and {1, 2, 4} <= set(kv_heads) and any(a == b for a, b in zip(heads, kv_heads, strict=True))
    assert {1e4, 1e6, 5e6} <= set(theta) and set(tied) == {True, False} and None in head
    assert {fields.get("rope_scaling", {}).get("rope_type") for fields in more} == {None, "yarn", "llama3"}


# Configs alone


def theirs_of(fields: dict):
    """The config that `transformers` makes of a config.json's fields, and RoPE's frequencies and factor in its model."""
    config = transformers.AutoConfig.for_model(**json.loads(json.dumps(fields)))
    small = type(config).from_dict(config.to_dict() | {"num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 8, "layer_types": None})
    rope = transformers.AutoModelForCausalLM.from_config(small).model.rotary_emb
    return config, rope.inv_freq.numpy(), rope.attention_scaling


SMALL = {"vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20}
SPELLINGS = [
    {},
    {"rope_theta": 5e6},
    {"rope_theta": 1000000, "rope_scaling": None},
    {"rope_theta": 5e5, "rope_scaling": {"rope_type": "default"}},
    {"rope_theta": 1e6, "rope_scaling": YARN},
    {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 2.0}, "max_position_embeddings": 4096},
    {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 2.0}},  # the original length is max_position_embeddings' default
    {"rope_theta": 1e6, "rope_scaling": YARN | OPTIONS},
    {"rope_theta": 1e6, "rope_scaling": YARN | {"factor": None, "mscale": None}, "max_position_embeddings": 65536},
    {"rope_theta": 5e5, "rope_scaling": LLAMA3, "max_position_embeddings": 131_072},
    {"rope_theta": 5e5, "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "original_max_position_embeddings"}, "max_position_embeddings": 4096},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}},
    {"rope_parameters": YARN | {"rope_theta": 5e6, "partial_rotary_factor": 1.0}},
    {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}, "max_position_embeddings": 131_072},
]


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("spelled", SPELLINGS, ids=range(len(SPELLINGS)))
def test_every_spelling_of_rope_means_what_it_means_to_transformers(kind: str, spelled: dict) -> None:
    fields = {"model_type": kind, "num_key_value_heads": 2} | SMALL | spelled
    ours = parse_config(fields, "test")
    anew, kept = hf.hf_config(ours), hf.hf_config(ours, fields)
    for read in (fields, anew, kept):
        _, radians, factor = theirs_of(read)
        assert parse_config(read, "test") == ours
        found, scale = frequencies(ours.rope, ours.head)
        np.testing.assert_allclose(found, radians, rtol=2**-22)  # a bit of the period, and one of its reciprocal
        assert scale == pytest.approx(factor, rel=1e-12)
    assert "rope_parameters" not in anew | kept  # versions before 5 would pass over it


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_absent_fields_are_those_of_transformers(kind: str) -> None:
    fields = {"model_type": kind} | SMALL | ({"num_attention_heads": 32} if kind == "qwen3" else {})
    theirs, _, _ = theirs_of(fields)
    assert parse_config(fields, "absent") == parse_config(theirs.to_dict(), "named")
    for name in ("rms_norm_eps", "tie_word_embeddings", "num_key_value_heads", "head_dim", "rope_parameters"):
        assert name in theirs.to_dict()
    null = fields | {"num_key_value_heads": None} | ({"head_dim": None} if kind == "llama" else {})
    assert parse_config(null, "null") == parse_config(theirs_of(null)[0].to_dict(), "named")


@pytest.mark.parametrize("name", KNOWN)
def test_known_models_are_whole_configs_to_transformers(name: str) -> None:
    config = transformers.AutoConfig.for_model(**json.loads(json.dumps(KNOWN[name])))
    ours = known_config(name)
    assert parse_config(config.to_dict(), name) == ours
    assert isinstance(ours.rope.scaling, Llama3 | Yarn) == ("3.1" in name or "3.2" in name or "3.3" in name)


@pytest.mark.parametrize("tied", [True, False])
def test_vectors_are_those_of_last_token_pooling(tied: bool, tmp_path: Path) -> None:
    """As Qwen3-Embedding is used: padded on the left, the state behind the last norm of the last token, which ends the text, at length 1. As it is stored: the
    backbone by itself, whether or not config.json says that there is an unembedding beside it."""
    theirs = make_goldens.build(3, "qwen3", **SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": tied})
    theirs.model.save_pretrained(tmp_path, max_shard_size="100KB")
    theirs.config.save_pretrained(tmp_path)
    assert "embed_tokens.weight" in json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [END]})
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(tmp_path)
    texts = ["What helps against gout?", "Is it safe to fly with a cold, a cough and a fever?", "x"]
    batch = tokenizer([text + END for text in texts], padding=True, return_tensors="pt")
    with torch.no_grad():
        last = theirs.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state[:, -1]
    wanted = torch.nn.functional.normalize(last).numpy()
    close(open_last_token(tmp_path, make_mesh(devices=jax.devices()))(texts), wanted, 1e-5)
