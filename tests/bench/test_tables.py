"""The terminal's tables."""

import io
import math

import pytest
from fakes import REPORT, REWARD_MODEL
from rich.console import Console

from promedical_jax.bench import Interval
from promedical_jax.bench.tables import print_accuracy, print_report

UNKNOWN = Interval(math.nan, math.nan, math.nan)


def test_the_final_table_has_every_figure_and_fits_80_columns() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    print_report(REPORT, console)
    text = console.export_text()
    for figure in ("45.3 % (40.8 to 49.8)", "96.8 % (92.3 to 100.0)", "+51.5", "91.8 % (89.4 to 94.0)", "41.9 (40.7 to 43.0)", "200 held-out cases"):
        assert figure in text
    assert "…" not in text and max(map(len, text.splitlines())) <= 80


def test_the_reward_model_stands_beside_the_majority_class() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    print_accuracy(REWARD_MODEL, console)
    text = console.export_text()
    safety = next(line for line in text.splitlines() if line.strip().startswith("safety"))
    assert safety.split() == ["safety", "1,962", "79.4", "%", "96.2", "%", "(94.5", "to", "97.7)", "+16.8"]
    assert "6,037" in text and "…" not in text


@pytest.mark.parametrize("figure", ["s1", "s2", "safe", "length"])
def test_what_is_unknown_is_a_dash(figure: str) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    print_report(REPORT.model_copy(update={"aligned": REPORT.aligned.model_copy(update={figure: UNKNOWN}), "win_rate": UNKNOWN}), console)
    assert "nan" not in console.export_text()
