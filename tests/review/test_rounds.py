"""Rounds of review: what is drawn, what a correction is, and a stopping rule that keeps its promise in simulations where the truth is known."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promedical_jax.clinic import make_cases
from promedical_jax.review.rounds import allowed, at_least, compare, draw, enough, needed
from promedical_jax.rubric import Case, Criterion, Message, Polarity, Rubric, Tier

DOSE = Criterion(id="dose", text="Names the dose.", tier=Tier.PROFICIENCY, weight=0.6)
KIDNEYS = Criterion(id="kidneys", text="Asks about the kidneys.", tier=Tier.PROFICIENCY, weight=0.4)
VETO = Criterion(id="veto", text="Advises aspirin.", tier=Tier.SAFETY, polarity=Polarity.FORBIDDEN)
RUBRIC = Rubric(criteria=(DOSE, KIDNEYS, VETO))


def cases(**strata: int) -> list[Case]:
    asked = (Message(role="user", content="Q?"),)
    return [Case(id=f"{name}{n}", instruction=asked, rubric=RUBRIC, specialty=name) for name, count in strata.items() for n in range(count)]


def test_a_draw_has_each_stratums_share() -> None:
    every = cases(cardiology=700, urology=297, genetics=3)
    drawn = draw(every, 100, seed=4)
    counts = Counter(case.specialty for case in drawn)
    assert len({case.id for case in drawn}) == 100 and 69 <= counts["cardiology"] <= 71 and 29 <= counts["urology"] <= 31 and counts["genetics"] <= 1
    assert draw(every[::-1], 100, seed=4) == drawn != draw(every, 100, seed=5)
    again = draw(every, 100, seed=4, seen={case.id for case in drawn})
    assert not {case.id for case in again} & {case.id for case in drawn}
    assert len(draw(cases(urology=7), 100)) == 7
    assert Counter(case.specialty for case in draw(cases(a=50, b=50, c=50), 3)) == {"a": 1, "b": 1, "c": 1}


def test_each_case_is_as_likely_to_be_drawn_as_another() -> None:
    """So that the bound holds for what is drawn: with rare strata that always pass, the pass rate of the draws is that of all."""
    every = cases(common=900, **{f"rare{n}": 5 for n in range(20)})
    drawn = Counter(case.specialty for seed in range(200) for case in draw(every, 100, seed))
    assert drawn["common"] / 20_000 == pytest.approx(0.9, abs=0.006)
    assert all(drawn[f"rare{n}"] / 20_000 == pytest.approx(0.005, abs=0.003) for n in range(20))


@pytest.mark.parametrize(
    ("corrected", "edits"),
    [
        ((DOSE, KIDNEYS, VETO), {}),
        ((KIDNEYS, VETO, DOSE), {}),  # another order is no edit
        ((DOSE, KIDNEYS), {"removed": 1}),
        ((DOSE, KIDNEYS, VETO, VETO.model_copy(update={"id": "new"})), {"added": 1}),
        ((DOSE, KIDNEYS.model_copy(update={"text": "Asks about kidneys and liver."}), VETO), {"reworded": 1}),
        ((DOSE.model_copy(update={"weight": 0.4}), KIDNEYS.model_copy(update={"weight": 0.6}), VETO), {"weight": 2}),
        ((DOSE.model_copy(update={"weight": 1.0}), KIDNEYS.model_copy(update={"weight": None, "tier": Tier.EXCELLENCE}), VETO), {"tier": 1}),  # what DOSE gains is nobody's edit
        ((DOSE.model_copy(update={"weight": 1.0}), VETO), {"removed": 1}),
        ((DOSE, KIDNEYS, VETO.model_copy(update={"polarity": Polarity.REQUIRED, "text": "Warns of aspirin."})), {"polarity": 1, "reworded": 1}),
    ],
)
def test_what_a_correction_changed(corrected: tuple[Criterion, ...], edits: dict[str, int]) -> None:
    found = compare(RUBRIC, Rubric(criteria=corrected))
    assert found.edits == edits and found.passed == (not edits) and 0 <= found.distance < 1
    if set(edits) <= {"weight", "tier"}:
        assert found.distance == 0 or corrected[0] is not DOSE


@given(st.integers(1, 400), st.floats(0.001, 0.5))
def test_the_bound_is_exact(reviewed: int, error: float) -> None:
    """By its definition: were the bound the truth, as many passes or more would have the probability `error`."""
    from scipy.stats import binom

    passed = reviewed - reviewed // 7
    assert binom.sf(passed - 1, reviewed, at_least(passed, reviewed, error)) == pytest.approx(error, rel=1e-6)
    assert at_least(0, reviewed, error) == 0


def test_the_rounds_share_the_error_that_is_allowed() -> None:
    parts = [allowed(0.05, number) for number in range(1, 2000)]
    assert 0.0499 < sum(parts) < 0.05 and parts == sorted(parts, reverse=True)


def review(seed: int, rates: list[float], reliability: float, size: int = 500, threshold: float = 0.9) -> int | None:
    """A review over the clinic's rubrics: each is written right with a round's rate, and a physician who is mistaken with 1 - reliability may
    correct a right one; a wrong one never passes. Returns the round after which it stopped."""
    rng = np.random.default_rng(seed)
    for number, rate in enumerate(rates, start=1):
        passed = 0
        for case in POOL[: size // 10]:
            for _ in range(10):
                wrong = case.rubric.criteria[0].model_copy(update={"text": "Says something."})
                written = case.rubric if rng.random() < rate else Rubric(criteria=(wrong, *case.rubric.criteria[1:]))
                gold = case.rubric if rng.random() < reliability else Rubric(criteria=(wrong, *case.rubric.criteria[1:]))
                passed += compare(written, gold).passed and written == case.rubric
        if enough(passed, size, number, threshold):
            return number
    return None


POOL = make_cases(50, seed=9, answers=1)


def test_over_200_simulations_it_stops_too_soon_no_more_often_than_promised() -> None:
    """Ten rounds with a writer who is exactly at the threshold, drawn as counts: 5 % are promised, so of 200 more than 18 would be a fault (p < 0.01)."""
    rng = np.random.default_rng(0)
    stopped = [any(enough(int(rng.binomial(500, 0.9)), 500, number, 0.9) for number in range(1, 11)) for _ in range(200)]
    naive = [any(at_least(int(rng.binomial(500, 0.9)), 500, 0.05) > 0.9 for _ in range(10)) for _ in range(200)]
    assert sum(stopped) <= 18 < sum(naive)  # each round at 5 % stops on luck in a third of the reviews


def test_a_writer_who_learns_is_let_go_and_one_who_does_not_is_not() -> None:
    learning, stuck = [0.70, 0.85, 0.93, 0.97, 0.97], [0.80] * 5
    ends = [review(seed, learning, reliability=0.99) for seed in range(3)]
    assert all(end in (4, 5) for end in ends) and [review(seed, stuck, 0.99) for seed in range(3)] == [None] * 3
    assert review(0, [0.97] * 3, reliability=0.85) is None  # who is mistaken too often keeps the pass rate below the threshold: that errs to the safe side


def test_what_a_review_needs_is_known_before() -> None:
    count = needed(0.964, 1, 0.93)  # the paper's last round had 96.4 %
    assert not enough(int(0.964 * (count - 1)), count - 1, 1, 0.93)
    assert all(enough(int(0.964 * more), more, 1, 0.93) for more in range(count, count + 400))
    assert needed(0.964, 5, 0.93) > count > needed(0.99, 1, 0.93)
    with pytest.raises(ValueError, match=r"never shows that 0.93 is passed"):
        needed(0.93, 1, 0.93)
    with pytest.raises(ValueError, match="3 of 2 cannot have passed"):
        at_least(3, 2, 0.05)
