"""Vectors of a language model on the mesh: the state of a text's last token after the last norm, as Qwen3-Embedding gives them (arXiv 2506.05176).

The text stands alone, for who is compared are questions with questions, and ends with the token that was trained to sum it up.
No text is cut.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from promedical_jax.data.load import load_tokenizer
from promedical_jax.model import hf, transformer
from promedical_jax.model.layout import assemble, last_valid, nodes_of, tree
from promedical_jax.model.sharding import shardings, shared_evenly, spec
from promedical_jax.model.transformer import Compute, Dtype, ModelConfig, Params

STEP = 64  # row lengths are multiples of it, then of twice it, so that few are compiled
END = "<|endoftext|>"


def open_last_token(model: Path | str, mesh: Mesh, batch: int = 32, dtype: Dtype = "float32") -> Callable[[Sequence[str]], np.ndarray]:
    """The embedder of an HF folder or a name on the hub: texts -> float32 [n, D]. Raises InputError for one without weights."""
    folder = hf.resolve(model)
    config = replace(hf.read_config(folder), tied=True)  # no tokens are predicted: Qwen3-Embedding-8B says that it has an unembedding, and has none
    tokenizer = load_tokenizer(folder, config.vocabulary)
    params = hf.load_trained(folder, config, shardings(mesh, transformer.axes(config)), dtype)
    end = [tokenizer.get_vocab()[END]] if END in tokenizer.get_vocab() else []  # Qwen3-Embedding's own tokenizer puts it there; that of a Qwen3 does not
    rows = shared_evenly(batch, mesh)
    placed = NamedSharding(mesh, spec("batch", None, None)), NamedSharding(mesh, spec("batch", None))

    def embed(texts: Sequence[str]) -> np.ndarray:
        tokens = [tokens if tokens[-1:] == end else [*tokens, *end] for tokens in map(tokenizer.encode, texts)]
        vectors = np.zeros((len(texts), config.width), np.float32)
        with jax.set_mesh(mesh):
            for places, length in _batches(tokens, rows):
                ids, lengths = np.zeros((rows, 1, length), np.int32), np.ones((rows, 1), np.int32)
                for row, place in enumerate(places):
                    ids[row, 0, : len(tokens[place])], lengths[row] = tokens[place], len(tokens[place])
                arrays = (jax.device_put(x, where) for x, where in zip((ids, lengths), placed, strict=True))
                vectors[places] = jax.device_get(_states(params, config, *arrays, compute=Compute(dtype, "none")))[: len(places)]
        return vectors

    return embed


@partial(jax.jit, static_argnames=("config", "compute"))
def _states(params: Params, config: ModelConfig, ids: jax.Array, lengths: jax.Array, compute: Compute) -> jax.Array:
    """[B, 1, T], [B, 1] -> [B, D] of length 1, float32."""
    layout = tree(ids.shape[2])
    hidden = transformer.forward(params, config, assemble(layout, [ids], [lengths]), layout, compute)
    last = last_valid(nodes_of(hidden, layout, 0), lengths)[:, 0].astype(jnp.float32)
    return jax.sharding.reshard(last / jnp.linalg.norm(last, axis=1, keepdims=True), jax.sharding.PartitionSpec())


def _batches(tokens: Sequence[Sequence[int]], rows: int) -> Iterator[tuple[list[int], int]]:
    """Places of texts of about the same length, and the length of their rows."""
    order = sorted(range(len(tokens)), key=lambda place: len(tokens[place]))
    for start in range(0, len(order), rows):
        places = order[start : start + rows]
        longest, step = len(tokens[places[-1]]), STEP
        while longest > 4 * step:
            step *= 2
        yield places, -(-longest // step) * step

