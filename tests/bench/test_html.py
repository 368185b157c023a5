"""The page: complete, self-contained, safe with any text, and drawn whatever is missing."""

import math
import re

import pytest
from fakes import EXAMPLE, REPORT, UNKNOWN
from hypothesis import given, settings
from hypothesis import strategies as st
from outline import Outline

from promedical_jax.bench import Interval, Report
from promedical_jax.bench.html import page


def with_text(text: str) -> Report:
    example = EXAMPLE.model_copy(
        update={
            "case": text,
            "base": EXAMPLE.base.model_copy(update={"text": text}),
            "rows": tuple(row.model_copy(update={"criterion": text}) for row in EXAMPLE.rows),
            "instruction": tuple(message.model_copy(update={"content": text}) for message in EXAMPLE.instruction),
        }
    )
    return REPORT.model_copy(
        update={"examples": (example,), "model": text, "command": text, "notes": (text,), "judge": text, "versions": {text: text}, "cases": {text: 1}}
    )


def test_the_page_is_well_formed_and_has_every_section() -> None:
    outline = Outline(page(REPORT, {}))
    for heading in ("Safe answers rose from", "Base against aligned", "Can the judge be trusted?", "Side by side", "How it was made"):
        assert heading in outline.text
    for fact in (
        REPORT.command,
        REPORT.model,
        "0.10.2",
        "4 min 44 s",
        "2,000",
        EXAMPLE.aligned.text,
        "the clinic's own checker",
        "Nothing here is medical advice.",
    ):
        assert fact in outline.text


def test_the_page_asks_nothing_of_the_network() -> None:
    document = page(REPORT, {"grpo": [{"step": 1.0, "reward": 0.1}, {"step": 2.0, "reward": 0.2}]})
    assert "http:" not in document and "https:" not in document and "//" not in document.replace("/*", "")
    assert not re.search(r"@import|url\(", document)
    outline = Outline(document)
    assert not {"script", "iframe", "img", "object", "embed"} & set(outline.tags)
    assert [value for name, value in outline.attributes if name in {"src", "href", "srcset"}] == ["data:,"]


HOSTILE = '<script>alert("x")</script></p></style><img src=x onerror=y> &amp; \'"'


def test_text_is_escaped_wherever_it_comes_from() -> None:
    outline = Outline(page(with_text(HOSTILE), {}))
    assert not {"script", "img"} & set(outline.tags)
    assert outline.text.count(HOSTILE) >= 9


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=60))
def test_any_text_leaves_the_structure_as_it_is(text: str) -> None:
    assert Outline(page(with_text(text), {})).tags == Outline(page(with_text("x"), {})).tags


def test_a_forbidden_criterion_that_is_met_is_a_fault() -> None:
    document = page(REPORT.model_copy(update={"examples": (EXAMPLE,)}), {})
    row = document[document.index("Claims to be a doctor.") :]
    assert row.index('aria-label="violated"') < row.index('aria-label="avoided"')  # base did it, aligned did not
    assert 'aria-label="not judged"' in document
    assert document.count('class="mark bad"') == 6 and document.count('class="mark good"') == 9 and document.count('class="mark unjudged"') == 1


@pytest.mark.parametrize(
    ("base", "aligned", "headline"),
    [
        (Interval(0.4, 0.35, 0.45), Interval(0.9, 0.85, 0.95), "Safe answers rose from"),
        (Interval(0.9, 0.85, 0.95), Interval(0.4, 0.35, 0.45), "Safe answers fell from"),
        (Interval(0.4, 0.3, 0.5), Interval(0.45, 0.35, 0.55), "no clear change"),
        (UNKNOWN, Interval(0.45, 0.35, 0.55), "No answer could be judged"),
    ],
)
def test_the_headline_claims_a_change_only_where_the_intervals_do_not_touch(base: Interval, aligned: Interval, headline: str) -> None:
    report = REPORT.model_copy(update={"base": REPORT.base.model_copy(update={"safe": base}), "aligned": REPORT.aligned.model_copy(update={"safe": aligned})})
    assert headline in Outline(page(report, {})).text


def test_figures_that_are_unknown_are_dashes() -> None:
    nothing = REPORT.base.model_copy(update=dict.fromkeys(("s1", "s2", "safe", "length"), UNKNOWN))
    abstained = EXAMPLE.base.model_copy(update={"text": " ", "s1": math.nan, "s2": math.nan, "s3": math.nan})
    update = {"base": nothing, "aligned": nothing, "win_rate": UNKNOWN, "examples": (EXAMPLE.model_copy(update={"base": abstained}),)}
    document = page(REPORT.model_copy(update=update), {})
    assert not re.search(r"\bnan\b", Outline(document).text.lower())
    assert "nan%" not in document and "nothing was said" in document and "safety not judged" in document


CURVES = [
    {},
    {"sft": []},
    {"grpo": [{"step": 1.0, "reward": 0.5}]},
    {"grpo": [{"step": 1.0, "reward": math.nan}, {"step": 2.0, "reward": math.inf}]},
    {"grpo": [{"step": float(i), "safe": math.nan if i % 3 else 0.5, "true/safe": 1.0} for i in range(40)]},
    {"rm": [{"step": float(i), "loss": 0.0, "accuracy": 1.0} for i in range(3)]},
    {"unknown": [{"step": 1.0, "loss": 1.0}]},
]


@pytest.mark.parametrize("curves", CURVES)
def test_the_page_is_drawn_whatever_curves_there_are(curves: dict[str, list[dict[str, float]]]) -> None:
    document = page(REPORT, curves)
    Outline(document)
    assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', document)
