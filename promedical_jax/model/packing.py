"""Several small trees in one row: where each node goes, decided on the host in NumPy.

Real cases differ: answers of 30 and of 900 tokens, 3 criteria and 40. Padded to the largest, most of a batch is padding, and nearly all the work of a
transformer is done token by token. So the nodes of several cases share a row: each level of the layout has room for some tokens, in which nodes stand back
to back. `fit` chooses the layout from a data set's lengths, `pack` fills the rows of one batch; how many rows it takes is rounded up to few sizes, so that
few shapes are compiled.

Letters: B cases, l level, n_l most nodes of a case at level l, M rows, T row tokens, s_l node slots of a row at level l.
"""

from collections.abc import Sequence

import numpy as np

from promedical_jax.model.layout import Layout, Level, Nodes, Rows

SPARE = 1.15  # node slots beyond what the mean asks for, so that rows fill with tokens before they run out of slots
UNIT = 8  # tokens of a row come in whole multiples of this
Lengths = Sequence[np.ndarray]  # of each level [B, n_l]: true lengths, 0 for a node that is not there. Node i's parent is i // (n_l / n of the level above)




def fit(lengths: Lengths, row: int) -> Layout:
    """A packed layout of rows of at most `row` tokens for cases of these lengths: each level gets room in proportion to what a case has there on average.

    Raises ValueError with the tokens that are needed, where a case does not fit.
    """
    tokens = [length.sum(1) for length in lengths]
    most = [_whole(int(each.max())) for each in tokens]
    if sum(most) > row:
        raise ValueError(f"a row of {row} tokens is too short for the largest case; it needs {sum(most)}")
    mean = [float(each.mean()) for each in tokens]
    few, many = 1.0, row / max(sum(mean), 1e-9)  # cases a row, between which the answer lies
    for _ in range(50):
        cases = (few + many) / 2
        few, many = (cases, many) if sum(_rooms(most, mean, cases)) <= row else (few, cases)
    counts = [(length > 0).sum(1) for length in lengths]
    slots = [max(int(count.max()), int(np.ceil(few * count.mean() * SPARE))) for count in counts]
    rooms = _rooms(most, mean, few)
    return Layout(tuple(Level(n, int(length.max()), room) for n, length, room in zip(slots, lengths, rooms, strict=True)))


def _rooms(most: list[int], mean: list[float], cases: float) -> list[int]:
    return [max(large, _whole(int(cases * usual))) for large, usual in zip(most, mean, strict=True)]


def _whole(tokens: int) -> int:
    return -(-tokens // UNIT) * UNIT


def pack(layout: Layout, tokens: Sequence[np.ndarray], lengths: Lengths, devices: int = 1) -> tuple[Rows, float]:
    """The batch in rows, and their fill rate: the share of the rows' tokens that are real.

    tokens: of each level [B, n_l, t_l] with t_l at least the longest node; lengths as above. The batch's cases are split over `devices` in order, and each
    case stays in the rows of its own device. Largest first, each case goes to the first row with room for it. The same input gives the same rows.
    """
    cases = len(lengths[0])
    parts = np.split(np.arange(cases), devices)
    row_of = np.zeros(cases, np.int64)
    for part in parts:
        row_of[part] = _first_fit(layout, [length[part] for length in lengths])
    count = _few(int(row_of.max()) + 1)  # rows of each device
    rows = Rows(tuple(np.zeros((devices * count, level.tokens), np.int32) for level in layout.levels),
                tuple(_empty(devices * count, level.nodes) for level in layout.levels),
                tuple(np.full(length.shape, -1, np.int32) for length in lengths))  # fmt: skip
    for device, part in enumerate(parts):
        filled = [[0] * len(layout.levels) for _ in range(count)]  # slots and tokens taken of each row and level
        used = [[0] * len(layout.levels) for _ in range(count)]
        for case in part:
            row = int(row_of[case])
            _put(layout, rows, device * count + row, row, case, tokens, lengths, filled[row], used[row])
    return rows, float(sum(length.sum() for length in lengths) / (devices * count * layout.tokens))


def _put(layout: Layout, rows: Rows, row: int, local: int, case: int, tokens: Sequence[np.ndarray], lengths: Lengths, filled: list[int],
         used: list[int]) -> None:  # fmt: skip
    """Writes one case's nodes behind what the row already holds; `filled` and `used`, tokens and slots of each level, grow."""
    for i, level in enumerate(layout.levels):
        for node in np.flatnonzero(lengths[i][case]):
            length, slot = int(lengths[i][case, node]), used[i]
            start = filled[i]
            rows.tokens[i][row, start : start + length] = tokens[i][case, node, :length]
            parent = 0
            if i:
                above = node // (lengths[i].shape[1] // lengths[i - 1].shape[1])
                parent = rows.slots[i - 1][case, above] - local * layout.levels[i - 1].nodes
                assert 0 <= parent < layout.levels[i - 1].nodes, "a node without its parent"
            rows.nodes[i].start[row, slot], rows.nodes[i].length[row, slot], rows.nodes[i].parent[row, slot] = start, length, parent
            rows.nodes[i].start[row, slot + 1 :] = start + length  # the unused slots stand at the end
            rows.slots[i][case, node] = local * level.nodes + slot
            filled[i], used[i] = start + length, slot + 1


def _first_fit(layout: Layout, lengths: Lengths) -> np.ndarray:
    """The row of each case, [B]. Raises ValueError for a case that fits into no row."""
    needs = np.concatenate([np.stack([each.sum(1) for each in lengths], 1), np.stack([(each > 0).sum(1) for each in lengths], 1)], 1)
    room = np.array([level.tokens for level in layout.levels] + [level.nodes for level in layout.levels])
    longest = np.array([each.max(initial=0) for each in lengths])
    if (needs > room).any() or (longest > [level.length for level in layout.levels]).any():
        raise ValueError(f"a case needs {needs.max(0).tolist()} tokens and nodes of the levels, and the longest node {longest.tolist()}; {layout} has less")
    free = np.empty((0, len(room)), np.int64)
    row_of = np.zeros(len(needs), np.int64)
    for case in np.argsort(-(needs[:, : len(lengths)] / layout.tokens).sum(1), kind="stable"):
        fits = np.flatnonzero((needs[case] <= free).all(1))
        if not len(fits):
            free, fits = np.vstack([free, room]), np.array([len(free)])
        row_of[case] = fits[0]
        free[fits[0]] -= needs[case]
    return row_of


def _few(rows: int) -> int:
    """Rounded up by an eighth at most: 1 to 16, 18, 20, 22 and so on to 32, 36, 40."""
    step = 2 ** max((rows - 1).bit_length() - 4, 0)
    return -(-rows // step) * step


def _empty(rows: int, slots: int) -> Nodes:
    return Nodes(*(np.zeros((rows, slots), np.int32) for _ in Nodes._fields))
