"""Duplicates among many questions: what the corpus's sieve finds of those that were planted, in what time and memory.

    python -m benchmarks.dedup --questions 823703 --out dedup.json

The questions are made: a few templates filled with words of made-up drugs and complaints, as exam questions share their frames, up to thirty words long. A
twentieth of them is planted again as it is but for case and blanks, a twentieth lightly edited (one to three letters dropped, doubled or replaced). Prints one
JSON line: seconds and peak memory of the whole sieve, and recall and precision of each kind by the planted truth. What is found beside the planted pairs counts
against precision, though chance makes some of these questions truly alike. 823,703 is what ProMedical began with (arXiv 2604.08326).
"""

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

TEMPLATES = (
    "What is the right dose of {} for a patient with {} and {}?",
    "How should {} be treated when {} is suspected after {}?",
    "My doctor said I have {}. Should I stop taking {} because of {}?",
    "Is it safe to combine {} with {} in somebody who has had {}?",
    "Which tests are needed before starting {} in someone with {} who also takes {}?",
    "A patient presents with {} and {} for three days. What does {} point to?",
)
SYLLABLES = ["ka", "ro", "mi", "ten", "vol", "ax", "ir", "do", "pha", "lin", "ser", "quo", "ben", "tri", "zan", "ul", "gra", "ep", "sto", "ny"]
VOCABULARY = 40_000


def make(count: int, seed: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The texts, shuffled; and of the planted copies and near copies, [_, 2], the places of the original and of the copy."""
    rng = np.random.default_rng(seed)
    words = ["".join(SYLLABLES[i] for i in rng.integers(len(SYLLABLES), size=size)) for size in rng.integers(2, 6, VOCABULARY)]
    planted = count // 20
    originals = count - 2 * planted
    texts: list[str] = []
    for template, chosen, more in zip(rng.integers(len(TEMPLATES), size=originals), rng.integers(VOCABULARY, size=(originals, 20)),
                                      rng.integers(0, 18, originals), strict=True):  # fmt: skip
        first, *rest = (words[i] for i in chosen[: 3 + more])
        texts.append(TEMPLATES[template].format(first, *rest[:2]) + " " + " ".join(rest[2:]))
    sources = rng.permutation(originals)[: 2 * planted]
    texts += ["  ".join(texts[i].upper().split()) for i in sources[:planted]]
    texts += [_edited(texts[i], rng) for i in sources[planted:]]
    place = rng.permutation(count)
    shuffled = [""] * count
    for old, new in enumerate(place.tolist()):
        shuffled[new] = texts[old]
    pairs = np.column_stack([place[sources], place[originals:]])
    return shuffled, pairs[:planted], pairs[planted:]


def _edited(text: str, rng: np.random.Generator) -> str:
    letters = list(text)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(letters) - 1))
        letters[place] = ["", letters[place] * 2, "x"][rng.integers(3)]
    return "".join(letters)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=823_703)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    given = parser.parse_args(arguments)
    from promedical_jax.corpus.question import Question
    from promedical_jax.corpus.sieve import sieve
    from promedical_jax.rubric import Message

    texts, copies, near = make(given.questions, given.seed)
    questions = [Question(id=str(i), instruction=(Message(role="user", content=text),), source="made", licence="MIT") for i, text in enumerate(texts)]
    began, held = time.perf_counter(), _peak()
    _, dropped = sieve(questions)
    seconds = time.perf_counter() - began
    found = {reason: {frozenset((int(one.id), int(one.because))) for one in dropped if one.reason == reason} for reason in ("copy", "near copy")}
    known = {"copy": set(map(frozenset, copies.tolist())), "near copy": set(map(frozenset, near.tolist()))}
    every = known["copy"] | known["near copy"]
    figures = {
        reason.replace(" ", "_"): {
            "planted": len(known[reason]),
            "found": len(found[reason]),
            "recall": round(len(known[reason] & (found["copy"] | found["near copy"])) / max(len(known[reason]), 1), 4),
            "precision": round(len(found[reason] & every) / max(len(found[reason]), 1), 4),
        }
        for reason in found
    }
    result = {
        "benchmark": "dedup",
        "command": " ".join(["python -m benchmarks.dedup", *(sys.argv[1:] if arguments is None else arguments)]),
        "questions": given.questions,
        "seconds": round(seconds, 1),
        "peak_gib": round(_peak(), 2),
        "gib_before": round(held, 2),
        **figures,
        "machine": {"cpus": len(os.sched_getaffinity(0)), "processor": platform.machine()},
    }
    print(json.dumps(result))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
