"""Cases that are longer than the sizes of a run: counted and listed, refused above a share, left out or, where that is asked for, cut.

Nothing is cut in silence, and never a token where a score is read: the end of an answer's turn and the end of a criterion's turn stay.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from promedical_jax.config import Long, Shapes
from promedical_jax.data.encode import Encoded
from promedical_jax.errors import InputError

PARTS = ("prompt", "answer", "criterion")
LEAST_PATH = 4


class TooLong(NamedTuple):
    """One case's longest part that does not fit: prompt, answer, criterion or path (instruction, answer and criterion together). In tokens."""

    case: str
    part: str
    tokens: int
    limit: int


def too_long(encoded: Encoded, shapes: Shapes) -> TooLong | None:
    """What of a case does not fit, by how much it is over; None if all fits."""
    lengths = _lengths(encoded)
    over = [TooLong(encoded.case.id, part, n, limit) for part, n in lengths.items() if (limit := getattr(shapes, part)) and n > limit]
    return max(over, key=lambda part: part.tokens / part.limit, default=None)


def fit(cases: Sequence[Encoded], shapes: Shapes, long: Long, where: str) -> tuple[list[Encoded], list[TooLong]]:
    """The cases that fit, in their order, those that are cut to it among them, and what did not fit.

    Raises InputError that counts and names the cases, if more of them are too long than `long` allows.
    """
    over = {i: found for i, case in enumerate(cases) if (found := too_long(case, shapes))}
    check(list(over.values()), len(cases), where, long)
    kept = [cut(case, shapes) if i in over else case for i, case in enumerate(cases) if long.cut or i not in over]
    return kept, list(over.values())


def cut(encoded: Encoded, shapes: Shapes) -> Encoded:
    """The case cut to the sizes: an instruction loses its middle, answers and criteria their end before the token that ends their turn.

    Of a path a criterion has a quarter, an answer half and the instruction the rest; what one of them does not need the others get.
    Raises InputError for a path that is too short for all three.
    """
    lengths = _lengths(encoded)
    kept = {part: min(lengths[part], getattr(shapes, part) or lengths[part]) for part in PARTS}
    if shapes.path and sum(kept.values()) > shapes.path:
        kept = _share(shapes.path, kept)
    answers, criteria = [_end(row, kept["answer"]) for row in encoded.answers], [_end(row, kept["criterion"]) for row in encoded.criteria]
    return replace(encoded, prompt=_middle(encoded.prompt, kept["prompt"]), answers=answers, criteria=criteria)


def check(found: Sequence[TooLong], count: int, where: str, long: Long) -> None:
    """Raises InputError, which counts and names them, if of `count` cases more are too long than `long` allows."""
    if len(found) > long.share * count + 1e-9:  # 0.29 * 100 is 28.999999999999996
        raise InputError(refusal(found, count, where, long))


def write_list(path: Path, found: Sequence[TooLong], action: str) -> None:
    """The cases that were too long, a line of JSON each, with what was done."""
    path.write_text("".join(json.dumps(one._asdict() | {"action": action}) + "\n" for one in found), encoding="utf-8")


def refusal(found: Sequence[TooLong], count: int, where: str, long: Long) -> str:
    worst = max(found, key=lambda one: one.tokens / one.limit)
    article = "an" if worst.part == "answer" else "a"
    return (
        f"{where}: {len(found)} of {count} cases have {article} {worst.part} or another part longer than shapes allow "
        f"(case {worst.case!r} has {worst.tokens} tokens, shapes.{worst.part} is {worst.limit}), and long.share allows {long.share:g}; "
        f"set shapes.{worst.part} to {worst.tokens} or more, raise long.share, or take these cases out"
    )


def sentence(found: Sequence[TooLong], count: int, where: str, action: str, listed: Path | None) -> str:
    parts = sorted({one.part for one in found})
    seen = f"; see {listed}" if listed else ""
    return f"{where}: {len(found)} of {count} cases are too long ({', '.join(parts)}) and are {action}{seen}"


def _lengths(encoded: Encoded) -> dict[str, int]:
    prompt, answer, criterion = len(encoded.prompt), max(map(len, encoded.answers), default=0), max(map(len, encoded.criteria), default=0)
    return {"prompt": prompt, "answer": answer, "criterion": criterion, "path": prompt + answer + criterion}


def _share(path: int, lengths: dict[str, int]) -> dict[str, int]:
    if path < LEAST_PATH:
        raise InputError(f"shapes.path is {path}, too short for an instruction, an answer and a criterion; set it to {LEAST_PATH} or more")
    due = {"criterion": path // 4, "answer": path // 2, "prompt": path - path // 4 - path // 2}
    kept = {part: min(lengths[part], due[part]) for part in due}
    for part in due:
        kept[part] += min(lengths[part] - kept[part], path - sum(kept.values()))
    return kept


def _end(row: list[int], limit: int) -> list[int]:
    return row if len(row) <= limit else [*row[: limit - 1], row[-1]]


def _middle(row: list[int], limit: int) -> list[int]:
    if len(row) <= limit:
        return row
    first = limit // 2
    return [*row[:first], *row[len(row) - (limit - first) :]]
