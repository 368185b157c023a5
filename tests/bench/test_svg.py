"""Ticks, smoothing and lines."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promedical_jax.bench.intervals import Interval
from promedical_jax.bench.svg import MOST_POINTS, Series, interval_track, line_chart, mark, percent, short, smooth, ticks

numbers = st.floats(-1e9, 1e9, allow_nan=False)


@given(numbers, st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_inside(low: float, span: float) -> None:
    high = low + span
    if high - low < 1e-9 * max(abs(low), 1):
        return
    marks = ticks(low, high)
    assert 1 <= len(marks) <= 6
    slack = 1e-6 * (high - low) + 1e-9 * abs(low)
    assert all(low - slack <= mark <= high + slack for mark in marks)
    assert np.allclose(np.diff(marks), np.diff(marks)[:1] if len(marks) > 1 else 0)


@pytest.mark.parametrize(
    ("span", "expected"), [((0, 1), [0, 0.25, 0.5, 0.75, 1.0]), ((0, 10), [0, 2.5, 5, 7.5, 10]), ((1, 150), [50, 100, 150]), ((-0.7, 1.1), [-0.5, 0, 0.5, 1])]
)
def test_ticks_of_known_spans(span: tuple[float, float], expected: list[float]) -> None:
    assert ticks(*span) == expected


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.1234, "0.123"), (-2, "−2"), (1234, "1234"), (25_000, "25k"), (3e6, "3M"), (1e-6, "1e−6"), (math.nan, "–")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_percent_of_nothing_is_a_dash() -> None:
    assert percent(math.nan) == "–"
    assert percent(0.4567, 1) == "45.7\u202f%"


@given(st.lists(st.one_of(numbers, st.just(math.nan)), min_size=1, max_size=50), st.integers(1, 12))
def test_smoothing_stays_between_the_values_and_keeps_the_gaps(values: list[float], window: int) -> None:
    raw = np.asarray(values)
    mean = smooth(raw, window)
    known = np.isfinite(raw)
    assert mean.shape == raw.shape
    assert np.array_equal(np.isfinite(mean), known)
    if known.any():
        slack = 1e-6 * np.abs(raw[known]).max() + 1e-9
        assert (mean[known] >= raw[known].min() - slack).all() and (mean[known] <= raw[known].max() + slack).all()


def test_smoothing_does_not_lag() -> None:
    line = np.arange(50.0)
    assert smooth(line, 5)[10:40] == pytest.approx(line[10:40])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e6), st.one_of(numbers, st.just(math.nan), st.just(math.inf))), max_size=30), st.booleans())
def test_any_points_can_be_drawn(points: list[tuple[float, float]], share: bool) -> None:
    points = sorted(points)
    chart = line_chart("t", "n", [Series("a", [x for x, _ in points], [y for _, y in points])], share)
    assert "nan" not in chart and "inf" not in chart
    assert (chart == "") == (not any(math.isfinite(y) for _, y in points))


def test_a_gap_breaks_the_line_and_a_lone_point_is_a_dot() -> None:
    values = [1.0, 2.0, math.nan, 3.0, math.nan] + [4.0] * 10
    chart = line_chart("t", "n", [Series("a", list(range(15)), values)])
    path = re.search(r'<path class="mean main" d="([^"]+)"', chart)
    assert path and path.group(1).count("M") == 3
    assert chart.count("<circle") == 1


def test_a_long_run_is_thinned() -> None:
    chart = line_chart("t", "n", [Series("a", list(range(20_000)), list(np.random.default_rng(0).random(20_000)))])
    assert chart.count("L") < 2 * MOST_POINTS + 10


def test_names_are_escaped_and_truth_is_dashed_by_class() -> None:
    chart = line_chart("a<b", "c&d", [Series("<x>", [1, 2], [1, 2]), Series("truth", [1, 2], [1, 2], "truth")])
    assert "a&lt;b" in chart and "c&amp;d" in chart and "&lt;x&gt;" in chart and "<x>" not in chart
    assert 'class="mean truth"' in chart


def test_a_track_places_means_and_ends_and_leaves_out_what_is_unknown() -> None:
    track = interval_track(Interval(0.5, 0.25, 0.75), tick=0.6, label='a "b"')
    assert 'cx="50.00%"' in track and 'x1="25.00%" x2="75.00%"' in track and 'x1="60.00%"' in track and "a &quot;b&quot;" in track
    assert "<circle" not in interval_track(Interval(math.nan, math.nan, math.nan), tick=math.nan)


def test_marks_differ_in_shape_and_not_by_colour_alone() -> None:
    shapes = {re.sub(r'class="[^"]+"', "", mark(good, "m")) for good in (True, False, None)}
    assert len(shapes) == 3
