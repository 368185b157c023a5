"""Which answers sit where while they are decoded: plain NumPy, decided on the host between two calls of the decoder.

Each device decodes the same number of slots, and a slot holds the shared instruction and up to so many running answers of one case. When enough answers
have finished, the rest move together into fewer places. A case whose answers do not fit into one slot takes several, but there are never more slots than
before, so that the instructions' memory only shrinks. Answers never change the device.
"""

from typing import Any, NamedTuple

import numpy as np

EMPTY = -1


class Seats(NamedTuple):
    """Device after device. Arrays of NumPy here, of JAX where answers are decoded."""

    case: Any  # [slots], which case of its device sits in each slot
    sample: Any  # [slots, places], which of its answers sits in each place, or EMPTY


def shapes(cases: int, answers: int) -> list[tuple[int, int]]:
    """The (slots, places) that a device with so many cases may decode in, from all its answers down to two: few, as each is compiled.

    First the places of a slot halve, then the slots. One row alone would be computed in another order than rows of a batch, so there are always two.
    """
    found = [(cases, max(answers, 2) if cases == 1 else answers)]
    while found[-1][1] > 1:
        found.append((cases, -(-found[-1][1] // 2)))
    while found[-1][0] > 1:
        found.append((-(-found[-1][0] // 2), 1))
    return [(slots, places) for slots, places in found if slots * places > 1]


def first_seats(cases: int, answers: int, parts: int) -> Seats:
    """Every answer of `cases` cases a device in a place of its own, on `parts` devices."""
    slots, places = shapes(cases, answers)[0]
    sample = np.where(np.arange(places) < answers, np.arange(places), EMPTY)
    return Seats(np.tile(np.arange(slots, dtype=np.int32), parts), np.tile(sample.astype(np.int32), (parts * slots, 1)))


def move(running: np.ndarray, seats: Seats, parts: int) -> Seats:
    """Seats for the running answers [B, G] alone, in the smallest shape that holds them on every device; the same seats where none is smaller."""
    cases, answers = len(running) // parts, running.shape[1]
    here = (len(seats.case) // parts, seats.sample.shape[1])
    possible = [shape for shape in shapes(cases, answers) if np.prod(shape) < np.prod(here) and shape[0] <= here[0]]
    counts = running.sum(1).reshape(parts, cases)
    for slots, places in reversed(possible):
        if (-(-counts // places)).sum(1).max() <= slots:
            break
    else:
        return seats
    case, sample = np.zeros((parts, slots), np.int32), np.full((parts, slots, places), EMPTY, np.int32)
    for part, rows in enumerate(running.reshape(parts, cases, answers)):
        slot = 0
        for number, row in enumerate(rows):
            left = np.flatnonzero(row)
            for start in range(0, len(left), places):
                group = left[start : start + places]
                case[part, slot], sample[part, slot, : len(group)] = number, group
                slot += 1
    return Seats(case.reshape(-1), sample.reshape(-1, places))


def sources(old: Seats, new: Seats, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each new slot's instruction and each new place's answer were: slot numbers [slots] and row numbers [slots, places] of their device.

    A row is slot x places + place. An empty place takes row 0.
    """
    before, after = ([x.reshape(parts, -1, *x.shape[1:]) for x in seats] for seats in (old, new))
    slots, rows = np.zeros_like(after[0]), np.zeros_like(after[1])
    for part in range(parts):
        at = {int(case): slot for slot, case in enumerate(before[0][part])}
        place = {(int(before[0][part][i]), int(sample)): i * before[1].shape[2] + j for (i, j), sample in np.ndenumerate(before[1][part])}
        slots[part] = [at.get(int(case), 0) for case in after[0][part]]  # a slot without answers may name a case that has left
        for (i, j), sample in np.ndenumerate(after[1][part]):
            rows[part, i, j] = place[int(after[0][part][i]), int(sample)] if sample != EMPTY else 0
    return slots.reshape(-1), rows.reshape(new.sample.shape)


def leave_at(running: np.ndarray, seats: Seats, parts: int) -> int:
    """How many answers may run on the fullest device when it is worth to look again: the size of the next smaller shape, and fewer than run now."""
    cases, answers = len(running) // parts, running.shape[1]
    rows = len(seats.case) // parts * seats.sample.shape[1]
    smaller = [slots * places for slots, places in shapes(cases, answers) if slots * places < rows]
    most = int(running.reshape(parts, -1).sum(1).max())
    # What already fits by number did not fit by cases: look again when an eighth more have finished.
    return min(max(smaller, default=0), most - max(1, most // 8))
