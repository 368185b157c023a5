"""The terminal's tables."""

import io

import pytest
from fakes import REPORT, REWARD_MODEL, UNKNOWN, implicit
from rich.console import Console

from promedical_jax.bench import RewardModelFigures
from promedical_jax.bench.tables import print_accuracy, print_report


def test_the_final_table_has_every_figure_and_fits_80_columns() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    print_report(REPORT, console)
    text = console.export_text()
    for figure in ("45.3 % (40.8 to 49.8)", "96.8 % (92.3 to 100.0)", "+51.5", "91.8 % (89.4 to 94.0)", "41.9 (40.7 to 43.0)", "200 held-out cases"):
        assert figure in text
    assert "…" not in text and max(map(len, text.splitlines())) <= 80


def test_the_reward_model_stands_beside_the_majority_class() -> None:
    verdicts = accuracy_tables(REWARD_MODEL).splitlines()
    safety = next(line for line in verdicts if line.strip().startswith("safety"))
    assert safety.split() == ["safety", "1,962", "79.4", "%", "96.2", "%", "(94.5", "to", "97.7)", "+16.8"]
    assert any(line.split()[:2] == ["all", "6,037"] for line in verdicts)


def test_the_reward_models_tables_have_every_figure_and_fit_80_columns() -> None:
    text = accuracy_tables(REWARD_MODEL)
    safety, best, swapped, said = REWARD_MODEL.safety, REWARD_MODEL.selection, REWARD_MODEL.swapped, REWARD_MODEL.paraphrased
    assert safety and best and swapped and said
    shown = [safety.precision, safety.recall, safety.f1, *(at.recall for at in safety.recall_at)]
    shown += [best.safe, best.safe_mean, best.safe_best, best.s1, best.s1_mean, best.s1_best]
    shown += [REWARD_MODEL.overall_pairwise, REWARD_MODEL.longer_preferred, said.same, said.pairwise, swapped.pairwise, swapped.pairwise_by_verdict]
    for share in [*shown, *(one.pairwise for one in REWARD_MODEL.tiers.values())]:
        assert f"{100 * share.mean:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})" in text
    for figure in ("recall at 1 % false vetoes", "0.021 (0.015 to 0.030)", "1,034", "1,234"):
        assert figure in text
    assert "…" not in text and max(map(len, text.splitlines())) <= 80


def test_a_reward_model_without_verdicts_has_dashes_and_its_pairs() -> None:
    text = accuracy_tables(implicit())
    assert "nan" not in text and "implicit reward model" in text and "97.8 % (97.1 to 98.4)" in text


def accuracy_tables(figures: RewardModelFigures) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    print_accuracy(figures, console)
    return console.export_text()


@pytest.mark.parametrize("figure", ["s1", "s2", "safe", "length"])
def test_what_is_unknown_is_a_dash(figure: str) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    print_report(REPORT.model_copy(update={"aligned": REPORT.aligned.model_copy(update={figure: UNKNOWN}), "win_rate": UNKNOWN}), console)
    assert "nan" not in console.export_text()
