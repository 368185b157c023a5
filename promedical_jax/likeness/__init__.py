"""Who is alike among many texts: by letters (`letters`), by words whatever their order (`ngrams`), by meaning (`static`, `last_token`). The last three make
vectors; whose are near is found in `cells` on a CPU, and over all pairs on the devices of a `mesh`. Nothing of medicine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from promedical_jax.likeness import cells, ngrams


@dataclass(frozen=True)
class Space:
    """Where texts are vectors. `embed`: n texts -> float32 [n, d], rows of length 1, or of length 0 where a text says nothing. `near`: such rows and a cosine
    -> [pairs, 2], the rows of at least that cosine, the earlier one first, sorted."""

    embed: Callable[[Sequence[str]], np.ndarray]
    near: Callable[[np.ndarray, float], np.ndarray]


NGRAMS = Space(ngrams.embed, cells.near)
