"""What every suite must do, whichever it is: say whose it is, refuse a file at its first foreign record, keep Chinese and emoji as they are, read nothing out
of what a model thought aloud, and end the same after kill -9. A new suite needs an entry in FILES, and nothing else."""

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from served import Server
from suite_rules import ran, recipe

from promedical_jax.errors import InputError
from promedical_jax.rubric import Case, Criterion, Judgement, Message, Rubric, Tier, Verdict
from promedical_jax.rubric.case import Answer
from promedical_jax.suites.compare_page import write_comparison
from promedical_jax.suites.known import SUITES
from promedical_jax.suites.recipe import Name

ASKED = "发热三天怎么办🤒"  # stands in each record, and must come out as it went in
CHAT = [{"role": "user", "content": ASKED}]
RUBRICS = [{"criterion": f"建议就医 {n}", "points": 5, "tags": ["level:cluster", "axis:accuracy"]} for n in (1, 2)]


def case(n: int) -> dict[str, Any]:
    """Two answers, of which humans say different things."""
    rubric = Rubric(criteria=(Criterion(id="建议", text="建议就医。", tier=Tier.PROFICIENCY, weight=1.0),))
    said = {"甲": Verdict.MET, "乙": Verdict.UNMET}
    verdicts = tuple(Judgement(answer=answer, criterion="建议", verdict=word, rater="医生", human=True) for answer, word in said.items())
    answers = tuple(Answer(id=answer, text=f"{answer} {n}") for answer in said)
    instruction = (Message(role="user", content=f"{ASKED} {n}"),)
    return Case(id=f"病例-{n}", instruction=instruction, answers=answers, rubric=rubric, verdicts=verdicts).model_dump(mode="json")


def conversation(n: int) -> dict[str, Any]:
    return {"prompt_id": f"p{n}", "prompt": [{"role": "user", "content": f"{ASKED} {n}"}], "rubrics": RUBRICS, "example_tags": ["theme:hedging"]}


def meta(n: int) -> dict[str, Any]:
    return {"prompt": CHAT, "prompt_id": f"p{n}", "completion": f"{ASKED} {n}", "completion_id": f"c{n}", "rubric": "建议就医", "category": "cluster:甲",
            "binary_labels": [True, False], "anonymized_physician_ids": ["甲", "乙"]}  # fmt: skip


def pair(n: int) -> dict[str, Any]:
    return {"prompt_id": f"{n}", "label_type": "easy", "prompt": f"{ASKED} {n}", "chosen": [{"role": "assistant", "content": f"好 {n}"}], "rejected": f"差 {n}"}


# Of each suite: the file's name, and its record number n.
FILES: dict[Name, tuple[str, Callable[[int], dict[str, Any]]]] = {
    "healthbench": ("hb.jsonl", conversation),
    "healthbench-hard": ("hb.jsonl", conversation),
    "healthbench-consensus": ("hb.jsonl", conversation),
    "healthbench-meta": ("meta.jsonl", meta),
    "kqa": ("q.jsonl", lambda n: {"Question": f"{ASKED} {n}", "Free_form_answer": "休息", "Must_have": ["多饮水"], "Nice_to_have": []}),
    "medec": ("m.csv", lambda n: {"Text ID": f"t{n}", "Sentences": f"0 {ASKED} {n}", "Error Flag": "1", "Error Type": "诊断", "Error Sentence ID": "0",
                                  "Corrected Sentence": "就医"}),
    "medfact": ("f.jsonl", lambda n: {"id": f"{n}", "text": f"{ASKED} {n}", "error": True, "span": "发热三天", "correction": "发热一天", "type": "概念"}),
    "medqa": ("q.jsonl", lambda n: {"question": f"{ASKED} {n}", "options": {"A": "休息", "B": "手术"}, "answer_idx": "A"}),
    "medmcqa": ("q.jsonl", lambda n: {"id": f"{n}", "question": f"{ASKED} {n}", "opa": "甲", "opb": "乙", "opc": "丙", "opd": "丁", "cop": 1}),
    "pubmedqa": ("q.jsonl", lambda n: {"key": f"{n}", "QUESTION": f"{ASKED} {n}", "CONTEXTS": ["背景"], "final_decision": "yes"}),
    "medsafetybench": ("test_category_1.csv", lambda n: {"": str(n), "harmful_medical_request": f"{ASKED} {n}"}),
    "chidrug": ("药.jsonl", lambda n: {"id": f"{n}", "question": f"{ASKED} {n}", "kind": "indication", "options": {"A": "甲", "B": "乙"}, "answer": ["A"]}),
    "rewardbench2": ("rb.jsonl", lambda n: {"id": f"{n}", "prompt": f"{ASKED} {n}", "chosen": [f"好 {n}"], "rejected": [f"差 {n}"] * 3, "subset": "Safety"}),
    "medical-rewardbench": ("test.jsonl", pair),
    "ultramedical-preference": ("dev.jsonl", pair),
    "promedical-pointwise": ("cases.jsonl", case),
    "promedical-pairwise": ("cases.jsonl", case),
    "promedical-policy": ("cases.jsonl", case),
}  # fmt: skip
COUNTS = {"healthbench-hard": 1000, "healthbench-consensus": 3671}  # that a file must have
ALL = pytest.mark.parametrize("name", SUITES)


def written(folder: Path, name: Name, rows: list[dict[str, Any]] | None = None) -> Path:
    """A file of a suite, of three records or as many as it must have."""
    file, make = FILES[name]
    rows = rows or [make(n) for n in range(COUNTS.get(name, 3))]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if file.endswith(".csv"):
        out = io.StringIO()
        table = csv.DictWriter(out, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
        text = out.getvalue()
    (folder / file).write_text(text, encoding="utf-8", newline="")
    return folder / file


def any_reply(schema: dict[str, Any], within: dict[str, Any] | None = None) -> Any:
    """Something of a JSON schema: the first of what may be said."""
    whole = within or schema
    if "$ref" in schema:
        return any_reply(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    for key in ("enum", "anyOf"):
        if key in schema:
            return schema[key][0] if key == "enum" else any_reply(schema[key][0], whole)
    simple = {"boolean": True, "integer": 0, "number": schema.get("minimum", 1), "string": "发热三天,去医院😷"}
    match schema.get("type"):
        case "object":
            return {key: any_reply(one, whole) for key, one in schema["properties"].items()}
        case "array":
            return [any_reply(schema["items"], whole)]
        case kind:
            return schema["const"] if "const" in schema else simple[kind]


def everybody(thought: str = "") -> Callable[[int, dict[str, Any]], tuple[int, str, dict[str, str]]]:
    """Answerer and judge of every suite."""

    def reply(_: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        form = body.get("response_format")
        said = json.dumps(any_reply(form["json_schema"]["schema"]), ensure_ascii=False) if form else "多饮水,去医院😷。"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": thought + said}}
        return 200, json.dumps({"model": body["model"], "choices": [choice]}, ensure_ascii=False), {}

    return reply


def chosen(server: Server, name: Name, file: Path, out: Path, **more: Any) -> dict[str, Any]:
    suite = SUITES[name]
    roles = [role for role, needed in (("answerer", suite.ask), ("judge", suite.judge)) if needed]
    return recipe(server, name, file, out, *roles, **{"items": 3} | more)


def test_every_suite_has_an_example_here() -> None:
    assert FILES.keys() == SUITES.keys()


@ALL
def test_it_says_licence_source_and_version(name: Name) -> None:
    source = SUITES[name].source
    assert re.fullmatch(r"https://[\w./-]+", source.url) and re.search(r"arXiv \d{4}\.\d{5}|ACL", source.paper)
    assert re.search(r"\b(MIT|CC|ODC-BY|that of the (data|cases))\b", source.licence) and source.version.strip() and len(source.scoring) > 20
    assert ("format only" in source.version) == ("not shipped" in source.licence + source.about)  # who has no file of its own says so


@ALL
def test_the_first_record_that_is_not_its_own_is_named_and_what_is_no_record_is(name: Name, tmp_path: Path) -> None:
    read, make, file = SUITES[name].read, FILES[name][1], tmp_path / FILES[name][0]
    good = [make(n) for n in range(2)]
    if file.suffix == ".csv":  # whose rows have all the columns, or none
        line, foreign = 2, [{key: value for key, value in row.items() if key not in ("harmful_medical_request", "Error Flag")} | {"x": "y"} for row in good]
    else:
        line, foreign = 3, [*good, {"colour": "red"}, {"shape": "round"}]
    with pytest.raises(InputError, match=rf"{re.escape(file.name)}, line {line}\b.*(is missing|not a known field)"):
        list(read(written(tmp_path, name, foreign)))
    for broken in (b"a,b\n1\n", b'a\n"half') if file.suffix == ".csv" else (b'{"half": ', b"[1, 2]\n", b"\xff\xfe\x00"):
        file.write_bytes(broken)
        with pytest.raises(InputError, match=re.escape(file.name)):
            list(read(file))
    with pytest.raises(InputError, match=r"nowhere\.jsonl does not exist"):
        list(read(tmp_path / "nowhere.jsonl"))


@ALL
def test_chinese_and_emoji_go_through_and_what_is_thought_does_not(name: Name, server: Server, tmp_path: Path) -> None:
    """From the file into the questions, out of the replies into both files and the page; with thoughts before each reply, the same bytes."""
    file, asked = written(tmp_path, name), list[str]()
    server.reply = lambda n, body: asked.append(body["messages"][-1]["content"]) or everybody()(n, body)
    report, items = ran(chosen(server, name, file, tmp_path / "结果"))
    assert report.silent == report.failed == 0 and len(items) >= 3 and any(ASKED in text for text in asked) and not any("\\u" in text for text in asked)
    assert any(figure.mean is not None for figure in report.figures.values()) and all(item["score"] is not None for item in items) != bool(SUITES[name].points)
    said = (tmp_path / "结果" / "items.jsonl").read_text(encoding="utf-8")
    assert "\\u" not in said and (SUITES[name].ask is None or re.search("[一-鿿😷]|yes|A", said))
    server.reply = everybody('<think>是 B 吗?{"answer": "B", "met": false, "error": false} 不对。</think>\n')
    ran(chosen(server, name, file, tmp_path / "想"))
    both = [re.sub(r"\\n多", "多", (tmp_path / folder / "items.jsonl").read_text(encoding="utf-8")) for folder in ("结果", "想")]
    assert both[0] == both[1]
    write_comparison([tmp_path / "结果", tmp_path / "想"], tmp_path / "对比.html")
    page = (tmp_path / "对比.html").read_text(encoding="utf-8")
    assert "结果" in page and SUITES[name].source.name in page


def test_killed_it_ends_with_the_same_bytes_and_asks_nothing_twice(server: Server, tmp_path: Path) -> None:
    """A suite in Chinese, whose answerer and judge reply in JSON; test_suite_runs.py kills one whose answerer speaks freely."""
    name: Name = "medfact"
    file = written(tmp_path, name, [FILES[name][1](n) for n in range(24)])
    server.reply = everybody()
    whole = chosen(server, name, file, tmp_path / "whole", items=None)
    ran(whole)
    questions = len(server.seen)
    server.seen.clear()
    server.reply = lambda number, body: (time.sleep(0.02), everybody()(number, body))[1]
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(whole | {"out": str(tmp_path / "killed")}, allow_unicode=True), encoding="utf-8")
    command = [sys.executable, "-m", "promedical_jax.cli", "bench", "run", "--config", str(tmp_path / "suite.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while sum(server.seen.values()) < questions // 2 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "killed" / "report.json").exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for out in ("report.json", "items.jsonl"):
        assert (tmp_path / "killed" / out).read_bytes() == (tmp_path / "whole" / out).read_bytes()
    assert questions <= sum(server.seen.values()) <= questions + 8  # what was on its way when it died
