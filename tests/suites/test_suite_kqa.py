"""K-QA's two figures on the physicians' own labels, against a calculation straight from their file."""

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from served import Server
from suite_rules import by, figure, material, ran, recipe

from promedical_jax.errors import InputError
from promedical_jax.suites import kqa


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("model", ["gpt4", "gpt35", "bard", "askk"])
def test_the_physicians_labels_give_the_figures_of_their_file(model: str, data: Path, server: Server, tmp_path: Path) -> None:
    """The model's published answers are what the answerer says, and the majority of three physicians what the judge does; of other questions nothing."""
    with (data / "kqa" / "physician_labels_30q.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["llm_x"] == model]
    texts = {squeezed(row["Question"]): row["answer"] for row in rows}
    labels = {(squeezed(row["Question"]), squeezed(row["claim"])): row["majority_label"] for row in rows}
    server.reply = by(lambda body: texts.get(squeezed(body["messages"][0]["content"])) or "",
                      lambda body: {"label": labels.get((squeezed(material(body)["question"]), squeezed(material(body)["statement"])))})  # fmt: skip
    report, items = ran(recipe(server, "kqa", data / "kqa", tmp_path / "out", "answerer", "judge"))

    known = {squeezed(row["Question"]): {squeezed(text) for text in row["Must_have"] + row["Nice_to_have"]}
             for row in map(json.loads, (data / "kqa" / "questions_w_answers.jsonl").read_text().splitlines())}  # fmt: skip
    must, wrong = defaultdict[str, list[bool]](list), defaultdict[str, int](int)
    for row in rows:
        question = squeezed(row["Question"])
        if squeezed(row["claim"]) in known[question]:  # a few were labelled as two in one
            wrong[question] += row["majority_label"] == "Contradiction"
            if row["category_x"] == "Must_have":
                must[question].append(row["majority_label"] == "Entailment")
    assert figure(report, "comprehensiveness") == pytest.approx(sum(sum(each) / len(each) for each in must.values()) / len(must))
    assert figure(report, "hallucination rate") == pytest.approx(sum(wrong.values()) / len(wrong))
    assert report.figures["comprehensiveness"].n == len(must) and report.figures["hallucination rate"].n == len(wrong)
    assert not report.figures["hallucination rate"].share
    assert report.silent == sum(item["reply"] is None for item in items) == 201 - len(texts)
    assert figure(report, "abstained") == pytest.approx(1 - len(must) / 201)


def test_all_statements_are_asked_but_blank_ones(data: Path) -> None:
    items = kqa.read(data / "kqa")
    asked = [ask for item in items for ask in kqa.judge(item, kqa.Plain(text="Rest."))]
    assert len(items) == 201 and len(asked) == 892 + 697 - 3
    assert all(json.loads(ask.messages[1]["content"]).keys() == {"question", "answer", "statement"} for ask in asked)


def test_contradictions_are_counted_and_not_shared_out() -> None:
    question = kqa.Question(Question="Q?", Free_form_answer="A.", Must_have=("one", "two"), Nice_to_have=("three", " "))
    said = [kqa.Label(label=label) for label in ("Entailment", "Contradiction", "Contradiction")]
    mark = kqa.mark(("kqa-1", question), kqa.Plain(text="x"), said)
    assert mark.parts == {"comprehensiveness": 0.5, "contradicted": 2.0, "nice to have": 0.0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Must_have": []}, "line 2, field Must_have: holds no statement"),
        ({"Must_have": "x"}, "line 2, field Must_have"),
        ({"Question": 3}, "line 2, field Question"),
    ],
)
def test_the_first_record_of_another_form_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    row = {"Question": "Q?", "Free_form_answer": "A.", "Must_have": ["one"], "Nice_to_have": []}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | change))
    with pytest.raises(InputError, match=said):
        kqa.read(tmp_path / "q.jsonl")
