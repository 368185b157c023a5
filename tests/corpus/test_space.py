"""The recipe's embedder: of each kind the sieve takes out what is near there, and a kind without its model, or with one too many, is refused."""

from pathlib import Path

import pytest
from folders import save_policy
from tiny import policy

from promedical_jax.clinic import build_tokenizer
from promedical_jax.corpus.question import Question
from promedical_jax.corpus.recipe import CorpusConfig, Embedding, Sieve
from promedical_jax.corpus.sieve import sieve
from promedical_jax.corpus.space import space_of
from promedical_jax.errors import InputError
from promedical_jax.model.rope import Rope
from promedical_jax.model.transformer import ModelConfig
from promedical_jax.recipe import read_recipe
from promedical_jax.rubric import Message

CONFIG = ModelConfig(vocabulary=520, width=32, depth=2, kv_heads=4, query_heads=2, head=6, feed_forward=24, rope=Rope(1e4))
TEXTS = ["Is it safe to swim with a cold?", "Does aspirin thin the blood?", "Is it safe to swim with a cold"]  # for a static model the last is the first


def test_a_models_and_a_static_models_space(tmp_path: Path) -> None:
    model2vec = pytest.importorskip("model2vec")
    import numpy as np

    save_policy(tmp_path / "model", policy(CONFIG), CONFIG, build_tokenizer())
    words = build_tokenizer().backend_tokenizer
    table = np.random.default_rng(0).normal(size=(words.get_vocab_size(), 16)).astype(np.float32)
    model2vec.StaticModel(table, words).save_pretrained(str(tmp_path / "static"))
    asked = [Question(id=f"q{n}", instruction=(Message(role="user", content=text),), source="s", licence="MIT") for n, text in enumerate(TEXTS)]
    for by in ("model", "static"):
        space = space_of(Embedding(by=by, model=tmp_path / by, batch=2))
        vectors = space.embed(TEXTS)
        cosine = float(vectors[0] @ vectors[2])
        high = {"meaning": min(cosine - 1e-3, 1.0), "near": 1.0}
        assert vectors[0] @ vectors[1] < cosine, by
        assert [(d.id, d.reason) for d in sieve(asked, Sieve(**high), space=space)[1]] == [("q2", "same meaning")], by
        assert sieve(asked, Sieve(near=1.0, meaning=min(cosine + 1e-3, 1.0)), space=space)[1] == [], by
    with pytest.raises(InputError, match=r"nowhere"):
        space_of(Embedding(by="model", model=tmp_path / "nowhere"))


@pytest.mark.parametrize(("flags", "words"), [
    ({"embedding.by": "static"}, "embedding.by static needs a model"),
    ({"embedding.model": "runs/m"}, "ngrams has no use for embedding.model"),
    ({"embedding.by": "words"}, "embedding.by"),
    ({"sieve.meaning": "1.5"}, "sieve.meaning"),
])  # fmt: skip
def test_what_is_no_embedding_is_refused(flags: dict[str, str], words: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.yaml").write_text("out: o\nsources: [{name: medqa, path: p}]\n")
    with pytest.raises(InputError, match=words):
        read_recipe(CorpusConfig, tmp_path / "corpus.yaml", flags)
