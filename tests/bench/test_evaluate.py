"""A reward model on held-out cases, with stand-ins for the model that know the truth, ignore the criterion, or are told none."""

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from promedical_jax.bench.reward_model import evaluate, matched, swapped
from promedical_jax.clinic import foreign, make_cases
from promedical_jax.data.encode import Encoded
from promedical_jax.errors import InputError
from promedical_jax.reward import UNCALIBRATED, Said
from promedical_jax.rubric import Case, Criterion, Judgement, Polarity, Rubric, Tier, Verdict, satisfied_matrix, score
from promedical_jax.rubric.labels import labels_of

CASES = make_cases(12, seed=0, held_out=True)
INDEED = "Indeed: "


def encoded(case: Case) -> Encoded:
    """Tokens are of no account here, but for how many an answer has."""
    return Encoded(case, [0], [[0] * len(answer.text) for answer in case.answers], [[0] for _ in case.rubric.criteria], [], labels_of(case))


def stand_in(probability: Callable[[Case], np.ndarray] | None = None, raw: Callable[[Case], np.ndarray] | None = None) -> Any:
    """A judge that says what it is given: P(met) [A, K] of a case, or one score an answer [A, 1]."""

    def said(cases: Sequence[Encoded]) -> list[Said]:
        assert probability
        return [Said(p, p, UNCALIBRATED.read(p, one.case.rubric.criteria)) for one in cases for p in [probability(one.case)]]

    return SimpleNamespace(
        name="explicit" if probability else "implicit",
        model=SimpleNamespace(kind="explicit" if probability else "implicit", verdicts=UNCALIBRATED),
        said=said,
        raw=lambda cases: [raw(one.case) for one in cases] if raw else pytest.fail("it has verdicts"),
        read=encoded,
    )


KNOWN = {(case.id, criterion.text): labels_of(case).met[:, k] for case in CASES for k, criterion in enumerate(case.rubric.criteria)}


def reader(case: Case) -> np.ndarray:
    """Knows what holds of each answer, in these words or others; a text that it does not know holds of none."""
    nothing = np.zeros(len(case.answers))
    return np.stack([0.1 + 0.8 * KNOWN.get((case.id, c.text.removeprefix(INDEED)), nothing) for c in case.rubric.criteria], 1)


def guesser(case: Case) -> np.ndarray:
    """Knows what is asked for in each place of the rubric, and never looks at the words."""
    return 0.1 + 0.8 * labels_of(next(one for one in CASES if one.id == case.id)).met


def whole(case: Case) -> np.ndarray:
    """One score an answer, in the order of the rubric."""
    scores = score(case.rubric.criteria, satisfied_matrix(case))
    return (scores.s1 + 0.01 * scores.s2 - 10 * scores.s3)[:, None]


def in_other_words(case: Case) -> Case:
    criteria = tuple(criterion.model_copy(update={"text": INDEED + criterion.text}) for criterion in case.rubric.criteria)
    return case.model_copy(update={"rubric": Rubric(criteria=criteria)})


def test_a_model_that_reads_the_criterion_is_right_in_other_words_and_lost_on_another_cases() -> None:
    figures = evaluate(stand_in(reader), [encoded(case) for case in CASES], [in_other_words(case) for case in CASES], foreign)
    assert (figures.kind, figures.n_cases, figures.n_answers, figures.split) == ("explicit", 12, 12 * len(CASES[0].answers), 0)
    assert figures.overall.mean == figures.overall_pairwise.mean == 1
    for one in figures.tiers.values():
        assert one.ece.mean == pytest.approx(0.1) and one.brier.mean == pytest.approx(0.01)
    assert figures.counts == {tier: sum(len(case.answers) * sum(c.tier is tier for c in case.rubric.criteria) for case in CASES) for tier in Tier}
    best = figures.selection
    assert best and best.safe == best.safe_best and best.s1_mean.mean < best.s1.mean <= best.s1_best.mean  # the highest S1 may be of an unsafe answer
    assert figures.safety and figures.safety.recall.mean == figures.safety.precision.mean == 1
    said, other = figures.paraphrased, figures.swapped
    assert said and said.same.mean == said.pairwise.mean == 1 and said.count == sum(figures.counts.values())
    assert other and other.pairwise.mean == other.pairwise_by_verdict.mean == 0.5 and other.same.mean < 1


def test_a_model_that_does_not_read_it_is_as_right_and_gives_itself_away() -> None:
    figures = evaluate(stand_in(guesser), [encoded(case) for case in CASES], foreign=foreign)
    assert figures.overall.mean == 1 and figures.paraphrased is None
    assert figures.swapped and figures.swapped.pairwise.mean == figures.swapped.same.mean == 1 and figures.swapped.moved.mean == 0


@pytest.mark.parametrize("forbidden_first", [False, True])
def test_one_score_an_answer_picks_the_best_whatever_the_first_criterion_is(forbidden_first: bool) -> None:
    cases = [case.model_copy(update={"rubric": Rubric(criteria=case.rubric.criteria[::-1])}) if forbidden_first else case for case in CASES]
    assert (cases[0].rubric.criteria[0].polarity is Polarity.FORBIDDEN) == forbidden_first
    figures = evaluate(stand_in(raw=whole), [encoded(case) for case in cases], foreign=foreign)
    assert figures.kind == "implicit" and figures.safety is None and math.isnan(figures.overall.mean)
    assert figures.selection and figures.selection.safe == figures.selection.safe_best
    assert figures.overall_pairwise.mean > 0.5 and figures.swapped and math.isnan(figures.swapped.same.mean)


def test_split_raters_are_counted_and_where_nobody_has_a_majority_there_is_nothing_to_say() -> None:
    case = CASES[0]
    first = case.verdicts[0]
    other = Verdict.UNMET if first.verdict is Verdict.MET else Verdict.MET
    contrary = Judgement(answer=first.answer, criterion=first.criterion, verdict=other, rater="contrary")
    split = evaluate(stand_in(guesser), [encoded(case.model_copy(update={"verdicts": (*case.verdicts, contrary)}))])
    assert split.split == 1 and sum(split.counts.values()) == len(case.verdicts) - 1
    with pytest.raises(InputError, match="evenly split on every judgement"):
        evaluate(stand_in(guesser), [encoded(case.model_copy(update={"verdicts": (first, contrary)}))])


def test_criteria_are_swapped_for_other_cases_of_the_same_tier_that_say_nothing_here() -> None:
    rows = swapped(CASES, foreign)
    assert rows == swapped(CASES, foreign) and rows != swapped(CASES, foreign, seed=1)
    own = {case.id: {criterion.text for criterion in case.rubric.criteria} for case in CASES}
    kinds = set()
    for case, row in zip(CASES, rows, strict=True):
        for old, new in zip(case.rubric.criteria, row, strict=True):
            if new is not None:
                donors = [donor for donor in CASES if donor.id != case.id and new.text in own[donor.id]]
                assert new.tier is old.tier and new.text != old.text and any(foreign(case, new, donor) for donor in donors)
                kinds.add((old.tier, new.id))
    assert len({kind for tier, kind in kinds if tier is Tier.PROFICIENCY}) == 4, "not only the first criterion of each donor"
    assert swapped(CASES[:1], lambda *_: True) == [[None] * len(CASES[0].rubric.criteria)]
    assert swapped(CASES, lambda *_: False) == [[None] * len(case.rubric.criteria) for case in CASES]


def test_paraphrases_are_found_by_their_ids_and_must_say_the_same() -> None:
    case, other = CASES[0], in_other_words(CASES[0])
    assert matched([case], [CASES[1], other]) == [list(other.rubric.criteria)]
    assert matched([case], [case]) == [[None] * len(case.rubric.criteria)]

    def changed(**update: object) -> Case:
        criteria: list[Criterion] = [case.rubric.criteria[0].model_copy(update=update), *case.rubric.criteria[1:]]
        return case.model_copy(update={"rubric": Rubric(criteria=tuple(criteria))})

    with pytest.raises(InputError, match="has no criterion"):
        matched([case], [changed(id="another")])
    with pytest.raises(InputError, match="another polarity"):
        matched([case], [changed(polarity=Polarity.FORBIDDEN)])
