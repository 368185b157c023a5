"""Calibration, and a reward model as files."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from folders import save_reward_model
from tiny import CONFIG, reward_params

from promedical_jax.clinic import build_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.model.sharding import make_mesh
from promedical_jax.reward import UNCALIBRATED, Calibration, RewardModel, calibrate, is_reward_model, load_reward_model

MESH = make_mesh()


def drawn(n: int, scale, shift, seed: int = 0):
    """Scores and verdicts of the given log-odds, one criterion of each tier."""
    rng = np.random.default_rng(seed)
    scores, tiers = rng.normal(scale=2, size=(n, 2, 3)), np.tile(np.arange(3), (n, 1))
    p = 1 / (1 + np.exp(-(np.asarray(scale) * scores + np.asarray(shift))))
    return scores, tiers, (rng.uniform(size=p.shape) < p).astype(np.float64)


def test_platt_scaling_finds_the_known_scale_and_shift_of_each_tier() -> None:
    fitted = calibrate(*drawn(20_000, [0.5, 1.0, 2.0], [1.0, 0.0, -1.5]))
    np.testing.assert_allclose(fitted.scale, [0.5, 1.0, 2.0], atol=0.06)
    np.testing.assert_allclose(fitted.shift, [1.0, 0.0, -1.5], atol=0.06)


def test_shares_of_raters_calibrate_as_their_verdicts_would() -> None:
    scores, tiers, _ = drawn(4000, [1] * 3, [0] * 3)
    fitted = calibrate(scores, tiers, 1 / (1 + np.exp(-(0.7 * scores + 0.3))))
    np.testing.assert_allclose(fitted.scale, 0.7, atol=0.01)
    np.testing.assert_allclose(fitted.shift, 0.3, atol=0.01)


def test_what_nobody_judged_is_left_out() -> None:
    scores, tiers, labels = drawn(500, [0.5] * 3, [0.5] * 3)
    some = np.where(np.arange(len(labels))[:, None, None] % 2, np.nan, labels)
    halved = calibrate(scores[::2], tiers[::2], labels[::2])
    np.testing.assert_allclose(calibrate(scores, tiers, some), halved)
    labels[..., 1] = np.nan
    alone = calibrate(scores, tiers, labels)
    assert (alone.scale[1], alone.shift[1]) == (1, 0) and alone.scale[0] != 1
    np.testing.assert_array_equal(calibrate(scores, tiers, np.full_like(labels, np.nan)), UNCALIBRATED)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("count", [1, 2, 2000])
def test_separable_data_and_a_single_class_stay_finite(scale: float, count: int) -> None:
    x = np.linspace(-1, 1, count).reshape(-1, 1, 1) * scale
    tiers = np.zeros((count, 1), int)
    for labels in ((x > 0).astype(float), (x < 0).astype(float), np.ones_like(x), np.zeros_like(x)):
        fitted = calibrate(x, tiers, labels)
        assert np.isfinite(fitted).all()
        p = fitted.probability(x, tiers)
        assert np.isfinite(p).all() and (p >= 0).all() and (p <= 1).all()


def test_a_fit_is_never_worse_than_none() -> None:
    for seed in range(5):
        scores, tiers, labels = drawn(30, [5.0, 0.1, -1.0], [3.0, -3.0, 0.0], seed)
        scores *= 30  # far from the start of Newton's method

        def loss(calibration: Calibration) -> float:
            p = np.clip(calibration.probability(scores, tiers), 1e-12, 1 - 1e-12)  # noqa: B023
            return -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))  # noqa: B023

        assert loss(calibrate(scores, tiers, labels)) < loss(UNCALIBRATED)


def test_probabilities_are_of_each_criterions_tier() -> None:
    calibration = Calibration(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, -1.0]))
    scores = np.array([[[0.5, 0.5, 0.5], [-1e9, 1e9, 0.0]]])
    p = calibration.probability(scores, np.array([[0, 1, 2]]))
    np.testing.assert_allclose(p[0, 0], 1 / (1 + np.exp(-np.array([0.5, 2.0, 0.5]))))
    assert p[0, 1, 0] < 1e-20 and p[0, 1, 1] > 1 - 1e-15  # and no overflow


def test_a_saved_reward_model_is_the_same_one(tmp_path: Path) -> None:
    model = RewardModel(reward_params(), CONFIG, Calibration(np.array([0.5, 1 / 3, 2.0]), np.array([0.1, -0.2, 1e-17])))
    save_reward_model(tmp_path / "rm", model, build_tokenizer())
    assert is_reward_model(tmp_path / "rm") and not is_reward_model(tmp_path)
    loaded = load_reward_model(tmp_path / "rm", MESH)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, dict(model.params))
    np.testing.assert_array_equal(loaded.calibration, model.calibration)
    assert loaded.config == CONFIG
    (tmp_path / "rm" / "heads.safetensors").unlink()
    with pytest.raises(InputError, match="not a reward model"):
        load_reward_model(tmp_path / "rm", MESH)


@pytest.mark.parametrize(("name", "content", "sentence"), [
    ("calibration.json", b"{", "cannot be read"),
    ("calibration.json", b'{"proficiency": {"scale": 1, "shift": 0}}', "cannot be read"),
    ("calibration.json", b'{"proficiency": 1, "excellence": 1, "safety": 1}', "cannot be read"),
    ("heads.safetensors", b"junk", "heads.safetensors: "),
    ("heads.safetensors", safetensors.numpy.save({"weight": np.zeros((2, 16), np.float32), "bias": np.zeros(2, np.float32)}), "config.json asks for"),
])  # fmt: skip
def test_damaged_files_are_sentences(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    save_reward_model(tmp_path / "rm", RewardModel(reward_params(), CONFIG, UNCALIBRATED), build_tokenizer())
    (tmp_path / "rm" / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        load_reward_model(tmp_path / "rm", MESH)


def test_a_calibration_file_says_its_tiers(tmp_path: Path) -> None:
    save_reward_model(tmp_path / "rm", RewardModel(reward_params(), CONFIG, UNCALIBRATED), build_tokenizer())
    said = json.loads((tmp_path / "rm" / "calibration.json").read_text())
    assert said == {tier: {"scale": 1.0, "shift": 0.0} for tier in ("proficiency", "excellence", "safety")}
