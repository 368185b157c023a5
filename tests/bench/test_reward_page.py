"""A reward model's section of the page, its own page, and when `promedical bench` writes it."""

import re
from pathlib import Path
from xml.etree import ElementTree

import jax
import pytest
from fakes import REPORT, REWARD_MODEL, UNKNOWN, implicit
from hypothesis import given, settings
from hypothesis import strategies as st
from test_html import HOSTILE, Outline

from promedical_jax.bench import RewardModelFigures, run
from promedical_jax.bench.html import page
from promedical_jax.bench.reward_figures import Bin, RecallAt
from promedical_jax.bench.reward_page import reward_section, write_reward_page
from promedical_jax.bench.svg import reliability
from promedical_jax.config import BenchConfig
from promedical_jax.errors import InputError

THIN = "\u202f"


def pictures(document: str) -> list[ElementTree.Element]:
    """Every picture of a page, read as XML."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>(?!</svg>)", document, re.DOTALL)]


def test_the_section_says_what_the_figures_say() -> None:
    text = Outline(reward_section(REWARD_MODEL)).text
    for fact in (
        "is told each criterion", "1,034 verdicts", "1,234 judgements", "2,871 verdicts", "ECE 0.021, 0.015 to 0.030; Brier score 0.044", "5,742 pairs",
        f"97.2{THIN}%", f"of 404 violations88.6{THIN}%84.5 to 92.7{THIN}%", f"91.7{THIN}%", f"90.1{THIN}%", f"at 1{THIN}% false vetoes", f"71.3{THIN}%",
        f"53.2{THIN}%", f"96.4{THIN}%", f"52.3{THIN}%", f"50.1{THIN}%", f"95.5{THIN}%", f"the best there is 98.5{THIN}%",
    ):  # fmt: skip
        assert fact in text, fact


def test_a_run_page_has_the_section() -> None:
    assert reward_section(REPORT.reward_model) in page(REPORT, {})


def test_the_page_of_a_reward_model_is_whole_safe_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    write_reward_page(tmp_path / "deep" / "judge.html", REWARD_MODEL, HOSTILE)
    document = (tmp_path / "deep" / "judge.html").read_text(encoding="utf-8")
    outline = Outline(document)
    assert outline.text.count(HOSTILE) == 2 and "200 held-out cases, 800 answers, 6,037 judgements" in outline.text
    assert not {"script", "iframe", "img", "object", "embed"} & set(outline.tags)
    assert "http" not in document.replace("http-equiv", "") and not re.search(r"@import|url\(", document)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["judge.html"]


def test_every_picture_is_well_formed_labelled_and_coloured_by_the_style_sheet() -> None:
    found = pictures(reward_section(REWARD_MODEL))
    assert len(found) == len(re.findall("<svg", reward_section(REWARD_MODEL))) > 15
    for svg in found:
        assert svg.get("role") == "img" and svg.get("aria-label")
        assert not any(name in {"fill", "stroke", "style", "color"} for part in svg.iter() for name in part.attrib)


def test_a_dot_stands_where_its_bin_does_and_a_bar_reaches_to_the_diagonal() -> None:
    [svg] = pictures(reliability("Safety", "note", [Bin(probability=0.25, truth=0.75, count=100), Bin(probability=1.0, truth=1.0, count=25)]))
    [even] = [line for line in svg.iter("line") if line.get("class") == "even"]
    left, foot, right, top = (float(even.get(name, "nan")) for name in ("x1", "y1", "x2", "y2"))
    assert right - left == foot - top, "the picture is square, and the diagonal is one"
    low, high = svg.iter("circle")
    assert float(low.get("cx", "nan")) == pytest.approx(left + 0.25 * (right - left), abs=0.06)
    assert float(low.get("cy", "nan")) == pytest.approx(foot - 0.75 * (foot - top), abs=0.06)
    assert (high.get("cx"), high.get("cy")) == (even.get("x2"), even.get("y2"))
    assert float(low.get("r", "nan")) > float(high.get("r", "nan"))
    bar = next(line for line in svg.iter("line") if line.get("class") == "gap")
    assert float(bar.get("y1", "nan")) == pytest.approx(foot - 0.25 * (foot - top), abs=0.06) and bar.get("y2") == low.get("cy")
    assert f"of 100 said to hold with 25{THIN}%, 75{THIN}% hold" in (svg.get("aria-label") or "")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.builds(Bin, probability=st.floats(0, 1), truth=st.floats(0, 1), count=st.integers(1, 10**6)), max_size=10), st.text(max_size=20))
def test_any_bins_can_be_drawn_inside_the_picture(bins: list[Bin], title: str) -> None:
    title = "".join(c for c in title if c.isprintable())
    drawn = reliability(title, title, bins)
    assert (drawn == "") == (not bins)
    for svg in pictures(drawn):
        width, height = map(float, (svg.get("viewBox") or "").split()[2:])
        assert all(0 <= float(dot.get("cx", "nan")) <= width and 0 <= float(dot.get("cy", "nan")) <= height for dot in svg.iter("circle"))


def test_what_was_not_measured_is_left_out_or_a_dash() -> None:
    text = Outline(reward_section(implicit())).text
    assert "scores an answer as a whole" in text and "Are its probabilities true?" not in text and "Are its verdicts right?" not in text
    assert "Does it put the right answer first?" in text and "Violations found" not in text and "other words" not in text
    safety = REWARD_MODEL.safety
    assert safety
    unknown = safety.model_copy(update={"precision": UNKNOWN, "f1": UNKNOWN, "recall_at": (RecallAt(false_veto_rate=0.05, recall=UNKNOWN),)})
    document = reward_section(REWARD_MODEL.model_copy(update={"safety": unknown, "longer_preferred": UNKNOWN, "selection": None}))
    assert "nan" not in document.lower() and "Picked answer" not in document


@pytest.fixture
def benched(monkeypatch: pytest.MonkeyPatch) -> None:
    """`promedical bench` of a reward model whose figures are known."""
    monkeypatch.setattr(run, "join", lambda: None)
    monkeypatch.setattr(run, "make_mesh", lambda *_: jax.make_mesh((1,), ("fsdp",), devices=jax.devices()[:1]))
    monkeypatch.setattr(run, "is_reward_model", lambda _: True)
    monkeypatch.setattr(run.hf, "resolve", lambda folder: folder)
    monkeypatch.setattr(run, "_reward_model", lambda *_: REWARD_MODEL)


@pytest.mark.usefixtures("benched")
@pytest.mark.parametrize("chief", [True, False])
def test_bench_writes_the_page_where_it_is_asked_for_and_the_chief_alone_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chief: bool) -> None:
    monkeypatch.setattr(run, "chief", lambda: chief)
    config = BenchConfig(model="runs/judge", cases="cases.jsonl", out=tmp_path / "figures.json", report=tmp_path / "judge.html")
    assert run.run(config) == REWARD_MODEL
    if chief:
        assert "Reward model runs/judge" in Outline((tmp_path / "judge.html").read_text(encoding="utf-8")).text
        assert RewardModelFigures.model_validate_json((tmp_path / "figures.json").read_text()) == REWARD_MODEL
    assert len(list(tmp_path.iterdir())) == 2 * chief


@pytest.mark.parametrize("key", ["report", "paraphrases"])
def test_what_is_for_a_reward_model_is_refused_for_a_policy(key: str) -> None:
    with pytest.raises(InputError, match=rf"--{key}: runs/policy is a policy.*leave --{key} out"):
        run._policy(BenchConfig(model="runs/policy", cases="cases.jsonl", **{key: "file"}), Path("runs/policy"))
