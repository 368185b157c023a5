"""Questions in Chinese from the file to the report, and scoring that knows an abstention from a wrong answer. The items are invented for this test."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from served import Server
from suite_rules import by, figure, material, ran, recipe

from promedical_jax.errors import InputError
from promedical_jax.suites import chidrug

KINDS = get_args(chidrug.Kind)
ITEMS: list[dict[str, Any]] = [
    {"id": "适应症-1", "question": "虚构药“维罗特林”用于?", "kind": KINDS[0], "options": {"A": "多瓦恩热", "B": "骨折", "C": "近视"}, "answer": ["A"]},
    {"id": "用法-1", "question": "维罗特林成人的用法用量是?", "kind": KINDS[1], "options": {"A": "每日40毫克", "B": "每日4克"}, "answer": ["A"]},
    {"id": "禁忌-1", "question": "哪些人群禁用维罗特林?", "kind": KINDS[2], "options": {"A": "孕妇", "B": "肝功能不全者", "C": "左撇子"}, "answer": ["A", "B"]},
    {"id": "机制-1", "question": "维罗特林的作用机制是?", "kind": KINDS[3], "options": {"A": "抑制甲酶", "B": "激活乙酶"}, "answer": ["B"]},
    {"id": "推荐-1", "question": "“咳嗽”患者首选?", "kind": KINDS[4], "options": {"A": "维罗特林", "B": "安慰剂"}, "answer": ["B"]},
    {"id": "相互-1", "question": "与维罗特林合用会出血的是?", "kind": KINDS[5], "options": {"A": "芬泽尔", "B": "水"}, "answer": ["A"]},
]  # fmt: skip
# Right; wrong; right in another order; one too few of several (wrong); declined; silent.
SAID: dict[str, Any] = {"适应症-1": ["A"], "用法-1": ["B"], "禁忌-1": ["B", "A"], "机制-1": ["A", "B"], "推荐-1": [], "相互-1": None}


def test_chinese_survives_from_file_to_report(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "药.jsonl").write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in ITEMS), encoding="utf-8")
    ids = {item["question"]: item["id"] for item in ITEMS}
    asked: list[str] = []

    def answers(body: dict[str, Any]) -> Any:
        asked.append(body["messages"][1]["content"])
        said = SAID[ids[material(body)["题目"]]]
        return None if said is None else {"answer": said}

    server.reply = by(answers)
    report, items = ran(recipe(server, "chidrug", tmp_path / "药.jsonl", tmp_path / "结果", "answerer"))
    assert all("\\u" not in text for text in asked) and any("左撇子" in text for text in asked)
    written = [(tmp_path / "结果" / name).read_text(encoding="utf-8") for name in ("items.jsonl", "report.json")]
    assert "适应症-1" in written[0] and "药.jsonl" in written[1]
    assert "药.jsonl" in capsys.readouterr().out and [item["id"] for item in items] == [item["id"] for item in ITEMS]
    assert [item["score"] for item in items] == [1.0, 0.0, 1.0, 0.0, None, None]
    assert figure(report, "accuracy") == pytest.approx(2 / 6) and figure(report, "accuracy of what was answered") == 0.5
    assert figure(report, "net, right minus wrong") == 0.0 and figure(report, "declined to answer") == pytest.approx(1 / 6)
    assert figure(report, "abstained") == pytest.approx(2 / 6) and report.silent == 1
    assert {name for name in report.figures if name.startswith("accuracy, ")} == {f"accuracy, {kind}" for kind in KINDS}
    assert figure(report, f"accuracy, {KINDS[2]}") == 1.0


def test_to_guess_wrongly_costs_what_to_abstain_does_not() -> None:
    item = chidrug.Question.model_validate(ITEMS[0])
    form = chidrug.ask(item).form
    replies = (form(answer=["A"]), form(answer=[]), None, form(answer=["B"]))
    nets = [chidrug.figures([chidrug.mark(item, reply, ())])["net, right minus wrong"].mean for reply in replies]
    assert nets == [1.0, 0.0, 0.0, -1.0]
    with pytest.raises(ValueError, match="answer"):
        form(answer=["D"])


@pytest.mark.parametrize(("change", "said"), [({"kind": "price"}, "field kind: is 'price'"), ({"answer": ["Z"]}, "answer has 'Z' and options are A, B, C"),
                                              ({"answer": "A"}, "field answer"), ({"options": {"A": "一"}}, "field options"),
                                              ({}, "the id '适应症-1' was already given")])  # fmt: skip
def test_the_first_record_of_another_form_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(json.dumps(ITEMS[0]) + "\n" + json.dumps(ITEMS[0] | change), encoding="utf-8")
    with pytest.raises(InputError, match=f"line 2.*{said}"):
        chidrug.read(tmp_path / "c.jsonl")
