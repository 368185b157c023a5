"""MedFact's figures on Chinese texts of our own, against counting here: veracity, localisation by a judge, over-criticism. The facts are common knowledge."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import Server
from suite_rules import by, figure, material, ran, recipe

from promedical_jax.asking import Ask
from promedical_jax.bench.likelihood import Likelihood
from promedical_jax.clinic.tokenizer import build_tokenizer
from promedical_jax.data.encode import encode_messages
from promedical_jax.data.load import load_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.suites import medfact

KINDS = {"type": "概念错误", "specialty": "内科", "style": "科普", "difficulty": 3}
WRONG: list[dict[str, Any]] = [
    {
        "id": "误-1",
        "text": "普通感冒多由病毒引起。服用抗生素可以杀死感冒病毒,缩短病程。",
        "error": True,
        "span": "抗生素可以杀死感冒病毒",
        "correction": "抗生素对病毒无效",
    },
    {
        "id": "误-2",
        "text": "成人每分钟心率正常为60至100次。体温37.2℃以上即为高热😷。",
        "error": True,
        "span": "37.2℃以上即为高热",
        "correction": "39℃以上才是高热",
    },
    {"id": "误-3", "text": "胰岛素由肝脏分泌,能降低血糖。", "error": True, "span": "由肝脏分泌", "correction": "由胰腺分泌"},
    {"id": "误-4", "text": "缺铁可致贫血。补铁时宜与浓茶同服,以利吸收。", "error": True, "span": "宜与浓茶同服", "correction": "不宜与浓茶同服"},
    {"id": "误-5", "text": "接种疫苗后仍需注意手部卫生。人体有两个心脏。", "error": True, "span": "两个心脏", "correction": None},
]
RIGHT: list[dict[str, Any]] = [
    {"id": "正-1", "text": "高血压患者应限制食盐摄入。", "error": False, "span": None, "correction": None},
    {"id": "正-2", "text": "洗手可减少肠道传染病的传播。", "error": False},
    {"id": "正-3", "text": "吸烟是肺癌的重要危险因素。", "error": False},
]
ROWS = [row | KINDS for row in WRONG + RIGHT]
NOTHING = {"error": False, "quote": None, "correction": None}
# Found and located; found with another width of letters, and located; found elsewhere; missed; found, and the judge fails; left alone; blamed; silent.
SAID: dict[str, Any] = {
    "误-1": {"error": True, "quote": "抗生素可以杀死感冒病毒", "correction": "抗生素不能杀死病毒"},
    "误-2": {"error": True, "quote": "37.2℃以上 即为高热", "correction": "低热"},
    "误-3": {"error": True, "quote": "能降低血糖", "correction": "能升高血糖"},
    "误-4": NOTHING,
    "误-5": {"error": True, "quote": "两个心脏", "correction": "一个心脏"},
    "正-1": NOTHING,
    "正-2": {"error": True, "quote": "洗手", "correction": "泡手"},
    "正-3": None,
}


def test_chinese_texts_from_file_to_report(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "核查.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    ids, judged = {row["text"]: row["id"] for row in ROWS}, []

    def judges(body: dict[str, Any]) -> Any:
        given = material(body)
        judged.append(ids[given["文本"]])
        assert "\\u" not in body["messages"][1]["content"] and given["医生"]["错误"] in given["文本"]
        return None if judged[-1] == "误-5" else {"why": "位置相符", "same": given["另一人"]["错误"] != "能降低血糖"}

    server.reply = by(lambda body: SAID[ids[material(body)["文本"]]], judges)
    report, items = ran(recipe(server, "medfact", tmp_path / "核查.jsonl", tmp_path / "结果", "answerer", "judge"))
    assert set(judged) == {"误-1", "误-2", "误-3", "误-5"}  # where nothing was found, or nothing is wrong, nobody is asked
    assert figure(report, "veracity accuracy") == 5 / 8
    assert figure(report, "veracity: precision") == 4 / 5 and figure(report, "veracity: recall") == 4 / 5 and figure(report, "veracity: F1") == 4 / 5
    assert figure(report, "localisation: precision") == 2 / 4 and figure(report, "localisation: recall") == 2 / 4 and report.figures["localisation: F1"].n == 6
    assert figure(report, "over-criticism") == 1 / 2 and report.figures["over-criticism"].high == pytest.approx(0.987, abs=1e-3)
    assert figure(report, "characters of the error quoted, F1") == pytest.approx((1 + 1 + 0 + 1) / 4)
    assert figure(report, "error found, type:概念错误") == 4 / 5 and figure(report, "veracity accuracy, specialty:内科") == 5 / 8
    assert [item["score"] for item in items] == [1.0, 1.0, 0.0, 0.0, None, 1.0, 0.0, None] and (report.silent, report.failed) == (1, 1)
    written = (tmp_path / "结果" / "items.jsonl").read_text(encoding="utf-8")
    assert "抗生素不能杀死病毒" in written and "误-2" in written and "概念错误" in capsys.readouterr().out
    assert "arXiv 2509.12440" in report.source.paper and "format only" in report.source.version


def letters(item: Ask, tokenizer: Any) -> str:
    """A question as a model reads it: through the chat template into tokens, and these back into letters."""
    return tokenizer.decode(encode_messages(item.messages, tokenizer, "here"))


@pytest.mark.parametrize("of", ["qwen", "bytes"])
def test_the_letters_survive_a_tokenizer(of: str, request: pytest.FixtureRequest) -> None:
    """That of Qwen3, of many Chinese words, and the clinic's, which knows none and falls back to bytes. Options are tokenised behind their question as well."""
    tokenizer = build_tokenizer() if of == "bytes" else load_tokenizer(request.getfixturevalue("data") / "tokenizer", 151_936)
    rows = [medfact.Passage.model_validate(row) for row in ROWS]
    finding = medfact.Finding(error=True, quote="37.2℃以上 即为高热", correction="不是😷")
    for row in rows:
        assert json.dumps({"文本": row.text}, ensure_ascii=False) in letters(medfact.ask(row), tokenizer)
        for asked in medfact.judge(row, finding):
            assert asked.messages[1]["content"] in letters(asked, tokenizer) and asked.messages[0]["content"] in letters(asked, tokenizer)
    question, options = "问题:缺铁性贫血补铁时不宜同服的是?🍵\n答案:", ("浓茶", "维生素C", "肉类")
    alone, behind = Likelihood(params={}, config=None, tokenizer=tokenizer, mesh=None)._encode(1, question, options)  # type: ignore[arg-type]
    assert [tokenizer.decode([*alone, *one]) for one in behind] == [f"{question} {option}" for option in options]


def test_who_finds_an_error_everywhere_has_full_recall_and_criticises_all_that_is_right() -> None:
    marks = [
        medfact.mark(medfact.Passage.model_validate(row), medfact.Finding(error=True, quote="字", correction=None), [medfact.Same(why="", same=True)])
        for row in ROWS
    ]
    figures = medfact.figures(marks)
    assert figures["veracity: recall"].mean == figures["localisation: recall"].mean == figures["over-criticism"].mean == 1.0
    assert figures["localisation: precision"].mean == figures["veracity: precision"].mean == 5 / 8


def test_who_finds_nothing_has_no_precision() -> None:
    figures = medfact.figures([medfact.mark(medfact.Passage.model_validate(row), medfact.Finding(**NOTHING), []) for row in ROWS])
    assert figures["localisation: precision"].mean is None and figures["localisation: F1"].mean == figures["over-criticism"].mean == 0.0


@given(st.text("甲乙丙丁123", min_size=1, max_size=30), st.data())
def test_a_quote_meets_a_span_by_place(text: str, draw: Any) -> None:
    """The characters in common of the best pair of occurrences, counted one by one here; the same both ways; full where both are the same."""
    start, stop = sorted(draw.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2)))
    left, right = sorted(draw.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2)))
    span, quote = text[start:stop], text[left:right]
    found = medfact.overlap(text, span, quote)
    assert found == medfact.overlap(text, quote, span) and 0 <= found <= 1
    if span and quote:
        places = [[set(range(i, i + len(one))) for i in range(len(text)) if text.startswith(one, i)] for one in (span, quote)]
        assert found == max(2 * len(one & other) / (len(one) + len(other)) for one in places[0] for other in places[1])
        assert medfact.overlap(text, span, span) == 1.0 and medfact.overlap(text, span, "戊") == 0.0


@pytest.mark.parametrize(
    ("change", "said"),
    [({"span": "抗菌素"}, "span is '抗菌素' and does not occur in text"), ({"span": None}, "error is true and span is missing"),
     ({"error": "是"}, "field error"), ({"error": False}, "error is false and span is given"), ({"text": " "}, "field text"),
     ({}, "the id '误-1' was already given")],
)  # fmt: skip
def test_the_first_record_of_another_form_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[0] | change), encoding="utf-8")
    with pytest.raises(InputError, match=f"line 2.*{said}"):
        medfact.read(tmp_path / "m.jsonl")
