"""The published scalar reward."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from promedical_jax.rubric import ScalarReward, Scores, prefer

NAN = math.nan
rewards = st.builds(
    lambda alpha, beta, margin: ScalarReward(alpha=alpha, beta=beta, penalty=1 + beta + margin), st.floats(0.01, 0.99), st.floats(0.01, 2), st.floats(0.01, 3)
)


def scores_of(*rows):
    return Scores(*np.array(rows, float).T)


def test_the_formula():
    scores = scores_of((0.5, 2, 0), (1, 9, 0), (1, 9, 2), (0, 0, 1), (NAN, 3, 1))
    np.testing.assert_allclose(ScalarReward(alpha=0.1, beta=0.3, penalty=2).of(scores), [0.7, 1.3, -2.7, -2, NAN])


def test_the_defaults_are_valid():
    reward = ScalarReward()
    assert 0 < reward.alpha < 1 and reward.beta > 0 and reward.penalty > 1 + reward.beta


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"alpha": 0}, "greater than 0"),
        ({"alpha": 1}, "less than 1"),
        ({"alpha": NAN}, "alpha"),
        ({"beta": 0}, "greater than 0"),
        ({"beta": math.inf}, "finite"),
        ({"beta": 0.3, "penalty": 1.3}, r"must be greater than 1 \+ beta = 1.3"),
        ({"penalty": NAN}, "finite"),
        ({"gamma": 1}, "Extra inputs"),
    ],
)
def test_constants_outside_their_range_are_refused(fields, complaint):
    with pytest.raises(ValidationError, match=complaint):
        ScalarReward(**fields)


part = st.floats(0, 1)


@given(rewards, part, part, st.integers(0, 20), st.integers(0, 20), st.integers(0, 5), st.integers(0, 5))
def test_fewer_violations_always_earn_more(reward, s1, other_s1, s2, other_s2, s3, more):
    fewer, worse = reward.of(scores_of((s1, s2, s3), (other_s1, other_s2, s3 + 1 + more)))
    assert fewer > worse


def test_at_equal_violations_bonus_can_outweigh_proficiency_so_it_is_not_the_lexicographic_order():
    a, b = scores_of((0.6, 0, 0)), scores_of((0.5, 3, 0))
    assert prefer(a, b)[0] == 1
    assert ScalarReward().of(a)[0] < ScalarReward().of(b)[0]
