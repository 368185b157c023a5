"""The embedder that needs nothing: a text is its words, and a word the windows of GRAM letters in it. So who is near says the same words in another order.

A word counts a little more the longer it is (the fourth root of its windows), for little words say little; nothing is learned and nothing counted, so a text's
vector does not depend on the others. Windows are hashed to DIMENSIONS with a sign (feature hashing, Weinberger et al. 2009). It does not know that "raised" and
"high" are one, and no likeness of letters does: see docs/decisions.md for what that means for the threshold.
"""

from collections.abc import Sequence

import numpy as np

from promedical_jax.likeness.text import letters_of, words

GRAM = 4  # letters, the blanks around a word among them
DIMENSIONS = 256
CHUNK = 20_000  # texts at a time


def embed(texts: Sequence[str]) -> np.ndarray:
    """n texts -> float32 [n, DIMENSIONS]."""
    made = [np.zeros((0, DIMENSIONS), np.float32)]
    made += [_embed(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
    return np.concatenate(made)


def _embed(texts: Sequence[str]) -> np.ndarray:
    letters, owner, ends = letters_of([_framed(text) for text in texts])
    count = max(len(letters) - GRAM + 1, 0)
    hashes, inside = np.zeros(count, np.uint64), np.arange(count) <= ends[owner[:count]] - GRAM
    blank = letters == ord(" ")
    for place in range(GRAM):
        hashes = hashes * np.uint64(0x100000001B3) + letters[place : place + count]
        if 0 < place < GRAM - 1:
            inside &= ~blank[place : place + count]  # a window is of one word
    word = np.cumsum(blank)[:count]
    hashes = (hashes[inside] ^ (hashes[inside] >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    windows = np.bincount(word[inside], minlength=1)[word[inside]]
    signs = 1 - 2 * ((hashes >> np.uint64(63)) & np.uint64(1)).astype(np.float64)
    bucket = owner[:count][inside] * DIMENSIONS + ((hashes >> np.uint64(32)) % np.uint64(DIMENSIONS)).astype(np.int64)
    vectors = np.bincount(bucket, signs * windows**-0.25, len(texts) * DIMENSIONS).reshape(len(texts), DIMENSIONS)
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def _framed(text: str) -> str:
    """A blank before and behind each word; one of a single letter is made longer, for no window is as short."""
    said = [word if len(word) > 1 else word + "_" for word in words(text)]
    return f" {'  '.join(said)} " if said else ""
