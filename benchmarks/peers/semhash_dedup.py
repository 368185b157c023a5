"""SemHash 0.5 on the same questions, for benchmarks/dedup.py: run by an environment in which semhash and scipy are installed.

Its own encoder is fetched from the hub, which a benchmark without a network cannot; it is given the one that the sieve uses, so that what is compared is how
duplicates are found among the same vectors. Prints one JSON line: for each threshold the seconds from texts to what is kept and the places of what is taken
out, and the peak memory of all.
"""

import argparse
import json
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from semhash import SemHash

from promedical_jax.likeness import ngrams


class Encoder:
    """As SemHash asks for one."""

    def encode(self, inputs: Sequence[str], **_: object) -> np.ndarray:
        return ngrams.embed(inputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="a JSON list of texts")
    parser.add_argument("--thresholds", type=float, nargs="+", required=True)
    given = parser.parse_args()
    texts = json.loads(given.texts.read_text())
    Encoder().encode(texts[:100])
    began = time.perf_counter()
    index = SemHash.from_records(texts, model=Encoder())
    to_index = time.perf_counter() - began
    seconds, out = list[float](), list[list[int]]()
    for threshold in given.thresholds:
        began = time.perf_counter()
        left = set(index.self_deduplicate(threshold).selected)
        seconds.append(to_index + time.perf_counter() - began)
        seen = set[str]()
        out.append([])
        for place, text in enumerate(texts):
            if text not in left or text in seen:
                out[-1].append(place)
            seen.add(text)
    print(json.dumps({"seconds": seconds, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "out": out}))


if __name__ == "__main__":
    main()
