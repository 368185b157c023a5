"""Parity with a live `transformers` on torch: logits, gradients, greedy answers, and files in both directions."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import close, ragged

from promedical_jax.clinic import build_tokenizer
from promedical_jax.model import hf, transformer
from promedical_jax.model.layout import assemble, tree
from promedical_jax.rollout import sample
from promedical_jax.train import sft
from promedical_jax.train.policy import AnswerBatch

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.live

MODELS = [
    {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10, "rope_theta": 1e6, "tie_word_embeddings": True},
    {"num_attention_heads": 6, "num_key_value_heads": 1, "head_dim": 8, "rope_theta": 1e4, "tie_word_embeddings": False},
    {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "rope_theta": 5e6, "tie_word_embeddings": False},
]


@pytest.fixture(params=MODELS, ids=["grouped-tied", "one-kv-head", "full-heads"])
def theirs(request):
    torch.manual_seed(0)
    fields = dict(request.param)
    rope = {"rope_type": "default", "rope_theta": fields.pop("rope_theta")}
    config = transformers.Qwen3Config(vocab_size=520, hidden_size=32, num_hidden_layers=3, intermediate_size=48, rope_parameters=rope, **fields)
    model = transformers.Qwen3ForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(1 + 0.1 * torch.randn(weight.shape) if "norm" in name else 0.2 * torch.randn(weight.shape))
    return model


@pytest.fixture
def ours(theirs, tmp_path: Path):
    """The same model, by way of the folder that `transformers` writes."""
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")  # several files
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    config = hf.read_config(tmp_path / "theirs")
    return hf.load(tmp_path / "theirs", config), config


@partial(jax.jit, static_argnums=1)
def logits_of(params, config, ids):
    layout = tree(ids.shape[1])
    hidden = transformer.forward(params, config, assemble(layout, [ids[:, None]], [jnp.full((ids.shape[0], 1), ids.shape[1])]), layout)
    return hidden @ transformer.unembedding(params).T


def test_logits(theirs, ours) -> None:
    ids = np.random.default_rng(0).integers(0, 520, (3, 70))
    with torch.no_grad():
        wanted = theirs(torch.tensor(ids)).logits.numpy()
    close(logits_of(*ours, ids), wanted, 1e-5)


def test_the_loss_and_its_gradients(theirs, ours) -> None:
    params, config = ours
    rng = np.random.default_rng(1)
    batch = AnswerBatch(*ragged(rng, 2, 9, vocabulary=520), *ragged(rng, 2, 3, 12, vocabulary=520))
    (value, _), gradients = jax.jit(jax.value_and_grad(sft.loss, has_aux=True), static_argnums=1)(params, config, batch)

    total, tokens = torch.zeros(()), 0
    for b in range(2):
        for g in range(3):  # each answer with its instruction, by itself
            p, n = batch.prompt_length[b], batch.answer_lengths[b, g]
            ids = torch.tensor([[*batch.prompt[b, :p].tolist(), *batch.answers[b, g, :n].tolist()]])
            labels = ids.clone()
            labels[:, :p] = -100
            total = total + theirs(ids, labels=labels).loss * n
            tokens += int(n)
    (total / tokens).backward()
    assert np.isclose(value, total.item() / tokens, rtol=1e-5)
    wanted = {name: weight.grad.numpy() for name, weight in theirs.named_parameters()}
    found = hf.to_hf(gradients, config)
    assert found.keys() == wanted.keys()
    for name in wanted:
        close({name: found[name]}, {name: wanted[name]}, 1e-4)


def test_sixty_four_greedy_tokens(theirs, ours) -> None:
    params, config = ours
    prompts, lengths = ragged(np.random.default_rng(2), 4, 11, low=3, vocabulary=520)
    drawn = sample(params, config, prompts, lengths, jax.random.key(0), np.arange(4), answers=1, answer_tokens=64, stop=-1, temperature=0.0)
    for row, n, answer in zip(prompts, lengths, np.asarray(drawn.tokens)[:, 0], strict=True):
        ids = torch.tensor([row[:n].tolist()])
        with torch.no_grad():
            wanted = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert answer.tolist() == wanted[0, n:].tolist()


def test_transformers_reads_what_we_save(theirs, ours, tmp_path: Path) -> None:
    params, config = ours
    folder = tmp_path / "ours"
    hf.save(folder, params, config, build_tokenizer())
    model, said = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(model) is type(theirs) and not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.float32
    weights = dict(model.named_parameters())
    assert all(torch.equal(weights[name], weight) for name, weight in theirs.named_parameters()) and len(weights) == len(dict(theirs.named_parameters()))
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, theirs(ids).logits)  # so rope, norms and heads are as they were
    assert transformers.AutoTokenizer.from_pretrained(folder).encode("Take 40 mg.") == build_tokenizer().encode("Take 40 mg.")


def test_a_checkpoint_in_bfloat16_is_read(theirs, tmp_path: Path) -> None:
    theirs.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    config = hf.read_config(tmp_path / "half")
    params = hf.load(tmp_path / "half", config)
    ids = np.random.default_rng(0).integers(0, 520, (1, 20))
    wide = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32)  # theirs.float() would keep rounded RoPE frequencies
    with torch.no_grad():
        wanted = wide(torch.tensor(ids)).logits.numpy()
    close(logits_of(params, config, ids), wanted, 1e-5)
