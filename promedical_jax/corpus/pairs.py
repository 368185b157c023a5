"""From judged cases to preference data: pairs of answers per criterion and as a whole, how they are spread over tiers, and parts that share no question.

Ties stay ties, and where either answer was not judged there is no pair; both are counted. A pair's answers are said apart by the mean of the raters' verdicts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from typing import Any, Literal

import numpy as np

from promedical_jax.corpus.question import Question
from promedical_jax.errors import InputError
from promedical_jax.likeness.letters import THRESHOLD, alike
from promedical_jax.likeness.pairs import clusters
from promedical_jax.rubric.case import Case, Polarity, Tier
from promedical_jax.rubric.scores import RESOLUTION, prefer, satisfied_matrix, score

Outcome = Literal["pair", "tie", "abstained"]


@dataclass(frozen=True)
class CriterionPair:
    """On this criterion one answer of the case is better; ids. `margin` in (0, 1]: 1 where all raters agree on both."""

    case: str
    criterion: str
    tier: Tier
    better: str
    worse: str
    margin: float


def criterion_pairs(case: Case) -> tuple[list[CriterionPair], Counter[tuple[Tier, Outcome]]]:
    """The pairs of a case, by criterion and then by the answers' order, and how many of all combinations are pairs, ties, or not judged, by tier."""
    said, pairs, counted = satisfied_matrix(case), list[CriterionPair](), Counter[tuple[Tier, Outcome]]()
    for k, criterion in enumerate(case.rubric.criteria):
        for i, j in combinations(range(len(case.answers)), 2):
            margin = said[i, k] - said[j, k]
            outcome: Outcome = "abstained" if np.isnan(margin) else "tie" if abs(margin) <= RESOLUTION else "pair"
            counted[criterion.tier, outcome] += 1
            if outcome == "pair":
                better, worse = (case.answers[n].id for n in ((i, j) if margin > 0 else (j, i)))
                pairs.append(CriterionPair(case.id, criterion.id, criterion.tier, better, worse, float(abs(margin))))
    return pairs, counted


def missing_mistake(case: Case, seed: int = 0) -> str | None:
    """What an answer would have to do for a pair of the safety tier, in words; None where there is such a pair, or all do it already, or nothing is said to be
    unsafe. Of several criteria one is chosen by a hash of the seed and the case's id."""
    said = satisfied_matrix(case)
    kept = [one for k, one in enumerate(case.rubric.criteria) if one.tier is Tier.SAFETY and (said[:, k] == 1).any()]
    if not kept or criterion_pairs(case)[1][Tier.SAFETY, "pair"]:
        return None
    one = kept[int.from_bytes(sha256(f"{seed} {case.id}".encode()).digest()[:8]) % len(kept)]
    return one.text if one.polarity is Polarity.FORBIDDEN else f"The answer fails in this: {one.text}"


def preferences(case: Case) -> list[dict[str, Any]]:
    """Rows of `prompt`, `chosen` and `rejected` as TRL reads them (messages), of the pairs that the lexicographic order tells apart.

    Beside them the case's id, the answers' ids, and `decided_by`, the tier in which they first differ.
    """
    scores = score(case.rubric.criteria, satisfied_matrix(case))
    order = prefer(scores[:, None], scores[None])
    prompt = [message.model_dump() for message in case.instruction]
    rows = []
    for i, j in combinations(range(len(case.answers)), 2):
        if order[i, j]:
            first, second = (i, j) if order[i, j] > 0 else (j, i)
            turns = ([{"role": "assistant", "content": case.answers[n].text}] for n in (first, second))
            tiers = ((Tier.SAFETY, scores.s3), (Tier.PROFICIENCY, scores.s1), (Tier.EXCELLENCE, scores.s2))
            decided = next(tier for tier, values in tiers if abs(values[i] - values[j]) > RESOLUTION)
            rows.append({"prompt": prompt, **dict(zip(("chosen", "rejected"), turns, strict=True)), "case": case.id,
                         "chosen_id": case.answers[first].id, "rejected_id": case.answers[second].id, "decided_by": decided.value})  # fmt: skip
    return rows


def split(cases: Sequence[Case], shares: Mapping[str, float], seed: int = 0, threshold: float = THRESHOLD) -> dict[str, list[Case]]:
    """The cases in parts of about these shares, which must sum to 1. Near duplicates of a question, through others too, are in one part.

    A part is chosen by a hash of the seed and of the id of the cluster's first case: more cases change little of where the others are.
    Raises InputError for shares that are none.
    """
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise InputError(f"split: the shares {dict(shares)} must be above 0 and sum to 1; correct them")
    texts = [Question.text_of(case.instruction) for case in cases]
    parts: dict[str, list[Case]] = {name: [] for name in shares}
    ends = np.cumsum(list(shares.values()))
    for case, first in zip(cases, clusters(len(cases), alike(texts, threshold)).tolist(), strict=True):
        drawn = int.from_bytes(sha256(f"{seed} {cases[first].id}".encode()).digest()[:8]) / 2**64
        parts[list(shares)[min(int(np.searchsorted(ends, drawn, "right")), len(ends) - 1)]].append(case)
    return parts
