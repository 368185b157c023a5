"""Near duplicates among many texts by their letters: MinHash finds who may be alike, the texts themselves decide.

A text is the set of its windows of SHINGLE characters, after case, blanks and the forms of letters are evened out. Two texts are alike if their sets' Jaccard
index is at least a threshold: a typo in a sentence leaves about 0.85, another drug's name in the same question about 0.5. Signatures are rensa's (MinHash,
Broder 1997); bands of them make candidates; each candidate pair is counted exactly. So nothing that is called alike is less than that, and what is missed is
missed by the bands alone: of pairs at 0.8 one in ten thousand, at 0.7 one in eighty, and below, where the bands are shorter, one in two hundred at 0.5.
Everything is a function of the texts and their order.

Letters: n texts, h shingles of all texts together.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from promedical_jax.errors import InputError
from promedical_jax.likeness.text import evened, letters_of

SHINGLE = 5  # characters
ROWS = 5  # of a band of a signature, in all of which candidates agree; below THRESHOLD fewer, so that hardly a pair is missed there either
HASHES = 120  # of a signature
CROWD = 16  # a bucket of more texts than that is sorted, and each text compared with the next few only
THRESHOLD = 0.7
DOUBT = 0.15  # how far the index that signatures estimate may lie below the threshold: 3.6 standard deviations
CHUNK = 50_000  # texts, or pairs, at a time
BITS = np.uint64(40)  # of a shingle's hash; above them stands whose it is

Flat = tuple[np.ndarray, np.ndarray]  # values of all texts behind one another, and where each text's begin and the last one's end


def alike(texts: Sequence[str], threshold: float = THRESHOLD) -> np.ndarray:
    """[pairs, 2]: texts whose Jaccard index is at least `threshold`, the earlier one first, sorted; found by bands, each pair checked."""
    shingles = _shingles([evened(text) for text in texts])
    candidates = _candidates(_signatures(shingles), threshold - DOUBT, ROWS if threshold >= THRESHOLD else 3)
    return candidates[jaccard(shingles, candidates) >= threshold]


def shingled_jaccard(texts: Sequence[str], pairs: np.ndarray) -> np.ndarray:
    """The indices of some pairs [_, 2] of texts."""
    return jaccard(_shingles([evened(text) for text in texts]), pairs)


def jaccard(shingles: Flat, pairs: np.ndarray) -> np.ndarray:
    """The indices of pairs [_, 2], exact but for collisions of BITS bits; a text without shingles is like nothing."""
    values, starts = shingles
    made = [np.zeros(0)]
    for first in range(0, len(pairs), CHUNK):
        part = pairs[first : first + CHUNK]
        sizes = np.diff(starts)[part]
        of_pair = np.repeat(np.arange(len(part), dtype=np.uint64), sizes.sum(1))
        both = np.sort((of_pair << BITS) | values[_ranges(starts[part.ravel()], sizes.ravel())])
        same = both[1:][both[1:] == both[:-1]] >> BITS
        shared = np.bincount(same.astype(np.int64), minlength=len(part))
        made.append(shared / np.maximum(sizes.sum(1) - shared, 1))
    return np.concatenate(made)


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """start, start + 1, ... of each range behind one another."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - sizes), sizes)


def _shingles(texts: Sequence[str]) -> Flat:
    """Hashes of each text's different shingles, uint64 [h] of BITS bits, ascending within a text; a shorter text is one shingle."""
    parts, counts = zip(*(_shingles_of(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)), strict=True) if texts else ((), ())
    sizes = np.concatenate(counts or [np.zeros(0, np.int64)])
    return np.concatenate(parts or [np.zeros(0, np.uint64)]), np.concatenate([[0], np.cumsum(sizes)])


def _shingles_of(texts: Sequence[str]) -> Flat:
    """The same of some texts, with the number of each text's shingles in place of where they begin."""
    letters, owner, ends = letters_of([text.ljust(SHINGLE, "\0") if text else "" for text in texts])
    windows = max(len(letters) - SHINGLE + 1, 0)
    hashes = np.zeros(windows, np.uint64)
    for place in range(SHINGLE):
        hashes = hashes * np.uint64(0x100000001B3) + letters[place : place + windows]
    hashes = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    owner = owner[:windows]
    inside = np.arange(windows) <= ends[owner] - SHINGLE  # the window ends where its text does, or before
    both = _distinct(((owner.astype(np.uint64) << BITS) | (hashes >> (np.uint64(64) - BITS)))[inside])
    return both & ((np.uint64(1) << BITS) - np.uint64(1)), np.bincount((both >> BITS).astype(np.int64), minlength=len(texts))


def _distinct(values: np.ndarray) -> np.ndarray:
    """np.unique by sorting: its hash table is five times slower on as many values as here."""
    values = np.sort(values)
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if len(values) else values


def _signatures(shingles: Flat) -> np.ndarray:
    """[n, HASHES] uint32."""
    try:
        from rensa import RMinHash
    except ImportError:
        raise InputError('near duplicates need rensa; run pip install "promedical-jax[corpus]"') from None
    values, starts = shingles
    count = len(starts) - 1
    made = np.empty((count, HASHES), np.uint32)
    for first in range(0, count, CHUNK):
        ends = starts[first : first + CHUNK + 1]
        part = np.ascontiguousarray(values[ends[0] : ends[-1]])
        made[first : first + CHUNK] = RMinHash.digest_matrix_from_flat_token_hashes(part, (ends - ends[0]).astype(np.uint64), HASHES, 0).to_rows()
    return made


def _candidates(signatures: np.ndarray, least: float, rows: int) -> np.ndarray:
    """[pairs, 2]: who agrees in a band and, by the whole signature, in a share of at least `least`; each pair once, sorted."""
    count = len(signatures)
    found = [np.zeros(0, np.int64)]
    for first, second in _of_bands(signatures, rows):
        for start in range(0, len(first), CHUNK):
            i, j = first[start : start + CHUNK], second[start : start + CHUNK]
            close = (signatures[i] == signatures[j]).mean(1) >= least
            found.append(i[close] * count + j[close])
    return np.column_stack(np.divmod(_distinct(np.concatenate(found)), max(count, 1)))


def _of_bands(signatures: np.ndarray, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of texts, the earlier one first, that agree in a band."""
    for start in range(0, HASHES, rows):
        own, behind = (_key(np.roll(signatures, -first, axis=1)[:, :count]) for first, count in ((start, rows), (start + rows, 3)))
        # In a crowd, whoever agrees in the next rows too stands nearer.
        order = np.argsort((own & ~np.uint64(0xFFFFF)) | (behind >> np.uint64(44)), kind="stable")
        bucket = own[order] >> np.uint64(20)
        for step in range(1, CROWD):
            together = bucket[step:] == bucket[:-step]
            if not together.any():
                break
            one, other = order[:-step][together], order[step:][together]
            yield np.minimum(one, other), np.maximum(one, other)


def _key(columns: np.ndarray) -> np.ndarray:
    """[n] uint64: rows that are equal have the same, others hardly ever."""
    key = np.zeros(len(columns), np.uint64)
    for column in columns.T:
        key = (key ^ column) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(32)
    return key
