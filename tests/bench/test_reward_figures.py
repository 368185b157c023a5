"""What is measured of a reward model, against little calculations of the same; perfect and useless models get the figures that they should."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promedical_jax.bench.reward_figures import (
    FALSE_VETO_RATES,
    Evidence,
    longer_preferred,
    majority_truth,
    measure_change,
    measure_safety,
    measure_selection,
    measure_tiers,
    overall,
    pair_points,
)
from promedical_jax.rubric.case import Criterion, Polarity, Tier
from promedical_jax.rubric.scores import Scores

REQUIRED, FORBIDDEN = Polarity.REQUIRED, Polarity.FORBIDDEN
CRITERIA = (
    Criterion(id="safe", text="Warns.", tier=Tier.SAFETY),
    Criterion(id="drug", text="Names the drug.", tier=Tier.PROFICIENCY, weight=0.5),
    Criterion(id="lie", text="Claims to be a doctor.", tier=Tier.SAFETY, polarity=FORBIDDEN),
    Criterion(id="vague", text="Is vague.", tier=Tier.PROFICIENCY, polarity=FORBIDDEN, weight=0.5),
    Criterion(id="warm", text="Is warm.", tier=Tier.EXCELLENCE),
)
FORBIDS = np.array([criterion.polarity is FORBIDDEN for criterion in CRITERIA])
few = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 10_000)


def of(truth: np.ndarray, probability: np.ndarray, length: np.ndarray | None = None, band: float = 0.0) -> Evidence:
    """What a model says with these probabilities of [A, K]; it abstains where they lie in a band around one half."""
    good = np.where(FORBIDS, 1 - probability, probability)
    satisfied = np.where(good > 0.5 + band, 1.0, np.where(good <= 0.5 - band, 0.0, np.nan))
    return Evidence("case", CRITERIA, probability - 0.5, probability, satisfied, truth, np.zeros(len(truth)) if length is None else length)


def drawn(seed: int, cases: int = 5, unjudged: float = 0.2) -> list[Evidence]:
    """Random verdicts, of probabilities that are round numbers, so that scores and bins have ties."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(cases):
        shape = int(rng.integers(2, 5)), len(CRITERIA)
        truth = np.where(rng.random(shape) < unjudged, np.nan, rng.integers(0, 2, shape))
        made.append(of(truth, rng.integers(0, 21, shape) / 20, rng.integers(1, 4, shape[0]), band=0.1))
    return made


def perfect(seed: int) -> list[Evidence]:
    return [of(one.truth, np.where(np.isnan(one.truth), 0.5, one.truth), one.length) for one in drawn(seed, cases=20)]


def useless(seed: int) -> list[Evidence]:
    return [of(one.truth, np.full(one.truth.shape, 0.25), one.length) for one in drawn(seed, cases=20)]


def implicit(evidence: list[Evidence]) -> list[Evidence]:
    """The same scores of a model that gives no verdicts."""
    return [one._replace(probability=None, satisfied=None) for one in evidence]


def judgements(evidence: list[Evidence], tier: Tier) -> Iterator[tuple[float, float, float, bool]]:
    """Truth, verdict (NaN to abstain), probability, all of the text, and whether it is forbidden."""
    for one in evidence:
        for a, k in np.argwhere(~np.isnan(one.truth)):
            if CRITERIA[k].tier is tier:
                assert one.probability is not None and one.satisfied is not None
                good = one.satisfied[a, k]
                yield one.truth[a, k], 1 - good if FORBIDS[k] else good, one.probability[a, k], bool(FORBIDS[k])


@few
@given(seeds)
def test_the_figures_of_a_tier_are_those_of_a_loop(seed: int) -> None:
    evidence = drawn(seed)
    for tier, figures in measure_tiers(evidence).items():
        rows = list(judgements(evidence, tier))
        said = [(truth, verdict) for truth, verdict, _, _ in rows if not math.isnan(verdict)]
        assert (figures.count, figures.abstained) == (len(rows), len(rows) - len(said))
        if said:
            assert figures.accuracy.mean == pytest.approx(sum(truth == verdict for truth, verdict in said) / len(said))
        holds = sum(truth for truth, *_ in rows)
        assert figures.majority == pytest.approx(max(holds, len(rows) - holds) / len(rows))
        assert figures.brier.mean == pytest.approx(sum((p - truth) ** 2 for truth, _, p, _ in rows) / len(rows))

        bins: dict[int, list[tuple[float, float]]] = {}
        for truth, _, p, _ in rows:
            bins.setdefault(min(int(p * 10), 9), []).append((p, truth))
        assert [one.count for one in figures.reliability] == [len(bins[i]) for i in sorted(bins)]
        for one, i in zip(figures.reliability, sorted(bins), strict=True):
            assert (one.probability, one.truth) == pytest.approx(np.mean(bins[i], axis=0))
        gaps = sum(len(held) * abs(np.mean([p for p, _ in held]) - np.mean([y for _, y in held])) for held in bins.values())
        assert figures.ece.mean == pytest.approx(gaps / len(rows))
        assert figures.ece.low <= figures.ece.mean <= figures.ece.high


@few
@given(seeds)
def test_all_tiers_together_weigh_by_their_judgements(seed: int) -> None:
    evidence = drawn(seed)
    tiers = measure_tiers(evidence).values()
    accuracy, majority, pairwise = overall(evidence)
    said = [one.count - one.abstained for one in tiers]
    assert accuracy.mean == pytest.approx(np.average([one.accuracy.mean if n else 0 for one, n in zip(tiers, said, strict=True)], weights=said))
    assert pairwise.mean == pytest.approx(np.average([one.pairwise.mean if one.pairs else 0 for one in tiers], weights=[one.pairs for one in tiers]))
    truth = np.concatenate([one.truth[~np.isnan(one.truth)] for one in evidence])
    assert majority == pytest.approx(max(truth.mean(), 1 - truth.mean()))


def test_a_tier_that_nobody_judged_is_left_out() -> None:
    evidence = drawn(0)
    safety = np.array([criterion.tier is Tier.SAFETY for criterion in CRITERIA])
    bare = [one._replace(truth=np.where(safety, np.nan, one.truth)) for one in evidence]
    assert set(measure_tiers(bare)) == {Tier.PROFICIENCY, Tier.EXCELLENCE}
    assert measure_safety(bare) is None
    assert not measure_tiers([one._replace(truth=np.full(one.truth.shape, np.nan)) for one in evidence])


def test_a_perfect_model_has_perfect_figures_and_no_certainty() -> None:
    evidence = perfect(1)
    for one in measure_tiers(evidence).values():
        assert (one.accuracy.mean, one.pairwise.mean, one.pairwise_by_verdict.mean, one.ece.mean, one.brier.mean, one.abstained) == (1, 1, 1, 0, 0, 0)
        assert one.accuracy.low < 1 and one.pairwise.low < 1
    safety = measure_safety(evidence)
    assert safety
    for share in (safety.precision, safety.recall, safety.f1, *(at.recall for at in safety.recall_at)):
        assert share.mean == share.high == 1 and share.low < 1


def test_a_model_that_always_says_the_same_is_even_on_pairs_and_finds_nothing_for_free() -> None:
    evidence = useless(1)
    for tier, one in measure_tiers(evidence).items():
        assert one.pairwise.mean == one.pairwise_by_verdict.mean == 0.5
        holds = np.mean([truth for truth, *_ in judgements(evidence, tier)])
        assert one.ece.mean == pytest.approx(abs(holds - 0.25)) and len(one.reliability) == 1
    safety = measure_safety([_of_polarity(one, FORBIDDEN) for one in evidence])
    assert safety and [at.recall.mean for at in safety.recall_at] == [0, 0, 0]
    assert longer_preferred(evidence).mean == 0.5


def test_a_model_without_verdicts_has_pairs_alone() -> None:
    evidence = drawn(2)
    for tier, one in measure_tiers(implicit(evidence)).items():
        assert one.pairwise == measure_tiers(evidence)[tier].pairwise and one.count == measure_tiers(evidence)[tier].count
        assert all(math.isnan(x.mean) for x in (one.accuracy, one.ece, one.brier, one.pairwise_by_verdict)) and one.reliability == () and one.abstained == 0
    assert measure_safety(implicit(evidence)) is None


def _of_polarity(one: Evidence, polarity: Polarity) -> Evidence:
    """Nobody judged the criteria of the other one."""
    return one._replace(truth=np.where((polarity is FORBIDDEN) == FORBIDS, one.truth, np.nan))


@pytest.mark.parametrize(("polarity", "violation"), [(FORBIDDEN, 1.0), (REQUIRED, 0.0)])
def test_a_violation_is_what_is_forbidden_and_met_or_required_and_unmet(polarity: Polarity, violation: float) -> None:
    truth = np.array([violation, violation, violation, 1 - violation, 1 - violation])
    said = np.abs(1 - violation - np.array([0.9, 0.8, 0.45, 0.7, 0.2]))  # of the suspicion: the third is abstained on, and so not found
    safety = measure_safety([_of_polarity(of(np.repeat(truth[:, None], 5, 1), np.repeat(said[:, None], 5, 1), band=0.1), polarity)])
    assert safety and safety.violations == 3
    assert (safety.precision.mean, safety.recall.mean, safety.f1.mean) == pytest.approx((2 / 3, 2 / 3, 2 / 3))


@few
@given(seeds)
def test_safety_is_that_of_a_loop_over_both_polarities(seed: int) -> None:
    evidence = drawn(seed, cases=12)
    rows = [(truth == forbidden, verdict == forbidden, p if forbidden else 1 - p) for truth, verdict, p, forbidden in judgements(evidence, Tier.SAFETY)]
    found, called, there = sum(v and c for v, c, _ in rows), sum(c for _, c, _ in rows), sum(v for v, _, _ in rows)
    safety = measure_safety(evidence)
    assert safety and safety.violations == there
    assert safety.precision.mean == pytest.approx(found / called, nan_ok=True)
    assert safety.recall.mean == pytest.approx(found / there)
    assert safety.f1.mean == pytest.approx(2 * found / (called + there))

    harmless = [p for violated, _, p in rows if not violated]
    for at in safety.recall_at:
        thresholds = [t for t in {-1.0, *(p for *_, p in rows)} if sum(p > t for p in harmless) <= at.false_veto_rate * len(harmless)]
        most = max(sum(violated and p > t for violated, _, p in rows) for t in thresholds)
        assert at.recall.mean == pytest.approx(most / there)
        assert at.recall.low <= at.recall.mean <= at.recall.high
    assert tuple(at.false_veto_rate for at in safety.recall_at) == FALSE_VETO_RATES


def test_where_nothing_is_harmless_no_false_veto_rate_can_be_kept() -> None:
    safety = measure_safety([of(np.where(FORBIDS, 1.0, 0.0) * np.ones((3, 1)), np.full((3, 5), 0.4))])
    assert safety and safety.violations == 6
    assert all(math.isnan(at.recall.mean) for at in safety.recall_at)


def test_a_score_that_is_the_length_prefers_the_longer_answer_and_one_that_ignores_it_does_not() -> None:
    rng = np.random.default_rng(0)
    by_length, blind = [], []
    for one in drawn(3, cases=200):
        length = rng.integers(1, 100, len(one.truth))
        by_length.append(one._replace(score=np.repeat(length[:, None].astype(float), 5, 1), length=length))
        blind.append(one._replace(score=rng.normal(size=one.truth.shape), length=length))
    assert longer_preferred(by_length).mean == 1
    assert longer_preferred([one._replace(score=-one.score) for one in by_length]).mean == 0
    assert longer_preferred(blind).mean == pytest.approx(0.5, abs=0.03)
    turned = implicit([one._replace(score=np.where(FORBIDS, -one.score, one.score)) for one in by_length])
    assert longer_preferred(turned).mean == 1, "a score of the whole answer stands turned where it speaks against what is forbidden"


def test_only_pairs_of_equal_truth_and_unequal_length_show_a_bias_and_ties_are_half() -> None:
    truth = np.array([[1.0], [1.0], [0.0], [1.0]]) * np.ones(5)
    one = of(truth, np.zeros((4, 5)), length=np.array([3, 5, 9, 3]))._replace(score=np.array([[0.0], [1.0], [9.0], [1.0]]) * np.ones(5))
    # of the first, second and fourth: 5 tokens above 3 wins, 5 against the other 3 is a tie, 3 and 3 is no pair
    assert longer_preferred([one]).mean == 0.75
    assert math.isnan(longer_preferred([one._replace(length=np.ones(4))]).mean)


@few
@given(seeds)
def test_pairs_are_those_of_a_loop_and_turn_with_the_score(seed: int) -> None:
    [one] = drawn(seed, cases=1)
    assert one.satisfied is not None
    by_score, by_verdict = [], []
    for a, b in np.ndindex(len(one.truth), len(one.truth)):
        for k in range(len(CRITERIA)):
            if one.truth[a, k] == 1 and one.truth[b, k] == 0:
                holds = [0.5 if math.isnan(good) else 1 - good if FORBIDS[k] else good for good in one.satisfied[:, k]]
                for points, value in ((by_score, one.score[:, k]), (by_verdict, holds)):
                    points.append(1.0 if value[a] > value[b] else 0.5 if value[a] == value[b] else 0.0)
    assert sorted(pair_points(one)) == sorted(by_score)
    assert sorted(pair_points(one, by_verdict=True)) == sorted(by_verdict)
    assert pair_points(one._replace(score=-one.score)) == pytest.approx(1 - pair_points(one))
    assert not len(pair_points(implicit([one])[0], by_verdict=True)) and len(pair_points(implicit([one])[0])) == len(by_score)


def test_selection_is_the_raters_word_on_the_answer_picked() -> None:
    nan = math.nan
    answers = [
        Scores(np.array([0.2, 0.8, 0.5]), np.zeros(3), np.array([0.0, 1.0, 0.0])),
        Scores(np.array([1.0, 0.0, nan]), np.zeros(3), np.array([2.0, 0.0, 0.0])),  # the third was not judged
        Scores(np.array([1.0, nan]), np.zeros(2), np.zeros(2)),  # a single answer that was judged leaves no choice
        Scores(np.array([0.4, 0.6, nan]), np.zeros(3), np.zeros(3)),  # and nobody knows how good the one picked is
    ]
    evidence = drawn(0, cases=4)
    figures = measure_selection(evidence, answers, picked=[1, 1, 0, 2])
    assert figures and figures.cases == 2
    assert (figures.safe.mean, figures.safe_mean.mean, figures.safe_best.mean) == pytest.approx((0.5, (2 / 3 + 1 / 2) / 2, 1.0))
    assert (figures.s1.mean, figures.s1_mean.mean, figures.s1_best.mean) == pytest.approx((0.4, 0.5, 0.9))
    assert measure_selection(evidence[:1], answers[2:3], [0]) is None


@few
@given(seeds)
def test_the_same_words_change_nothing(seed: int) -> None:
    evidence = drawn(seed)
    changed = measure_change(evidence, evidence)
    assert changed and (changed.same.mean, changed.moved.mean) == (1, 0)
    assert changed.count == sum(int((~np.isnan(one.truth)).sum()) for one in evidence)
    assert changed.pairwise == overall(evidence)[2] or math.isnan(changed.pairwise.mean)


def test_a_change_is_over_the_criteria_that_have_other_words() -> None:
    truth = np.array([[1.0] * 5, [0.0] * 5])
    before = of(truth, np.array([[0.9] * 5, [0.2] * 5]), band=0.1)
    after = of(np.where(np.arange(5) < 2, truth, np.nan), np.array([[0.8, 0.4, 0.0, 0.0, 0.0], [0.2, 0.5, 1.0, 1.0, 1.0]]), band=0.1)
    changed = measure_change([before], [after])
    assert changed and changed.count == 4
    assert changed.same.mean == pytest.approx(2 / 4)  # of the second criterion one verdict turned, and one became to abstain
    assert changed.moved.mean == pytest.approx((0.1 + 0.5 + 0.0 + 0.3) / 4)
    assert (changed.pairwise.mean, changed.pairwise_by_verdict.mean) == pytest.approx((0.5, 0.5))
    assert measure_change([before], [after._replace(truth=np.full((2, 5), np.nan))]) is None
    bare = measure_change(implicit([before]), implicit([after]))
    assert bare and math.isnan(bare.same.mean) and math.isnan(bare.moved.mean) and bare.pairwise.mean == 0.5


def test_the_majority_is_what_most_raters_say_and_a_split_has_none() -> None:
    shares = np.array([[0.0, 1 / 3, 0.5, 2 / 3, 1.0, np.nan, 0.5 + 1e-12]])  # the last is a split whose weights were rounded
    assert np.array_equal(majority_truth(shares), [[0, 0, np.nan, 1, 1, np.nan, np.nan]], equal_nan=True)


@given(st.lists(st.booleans(), min_size=1, max_size=9))
def test_the_majority_is_that_of_a_count(votes: list[bool]) -> None:
    said = majority_truth(np.array([np.mean(votes)]))[0]
    met, unmet = sum(votes), len(votes) - sum(votes)
    assert math.isnan(said) if met == unmet else said == (met > unmet)
