"""Waves of a rollout: as few as leave room for the keys and values of all their answers beside the weights."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promedical_jax.model.hf.known import known_config
from promedical_jax.rollout.memory import SPARE, waves

MODEL, GIB = known_config("Qwen/Qwen3-8B"), 2**30
WEIGHTS, TOKEN = 2 * 8_190_735_360 / 8 / GIB, 2 * 2 * 36 * 128 / GIB  # GiB of a device, where tp is 8: bfloat16 weights, a token's keys and values
P, G, R = 2048, 16, 1024


def count(free: float | None, cases: int = 64) -> int:
    return waves(MODEL, cases, P, G, R, "bfloat16", 8, None if free is None else free * GIB)


@given(st.floats(0, 40), st.sampled_from([1, 6, 64]))
def test_a_wave_fits_and_one_fewer_would_not(free: float, cases: int) -> None:
    room, case = (1 - SPARE) * free - WEIGHTS, (P + G * R) * TOKEN
    parts = count(free, cases)
    assert cases % parts == 0
    fewer = [n for n in range(1, parts) if cases % n == 0]
    assert all(cases / n * case > room - 1e-6 for n in fewer)
    assert cases / parts * case <= room + 1e-6 or parts == cases


@pytest.mark.parametrize(("free", "parts"), [(None, 1), (40, 1), (16, 2), (0, 64)])
def test_so_many(free: float | None, parts: int) -> None:
    assert count(free) == parts
