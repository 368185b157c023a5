"""Questions by the thousand that share a few templates, as exam questions do: what a search for duplicates has to tell apart."""

import numpy as np

TEMPLATES = (
    "What is the right dose of {} for a patient with {} and {}?",
    "How should {} be treated when {} is suspected after {}?",
    "My doctor said I have {}. Should I stop taking {} because of {}?",
    "Which tests are needed before {} in someone with {} who takes {}?",
)


def questions(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    syllables = ["ka", "ro", "mi", "ten", "vol", "ax", "ir", "do", "pha", "lin", "ser", "quo", "ben", "tri", "zan", "ul"]
    words = ["".join(rng.choice(syllables, rng.integers(2, 6))) for _ in range(8000)]
    ask = lambda: TEMPLATES[rng.integers(4)].format(*rng.choice(words, 3)) + " " + " ".join(rng.choice(words, rng.integers(0, 12)))  # noqa: E731
    return [ask() for _ in range(count)]
