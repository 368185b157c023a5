"""Agreement beyond chance, against the figures that its authors and Gwet's irrCAC print, and against what the definitions demand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from promedical_jax.rubric.agreement import NONE, Coefficient, closeness, gwet_ac2, krippendorff_alpha, weighted_kappa

# Two abstractors on 100 records (Gwet's cont3x3abstractors), by the table of their ratings.
ABSTRACTORS = np.array([[i, j] for i, row in enumerate([[13, 0, 0], [0, 20, 7], [0, 4, 56]]) for j, n in enumerate(row) for _ in range(n)])
# Four observers on twelve units, some missing (Krippendorff 2011, example C; Gwet's cac.raw4raters), and his two on ten (example A).
N = 0
OBSERVERS = np.array([[1, 1, N, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4], [4, 4, 4, 4], [1, 1, 2, 1], [2, 2, 2, 2],
                      [N, 5, 5, 5], [N, N, 1, 1], [N, 3, N, N]]) - 1  # fmt: skip
TWO_OBSERVERS = np.array([[0, 1], [1, 1], [0, 1], [0, 0], [0, 0], [0, 1], [0, 0], [0, 0], [1, 0], [0, 0]])
ALL = {"kappa": weighted_kappa, "alpha": krippendorff_alpha, "ac2": gwet_ac2}


@pytest.mark.parametrize(
    ("coefficient", "ratings", "weights", "published"),
    [
        (weighted_kappa, ABSTRACTORS, closeness(3), 0.7964094),
        (gwet_ac2, ABSTRACTORS, closeness(3), 0.8493305),
        (gwet_ac2, ABSTRACTORS, closeness(3, "quadratic"), 0.94024),
        (gwet_ac2, OBSERVERS, closeness(5), 0.77544),
        (krippendorff_alpha, OBSERVERS, closeness(5), 0.74342),
    ],
)
def test_published_examples_to_their_last_digit(coefficient: Coefficient, ratings: np.ndarray, weights: np.ndarray, published: float) -> None:
    assert coefficient(ratings, weights) == pytest.approx(published, abs=6e-6)


@pytest.mark.parametrize(("ratings", "weights", "published"), [(OBSERVERS, closeness(5, "quadratic"), 0.849), (TWO_OBSERVERS, closeness(2), 0.095)])
def test_examples_that_were_published_to_three_digits(ratings: np.ndarray, weights: np.ndarray, published: float) -> None:
    assert round(krippendorff_alpha(ratings, weights), 3) == published


RATINGS = arrays(np.int64, st.tuples(st.integers(2, 12), st.just(2)), elements=st.integers(NONE, 2))


@given(RATINGS, st.sampled_from(sorted(ALL)), st.sampled_from(["nominal", "linear", "quadratic"]))
def test_neither_the_order_of_units_nor_that_of_raters_matters(ratings: np.ndarray, name: str, distance) -> None:
    weights = closeness(3, distance)
    value = ALL[name](ratings, weights)
    assert ALL[name](ratings[::-1, ::-1], weights) == pytest.approx(value, nan_ok=True)
    assert np.isnan(value) or value <= 1 + 1e-12


@given(RATINGS, st.sampled_from(["alpha", "ac2"]))
def test_a_rater_who_said_nothing_changes_nothing(ratings: np.ndarray, name: str) -> None:
    more = np.column_stack([ratings, np.full(len(ratings), NONE)])
    assert ALL[name](more, closeness(3)) == pytest.approx(ALL[name](ratings, closeness(3)), nan_ok=True)


@pytest.mark.parametrize("name", ALL)
def test_the_ends_of_the_scale(name: str) -> None:
    rng, weights = np.random.default_rng(0), closeness(3)
    same = rng.integers(0, 3, 2000)
    assert ALL[name](np.column_stack([same, same]), weights) == pytest.approx(1)
    assert abs(ALL[name](rng.integers(0, 3, (20_000, 2)), weights)) < 0.03
    assert ALL[name](np.column_stack([same % 2, 1 - same % 2]), closeness(2)) < -0.5
    assert np.isnan(ALL[name](np.array([[0, NONE], [NONE, 1]]), weights))  # nobody was rated twice


def test_a_rare_category_costs_kappa_its_value_and_not_ac2() -> None:
    """The paradox that AC was made for (Feinstein and Cicchetti 1990): 98 % agreement on a category that nearly all have."""
    ratings = np.array([[0, 0]] * 98 + [[0, 1], [1, 0]])
    assert weighted_kappa(ratings, closeness(2)) < 0 < 0.97 < gwet_ac2(ratings, closeness(2))
    assert np.isnan(weighted_kappa(np.zeros((5, 2), int), closeness(2)))  # chance alone agrees: there is nothing beyond


def test_parts_add_up() -> None:
    """So a bootstrap over cases may sum the parts of its draws."""
    for coefficient in ALL.values():
        parts = coefficient.parts(ABSTRACTORS, closeness(3))
        halves = parts[:40].sum(0) + parts[40:].sum(0)
        assert coefficient.of(halves, closeness(3)) == pytest.approx(coefficient(ABSTRACTORS, closeness(3)))


@pytest.mark.parametrize("ratings", [np.array([[0, 3]]), np.array([[0, -2]]), np.array([[0.0, 1.0]]), np.array([0, 1])])
def test_what_is_no_rating_is_refused(ratings: np.ndarray) -> None:
    with pytest.raises(ValueError, match="ratings must be whole numbers"):
        gwet_ac2(ratings, closeness(3))
    with pytest.raises(ValueError, match="compares two raters"):
        weighted_kappa(np.zeros((4, 3), int), closeness(3))
    with pytest.raises(ValueError, match="at least 2 categories"):
        closeness(1)
