"""A reward model on held-out cases: is it right, calibrated, and does it read the criterion? Any kind of it, and a language model asked zero-shot."""

from collections.abc import Callable, Sequence

import numpy as np

from promedical_jax.bench.reward_figures import (
    Evidence,
    RewardModelFigures,
    direction,
    longer_preferred,
    majority_truth,
    measure_change,
    measure_safety,
    measure_selection,
    measure_tiers,
    overall,
)
from promedical_jax.data.encode import Encoded
from promedical_jax.errors import InputError
from promedical_jax.reward import RewardJudge
from promedical_jax.reward.judge import SOFT_SKILL
from promedical_jax.rubric import Case, Criterion, Rubric, best, satisfied_matrix, score
from promedical_jax.rubric.labels import labels_of


def evaluate(judge: RewardJudge, cases: Sequence[Encoded], paraphrases: Sequence[Case] | None = None,
             foreign: Callable[[Case, Criterion, Case], bool] | None = None) -> RewardModelFigures:
    """Everything that is measured of a model, against the majority of the raters; judgements on which they are split have none and are left out.

    `paraphrases`: the same cases with other texts for the same criteria. `foreign(case, criterion, donor)`: whether a criterion of the case `donor` says
    nothing of any answer of `case`; where it is given, each criterion is swapped for such a one, and a model that reads it has nothing left to go by.
    """
    held = _evidence(judge, cases)
    tiers = measure_tiers(held)
    if not tiers:
        raise InputError("cases: the raters are evenly split on every judgement, so there is no majority to compare with; give cases on which most agree")
    accuracy, majority, pairwise = overall(held)
    truth = [score(case.case.rubric.criteria, satisfied_matrix(case.case)) for case in cases]
    original = [case.case for case in cases]
    return RewardModelFigures(
        kind=judge.name,
        tiers=tiers,
        overall=accuracy,
        overall_majority=majority,
        overall_pairwise=pairwise,
        safety=measure_safety(held),
        longer_preferred=longer_preferred(held),
        selection=measure_selection(held, truth, [_pick(judge, one) for one in held]),
        paraphrased=measure_change(held, _reworded(judge, original, held, matched(original, paraphrases))) if paraphrases else None,
        swapped=measure_change(held, _reworded(judge, original, held, swapped(original, foreign))) if foreign else None,
        n_cases=len(cases),
        n_answers=sum(len(case.answers) for case in cases),
        split=sum(int(np.isnan(majority_truth(share)[~np.isnan(share)]).sum()) for share in (labels_of(case).met for case in original)),
    )


def matched(cases: Sequence[Case], others: Sequence[Case]) -> list[list[Criterion | None]]:
    """For each criterion of each case the criterion of the same ids among `others`, None where its text is the same. Raises InputError for none, or for
    one of the other polarity, of which the raters' word would mean the opposite."""
    found = {case.id: {criterion.id: criterion for criterion in case.rubric.criteria} for case in others}
    rows: list[list[Criterion | None]] = []
    for case in cases:
        there = found.get(case.id, {})
        missing = [criterion.id for criterion in case.rubric.criteria if criterion.id not in there]
        if missing:
            raise InputError(f"paraphrases: case {case.id!r} has no criterion {missing[0]!r} there; give the same cases with the same ids, in other words")
        turned = [criterion.id for criterion in case.rubric.criteria if there[criterion.id].polarity is not criterion.polarity]
        if turned:
            raise InputError(f"paraphrases: criterion {turned[0]!r} of case {case.id!r} has another polarity there; say the same in other words")
        rows.append([there[c.id] if there[c.id].text != c.text else None for c in case.rubric.criteria])
    return rows


def swapped(cases: Sequence[Case], foreign: Callable[[Case, Criterion, Case], bool], seed: int = 0, tries: int = 40) -> list[list[Criterion | None]]:
    """For each criterion of each case one of the same tier, drawn from other cases, that is foreign to all answers of the case; None where none was found."""
    rng = np.random.default_rng(seed)
    rows: list[list[Criterion | None]] = []
    for case in cases:
        row: list[Criterion | None] = []
        for criterion in case.rubric.criteria:
            donors = (cases[int(i)] for i in rng.integers(len(cases), size=tries))
            drawn = ((donor, other) for donor in donors if donor.id != case.id for other in _shuffled(donor, rng))
            like = ((donor, other) for donor, other in drawn if other.tier is criterion.tier and other.text != criterion.text)
            row.append(next((other for donor, other in like if foreign(case, other, donor)), None))
        rows.append(row)
    return rows


def _shuffled(case: Case, rng: np.random.Generator) -> list[Criterion]:
    return [case.rubric.criteria[int(k)] for k in rng.permutation(len(case.rubric.criteria))]


def _evidence(judge: RewardJudge, cases: Sequence[Encoded], truth: Sequence[np.ndarray] | None = None) -> list[Evidence]:
    """What the model says of the cases' own answers, beside the raters' majority."""
    said = [None] * len(cases) if judge.model.kind == "implicit" else judge.said(cases)
    raw = judge.raw(cases) if judge.model.kind == "implicit" else [one.score for one in said if one is not None]
    rows = []
    for i, (case, scores, one) in enumerate(zip(cases, raw, said, strict=True)):
        criteria = case.case.rubric.criteria
        if one is None:  # one score of the whole answer, the higher the better: it speaks for what is required, and against what is forbidden
            scores = scores * direction(criteria)
        rows.append(Evidence(
            case=case.case.id,
            criteria=criteria,
            score=scores,
            probability=None if one is None else one.probability,
            satisfied=None if one is None else judge.model.verdicts.satisfied(one.probability, criteria),
            truth=majority_truth(labels_of(case.case).met) if truth is None else truth[i],
            length=np.array([len(answer) for answer in case.answers]),
        ))  # fmt: skip
    return rows


def _reworded(judge: RewardJudge, cases: Sequence[Case], before: Sequence[Evidence], wordings: Sequence[Sequence[Criterion | None]]) -> list[Evidence]:
    """The same answers read with other texts for the criteria, beside the truth of the old ones; NaN for those that keep their text."""
    told, truth = [], []
    for case, one, row in zip(cases, before, wordings, strict=True):
        pairs = zip(case.rubric.criteria, row, strict=True)
        criteria = tuple(old if new is None else old.model_copy(update={"text": new.text, "polarity": new.polarity}) for old, new in pairs)
        told.append(judge.read(case.model_copy(update={"rubric": Rubric(criteria=criteria)})))
        truth.append(np.where([new is None for new in row], np.nan, one.truth))
    return _evidence(judge, told, truth)


def _pick(judge: RewardJudge, one: Evidence) -> int:
    """The answer that the model puts first: by its verdicts on safety, then by how sure it is of the rest; or by its one score."""
    if one.probability is None:
        return int((one.score * direction(one.criteria))[:, 0].argmax())
    return best(score(one.criteria, judge.model.verdicts.satisfied(one.probability, one.criteria, SOFT_SKILL)))
