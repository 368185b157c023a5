"""The space of a recipe's `embedding`. What needs jax or another library is imported when it is asked for."""

from functools import partial

from promedical_jax.corpus.recipe import Embedding
from promedical_jax.likeness import NGRAMS, Space, cells


def space_of(embedding: Embedding) -> Space:
    """Raises InputError for a model that is none."""
    match embedding.by:
        case "ngrams":
            return NGRAMS
        case "static":
            from promedical_jax.likeness.static import open_static

            assert embedding.model
            return Space(open_static(embedding.model), cells.near)
        case "model":
            from promedical_jax.likeness import last_token, mesh
            from promedical_jax.model.sharding import make_mesh

            assert embedding.model
            devices = make_mesh()
            return Space(last_token.open_last_token(embedding.model, devices, embedding.batch, embedding.dtype), partial(mesh.near, mesh=devices))
