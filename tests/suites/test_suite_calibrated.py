"""Raw and calibrated, side by side: on the same cases, none of which the calibration has seen; and agreement with physicians, by counting here."""

from pathlib import Path

import numpy as np
import pytest

from promedical_jax.asking import Reply
from promedical_jax.clinic import make_cases
from promedical_jax.rubric import Polarity, Tier, Verdict, write_cases
from promedical_jax.suites import promedical
from promedical_jax.suites.calibrated import calibrate, side_by_side
from promedical_jax.suites.recipe import Apart
from promedical_jax.suites.suite import Marked


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> list[promedical.Point]:
    path = tmp_path_factory.mktemp("points") / "cases.jsonl"
    human = [one.model_copy(update={"verdicts": tuple(j.model_copy(update={"human": True}) for j in one.verdicts)}) for one in make_cases(40, 0)]
    write_cases(path, human)
    return promedical.read_points(path)


def judged(points: list[promedical.Point], seed: int = 0, flip: frozenset[str] = frozenset()) -> list[Marked]:
    """A judge who calls much met that is not, and abstains now and then. `flip`: cases of which the truth is turned round."""
    rng, marks = np.random.default_rng(seed), []
    for point in points:
        chance = rng.random()
        wrong = chance < (0.6 if point.truth is Verdict.UNMET and point.criterion.tier is Tier.SAFETY else 0.1)
        other = {Verdict.MET: Verdict.UNMET, Verdict.UNMET: Verdict.MET}
        verdict = Verdict.ABSTAIN if chance > 0.98 else other[point.truth] if wrong else point.truth
        if point.case.id in flip:
            point = promedical.Point(point.case, point.answer, point.criterion, other[point.truth])
        marks.append(promedical.mark_point(point, None, [Reply(verdict=verdict)]))
    return marks


def test_no_case_is_reported_by_what_was_learned_from_it(points: list[promedical.Point]) -> None:
    """Whatever physicians say of the cases that are reported, the map is the same; what they say of those kept apart changes it."""
    marks, said = calibrate(judged(points), Apart(share=0.3))
    apart = {mark.unit for mark in marks if mark.beliefs["calibrated"] is None and mark.beliefs["score"] is not None}
    reported = {mark.unit for mark in marks} - apart
    assert 5 < len(apart) < 20 and f"in {len(apart)} of 40 cases" in said
    assert all(mark.unit in reported for mark in marks if mark.beliefs["calibrated"] is not None)
    believed = lambda some: [mark.beliefs["calibrated"] for mark in some]  # noqa: E731
    turned, _ = calibrate(judged(points, flip=frozenset(reported)), Apart(share=0.3))
    assert believed(turned) == believed(marks)
    learned, _ = calibrate(judged(points, flip=frozenset(apart)), Apart(share=0.3))
    assert believed(learned) != believed(marks)
    assert [mark.parts for mark in marks] == [mark.parts for mark in judged(points)]


def test_raw_and_calibrated_are_of_the_same_judgements_by_counting(points: list[promedical.Point]) -> None:
    marks, _ = calibrate(judged(points), Apart(share=0.3))
    found = promedical.point_figures(marks)
    both = [mark for mark in marks if mark.beliefs["calibrated"] is not None]
    truth = np.array([mark.beliefs["truth"] for mark in both])
    for kind in ("raw", "calibrated"):
        p = np.array([mark.beliefs[kind] for mark in both])
        assert found[f"accuracy, {kind}"].mean == pytest.approx(np.mean((p > 0.5) == (truth == 1))) and found[f"accuracy, {kind}"].n == len(both)
        assert found[f"Brier score, {kind}"].mean == pytest.approx(np.mean((p - truth) ** 2))
        forbidden = np.array([mark.criteria[0].polarity is Polarity.FORBIDDEN for mark in both])
        safety = np.array(["safety" in mark.groups for mark in both])
        bad, called = safety & ((truth == 1) == forbidden), safety & ((p > 0.5) == forbidden)
        assert found[f"violations, recall, {kind}"].mean == pytest.approx((bad & called).sum() / bad.sum())
        bins = np.minimum((p * 10).astype(int), 9)
        error = sum(abs(p[bins == b].sum() - truth[bins == b].sum()) for b in range(10)) / len(p)
        assert found[f"calibration error, {kind}"].mean == pytest.approx(error)
    assert found["calibration error, calibrated"].high < found["calibration error, raw"].low  # the judge errs by rule, and the rule is learned
    assert found["Brier score, calibrated"].mean < found["Brier score, raw"].mean
    names = list(found)
    assert names.index("accuracy, calibrated") == names.index("accuracy, raw") + 1 and not any("own" in name for name in names)


def test_a_map_of_met_and_unmet_learns_how_often_each_is_right(points: list[promedical.Point]) -> None:
    """Platt's two numbers on a score of two values: the two shares, but for the little pull towards none."""
    marks = judged(points)
    done, _ = calibrate(marks, Apart(share=0.5))
    apart = {mark.unit for mark, one in zip(done, marks, strict=True) if mark.beliefs.get("calibrated") is None and one.beliefs["score"] is not None}
    for score in (1.0, -1.0):
        some = [mark for mark in done if "safety" in mark.groups and mark.beliefs["score"] == score]
        share = np.mean([mark.beliefs["truth"] for mark in some if mark.unit in apart])
        [learned] = {mark.beliefs["calibrated"] for mark in some if mark.unit not in apart}
        assert learned == pytest.approx(share, abs=0.04)


def test_agreement_is_cohens_kappa_of_the_verdicts(points: list[promedical.Point]) -> None:
    marks = judged(points)
    found = promedical.point_figures(marks)
    both = np.array([(mark.beliefs["truth"], mark.beliefs["said"]) for mark in marks if mark.beliefs["said"] is not None])
    observed, (one, other) = np.mean(both[:, 0] == both[:, 1]), both.mean(0)
    chance = one * other + (1 - one) * (1 - other)
    kappa = found["agreement with physicians: kappa"]
    assert kappa.mean == pytest.approx((observed - chance) / (1 - chance)) and kappa.low < kappa.mean < kappa.high and kappa.n == len(both)
    share = both.mean()
    assert found["agreement with physicians: AC1"].mean == pytest.approx((observed - 2 * share * (1 - share)) / (1 - 2 * share * (1 - share)))
    assert found["agreement with physicians: kappa, safety"].mean < kappa.mean


def test_nothing_kept_apart_leaves_the_figures_as_they_are(points: list[promedical.Point], tmp_path: Path) -> None:
    marks = judged(points)
    same, said = calibrate(marks, Apart(share=1e-12))
    assert same == marks and "nothing was calibrated" in said and side_by_side(same) == {}
    silent = [promedical.mark_point(point, None, [None]) for point in points]
    assert calibrate(silent, Apart())[1] == "nothing was judged" and promedical.point_figures(silent)["agreement with physicians: kappa"].mean is None
