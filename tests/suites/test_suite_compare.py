"""Runs side by side: paired differences by hand, the items farthest apart, a page that is safe to open, and what cannot be compared."""

import json
from pathlib import Path

import pytest
from outline import Outline

from promedical_jax.cli import main
from promedical_jax.errors import InputError
from promedical_jax.rubric import Message, Polarity
from promedical_jax.suites.compare import against, differences, farthest, read_runs
from promedical_jax.suites.compare_page import page
from promedical_jax.suites.figures import mean
from promedical_jax.suites.known import SUITES
from promedical_jax.suites.report import Report, write
from promedical_jax.suites.suite import Line, Marked


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


HOSTILE = '<script>alert("x")</script></td></style><img src=x onerror=y> &amp; \'"'


def policy_run(folder: Path, text: str, words: str) -> Path:
    """A case about which everything says `text`, answered twice; words: + met, - unmet, ? abstained, for each answer and criterion."""
    lines = (Line(text=f"要点 {text}", group="proficiency", weight=1.0), Line(text=text, group="safety", polarity=Polarity.FORBIDDEN))
    said = tuple({"verdict": {"+": "met", "-": "unmet", "?": "abstain"}[word]} for word in words)
    marks = [Marked(id=text, unit=text, reply=[f"{text} {folder.name}", f"{text} 二"], verdicts=said, parts={"S1": 0.5, "safe": 1.0},
                    instruction=(Message(role="user", content=text),), criteria=lines)]  # fmt: skip
    source = SUITES["promedical-policy"].source.model_copy(update=dict.fromkeys(("name", "about", "licence", "version", "scoring"), text))
    said_of = dict.fromkeys(("data", "answerer", "judge", "judge_version", "judge_calibration", "calibration"), text)
    figures = {text: mean(marks, lambda one: one.parts["S1"])}
    write(folder, marks, Report(suite="promedical-policy", source=source, items=1, silent=0, judgements=4, failed=0, figures=figures, **said_of))
    return folder


def two(folder: Path, text: str) -> str:
    return page(read_runs([policy_run(folder / "one", text, "---+"), policy_run(folder / "two", text, "+--?")]))


def test_hostile_text_stays_text_wherever_it_comes_from(tmp_path: Path) -> None:
    outline, plain = Outline(two(tmp_path / "bad", HOSTILE)), Outline(two(tmp_path / "plain", "x"))
    assert outline.tags == plain.tags and not {"script", "img", "iframe", "object", "embed", "link"} & (set(outline.tags) - {"link"})
    assert outline.text.count(HOSTILE) >= 15


def test_the_page_asks_nothing_of_the_network(tmp_path: Path) -> None:
    html = two(tmp_path, "x")
    outline = Outline(html)
    assert [value for name, value in outline.attributes if name in ("src", "href", "srcset", "action", "data")] == ["data:,"]
    assert "@import" not in html and "url(" not in html and "default-src 'none'" in html


def test_chinese_is_shown_as_it_is(tmp_path: Path) -> None:
    text = "布洛芬可以和降压药一起吃吗？"
    outline = Outline(two(tmp_path, text))
    assert outline.text.count(text) >= 15 and f"要点 {text}" in outline.text and f"{text} 二" not in outline.text


def test_a_case_is_shown_with_criteria_verdicts_and_the_answers_that_differ_most(tmp_path: Path) -> None:
    """Of two answers each the runs differ on one criterion, and the first is shown: unmet and met, and twice avoided. Then on both of the second."""
    html = two(tmp_path, "x")
    item = html[html.index('id="items"') :]
    assert "one, answer 1 of 2" in item and item.count('aria-label="missing"') == 1 and item.count('aria-label="done"') == 1
    assert item.count('aria-label="avoided"') == 2 and "100" in item
    second = page(read_runs([policy_run(tmp_path / "one", "x", "---+"), policy_run(tmp_path / "two", "x", "+-+?")]))
    assert "two, answer 2 of 2" in second and 'aria-label="violated"' in second and 'aria-label="not judged"' in second


def test_who_wins_is_said_with_its_test(tmp_path: Path) -> None:
    """The second wins the first answer by skill, and of the second answer nobody knows."""
    runs = read_runs([policy_run(tmp_path / "one", "x", "---+"), policy_run(tmp_path / "two", "x", "+--?")])
    found = against(*runs)
    assert found and (found.won, found.tied, found.lost, found.win_rate.mean) == (1, 0, 0, 1.0) and against(runs[1], runs[0]).lost == 1  # type: ignore[union-attr]
    html = page(runs)
    assert "paired permutation test" in html and "1 / 0 / 0" in html and "different judges" not in html
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    (tmp_path / "two" / "report.json").write_text(json.dumps(report | {"judge_version": "2"}))
    assert "different judges" in page(read_runs([tmp_path / "one", tmp_path / "two"]))
    assert 'id="wins"' not in page(read_runs([save(tmp_path / "a", {"a": 0.0}), save(tmp_path / "b", {"a": 1.0})]))
