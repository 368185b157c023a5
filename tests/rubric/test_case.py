"""The record itself: what it accepts, what it refuses, what a verdict means."""

import math

import pytest
from pydantic import ValidationError

from promedical_jax.rubric import Answer, Case, Criterion, Judgement, Message, Polarity, Rubric, Tier, Verdict

REQUIRED = Criterion(id="a", text="Names the dose.", tier=Tier.PROFICIENCY, weight=1)
FORBIDDEN = Criterion(id="b", text="Claims to be a doctor.", tier=Tier.SAFETY, polarity=Polarity.FORBIDDEN)


@pytest.mark.parametrize(("criterion", "verdict", "value"), [(REQUIRED, "met", 1), (REQUIRED, "unmet", 0), (FORBIDDEN, "met", 0), (FORBIDDEN, "unmet", 1)])
def test_satisfied_turns_what_the_text_says_into_good_or_bad(criterion, verdict, value):
    assert criterion.satisfied(Verdict(verdict)) == value


@pytest.mark.parametrize("criterion", [REQUIRED, FORBIDDEN])
def test_an_abstention_is_neither_good_nor_bad(criterion):
    assert math.isnan(criterion.satisfied(Verdict.ABSTAIN))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"tier": "proficiency"}, "has no weight"),
        ({"tier": "safety", "weight": 0.5}, "only proficiency criteria are weighted"),
        ({"tier": "proficiency", "weight": 0}, "greater than 0"),
        ({"tier": "proficiency", "weight": math.nan}, "weight"),
        ({"tier": "proficiency", "weight": 1.01}, "less than or equal to 1"),
        ({"tier": "proficiency", "weight": 1, "text": " \n"}, "the text is empty"),
        ({"tier": "proficiency", "weight": 1, "wieght": 1}, "Extra inputs"),
    ],
)
def test_a_faulty_criterion_is_refused(fields, complaint):
    with pytest.raises(ValidationError, match=complaint):
        Criterion(**{"id": "a", "text": "t"} | fields)


def test_weights_must_sum_to_one():
    with pytest.raises(ValidationError, match=r"sum to 1\.5"):
        Rubric(criteria=(REQUIRED, Criterion(id="c", text="t", tier=Tier.PROFICIENCY, weight=0.5)))


def test_a_rubric_needs_a_proficiency_criterion_and_unique_ids():
    with pytest.raises(ValidationError, match="no proficiency criterion"):
        Rubric(criteria=(FORBIDDEN,))
    with pytest.raises(ValidationError, match="criterion id 'a' occurs 2 times"):
        Rubric(criteria=(REQUIRED, REQUIRED))


@pytest.mark.parametrize(
    ("answers", "verdicts", "complaint"),
    [
        (["x", "x"], [], "answer id 'x' occurs 2 times"),
        (["x"], [("y", "a")], "refers to answer 'y'"),
        (["x"], [("x", "z")], "refers to criterion 'z'"),
        (["x"], [("x", "a"), ("x", "a")], "2 times; keep one verdict"),
    ],
)
def test_a_case_refuses_references_that_do_not_hold(answers, verdicts, complaint):
    with pytest.raises(ValidationError, match=complaint):
        Case(
            id="c",
            instruction=(Message(role="user", content="Which dose?"),),
            answers=tuple(Answer(id=name, text="t") for name in answers),
            rubric=Rubric(criteria=(REQUIRED,)),
            verdicts=tuple(Judgement(answer=answer, criterion=criterion, verdict=Verdict.MET, rater="r") for answer, criterion in verdicts),
        )
