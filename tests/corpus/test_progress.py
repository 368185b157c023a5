"""What a run says of its progress: on a terminal a bar, elsewhere a line now and then, with the money and the time left."""

import io

import pytest
from rich.console import Console

from promedical_jax.corpus import progress as module
from promedical_jax.corpus.progress import progress


def test_elsewhere_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 40.0, 50.0, 80.0, 7300.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    page = io.StringIO()
    with progress("topic (m)", lambda: 0.25, Console(file=page)) as tell:
        for done in (1, 4, 5, 8, 100):
            tell(done, 1000)
    assert page.getvalue().splitlines() == [
        "  topic (m): 4 of 1,000, spent 0.25, 2 h 46 min left",
        "  topic (m): 8 of 1,000, spent 0.25, 2 h 45 min left",
        "  topic (m): 100 of 1,000, spent 0.25, 18 h 15 min left",
    ]


def test_on_a_terminal_a_bar() -> None:
    page = io.StringIO()
    with progress("topic (m)", lambda: 1.5, Console(file=page, force_terminal=True, width=120)) as tell:
        tell(3, 9)
        tell(9, 9)
    assert "topic (m)" in page.getvalue() and "9/9" in page.getvalue() and "spent 1.5" in page.getvalue()
