"""Rounds of review: which cases a physician sees, what a correction changed, and when enough was right to stop.

The paper reviews 500 rubrics a round and lets the corrections teach the writer of the next (arXiv 2604.08326). Each round draws afresh, so its pass rate is
that of the writer as he is now. Looking again and again until a lower bound lies above the threshold would stop on luck sooner or later; so round r has
6 / (pi r)^2 of the error that was allowed, which over any number of rounds sums to it. The bound is exact (Clopper and Pearson 1934).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from hashlib import sha256
from math import pi
from typing import Literal

import numpy as np
from scipy.stats import beta

from promedical_jax.review.recipe import SIZE
from promedical_jax.rubric.case import Case, Criterion, Rubric

Edit = Literal["added", "removed", "reworded", "tier", "polarity", "weight"]
WEIGHED = 0.01  # a smaller change of a weight is none


def draw(cases: Sequence[Case], size: int = SIZE, seed: int = 0, seen: Iterable[str] = (),
         stratum: Callable[[Case], object] = lambda case: case.specialty) -> list[Case]:  # fmt: skip
    """`size` cases, or all that are left, none with an id in `seen`: of each stratum its share, by systematic sampling from a start at random.

    So each case is as likely to be drawn as another, and the pass rate needs no weights; a rare stratum has no place of its own. A case's place in its stratum
    is a hash of the seed and its id: more cases change little of what is drawn.
    """
    before, strata = set(seen), dict[object, list[Case]]()
    for case in cases:
        if case.id not in before:
            strata.setdefault(stratum(case), []).append(case)
    drawn = lambda text: sha256(f"{seed} {text}".encode()).digest()  # noqa: E731
    queue = []
    for name, each in strata.items():
        start = int.from_bytes(drawn(f"stratum {name}")[:8]) / 2**64
        queue += [((rank + start) / len(each), drawn(case.id), case) for rank, case in enumerate(sorted(each, key=lambda case: drawn(case.id)))]
    return [case for *_, case in sorted(queue, key=lambda entry: entry[:2])[:size]]


@dataclass(frozen=True)
class Correction:
    """What a physician changed of a rubric. `distance`: the share of its text that is not as it was, 0 to 1."""

    edits: Counter[Edit]
    distance: float

    @property
    def passed(self) -> bool:
        return not self.edits


def compare(written: Rubric, corrected: Rubric) -> Correction:
    """Criteria are matched by their ids; a criterion with another id is a new one.

    Weights are compared as shares among the proficiency criteria that both have: what the others gain when one is taken out is nobody's edit of a weight.
    """
    before, after = ({criterion.id: criterion for criterion in rubric.criteria} for rubric in (written, corrected))
    edits: Counter[Edit] = Counter({"removed": len(before.keys() - after.keys()), "added": len(after.keys() - before.keys())})
    shared = [name for name in before.keys() & after.keys() if before[name].weight and after[name].weight]
    for name in before.keys() & after.keys():
        edits.update(_changes(before[name], after[name]))
    old_shares, new_shares = (_shares(rubric, shared) for rubric in (before, after))
    edits["weight"] += sum(abs(old_shares[name] - new_shares[name]) > WEIGHED for name in shared)
    old, new = ("\n".join(criterion.text for criterion in rubric.criteria) for rubric in (written, corrected))
    return Correction(+edits, 1 - SequenceMatcher(None, old, new, autojunk=False).ratio())


def _changes(a: Criterion, b: Criterion) -> list[Edit]:
    told: list[tuple[Edit, bool]] = [("reworded", a.text != b.text), ("tier", a.tier is not b.tier), ("polarity", a.polarity is not b.polarity)]
    return [edit for edit, changed in told if changed]


def _shares(criteria: dict[str, Criterion], names: Sequence[str]) -> dict[str, float]:
    weights = {name: criteria[name].weight or 0.0 for name in names}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def allowed(error: float, number: int) -> float:
    """Of an error that is allowed over all rounds, the part of round `number`, from 1."""
    return error * 6 / (pi * number) ** 2


def at_least(passed: int, reviewed: int, error: float) -> float:
    """The exact one-sided lower bound of a pass rate: it is above the truth with a probability of at most `error`."""
    if not 0 <= passed <= reviewed or not reviewed:
        raise ValueError(f"{passed} of {reviewed} cannot have passed")
    return float(beta.ppf(error, passed, reviewed - passed + 1)) if passed else 0.0


def as_seen(threshold: float, missed: float) -> float:
    """The pass rate that physicians see at most where the share that is right is at most `threshold`, if they let pass the share `missed` of what is wrong
    (measured by rubrics with planted faults). What they fault wrongly lowers what they see, and errs to the safe side."""
    return threshold + (1 - threshold) * missed


def enough(passed: int, reviewed: int, number: int, threshold: float, error: float = 0.05) -> bool:
    """Whether to stop after round `number`, from 1. Over all rounds, to stop while the pass rate is at most `threshold` has at most the probability `error`."""
    return at_least(passed, reviewed, allowed(error, number)) > threshold


def needed(rate: float, number: int, threshold: float, error: float = 0.05) -> int:
    """How many reviews round `number` needs, if `rate` of them pass (rounded down): from there on any number is enough. So a review's cost is known before."""
    if not threshold < rate <= 1:
        raise ValueError(f"a pass rate of {rate:g} never shows that {threshold:g} is passed; expect more, or ask for less")
    most = 256
    while True:
        counts = np.arange(1, most + 1)
        passed = np.floor(rate * counts + 1e-9)
        bounds = np.where(passed > 0, beta.ppf(allowed(error, number), np.maximum(passed, 1), counts - passed + 1), 0.0)
        last = int(counts[bounds <= threshold].max(initial=0))
        if last < most / 2:
            return last + 1
        most *= 2
