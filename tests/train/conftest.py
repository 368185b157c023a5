from collections.abc import Iterator

import pytest
from tiny import quick_compilation


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    with quick_compilation():
        yield
