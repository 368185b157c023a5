"""From scores to probabilities and verdicts."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promedical_jax.config import Calibration
from promedical_jax.reward.calibration import Isotonic, Platt, Temperature, fit
from promedical_jax.reward.verdicts import UNCALIBRATED, TierVerdicts, Verdicts, calibrate
from promedical_jax.rubric import Criterion, Polarity, Tier, Verdict
from promedical_jax.rubric.labels import Labels

METHODS = ("platt", "temperature", "isotonic")
SIGMOID = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731


def drawn(n: int, scale: float, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(scale=2, size=n)
    return x, (rng.uniform(size=n) < SIGMOID(scale * x + shift)).astype(float)


def cross_entropy(p, y) -> float:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))


# Maps


def test_platt_scaling_finds_the_known_scale_and_shift() -> None:
    fitted = fit("platt", *drawn(60_000, 0.5, 1.0))
    assert math.isclose(fitted.scale, 0.5, abs_tol=0.02) and math.isclose(fitted.shift, 1.0, abs_tol=0.03)


def test_a_temperature_is_found_and_keeps_the_zero() -> None:
    fitted = fit("temperature", *drawn(60_000, 0.4, 0.0))
    assert math.isclose(fitted.temperature, 2.5, rel_tol=0.03) and fitted.probability(0.0) == 0.5


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(-5, 5), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.sampled_from([0.5, 1.0, 2.0])), min_size=1, max_size=12))
def test_isotonic_is_the_best_monotone_fit(rows) -> None:
    """Against the minimax formula of isotonic regression: max over starts of min over ends of the weighted mean between them."""
    x, y, w = (np.array(column, float) for column in zip(*rows, strict=True))
    fitted = fit("isotonic", x, y, w)
    values = np.unique(x)
    total = np.array([w[x == v].sum() for v in values])
    mean = np.array([(w * y)[x == v].sum() for v in values]) / total
    between = lambda i, j: (total[i : j + 1] * mean[i : j + 1]).sum() / total[i : j + 1].sum()  # noqa: E731
    n = len(values)
    wanted = [max(min(between(i, j) for j in range(k, n)) for i in range(k + 1)) for k in range(n)]
    np.testing.assert_allclose(fitted.probability(values), wanted, atol=1e-9)
    assert (np.diff(fitted.probability(np.linspace(-9, 9, 200))) >= -1e-12).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("count", [1, 2, 2000])
def test_separable_data_and_a_single_class_stay_finite(method: str, scale: float, count: int) -> None:
    x = np.linspace(-1, 1, count) * scale
    for labels in ((x > 0).astype(float), (x < 0).astype(float), np.ones_like(x), np.zeros_like(x)):
        p = fit(method, x, labels).probability([*x, -1e9, 1e9])
        assert np.isfinite(p).all() and (p >= 0).all() and (p <= 1).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_is_never_worse_than_none(method: str) -> None:
    for seed, (scale, shift) in enumerate([(5.0, 3.0), (0.1, 0.0), (2.0, 0.0)]):
        x, y = drawn(300, scale, shift if method != "temperature" else 0.0, seed)
        x = x * 30  # far from the start of Newton's method
        assert cross_entropy(fit(method, x, y).probability(x), y) < cross_entropy(SIGMOID(x), y)


@pytest.mark.parametrize("method", METHODS)
def test_shares_and_weights_are_as_many_raters_would_be(method: str) -> None:
    x = np.linspace(-3, 3, 40)
    share, n = np.round(SIGMOID(x) * 4) / 4, 4
    many_x, many_y = np.repeat(x, n), np.concatenate([[1.0] * round(s * n) + [0.0] * (n - round(s * n)) for s in share])
    grid = np.linspace(-4, 4, 30)
    np.testing.assert_allclose(fit(method, x, share, np.full(40, float(n))).probability(grid), fit(method, many_x, many_y).probability(grid), atol=1e-6)
    weighted = fit(method, x, share, np.where(x > 0, 1.0, 0.0)).probability(grid)
    np.testing.assert_allclose(weighted, fit(method, x[x > 0], share[x > 0]).probability(grid), atol=1e-6)


def test_no_label_changes_nothing() -> None:
    for method in METHODS:
        np.testing.assert_allclose(fit(method, [], []).probability([-2.0, 0.5]), SIGMOID(np.array([-2.0, 0.5])))


# Verdicts


def criteria(*kinds: tuple[Tier, bool]) -> list[Criterion]:
    return [
        Criterion(id=f"c{i}", text="C.", tier=tier, polarity=Polarity.FORBIDDEN if forbidden else Polarity.REQUIRED,
                  weight=1.0 if tier is Tier.PROFICIENCY else None) for i, (tier, forbidden) in enumerate(kinds)
    ]  # fmt: skip


EACH = criteria((Tier.PROFICIENCY, False), (Tier.EXCELLENCE, False), (Tier.SAFETY, True), (Tier.SAFETY, False))


def labelled(met: np.ndarray) -> Labels:
    judged = ~np.isnan(met)
    none = np.zeros((len(met), *met.shape))
    return Labels(met, judged.astype(float), none, none)


def test_probabilities_are_of_each_criterions_tier() -> None:
    maps = {Tier.PROFICIENCY: Platt(), Tier.EXCELLENCE: Platt(scale=2.0, shift=1.0), Tier.SAFETY: Temperature(temperature=0.5)}
    verdicts = Verdicts(tiers={tier: TierVerdicts(calibration=one) for tier, one in maps.items()})
    p = verdicts.probability(np.array([[0.5, 0.5, 0.5, 0.0], [-1e9, 1e9, 0.0, 0.5]]), EACH)
    np.testing.assert_allclose(p[0], SIGMOID(np.array([0.5, 2.0, 1.0, 0.0])))
    assert p[1, 0] < 1e-20 and p[1, 1] > 1 - 1e-15  # and no overflow


def test_verdicts_speak_of_the_text_and_thresholds_of_what_is_good() -> None:
    """A violation is called where P(satisfied) <= 0.7: of a forbidden criterion from P(met) = 0.3 on, of a required one up to 0.7."""
    verdicts = Verdicts(tiers={tier: TierVerdicts(low=0.7, high=0.8) if tier is Tier.SAFETY else TierVerdicts() for tier in Tier})
    p = np.array([[0.6, 0.4, 0.31, 0.69], [0.5, 0.5, 0.25, 0.75], [0.5, 0.51, 0.19, 0.81]])
    met, unmet, abstain = Verdict.MET, Verdict.UNMET, Verdict.ABSTAIN
    assert verdicts.read(p, EACH) == [(met, unmet, met, unmet), (unmet, unmet, abstain, abstain), (unmet, met, unmet, met)]
    np.testing.assert_array_equal(verdicts.satisfied(p, EACH), [[1, 0, 0, 0], [0, 0, np.nan, np.nan], [0, 1, 1, 1]])
    soft = verdicts.satisfied(p, EACH, {Tier.SAFETY: "soft", Tier.PROFICIENCY: "soft"})
    np.testing.assert_allclose(soft[0], [0.6, 0, 0.69, 0.69])


@pytest.mark.parametrize("recall", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("abstain", [0.0, 0.1])
def test_the_safety_heads_operating_point_finds_the_wanted_share(recall: float, abstain: float) -> None:
    rng = np.random.default_rng(1)
    met = (rng.uniform(size=(400, 4)) < 0.3).astype(float)
    scores = 2 * (2 * met - 1) + rng.normal(scale=2, size=met.shape)
    scores[:, 3] *= 1.0
    cases = [(EACH, scores[i : i + 4], labelled(met[i : i + 4])) for i in range(0, 400, 4)]
    fitted, said = calibrate(cases, Calibration(recall=recall, abstain=abstain))
    assert not said and fitted.tiers[Tier.SAFETY].labels == 800
    good = fitted.satisfied(fitted.probability(scores, EACH), EACH)[:, 2:]
    violated = np.stack([met[:, 2] == 1, met[:, 3] == 0], 1)
    found = (good == 0)[violated].mean()
    assert recall <= found < recall + 0.01  # and no more vetoes than it takes
    assert fitted.tiers[Tier.PROFICIENCY].low == pytest.approx(0.5 - abstain / 2) and np.isnan(good).any() == (abstain > 0)


def test_what_calibration_cannot_do_is_said() -> None:
    met = np.array([[1.0, np.nan, 0.0, 1.0]])  # nobody violates, nobody judged excellence
    fitted, said = calibrate([(EACH, np.ones((1, 4)), labelled(met))], Calibration(recall=0.9))
    assert len(said) == 2 and "no label that calibration may see is a violation" in said[1] and "tier excellence is kept apart" in said[0]
    assert fitted.tiers[Tier.EXCELLENCE] == TierVerdicts() and fitted.tiers[Tier.SAFETY].low == 0.5


def test_tiers_are_fitted_alone_and_weights_heed() -> None:
    rng = np.random.default_rng(0)
    met, scores = rng.integers(0, 2, (200, 4)).astype(float), rng.normal(size=(200, 4))
    cases = [(EACH, scores, labelled(met))]
    fitted, _ = calibrate(cases, Calibration())
    for k, tier in ((0, Tier.PROFICIENCY), (1, Tier.EXCELLENCE)):
        assert fitted.tiers[tier].calibration == fit("platt", scores[:, k], met[:, k])
    half = labelled(met)._replace(weight=np.full(met.shape, 0.5))
    assert calibrate([(EACH, scores, half)], Calibration())[0] != fitted


def test_the_implicit_kind_has_no_verdicts() -> None:
    assert calibrate([], Calibration(), "implicit")[0] == Verdicts(kind="implicit", tiers={})
    with pytest.raises(ValueError, match="must be none"):
        Verdicts(kind="implicit")
    with pytest.raises(ValueError, match="must be proficiency, excellence, safety"):
        Verdicts(tiers={})


@given(st.builds(Platt, scale=st.floats(-1e6, 1e6), shift=st.floats(-1e6, 1e6)) | st.builds(Temperature, temperature=st.floats(1e-6, 1e6)))
def test_calibration_json_reads_back_exactly(one) -> None:
    verdicts = Verdicts(kind="blind", tiers={tier: TierVerdicts(calibration=one, low=1 / 3, high=2 / 3, labels=7) for tier in Tier})
    assert Verdicts.model_validate_json(verdicts.model_dump_json(), strict=True) == verdicts
    isotonic = fit("isotonic", *drawn(50, 1.0, 0.0))
    assert Isotonic.model_validate_json(isotonic.model_dump_json()) == isotonic


def test_uncalibrated_scores_are_log_odds() -> None:
    assert json.loads(UNCALIBRATED.model_dump_json())["tiers"]["safety"] == {
        "calibration": {"method": "platt", "scale": 1.0, "shift": 0.0}, "low": 0.5, "high": 0.5, "labels": 0,
    }  # fmt: skip
    with pytest.raises(ValueError, match="low must not be above high"):
        TierVerdicts(low=0.6, high=0.5)


def test_a_calibration_needs_what_it_says() -> None:
    wanted = SimpleNamespace(method="platt", recall=None, abstain=0.0)  # any record with these names serves
    assert calibrate([(EACH, np.zeros((1, 4)), labelled(np.ones((1, 4))))], wanted)[0].kind == "explicit"
