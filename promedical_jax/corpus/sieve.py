"""What of the raw questions is kept, and of each that is not, why: licence, language, length, copies, near copies, and items of benchmarks.

In that order, each question is dropped for the first reason that holds. A benchmark's item is one that shares 13 words in a row with a question (all its words,
where it has fewer), or is alike by characters: an edit in a short question leaves no 13 words in a row.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from promedical_jax.corpus.language import foreign
from promedical_jax.corpus.near import alike, clusters, evened
from promedical_jax.corpus.question import Question
from promedical_jax.corpus.recipe import Sieve
from promedical_jax.rubric.case import Record

Reason = Literal["licence", "language", "short", "long", "copy", "near copy", "benchmark", "difficulty", "no reply"]  # the last two of later stages
WORDS = 13  # in a row: the length that GPT-3's authors took for contamination (arXiv 2005.14165, appendix C)
FEWEST = 4  # words of a benchmark's item that can be found in a question; shorter ones must be alike


class Dropped(Record):
    """A question that is not kept. `because`: its licence, language or words, the id of who stands for it, or the benchmark and the item's number."""

    id: str
    reason: Reason
    because: str


def sieve(questions: Sequence[Question], wanted: Sieve = Sieve(), benchmarks: Mapping[str, Sequence[str]] | None = None,  # noqa: B008 (frozen)
          ) -> tuple[list[Question], list[Dropped]]:  # fmt: skip
    """The kept questions, in their order, and the dropped ones by reason. benchmarks: of each suite, by its name, the texts of its items."""
    dropped: list[Dropped] = []
    left = list(questions)
    for reason, find in _stages(wanted, benchmarks or {}):
        found = find(left)
        dropped += [Dropped(id=left[place].id, reason=reason, because=because) for place, because in sorted(found.items())]
        left = [question for place, question in enumerate(left) if place not in found]
    return left, dropped


Found = dict[int, str]  # place of a question that is to go, and because of what


def _stages(wanted: Sieve, benchmarks: Mapping[str, Sequence[str]]) -> Iterator[tuple[Reason, Callable[[list[Question]], Found]]]:
    if wanted.licences is not None:
        yield "licence", lambda left: {i: q.licence for i, q in enumerate(left) if q.licence not in (wanted.licences or ())}
    if wanted.languages is not None:
        yield "language", lambda left: foreign([q.text for q in left], wanted.languages or ())
    count = lambda left: enumerate(len(q.text.split()) for q in left)  # noqa: E731
    yield "short", lambda left: {i: f"{n} words" for i, n in count(left) if n < wanted.shortest}
    yield "long", lambda left: {i: f"{n} words" for i, n in count(left) if n > wanted.longest}
    yield "copy", _copies
    yield "near copy", lambda left: _stand_ins(left, clusters(len(left), alike([q.text for q in left], wanted.near)))
    if benchmarks:
        yield "benchmark", lambda left: _contaminated([q.text for q in left], benchmarks, wanted.benchmark)


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


def _contaminated(texts: Sequence[str], benchmarks: Mapping[str, Sequence[str]], threshold: float) -> Found:
    items = [(f"{name}, item {number}", text) for name, each in benchmarks.items() for number, text in enumerate(each, start=1)]
    spans: dict[tuple[str, ...], str] = {}
    for name, text in items:
        words = _words(text)
        for span in _spans(words, min(WORDS, len(words))) if len(words) >= FEWEST else ():
            spans.setdefault(span, name)
    lengths = sorted({len(span) for span in spans}, reverse=True)
    found: Found = {}
    for place, text in enumerate(texts):
        words = _words(text)
        hit = next((spans[span] for length in lengths for span in _spans(words, length) if span in spans), None)
        if hit:
            found[place] = hit
    for first, second in alike([text for _, text in items] + list(texts), threshold).tolist():
        if first < len(items) <= second:
            found.setdefault(second - len(items), items[first][0])
    return found


def _words(text: str) -> list[str]:
    """Without marks, so that a comma hides nothing."""
    return "".join(letter if letter.isalnum() else " " for letter in evened(text)).split()


def _spans(words: list[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + length]) for start in range(len(words) - length + 1))
