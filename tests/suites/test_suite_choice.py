"""Multiple choice on the real files: official accuracy, abstentions, macro F1, by generation and by log-likelihoods."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted import hashed
from served import Server
from suite_rules import by, figure, material, ran, recipe

from promedical_jax.errors import InputError
from promedical_jax.suites import choice

PATHS = {"medqa": "medqa", "medmcqa": "medmcqa", "pubmedqa": "pubmedqa/ori_pqal.json"}
READ = {"medqa": choice.read_medqa, "medmcqa": choice.read_medmcqa, "pubmedqa": choice.read_pubmedqa}


def truth(suite: str, data: Path) -> dict[str, str]:
    """Question to right key, straight from the file."""
    if suite == "pubmedqa":
        rows, test = (json.loads((data / "pubmedqa" / name).read_text()) for name in ("ori_pqal.json", "test_ground_truth.json"))
        return {rows[key]["QUESTION"]: decision for key, decision in test.items()}
    [file] = (data / suite).glob("*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {row["question"]: row["answer_idx"] if suite == "medqa" else "ABCD"[row["cop"] - 1] for row in rows}


def rule(question: str, options: list[str], right: str) -> str | None:
    """Nothing, a word that is no option, another option, or the right one."""
    draw = hashed(question, 10)
    return None if draw == 0 else "perhaps" if draw == 1 else options[draw % len(options)] if draw < 6 else right


@pytest.mark.parametrize(("suite", "count"), [("medqa", 500), ("medmcqa", 1000), ("pubmedqa", 500)])
def test_the_official_accuracy_on_the_real_file(suite: str, count: int, data: Path, server: Server, tmp_path: Path) -> None:
    known = truth(suite, data)

    def answers(body: dict[str, Any]) -> Any:
        given = material(body)
        said = rule(given["question"], list(given["options"]), known[given["question"]])
        return None if said is None else {"answer": said}

    server.reply = by(answers)
    report, items = ran(recipe(server, suite, data / PATHS[suite], tmp_path / "out", "answerer"))
    keys = ["yes", "no", "maybe"] if suite == "pubmedqa" else list("ABCD")
    questions = [item.question for item in READ[suite](data / PATHS[suite])]
    said = [(known[question], rule(question, keys, known[question])) for question in questions]
    answered = [(right, key) for right, key in said if key in keys]
    assert report.items == len(said) == count and report.silent == count - len(answered) > count / 10
    assert figure(report, "accuracy") == pytest.approx(sum(right == key for right, key in said) / count)
    assert figure(report, "accuracy of what was answered") == pytest.approx(sum(right == key for right, key in answered) / len(answered))
    assert figure(report, "abstained") == pytest.approx(report.silent / count)
    assert [item["score"] is None for item in items] == [key not in keys for _, key in said]
    if suite == "pubmedqa":
        each = []
        for key in keys:
            right, found, asked = (sum(test) for test in zip(*((t == f == key, f == key, t == key) for t, f in said), strict=True))
            each.append(2 * right / (found + asked))
        assert figure(report, "macro F1") == pytest.approx(sum(each) / 3)
        assert all(item["id"] in json.loads((data / "pubmedqa" / "test_ground_truth.json").read_text()) for item in items)
    else:
        assert any(name.startswith("accuracy, ") for name in report.figures)


def test_pubmedqa_without_its_split_is_asked_whole_and_without_the_conclusion(data: Path, tmp_path: Path) -> None:
    (tmp_path / "ori_pqal.json").write_bytes((data / "pubmedqa" / "ori_pqal.json").read_bytes())
    items = choice.read_pubmedqa(tmp_path)
    rows = json.loads((tmp_path / "ori_pqal.json").read_text())
    assert len(items) == 1000 and all(rows[item.id]["LONG_ANSWER"] not in choice.ask(item).messages[1]["content"] for item in items)
    (tmp_path / "test_ground_truth.json").write_text(json.dumps({items[0].id: "maybe", items[1].id: "perhaps"}))
    with pytest.raises(InputError, match=f"key '{items[0].id if items[0].answer != 'maybe' else items[1].id}'"):
        choice.read_pubmedqa(tmp_path)


def test_by_log_likelihood_the_longer_option_may_win_per_letter() -> None:
    item = choice.Item("1", "Which?", {"A": "yes", "B": "certainly not"}, "B")
    mark = choice.mark_likely(item, [-3.0, -6.5])
    assert mark.parts["acc"] == 0.0 and mark.parts["acc_norm"] == 1.0 and mark.reply["chosen"] == "A"
    equal = choice.mark_likely(item, [-3.0, -3.0])
    assert equal.parts["acc"] == 0.0
    report = choice.figures((), [mark, equal])
    assert report["acc"].mean == 0.0 and report["acc_norm"].mean == 1.0


ROWS: dict[str, tuple[Callable[[Path], Any], dict[str, Any]]] = {
    "medqa": (choice.read_medqa, {"question": "Q?", "options": {"A": "x", "B": "y"}, "answer_idx": "A", "meta_info": "step1"}),
    "medmcqa": (choice.read_medmcqa, {"id": "i", "question": "Q?", "opa": "x", "opb": "y", "opc": "z", "opd": "w", "cop": 1}),
    "pubmedqa": (choice.read_pubmedqa, {"key": "1", "QUESTION": "Q?", "CONTEXTS": ["c"], "final_decision": "yes"}),
}


@pytest.mark.parametrize(
    ("suite", "change", "said"),
    [("medqa", {"answer_idx": "E"}, "answer_idx is 'E' and options are A, B"), ("medqa", {"options": ["x", "y"]}, "field options"),
     ("medmcqa", {"cop": 0}, "field cop: is 0"), ("medmcqa", {"cop": "1"}, "field cop: is '1'"), ("medmcqa", {}, "the id 'i' was already given"),
     ("pubmedqa", {"final_decision": "unsure"}, "field final_decision: is 'unsure'"), ("pubmedqa", {"CONTEXTS": []}, "field CONTEXTS")],
)  # fmt: skip
def test_the_first_record_of_another_form_is_named(suite: str, change: dict[str, Any], said: str, tmp_path: Path) -> None:
    read, row = ROWS[suite]
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | change))
    with pytest.raises(InputError, match=rf"q\.jsonl, line 2.*{said}"):
        read(tmp_path / "q.jsonl")
