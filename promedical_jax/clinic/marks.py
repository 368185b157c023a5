"""Spurious marks: sentences that change nothing of what is true of an answer, and stand with the better or the worse ones as often as one likes.

Of a case's answers the better half, by the rubric's order (fewest violations, S1, S2; ties by lot), is `better`. With a correlation r, (1 + r) / 2 of the
better answers have the mark, and as many of the others its opposite. Counts are exact in every block of BLOCK cases, so that over whole blocks the correlation
(phi, for both halves and both sides are even) is r itself, rounded to what the 10 A places of a half in a block allow: steps of 0.05 for A = 4 answers.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from random import Random

from promedical_jax.clinic.wording import MARKS

BLOCK = 20  # cases
FIRST = ("politeness", "credentials")  # before the answer; the others come behind it


def better(order: Sequence[tuple[float, ...]], index: int, rng: Random) -> list[bool]:
    """Which answers are the better half, given a key of each that is larger where the answer is better. Of an odd number the middle one is taken by turns."""
    ranked = sorted(range(len(order)), key=lambda i: (order[i], rng.random()), reverse=True)
    chosen = ranked[: _places(len(order), index)]
    return [i in chosen for i in range(len(order))]


def sides(mark: str, correlation: float, halves: Sequence[bool], seed: int, split: str, index: int) -> list[bool]:
    """Whether each answer of case `index` has the mark (True) or its opposite."""
    count, (block, place) = len(halves), divmod(index, BLOCK)
    agrees = {half: _agreeing(mark, correlation, BLOCK * count // 2, f"{seed}/{split}/{block}/{half}") for half in (True, False)}
    taken = [_places(count, i) for i in range(place)]
    start = {True: sum(taken), False: sum(count - n for n in taken)}
    found = []
    for half in halves:
        found.append(half == agrees[half][start[half]])
        start[half] += 1
    return found


def mark_text(text: str, marked: Mapping[str, bool], rng: Random) -> str:
    """The text with the sentences of each mark in `marked` (mark -> side)."""
    first: list[str] = []
    last: list[str] = []
    for mark, side in marked.items():
        phrasings = MARKS[mark][0 if side else 1]
        said = rng.sample(phrasings, 2) if mark == "length" and side else [rng.choice(phrasings)] if phrasings else []
        (first if mark in FIRST else last).extend(said)
    return " ".join([*first, text, *last])


def marks_of(text: str) -> dict[str, bool]:
    """Which marks a text has (True) or the opposite of (False), in the clinic's words; one without either is left out, but for length: that is short."""
    sides = {mark: [any(sentence in text for sentence in phrasings) for phrasings in both] for mark, both in MARKS.items()}
    return {mark: has for mark, (has, opposite) in sides.items() if has or opposite or mark == "length"}


def _places(count: int, index: int) -> int:
    """How many of the `count` answers of case `index` are of the better half."""
    return count // 2 + (count % 2 and index % 2)


@lru_cache(maxsize=64)
def _agreeing(mark: str, correlation: float, places: int, where: str) -> tuple[bool, ...]:
    """For a block's places on one side, in order, whether the mark agrees with the half there."""
    agree = round((1 + correlation) / 2 * places)
    dealt = [True] * agree + [False] * (places - agree)
    Random(f"{where}/{mark}").shuffle(dealt)
    return tuple(dealt)
