"""What two texts are compared by, and their letters as numbers."""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

WORD = re.compile(r"[^\W_]+")


def evened(text: str) -> str:
    """One form of each letter (NFKC), no case, single blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> list[str]:
    """The words of the evened text, without marks: a comma hides nothing."""
    return WORD.findall(evened(text))


def letters_of(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The letters of all texts behind one another, uint64; whose each is; and where each text ends, [n]."""
    lengths = np.array([len(text) for text in texts], np.int64)
    letters = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    return letters, np.repeat(np.arange(len(texts)), lengths), np.cumsum(lengths)
