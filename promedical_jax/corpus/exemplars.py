"""The pool of approved rubrics: who writes a rubric is shown those of the nearest questions, and a question whose own is there needs no writer.

So a correction teaches what is written next, and rewrites only what is near it: who is shown what he was shown before is asked the same as before, and what was
replied to that is kept.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from promedical_jax.corpus.question import Question
from promedical_jax.likeness import Space
from promedical_jax.likeness.cells import nearest
from promedical_jax.likeness.text import evened
from promedical_jax.rubric.case import Case
from promedical_jax.rubric.files import read_cases


def read_pool(path: Path | None) -> list[Case]:
    """The approved cases by their ids; none where there is no file yet, as before the first round of review."""
    return sorted(read_cases(path), key=lambda case: case.id) if path and path.exists() else []


def examples(questions: Sequence[Question], pool: Sequence[Case], count: int, space: Space) -> list[list[Case]]:
    """For each question the `count` cases of the pool that are nearest to it, the nearest first, none of which asks the same."""
    if not pool or not count:
        return [[] for _ in questions]
    asked = [Question.text_of(case.instruction) for case in pool]
    vectors = space.embed(asked)
    said = [evened(text) for text in asked]
    most = max(Counter(said).values()) + 1  # of those near a question, so many may be its own
    places, _ = nearest(space.embed([question.text for question in questions]), vectors, count + most)
    own = lambda case, text, question: case.id == question.id or text == evened(question.text)  # noqa: E731
    return [[pool[i] for i in near if not own(pool[i], said[i], question)][:count] for question, near in zip(questions, places.tolist(), strict=True)]
