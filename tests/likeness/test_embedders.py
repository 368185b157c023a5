"""Vectors of models: a language model's last state on meshes of one device and eight, whatever the batch; a static model's mean; and models that are none."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from folders import save_policy
from tiny import close, policy

from promedical_jax.clinic import build_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.likeness.last_token import END, open_last_token
from promedical_jax.likeness.static import open_static
from promedical_jax.model import transformer
from promedical_jax.model.layout import TreeBatch, tree
from promedical_jax.model.rope import Rope
from promedical_jax.model.sharding import make_mesh
from promedical_jax.model.transformer import ModelConfig

CONFIG = ModelConfig(vocabulary=520, width=32, depth=2, kv_heads=4, query_heads=2, head=6, feed_forward=24, rope=Rope(1e4))
TEXTS = ["Is it safe?", "What helps against gout?", "x", "A longer text. " * 12, "What helps against gout ?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("embedder")
    save_policy(made, policy(CONFIG), CONFIG, build_tokenizer())
    return made


def test_a_vector_is_the_last_tokens_state_whatever_stands_beside_it(folder: Path) -> None:
    one = open_last_token(folder, make_mesh(devices=jax.devices()[:1]), batch=2)(TEXTS)
    close(open_last_token(folder, make_mesh(devices=jax.devices()), batch=3)(TEXTS), one, 1e-5)
    close(open_last_token(folder, make_mesh(4, 2, devices=jax.devices()), batch=8)(TEXTS[::-1])[::-1], one, 1e-5)
    assert np.linalg.norm(one, axis=1) == pytest.approx(1, abs=1e-5)
    tokenizer, params = build_tokenizer(), jax.tree.map(jnp.asarray, policy(CONFIG))
    for text, vector in zip(TEXTS, one, strict=True):
        ids = tokenizer.encode(text)
        assert END not in tokenizer.get_vocab()  # else it would be added
        batch = TreeBatch(*(np.asarray(x)[None] for x in (ids, range(len(ids)), [True] * len(ids))))
        last = transformer.forward(params, CONFIG, jax.tree.map(jnp.asarray, batch), tree(len(ids)))[0, -1]
        close(vector, last / np.linalg.norm(last), 1e-5)


def test_the_token_that_sums_up_stands_at_the_end_once(folder: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [END]})
    save_policy(tmp_path / "with", policy(CONFIG), CONFIG, tokenizer)
    where = make_mesh(devices=jax.devices()[:1])
    bare, ended = (open_last_token(made, where)(["gout", f"gout{END}"]) for made in (folder, tmp_path / "with"))
    close(ended[0], ended[1], 1e-6)
    assert np.abs(ended[0] - bare[0]).max() > 0.01


def test_a_backbone_that_was_saved_by_itself_is_read_as_qwen3_embedding_is(folder: Path, tmp_path: Path) -> None:
    """Its tensors lack the name of the whole, and config.json may speak of an unembedding that is not there."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(folder, tmp_path / "flat")
    whole = load_file(folder / "model.safetensors")
    save_file({name.removeprefix("model."): x for name, x in whole.items() if name != "lm_head.weight"}, tmp_path / "flat" / "model.safetensors")
    fields = json.loads((folder / "config.json").read_text())
    assert not fields["tie_word_embeddings"] and "lm_head.weight" in whole
    (tmp_path / "flat" / "config.json").write_text(json.dumps(fields | {"architectures": ["Qwen3Model"]}))
    where = make_mesh(devices=jax.devices()[:1])
    assert (open_last_token(tmp_path / "flat", where)(TEXTS) == open_last_token(folder, where)(TEXTS)).all()


def test_a_folder_without_weights_is_no_embedder(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(InputError, match=r"bare: no weights; give the folder of a trained model"):
        open_last_token(tmp_path / "bare", make_mesh(devices=jax.devices()[:1]))


def test_a_static_model_is_the_mean_of_its_table(tmp_path: Path) -> None:
    model2vec = pytest.importorskip("model2vec")
    tokenizer = build_tokenizer().backend_tokenizer
    table = np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), 16)).astype(np.float32)
    model2vec.StaticModel(table, tokenizer).save_pretrained(str(tmp_path / "static"))
    embed = open_static(tmp_path / "static")
    found = embed([*TEXTS, ""])
    for text, vector in zip(TEXTS, found, strict=False):
        mean = table[tokenizer.encode(text, add_special_tokens=False).ids].mean(0)
        close(vector, mean / np.linalg.norm(mean), 1e-5)
    assert not found[-1].any() and embed([]).shape[0] == 0
    with pytest.raises(InputError, match=r"nowhere is no static model \(.*\); give a folder of model2vec's"):
        open_static(tmp_path / "nowhere")
