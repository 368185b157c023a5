"""The report's record and its writing."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from fakes import EXAMPLE, REPORT, REWARD_MODEL, UNKNOWN, implicit, write_curves
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from promedical_jax.bench import Interval, Report, RewardModelFigures, read_metrics, read_report, write_report
from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Tier


def test_report_json_has_the_keys_that_programs_read(tmp_path: Path) -> None:
    write_report(tmp_path, REPORT)
    report = json.loads((tmp_path / "report.json").read_text())
    for policy in ("base", "aligned"):
        for figure in ("s1", "s2", "safe", "length"):
            assert set(report[policy][figure]) == {"mean", "low", "high"}
    assert set(report["win_rate"]) == {"mean", "low", "high"}
    judge = report["reward_model"]
    assert set(judge) == {
        "kind", "tiers", "overall", "overall_majority", "overall_pairwise", "safety", "longer_preferred", "selection", "paraphrased", "swapped", "n_cases",
        "n_answers", "split",
    }  # fmt: skip
    assert set(judge["tiers"]) == {"proficiency", "excellence", "safety"}
    measures = {"accuracy", "majority", "count", "abstained", "pairs", "pairwise", "pairwise_by_verdict", "ece", "brier", "reliability"}
    assert set(judge["tiers"]["safety"]) == measures
    assert set(judge["safety"]) == {"violations", "precision", "recall", "f1", "recall_at"}
    assert {"seed", "command", "versions", "wall_seconds", "model", "cases", "examples"} <= set(report)
    assert report["base"]["s1"]["mean"] == 0.552


def test_report_json_reads_back_as_it_was(tmp_path: Path) -> None:
    write_report(tmp_path, REPORT)
    assert read_report(tmp_path / "report.json") == REPORT


def test_nan_is_null_in_json_and_nan_again_when_read(tmp_path: Path) -> None:
    report = REPORT.model_copy(update={"win_rate": UNKNOWN})
    write_report(tmp_path, report)
    assert json.loads((tmp_path / "report.json").read_text(), parse_constant=_no_constant)["win_rate"]["mean"] is None
    assert math.isnan(read_report(tmp_path / "report.json").win_rate.low)


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@given(st.floats(allow_infinity=False), st.floats(allow_infinity=False))
def test_any_number_survives_the_way_through_json(mean: float, majority: float) -> None:
    figures = REWARD_MODEL.model_copy(update={"overall": Interval(mean, mean, mean), "overall_majority": majority})
    back = Report.model_validate_json(REPORT.model_copy(update={"reward_model": figures}).model_dump_json()).reward_model
    assert np.array_equal([back.overall.mean, back.overall_majority], [mean, majority], equal_nan=True)


def test_what_is_no_report_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_report(tmp_path / "report.json")
    (tmp_path / "report.json").write_text('{"seed": 0}')
    with pytest.raises(InputError, match="not a report of this version"):
        read_report(tmp_path / "report.json")


def test_a_report_that_cannot_be_made_leaves_the_old_one_alone(tmp_path: Path) -> None:
    write_report(tmp_path, REPORT)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    (tmp_path / "grpo").mkdir()
    (tmp_path / "grpo" / "metrics.jsonl").write_text("nonsense\n")
    with pytest.raises(InputError):
        write_report(tmp_path, REPORT.model_copy(update={"seed": 1}))
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()} == before
    assert not list(tmp_path.glob(".*")), "temporary files were left behind"


def test_the_figures_of_a_model_without_verdicts_survive_the_way_through_json() -> None:
    figures = implicit()
    back = RewardModelFigures.model_validate_json(figures.model_dump_json())
    assert math.isnan(back.overall.mean) and math.isnan(back.tiers[Tier.SAFETY].ece.low)
    assert back.tiers[Tier.SAFETY].pairwise == figures.tiers[Tier.SAFETY].pairwise


def test_reward_model_figures_of_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="no tier has a judgement"):
        RewardModelFigures(**{name: getattr(REWARD_MODEL, name) for name in RewardModelFigures.model_fields} | {"tiers": {}})


def test_an_example_wants_a_verdict_for_every_criterion() -> None:
    from fakes import CASE, MET

    with pytest.raises(ValueError, match="shorter"):
        type(EXAMPLE).of(CASE, EXAMPLE.base, EXAMPLE.aligned, [MET], [MET])


def test_metrics_are_read_in_order_of_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "loss": null, "stage": "sft"}\n\n{"step": 1, "loss": 0.5, "done": true}\n')
    first, second = read_metrics(path)
    assert first == {"step": 1.0, "loss": 0.5}
    assert second["step"] == 2.0 and math.isnan(second["loss"])


def test_the_last_line_of_a_run_that_is_still_writing_may_be_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1.0, "loss": 0.5}]


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 2: not valid JSON"), ('{"loss": 1}', "line 2, field step"), ("[1]", "line 2, field step"), ('{"step": true}', "field step")],
)
def test_a_broken_metrics_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line + '\n{"step": 3}\n')
    with pytest.raises(InputError, match=message):
        read_metrics(path)


def test_writing_takes_the_curves_that_are_there(tmp_path: Path) -> None:
    write_report(tmp_path, REPORT)
    assert "How it got there" not in (tmp_path / "report.html").read_text()
    write_curves(tmp_path, steps=20)
    write_report(tmp_path, REPORT)
    assert (tmp_path / "report.html").read_text().count('<figure class="chart') == 12 + 3  # and a reliability diagram a tier
