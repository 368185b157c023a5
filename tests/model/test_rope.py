"""RoPE's frequencies beside exact arithmetic and beside those that `transformers` made (goldens/make_goldens.py), and its angles far along."""

import json
import math
from decimal import Decimal, localcontext
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promedical_jax.model.hf.config import parse_config
from promedical_jax.model.hf.known import KNOWN
from promedical_jax.model.rope import Llama3, Rope, Yarn, frequencies, rope_angles, rotate

GOLDEN = np.load(Path(__file__).parents[1] / "goldens" / "rope.npz")
ROPES = json.loads(str(GOLDEN["ropes"]))
KINDS = [Rope(5e6), Rope(1e6, Yarn(4.0, 32768)), Rope(5e5, Llama3(8.0, 1.0, 4.0, 8192))]


def rope_of(theta: float, head: int, scaling: dict | None) -> Rope:
    return parse_config(KNOWN["Qwen/Qwen3-8B"] | {"rope_theta": theta, "head_dim": head, "rope_scaling": scaling}, "golden").rope


def ulps(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.abs(found.view(np.int32) - wanted.view(np.int32))


@pytest.mark.parametrize("i", range(len(ROPES)))
def test_frequencies_are_those_of_transformers(i: int) -> None:
    """To within one bit: torch rounds some powers one way with AVX-512, another with AVX2 and a third without."""
    found, factor = frequencies(rope_of(*ROPES[i]), ROPES[i][1])
    wanted = GOLDEN[f"frequencies/{i}"]
    assert found.dtype == np.float32 and ulps(found, wanted).max() <= 1 and (found != wanted).sum() <= 1
    assert math.isclose(factor, GOLDEN["factors"][i], rel_tol=1e-12)


def test_the_goldens_hold_every_kind_of_scaling() -> None:
    ropes = [rope_of(*rope) for rope in ROPES]
    yarns = [rope.scaling for rope in ropes if isinstance(rope.scaling, Yarn)]
    assert {rope.theta for rope in ropes} == {1e4, 5e5, 1e6, 5e6} and sum(isinstance(rope.scaling, Llama3) for rope in ropes) == 2
    for default, other in zip((32.0, 1.0, None, True), zip(*[(y.fast, y.slow, y.attention, y.truncate) for y in yarns], strict=True), strict=True):
        assert len(set(other)) == 2 and default in other


@pytest.mark.parametrize("theta", [1e4, 5e5, 1e6, 5e6])
@pytest.mark.parametrize("head", [6, 64, 128])
def test_powers_are_rounded_to_the_nearest(theta: float, head: int) -> None:
    found, factor = frequencies(Rope(theta), head)
    with localcontext(prec=40):
        for i, frequency in enumerate(found):
            exact = Decimal(theta) ** Decimal(float(np.float32(2 * i) / np.float32(head)))
            near = np.float32(float(exact))
            around = (near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf)))
            period = min(around, key=lambda x: abs(Decimal(float(x)) - exact))
            assert frequency == np.float32(1) / period
    assert factor == 1.0


def test_yarn_keeps_fast_dimensions_and_slows_the_others() -> None:
    plain, _ = frequencies(Rope(1e6), 128)
    yarn, factor = frequencies(Rope(1e6, Yarn(4.0, 32768)), 128)
    turns = 32768 * plain / (2 * np.pi)  # of a dimension over the original length
    assert (yarn[turns > 40] == plain[turns > 40]).all() and (turns > 40).any()
    np.testing.assert_allclose(yarn[turns < 0.8], plain[turns < 0.8] / 4, rtol=2e-7)
    between = (turns < 25) & (turns > 1.3)
    assert between.any() and ((yarn < plain) & (yarn > plain / 4))[between].all()
    assert factor == 0.1 * math.log(4.0) + 1.0 and frequencies(Rope(1e6, Yarn(4.0, 32768, attention=1.0)), 128)[1] == 1.0
    assert frequencies(Rope(1e6, Yarn(1.0, 32768)), 128)[1] == 1.0


def test_llama_keeps_short_waves_and_lengthens_long_ones() -> None:
    plain, _ = frequencies(Rope(5e5), 64)
    scaled, factor = frequencies(Rope(5e5, Llama3(32.0, 1.0, 4.0, 8192)), 64)
    wave = 2 * np.pi / plain
    assert factor == 1.0 and (scaled[wave < 2048] == plain[wave < 2048]).all() and (scaled[wave > 8192] == plain[wave > 8192] / np.float32(32)).all()
    between = (wave > 2048) & (wave < 8192)
    assert between.any() and ((scaled < plain) & (scaled > plain / 32))[between].all()


@pytest.mark.parametrize("rope", KINDS, ids=lambda rope: type(rope.scaling).__name__)
def test_angles_are_right_a_million_positions_along(rope: Rope) -> None:
    """Sine and cosine of the angle that float32 holds, as torch has them, also where the argument is huge."""
    positions = np.concatenate([start + np.arange(300) for start in (0, 32_768, 131_000, 1_000_000)])[None]
    radians, factor = frequencies(rope, 128)
    angles = (positions[..., None].astype(np.float32) * radians).astype(np.float64)
    sin, cos = jax.jit(rope_angles, static_argnums=(1, 2))(positions, rope, 128)
    assert sin.dtype == cos.dtype == jnp.float32 and sin.shape == (1, 1200, 64)
    np.testing.assert_allclose(sin, factor * np.sin(angles), atol=1.5e-7)
    np.testing.assert_allclose(cos, factor * np.cos(angles), atol=1.5e-7)


@pytest.mark.parametrize("rope", KINDS, ids=lambda rope: type(rope.scaling).__name__)
def test_scores_depend_on_the_distance_alone(rope: Rope) -> None:
    q, k = (jax.random.normal(jax.random.key(i), (1, 1, 16)) for i in (0, 1))

    def score(i: int, j: int) -> float:
        q_at, k_at = (rotate(x, *rope_angles(jnp.array([[at]]), rope, 16)) for x, at in ((q, i), (k, j)))
        return float(jnp.sum(q_at * k_at))

    assert math.isclose(score(7, 3), score(107, 103), rel_tol=1e-4) and not math.isclose(score(7, 3), score(8, 3), rel_tol=1e-2)
    assert math.isclose(score(5, 5), frequencies(rope, 16)[1] ** 2 * float(jnp.sum(q * k)), rel_tol=1e-5)


def test_halves_of_the_head_turn_together() -> None:
    x = jnp.arange(1.0, 9.0).reshape(1, 1, 8)
    sin, cos = rope_angles(jnp.array([[3]]), Rope(1e4), 8)
    turned = rotate(x, sin, cos)
    pairs, expected = (turned[0, 0, :4] + 1j * turned[0, 0, 4:]), (x[0, 0, :4] + 1j * x[0, 0, 4:]) * np.exp(3j * frequencies(Rope(1e4), 8)[0])
    np.testing.assert_allclose(pairs, expected, rtol=1e-6)
    assert rotate(x.astype(jnp.bfloat16), sin, cos).dtype == jnp.bfloat16
