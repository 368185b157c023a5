"""Cases packed into shared rows: what of a case is wanted, and in which rows a batch's cases stand (see model/packing.py)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from promedical_jax.data.batches import Finish
from promedical_jax.data.encode import Encoded, pad_labels
from promedical_jax.errors import InputError
from promedical_jax.model import packing
from promedical_jax.model.layout import Layout

LEVELS = ("prompt", "answers", "criteria")
Wanted = Callable[[dict[str, Any]], packing.Lengths]


def judged_lengths(arrays: dict[str, Any]) -> packing.Lengths:
    """The lengths of instruction, answers and criteria, of those criteria alone that somebody judged, and of the answers that have one.

    arrays: prompt_length [B], answer_lengths [B, A], criterion_lengths [B, K], labels of A answers and K criteria -> [B, 1], [B, A], [B, A K].
    """
    judged = arrays["labels"].said
    criteria = np.where(judged, arrays["criterion_lengths"][:, None], 0)
    return *judged_answer_lengths(arrays), criteria.reshape(len(criteria), -1)


def judged_answer_lengths(arrays: dict[str, Any]) -> packing.Lengths:
    """The same for a reward model that is told no criteria: [B, 1], [B, A]."""
    return arrays["prompt_length"][:, None], np.where(arrays["labels"].said.any(2), arrays["answer_lengths"], 0)


def answer_lengths(arrays: dict[str, Any]) -> packing.Lengths:
    """The lengths of instruction and answers, [B, 1] and [B, A]."""
    return arrays["prompt_length"][:, None], arrays["answer_lengths"]


def packer(encoded: Sequence[Encoded], lengths: Wanted, row: int | None, devices: int, where: str) -> Finish:
    """What adds to a batch's arrays its `rows` and their `fill`, the share of their tokens that are real and wanted.

    `row`: tokens of a row, which several of the cases share; None leaves each case a row of its own, and `rows` None. `devices` share the batch.
    Raises InputError, naming the file `where`, if the largest cases need more than a row.
    """
    if row is None:
        return partial(_padded, lengths=lengths)
    most = max(len(e.answers) for e in encoded), max(len(e.criteria) for e in encoded)
    arrays = [_lengths(e, *most) for e in encoded]
    try:
        layout = packing.fit(lengths(jax.tree.map(lambda *rows: np.stack(rows), *arrays)), row)
    except ValueError as error:
        raise InputError(f"{where}: {error}; set row to that or more, or take the largest cases out") from None
    return partial(_packed, layout=layout, lengths=lengths, devices=devices)


def _padded(arrays: dict[str, Any], lengths: Wanted) -> dict[str, Any]:
    wanted = lengths(arrays)
    space = sum(nodes.size * arrays[name].shape[-1] for nodes, name in zip(wanted, LEVELS, strict=False))
    return arrays | {"rows": None, "fill": np.float32(sum(nodes.sum() for nodes in wanted) / space)}


def _packed(arrays: dict[str, Any], layout: Layout, lengths: Wanted, devices: int) -> dict[str, Any]:
    wanted = lengths(arrays)
    tokens = [arrays["prompt"][:, None], arrays["answers"]]
    if len(layout.levels) == 3:
        criteria = arrays["criteria"]
        every = np.broadcast_to(criteria[:, None], (len(criteria), wanted[1].shape[1], *criteria.shape[1:]))
        tokens.append(every.reshape(len(criteria), -1, criteria.shape[2]))
    rows, fill = packing.pack(layout, tokens, wanted, devices)
    return arrays | {"rows": rows, "fill": np.float32(fill)}


def _lengths(encoded: Encoded, answers: int, criteria: int) -> dict[str, Any]:
    padded = {name: np.zeros(n, np.int32) for name, n in (("answer_lengths", answers), ("criterion_lengths", criteria))}
    padded["answer_lengths"][: len(encoded.answers)] = [len(x) for x in encoded.answers]
    padded["criterion_lengths"][: len(encoded.criteria)] = [len(x) for x in encoded.criteria]
    return {"prompt_length": np.array(len(encoded.prompt), np.int32), "labels": pad_labels(encoded.labels, answers, criteria), **padded}
