"""Pauses after failures are short."""

import pytest


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promedical_jax.asking.asker.FIRST_PAUSE", 0.001)
