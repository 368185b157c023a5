"""Duplicates among many questions: what the corpus's sieve finds of those that were planted, in what time and memory.

    python -m benchmarks.dedup --questions 823703 --peer semhash/bin/python --out dedup.json

The questions are made: a few templates filled with words of made-up drugs and complaints, as exam questions share their frames, up to thirty words long.
Planted again are, a twentieth of them each, copies (but for case and blanks) and near copies (one to three letters dropped, doubled or replaced), and, a
fortieth each, the same words in another order, and the same drugs and complaints in a frame of other words. Prints one JSON line: seconds and peak memory of
the whole sieve; of each kind the share of planted pairs of which one is taken out; and the share of what is taken out that is of a planted pair, though
chance makes some of these texts truly alike. With `--peer` SemHash finds duplicates among the same texts, by the same vectors (peers/semhash_dedup.py).
`--mesh` compares the pairs that cells find on this processor with all pairs, found on the devices of a mesh. 823,703 is what ProMedical began with (arXiv
2604.08326).
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from promedical_jax.corpus.sieve import Dropped

TEMPLATES = (
    "What is the right dose of {} for a patient with {} and {}?",
    "How should {} be treated when {} is suspected after {}?",
    "My doctor said I have {}. Should I stop taking {} because of {}?",
    "Is it safe to combine {} with {} in somebody who has had {}?",
    "Which tests are needed before starting {} in someone with {} who also takes {}?",
    "A patient presents with {} and {} for three days. What does {} point to?",
)
OTHERWISE = (  # the same questions in other words, in the order of TEMPLATES
    "Somebody suffers from {1} plus {2}: how much {0} do they need?",
    "Once {2} has led one to think of {1}, what therapy does {0} call for?",
    "They told me it is {0}. Do I quit {1}, given {2}?",
    "After {2} in the past, may {0} and {1} go together without danger?",
    "Someone on {2} with {1} is about to begin {0}: what has to be checked?",
    "Since Monday there is {0}, also {1}. Might it be {2}?",
)
SYLLABLES = ["ka", "ro", "mi", "ten", "vol", "ax", "ir", "do", "pha", "lin", "ser", "quo", "ben", "tri", "zan", "ul", "gra", "ep", "sto", "ny"]
VOCABULARY = 40_000
SEMHASH_THRESHOLD = 0.9  # its default


def make(count: int, seed: int) -> tuple[list[str], dict[str, np.ndarray]]:
    """The texts, shuffled; and of each kind of planted pairs, [_, 2], the places of the original and of what was made of it."""
    rng = np.random.default_rng(seed)
    words = ["".join(SYLLABLES[i] for i in rng.integers(len(SYLLABLES), size=size)) for size in rng.integers(2, 6, VOCABULARY)]
    sizes = {"copy": count // 20, "near": count // 20, "reordered": count // 40, "reworded": count // 40}
    originals = count - sum(sizes.values())
    kinds = rng.integers(len(TEMPLATES), size=originals)
    chosen, more = rng.integers(VOCABULARY, size=(originals, 20)), rng.integers(0, 18, originals)
    filled = [[words[i] for i in each[: 3 + extra]] for each, extra in zip(chosen, more, strict=True)]
    texts = [_said(TEMPLATES[kind], some) for kind, some in zip(kinds, filled, strict=True)]
    sources = np.split(rng.permutation(originals)[: sum(sizes.values())], np.cumsum(list(sizes.values()))[:-1])
    shuffled = lambda some: [some[i] for i in rng.permutation(len(some))]  # noqa: E731
    make_of = {
        "copy": lambda i: "  ".join(texts[i].upper().split()),
        "near": lambda i: _edited(texts[i], rng),
        "reordered": lambda i: " ".join(shuffled(texts[i].split())),
        "reworded": lambda i: _said(OTHERWISE[kinds[i]], filled[i][:3] + shuffled(filled[i][3:])),
    }
    made = [make_of[name](i) for name, each in zip(sizes, sources, strict=True) for i in each.tolist()]
    place = rng.permutation(count)
    mixed = [""] * count
    for old, text in enumerate(texts + made):
        mixed[place[old]] = text
    copies = np.split(place[originals:], np.cumsum(list(sizes.values()))[:-1])
    return mixed, {name: np.column_stack([place[own], copy]) for name, own, copy in zip(sizes, sources, copies, strict=True)}


def _said(template: str, words: Sequence[str]) -> str:
    return " ".join([template.format(*words[:3]), *words[3:]])


def _edited(text: str, rng: np.random.Generator) -> str:
    letters = list(text)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(letters) - 1))
        letters[place] = ["", letters[place] * 2, "y" if letters[place] == "x" else "x"][rng.integers(3)]
    made = "".join(letters)
    return made if made != text else _edited(text, rng)  # edits may take each other back


def figures(out: Sequence[int], planted: dict[str, np.ndarray], count: int) -> dict[str, Any]:
    """Of what is taken out, by places: recall of each kind of planted pairs, and precision."""
    gone, paired = np.zeros(count, bool), np.zeros(count, bool)
    gone[list(out)] = True
    paired[np.concatenate([pairs.ravel() for pairs in planted.values()])] = True
    recall = {name: round(float(gone[pairs].any(1).mean()), 4) for name, pairs in planted.items()}
    return {"out": len(out), "recall": recall, "precision": round(float(paired[gone].mean()), 4) if len(out) else None}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=823_703)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer", type=Path, help="python of an environment with SemHash; left out: ours alone")
    parser.add_argument("--patience", type=float, default=3600.0, help="seconds after which SemHash is not waited for")
    parser.add_argument("--mesh", action="store_true", help="also all pairs on the devices, and which of them the cells missed")
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    given = parser.parse_args(arguments)
    from promedical_jax.corpus.question import Question
    from promedical_jax.corpus.recipe import Sieve
    from promedical_jax.corpus.sieve import sieve
    from promedical_jax.rubric import Message

    texts, planted = make(given.questions, given.seed)
    questions = [Question(id=str(i), instruction=(Message(role="user", content=text),), source="made", licence="MIT") for i, text in enumerate(texts)]
    began, held = time.perf_counter(), _peak()
    _, dropped = sieve(questions)
    seconds = time.perf_counter() - began
    result = {
        "benchmark": "dedup",
        "command": " ".join(["python -m benchmarks.dedup", *(sys.argv[1:] if arguments is None else arguments)]),
        "questions": given.questions,
        "planted": {name: len(pairs) for name, pairs in planted.items()},
        "seconds": round(seconds, 1),
        "peak_gib": round(_peak(), 2),
        "gib_before": round(held, 2),
        **figures([int(one.id) for one in dropped], planted, given.questions),
        "by_reason": {reason: _of_reason([one for one in dropped if one.reason == reason], planted) for reason in ("copy", "near copy", "same meaning")},
        "machine": {"cpus": len(os.sched_getaffinity(0)), "processor": platform.machine()},
    }
    del questions, dropped
    threshold = Sieve().meaning
    assert threshold
    if given.mesh:
        result["mesh"] = _all_pairs(texts, threshold)
    if given.peer:
        try:
            peak, theirs = _semhash(given.peer, texts, [threshold, SEMHASH_THRESHOLD], given.patience)
        except subprocess.TimeoutExpired:
            result["semhash"] = f"not done after {given.patience:g} s"
        else:
            result["semhash"] = {"peak_gib": round(peak, 2)}
            for name, (least, spent) in theirs.items():
                result["semhash"][name] = {"seconds": round(spent, 1), **figures(least, planted, given.questions)}
            result["seconds_to_semhash"] = {name: round(seconds / spent, 3) for name, (_, spent) in theirs.items()}
    print(json.dumps(result))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


def _of_reason(dropped: Sequence[Dropped], planted: dict[str, np.ndarray]) -> dict[str, Any]:
    """How many, and the share of those that stand with the very question that they were planted with."""
    every = {frozenset(pair) for pairs in planted.values() for pair in pairs.tolist()}
    right = sum(frozenset((int(one.id), int(one.because))) in every for one in dropped)
    return {"out": len(dropped), "precision": round(right / len(dropped), 4) if dropped else None}


def _all_pairs(texts: Sequence[str], threshold: float) -> dict[str, Any]:
    from promedical_jax.likeness import cells, mesh, ngrams
    from promedical_jax.model.sharding import make_mesh

    vectors = ngrams.embed(texts)
    seconds, found = [], []
    for near in (lambda: cells.near(vectors, threshold), lambda: mesh.near(vectors, threshold, make_mesh())):
        began = time.perf_counter()
        found.append(set(map(tuple, near().tolist())))
        seconds.append(round(time.perf_counter() - began, 1))
    return {"pairs": len(found[1]), "missed_by_cells": len(found[1] - found[0]), "seconds": seconds[1], "seconds_of_cells": seconds[0]}


def _semhash(python: Path, texts: Sequence[str], thresholds: Sequence[float], patience: float) -> tuple[float, dict[str, tuple[list[int], float]]]:
    """Its peak in GiB, and by threshold what it takes out and the seconds."""
    with TemporaryDirectory() as made:
        file = Path(made) / "texts.json"
        file.write_text(json.dumps(texts))
        script, here = Path(__file__).parent / "peers" / "semhash_dedup.py", Path(__file__).parents[1]
        done = subprocess.run([str(python), str(script), "--texts", str(file), "--thresholds", *map(str, thresholds)], capture_output=True, text=True,
                              timeout=patience, env=os.environ | {"PYTHONPATH": str(here)})  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{python}: SemHash failed\n{done.stderr[-3000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    return said["peak_gib"], {f"at {one}": (said["out"][i], said["seconds"][i]) for i, one in enumerate(thresholds)}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
