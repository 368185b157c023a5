"""What of the raw questions is kept, and of each that is not, why: licence, language, length, copies, near copies, copies in other words, benchmarks' items.

In that order, each question is dropped for the first reason that holds. A benchmark's item is one that shares 13 words in a row with a question (all its words,
where it has fewer), or is alike by letters, for an edit in a short question leaves no 13 words in a row, or is near in the space of the recipe.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from promedical_jax.corpus.language import foreign
from promedical_jax.corpus.question import Question
from promedical_jax.corpus.recipe import Sieve
from promedical_jax.likeness import NGRAMS, Space
from promedical_jax.likeness.cells import nearest
from promedical_jax.likeness.letters import alike
from promedical_jax.likeness.pairs import clusters
from promedical_jax.likeness.text import evened, words
from promedical_jax.rubric.case import Record

# The last two are of later stages.
Reason = Literal["licence", "language", "short", "long", "copy", "near copy", "same meaning", "benchmark", "difficulty", "no reply"]
WORDS = 13  # in a row: the length that GPT-3's authors took for contamination (arXiv 2005.14165, appendix C)
COUNTED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")  # a word, or a sign of Chinese or Japanese
FEWEST = 4  # words of a benchmark's item that can be found in a question; shorter ones must be alike


class Dropped(Record):
    """A question that is not kept. `because`: its licence, language or words, the id of who stands for it, or the benchmark and the item's number."""

    id: str
    reason: Reason
    because: str


def sieve(questions: Sequence[Question], wanted: Sieve = Sieve(), benchmarks: Mapping[str, Sequence[str]] | None = None,  # noqa: B008 (frozen)
          space: Space = NGRAMS) -> tuple[list[Question], list[Dropped]]:  # fmt: skip
    """The kept questions, in their order, and the dropped ones by reason. benchmarks: of each suite, by its name, the texts of its items. space: where
    questions of the same meaning are near each other."""
    dropped: list[Dropped] = []
    left = list(questions)
    for reason, find in _stages(wanted, benchmarks or {}, space):
        found = find(left)
        dropped += [Dropped(id=left[place].id, reason=reason, because=because) for place, because in sorted(found.items())]
        left = [question for place, question in enumerate(left) if place not in found]
    return left, dropped


Found = dict[int, str]  # place of a question that is to go, and because of what


def _stages(wanted: Sieve, benchmarks: Mapping[str, Sequence[str]], space: Space) -> Iterator[tuple[Reason, Callable[[list[Question]], Found]]]:
    if wanted.licences is not None:
        yield "licence", lambda left: {i: q.licence for i, q in enumerate(left) if q.licence not in (wanted.licences or ())}
    if wanted.languages is not None:
        yield "language", lambda left: foreign([q.text for q in left], wanted.languages or ())
    count = lambda left: enumerate(len(COUNTED.findall(q.text)) for q in left)  # noqa: E731
    yield "short", lambda left: {i: f"{n} words" for i, n in count(left) if n < wanted.shortest}
    yield "long", lambda left: {i: f"{n} words" for i, n in count(left) if n > wanted.longest}
    yield "copy", _copies
    yield "near copy", lambda left: _stand_ins(left, clusters(len(left), alike([q.text for q in left], wanted.near)))
    vectors = _once(space)
    if (meaning := wanted.meaning) is not None:
        yield "same meaning", lambda left: _stand_ins(left, clusters(len(left), space.near(vectors(left), meaning)))
    if benchmarks:
        yield "benchmark", lambda left: _contaminated(left, benchmarks, wanted, vectors, space)


def _once(space: Space) -> Callable[[Sequence[Question]], np.ndarray]:
    """The vectors of questions, of which each is computed once."""
    known: dict[str, np.ndarray] = {}

    def vectors(left: Sequence[Question]) -> np.ndarray:
        new = [q for q in left if q.id not in known]
        known.update(zip((q.id for q in new), space.embed([q.text for q in new]) if new else (), strict=True))
        return np.stack([known[q.id] for q in left]) if left else space.embed([])

    return vectors


def _copies(left: list[Question]) -> Found:
    """Equal but for case, blanks and forms of letters."""
    firsts: dict[str, int] = {}
    return _stand_ins(left, np.array([firsts.setdefault(evened(q.text), i) for i, q in enumerate(left)], int))


def _stand_ins(left: list[Question], cluster: np.ndarray) -> Found:
    """Of each cluster one stays: one with a reference before one without, then the longest text, then the earliest."""
    best: dict[int, int] = {}
    worth = lambda i: (left[i].reference is not None, len(left[i].text), -i)  # noqa: E731
    for i, first in enumerate(cluster.tolist()):
        best[first] = max(best.get(first, i), i, key=worth)
    return {i: left[best[first]].id for i, first in enumerate(cluster.tolist()) if best[first] != i}


def _contaminated(left: Sequence[Question], benchmarks: Mapping[str, Sequence[str]], wanted: Sieve, vectors: Callable[[Sequence[Question]], np.ndarray],
                  space: Space) -> Found:  # fmt: skip
    texts = [q.text for q in left]
    items = [(f"{name}, item {number}", text) for name, each in benchmarks.items() for number, text in enumerate(each, start=1)]
    spans: dict[tuple[str, ...], str] = {}
    for name, text in items:
        said = words(text)
        for span in _spans(said, min(WORDS, len(said))) if len(said) >= FEWEST else ():
            spans.setdefault(span, name)
    lengths = sorted({len(span) for span in spans}, reverse=True)
    found: Found = {}
    for place, text in enumerate(texts):
        said = words(text)
        hit = next((spans[span] for length in lengths for span in _spans(said, length) if span in spans), None)
        if hit:
            found[place] = hit
    for first, second in alike([text for _, text in items] + texts, wanted.benchmark).tolist():
        if first < len(items) <= second:
            found.setdefault(second - len(items), items[first][0])
    if wanted.benchmark_meaning is not None and items and texts:
        which, cosines = nearest(vectors(left), space.embed([text for _, text in items]), 1)
        for place in np.flatnonzero(cosines[:, 0] >= wanted.benchmark_meaning).tolist():
            found.setdefault(place, items[which[place, 0]][0])
    return found


def _spans(said: list[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(said[start : start + length]) for start in range(len(said) - length + 1))
