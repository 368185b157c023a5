"""Criteria of other cases, borrowed as ones that no answer meets: they teach a reward model to read the criterion.

In a rubric each criterion is about its own instruction, so a model may learn to guess from the instruction what is asked for, compare the answer with that, and
never look at the criterion's words. It is then right on every rubric and says of "return in 12 days" that it holds of "return in 5 days". A criterion of
another case has nothing to do with the instruction, and only its words say that it does not hold.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from promedical_jax.data.encode import Encoded
from promedical_jax.rubric import Case
from promedical_jax.rubric.case import GENERAL as DIMENSION
from promedical_jax.rubric.labels import Labels

GENERAL = 0.1  # a text that so large a share of the cases has is about answers in general ("Shows empathy."), and may well hold anywhere
TRIES = 50


def with_foreign(cases: Sequence[Encoded], count: int, seed: int) -> list[Encoded]:
    """The cases, each with up to `count` criteria more, of other cases: not met by any of its answers, which are equal in that.

    Never one whose text the case has itself, nor one that more than a tenth of the cases have. Which ones is a function of (seed, the case's place).
    """
    general = general_texts([case.case for case in cases])
    own = [{criterion.text for criterion in case.case.rubric.criteria} for case in cases]
    return [_with(cases, i, own[i] | general, count, np.random.default_rng([seed, i])) for i in range(len(cases))]


def general_texts(cases: Sequence[Case]) -> set[str]:
    """The texts of criteria that are about answers in general: of that dimension, or of more than a tenth of the cases, and more than one."""
    shared = Counter(text for case in cases for text in {criterion.text for criterion in case.rubric.criteria})
    named = {criterion.text for case in cases for criterion in case.rubric.criteria if criterion.dimension == DIMENSION}
    return named | {text for text, n in shared.items() if n > max(GENERAL * len(cases), 1)}


def _with(cases: Sequence[Encoded], i: int, excluded: set[str], count: int, rng: np.random.Generator) -> Encoded:
    borrowed: dict[str, tuple[list[int], int]] = {}
    for _ in range(TRIES):
        if len(borrowed) == count:
            break
        donor = cases[int(rng.integers(len(cases)))]
        k = int(rng.integers(len(donor.criteria)))
        text = donor.case.rubric.criteria[k].text
        if text not in excluded:
            borrowed[text] = donor.criteria[k], donor.heads[k]
    one, n = cases[i], len(borrowed)
    tokens, heads = [row for row, _ in borrowed.values()], [head for _, head in borrowed.values()]
    a = len(one.answers)
    unmet, equal = np.zeros((a, n)), np.repeat((~np.eye(a, dtype=bool)).astype(float)[..., None], n, 2)
    more = Labels(unmet, np.ones((a, n)), np.zeros((a, a, n)), equal)
    labels = Labels(*(np.concatenate(both, -1) for both in zip(one.labels, more, strict=True)))
    return replace(one, criteria=[*one.criteria, *tokens], heads=[*one.heads, *heads], labels=labels)
