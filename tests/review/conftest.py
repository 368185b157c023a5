"""A stand-in for Label Studio, and a token for it."""

from collections.abc import Iterator

import pytest
from stand_in import PERSONAL, StandIn


@pytest.fixture
def studio(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    made = StandIn()
    monkeypatch.setenv("STUDIO_TOKEN", PERSONAL)
    yield made
    made.close()
