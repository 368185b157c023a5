"""What raters said, as labels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promedical_jax.rubric import Case, satisfied_matrix, score
from promedical_jax.rubric.labels import RaterWeights, labels_of, overall_labels, unjudged

NAN = math.nan
SAID = st.sampled_from(["met", "unmet", "abstain", None])


def case(said: list[tuple[str, bool, list[list[str | None]]]], forbidden: bool = False) -> Case:
    """Of (rater, human, [answers x criteria] of what was said)."""
    _, _, first = said[0]
    criteria = [{"id": f"c{k}", "text": "C.", "tier": "proficiency", "weight": 1 / len(first[0])} for k in range(len(first[0]))]
    verdicts = [
        {"answer": f"a{a}", "criterion": f"c{k}", "verdict": verdict, "rater": rater, "human": human}
        for rater, human, table in said for a, row in enumerate(table) for k, verdict in enumerate(row) if verdict
    ]  # fmt: skip
    return Case.model_validate({
        "id": "one", "instruction": [{"role": "user", "content": "?"}], "answers": [{"id": f"a{a}", "text": "A."} for a in range(len(first))],
        "rubric": {"criteria": [c | ({"polarity": "forbidden"} if forbidden else {}) for c in criteria]}, "verdicts": verdicts,
    })  # fmt: skip


def test_three_physicians_who_disagree_are_shares() -> None:
    said = [("a", True, [["met"], ["unmet"]]), ("b", True, [["met"], ["met"]]), ("c", True, [["unmet"], ["met"]])]
    labels = labels_of(case(said))
    np.testing.assert_allclose(labels.met[:, 0], [2 / 3, 2 / 3])
    assert labels.weight.tolist() == [[1], [1]]
    np.testing.assert_allclose(labels.wins[:, :, 0], [[0, 1 / 3], [1 / 3, 0]])  # one says so, one the other way round, one sees a tie
    np.testing.assert_allclose(labels.ties[:, :, 0], [[0, 1 / 3], [1 / 3, 0]])


def test_humans_and_judges_weigh_apart() -> None:
    said = [("dr", True, [["met"], ["unmet"]]), ("model", False, [["unmet"], ["unmet"]])]
    labels = labels_of(case(said), RaterWeights(human=1.0, judge=0.25))
    np.testing.assert_allclose(labels.met[:, 0], [1 / 1.25, 0])
    np.testing.assert_allclose(labels.weight[:, 0], [0.625, 0.625])
    np.testing.assert_allclose([labels.wins[0, 1, 0], labels.ties[0, 1, 0]], [0.5, 0.125])
    alone = labels_of(case(said), RaterWeights(human=1.0, judge=0.0))
    np.testing.assert_array_equal(alone.met, labels_of(case(said[:1])).met)
    assert labels_of(case(said[1:]), RaterWeights(judge=0.0)).said.any() == False  # noqa: E712


def test_who_abstains_says_nothing() -> None:
    labels = labels_of(case([("a", True, [["met", "abstain"], ["abstain", None]])]))
    np.testing.assert_array_equal(labels.met, [[1, NAN], [NAN, NAN]])
    assert labels.said.tolist() == [[True, False], [False, False]] and not labels.wins.any() and not labels.ties.any()


def test_raters_of_different_answers_are_taken_for_independent() -> None:
    said = [("a", True, [["met"], [None]]), ("b", True, [["met"], [None]]), ("c", True, [[None], ["unmet"]]), ("d", True, [[None], ["met"]])]
    labels = labels_of(case(said))
    np.testing.assert_allclose([labels.wins[0, 1, 0], labels.wins[1, 0, 0], labels.ties[0, 1, 0]], [0.5, 0, 0.5])


@given(st.lists(st.tuples(st.booleans(), st.lists(st.lists(SAID, min_size=2, max_size=2), min_size=3, max_size=3)), min_size=1, max_size=4), st.booleans())
def test_labels_agree_with_the_mean_verdicts_and_pairs_are_all_that_was_said(raters, forbidden: bool) -> None:
    one = case([(f"r{i}", human, table) for i, (human, table) in enumerate(raters)], forbidden)
    labels, good = labels_of(one), satisfied_matrix(one)
    np.testing.assert_allclose(labels.met, 1 - good if forbidden else good)  # a text that holds is 1, whatever the polarity
    judged = labels.weight > 0
    assert (judged == ~np.isnan(labels.met)).all() and (judged <= labels.said).all()
    np.testing.assert_allclose(labels.ties, np.swapaxes(labels.ties, 0, 1))
    total = labels.wins + np.swapaxes(labels.wins, 0, 1) + labels.ties
    both = judged[:, None] & judged[None] & ~np.eye(3, dtype=bool)[..., None]
    np.testing.assert_allclose(total, both, atol=1e-12)  # win, tie and loss of each pair are one


@given(st.lists(st.lists(SAID, min_size=2, max_size=2), min_size=4, max_size=4))
def test_the_whole_preference_is_the_lexicographic_order(table) -> None:
    one = case([("r", True, table)])
    labels, scores = overall_labels(one), score(one.rubric.criteria, satisfied_matrix(one))
    assert np.isnan(labels.met).all() and not labels.weight.any()
    for a in range(4):
        for b in range(4):
            if np.isnan(scores.s1[a]) or np.isnan(scores.s1[b]) or a == b:
                assert labels.wins[a, b, 0] == labels.ties[a, b, 0] == 0
            else:
                assert labels.wins[a, b, 0] == (scores.s1[a] > scores.s1[b]) and labels.ties[a, b, 0] == (scores.s1[a] == scores.s1[b])


def test_nobody_says_nothing() -> None:
    assert not unjudged(2, 3).said.any() and np.isnan(unjudged(2, 3).met).all()
    assert not labels_of(case([("a", True, [[None], [None]])])).said.any()


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_is_a_finite_number_from_zero_on(weight: float) -> None:
    with pytest.raises(ValueError, match="human"):
        RaterWeights(human=weight)
