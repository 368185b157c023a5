"""Runs side by side: paired differences by hand, the items farthest apart, a page that is safe to open, and what cannot be compared."""

import json
from pathlib import Path

import pytest

from promedical_jax.cli import main
from promedical_jax.errors import InputError
from promedical_jax.suites.compare import differences, farthest, read_runs
from promedical_jax.suites.compare_page import page
from promedical_jax.suites.known import SUITES
from promedical_jax.suites.report import Report, write
from promedical_jax.suites.suite import Marked


def save(folder: Path, scores: dict[str, float | None], suite: str = "kqa", text: str = "Rest.") -> Path:
    marks = [
        Marked(id=name, unit=name, reply={"text": text}, score=score, parts={"comprehensiveness": score, "contradicted": 1.0}) for name, score in scores.items()
    ]
    source = SUITES["kqa"].source
    figures = SUITES["kqa"].figures(marks)
    write(
        folder,
        marks,
        Report(suite=suite, source=source, data="q", answerer="a", judge="j", items=len(marks), silent=0, judgements=0, failed=0, figures=figures),
    )
    return folder


def test_differences_are_of_the_items_that_both_scored(tmp_path: Path) -> None:
    one = save(tmp_path / "one", {"a": 0.0, "b": 0.5, "c": 1.0, "d": None, "e": 0.3})
    two = save(tmp_path / "two", {"a": 1.0, "b": 0.75, "c": 1.0, "d": 1.0, "f": 0.0})
    runs = read_runs([one, two])
    score, whole, contradicted = differences(*runs)
    assert (score.n, score.interval.mean) == (3, pytest.approx(1.25 / 3)) and score.interval.low < score.interval.mean < score.interval.high
    assert whole.interval == score.interval and (contradicted.interval.mean, contradicted.n) == (0.0, 4)
    assert differences(runs[1], runs[0])[0].interval.mean == pytest.approx(-1.25 / 3)
    assert farthest(runs) == ["a", "b"]


def test_pairing_tells_apart_what_two_intervals_do_not(tmp_path: Path) -> None:
    """Items of very unlike difficulty, on each of which the second is a little better."""
    base = {str(n): (n % 10) / 10 for n in range(60)}
    runs = read_runs(
        [save(tmp_path / "one", dict(base)), save(tmp_path / "two", {name: value + 0.05 + 0.02 * (int(name) % 2) for name, value in base.items()})]
    )
    apart = [run.report.figures["comprehensiveness"] for run in runs]
    assert apart[0].high > apart[1].low and differences(*runs)[0].interval.low > 0


def test_the_page_stands_alone_and_what_models_say_stays_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "<script>alert('药')</script>"
    folders = [str(save(tmp_path / "one", {"a": 0.0})), str(save(tmp_path / 'two"<b>', {"a": 1.0}, text=evil))]
    out = tmp_path / "page.html"
    assert main(["bench", "compare", *folders, "--out", str(out)]) == 0 and "wrote" in capsys.readouterr().out
    html = out.read_text(encoding="utf-8")
    assert (
        "<script" not in html
        and "&lt;script&gt;alert(&#x27;药&#x27;)" in html
        and "<b>" not in html.split("<title>")[1].split("</title>")[0]
        and 'two"<b>' not in html
    )
    assert "default-src 'none'" in html
    assert main(["bench", "compare", *folders, "--out", str(out)]) == 2 and "exists; give --force" in capsys.readouterr().err


def test_runs_that_differ_on_nothing_say_so(tmp_path: Path) -> None:
    html = page(read_runs([save(tmp_path / "one", {"a": 0.5}), save(tmp_path / "two", {"a": 0.5})]))
    assert "The runs differ on no item." in html and "may be chance" in html and ">differs<" not in html


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    one = save(tmp_path / "one", {"a": 0.5})
    for folders, said in [
        ([one], "1 run to compare"),
        ([one, save(tmp_path / "other", {"a": 0.5}, suite="medec")], "is a run of medec and"),
        ([one, save(tmp_path / "apart", {"z": 0.5})], "have no item in common"),
        ([one, tmp_path], r"holds no report\.json"),
    ]:
        with pytest.raises(InputError, match=said):
            read_runs(folders)
    report = json.loads((one / "report.json").read_text())
    (one / "report.json").write_text(json.dumps(report | {"colour": 1}))
    with pytest.raises(InputError, match=r"report\.json, field colour"):
        read_runs([one, one])
