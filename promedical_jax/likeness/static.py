"""Vectors of a static model: a table of tokens whose mean is a text's vector (model2vec, which SemHash uses too). Fast on a CPU, and knows synonyms."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from promedical_jax.errors import InputError


def open_static(model: Path | str) -> Callable[[Sequence[str]], np.ndarray]:
    """The embedder of a model2vec folder, or of a name on the hub. Raises InputError where there is no such model, or no model2vec."""
    try:
        from model2vec import StaticModel
    except ImportError:
        raise InputError('a static model needs model2vec; run pip install "promedical-jax[corpus]"') from None
    try:
        loaded = StaticModel.from_pretrained(str(model))
    except Exception as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{model} is no static model ({said}); give a folder of model2vec's") from error

    def embed(texts: Sequence[str]) -> np.ndarray:
        if not texts:
            return np.zeros((0, loaded.dim), np.float32)
        vectors = np.asarray(loaded.encode(list(texts), max_length=None, use_multiprocessing=False), np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    return embed
