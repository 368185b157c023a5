"""HealthBench's figures on its conversations, against the formula written out here, with verdicts by rule."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted import hashed
from served import Server
from suite_rules import by, drawn, figure, material, ran, recipe

from promedical_jax.errors import InputError
from promedical_jax.suites import healthbench

DATA = Path("healthbench") / "healthbench_300.jsonl"


def met(criterion: str, answer: str) -> bool:
    return hashed(criterion + answer, 5) < 3


def answers(body: dict[str, Any]) -> str:
    assert "response_format" not in body  # the conversation as it is, for words of its own
    return f"I would say {hashed(json.dumps(body['messages']), 1000)}."


def judges(body: dict[str, Any]) -> dict[str, Any]:
    given = material(body)
    return {"why": "by rule", "met": met(given["criterion"], given["answer"])}


@pytest.mark.parametrize("count", [100, pytest.param(300, marks=pytest.mark.slow)])
def test_conversations_by_the_official_formula(count: int, data: Path, server: Server, tmp_path: Path) -> None:
    server.reply = by(answers, judges)
    file = tmp_path / "conversations.jsonl"
    file.write_text("".join((data / DATA).read_text().splitlines(keepends=True)[:count]))
    report, items = ran(recipe(server, "healthbench", file, tmp_path / "out", "answerer", "judge"))
    examples = [json.loads(line) for line in file.read_text().splitlines()]
    overall: list[float] = []
    tagged: dict[str, list[float]] = {}
    for example in examples:
        answer = f"I would say {hashed(json.dumps(example['prompt']), 1000)}."
        earned = [(one, one["points"] * met(one["criterion"], answer)) for one in example["rubrics"]]
        overall.append(sum(points for _, points in earned) / sum(max(one["points"], 0) for one, _ in earned))
        for tag in {tag for one, _ in earned for tag in one["tags"]}:
            of = [(one, points) for one, points in earned if tag in one["tags"]]
            if possible := sum(max(one["points"], 0) for one, _ in of):
                tagged.setdefault(tag, []).append(sum(points for _, points in of) / possible)
    assert len(overall) == count and min(overall) < 0  # so that clipping before the mean would show
    assert figure(report, "score") == pytest.approx(np.clip(np.mean(overall), 0, 1), abs=1e-12)
    for tag, values in tagged.items():
        name = "consensus" if tag == "level:cluster" else tag
        if name.startswith("axis:") or name == "consensus":
            assert figure(report, name) == pytest.approx(np.clip(np.mean(values), 0, 1), abs=1e-12) and report.figures[name].n == len(values)
    assert {"axis:accuracy", "axis:completeness", "consensus"} <= report.figures.keys()
    rng = np.random.default_rng(1)
    means = [np.clip(rng.choice(overall, count).mean(), 0, 1) for _ in range(4000)]
    score = report.figures["score"]
    assert (score.low, score.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.006)
    assert [item["score"] for item in items] == pytest.approx(overall) and report.judgements == sum(len(e["rubrics"]) for e in examples) and report.failed == 0


ORIGINAL = {
    "example_tags": ["theme:hedging", "physician_agreed_category:any"],
    "ideal_completions_data": {"ideal_completion": "Rest.", "ideal_completions_group": "g", "ideal_completions_ref_completions": ["Rest well."]},
    "prompt": [{"role": "user", "content": "I cough."}], "prompt_id": "one", "canary": "c",
    "rubrics": [{"criterion": "Asks for how long.", "points": 6, "tags": ["axis:context_awareness"]},
                {"criterion": "Names a dose.", "points": -8, "tags": ["axis:accuracy"]},
                {"criterion": "Is kind.", "points": 2, "tags": ["axis:communication_quality", "level:cluster"]}],
}  # fmt: skip


def test_the_original_format_with_its_themes_and_below_zero(server: Server, tmp_path: Path) -> None:
    other = ORIGINAL | {"prompt_id": "two", "prompt": [{"role": "user", "content": "I sneeze."}], "example_tags": ["theme:emergency_referrals"]}
    (tmp_path / "hb.jsonl").write_text(json.dumps(ORIGINAL) + "\n" + json.dumps(other) + "\n")
    verdicts = {("cough", "Names a dose."): True, ("sneeze", "Asks for how long."): True}
    server.reply = by(lambda body: body["messages"][-1]["content"], lambda body: {
        "why": "", "met": any(word in material(body)["answer"] and text == material(body)["criterion"] for word, text in verdicts)})  # fmt: skip
    report, items = ran(recipe(server, "healthbench", tmp_path / "hb.jsonl", tmp_path / "out", "answerer", "judge"))
    assert [item["score"] for item in items] == [-1.0, 0.75]
    assert figure(report, "score") == 0.0 and figure(report, "theme:hedging") == 0.0 and figure(report, "theme:emergency_referrals") == 0.75
    assert figure(report, "axis:context_awareness") == 0.5
    assert figure(report, "axis:accuracy") is None and report.figures["axis:accuracy"].n == 0  # nothing of it can be earned


def test_a_failed_judgement_abstains_and_is_counted(server: Server, tmp_path: Path) -> None:
    """Points that nobody judged are neither earned nor possible; with no positive points judged, or no reply, the item abstains."""
    rows = [ORIGINAL | {"prompt_id": name, "prompt": [{"role": "user", "content": name}]} for name in ("whole", "half", "none", "silent")]
    (tmp_path / "hb.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def judging(body: dict[str, Any]) -> Any:
        given = material(body)
        fails = {"half": ["Asks for how long."], "none": ["Asks for how long.", "Is kind."]}.get(given["answer"], [])
        return None if given["criterion"] in fails else {"why": "", "met": given["criterion"] == "Is kind."}

    server.reply = by(lambda body: "" if body["messages"][0]["content"] == "silent" else body["messages"][0]["content"], judging)
    report, items = ran(recipe(server, "healthbench", tmp_path / "hb.jsonl", tmp_path / "out", "answerer", "judge"))
    assert [item["score"] for item in items] == [0.25, 1.0, None, None]
    assert figure(report, "score") == 0.625 and report.figures["score"].n == 2 and figure(report, "abstained") == 0.5
    assert (report.silent, report.judgements, report.failed) == (1, 9, 3) and items[2]["verdicts"].count(None) == 2 and items[3]["verdicts"] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [({"rubrics": [{"criterion": "x", "points": 99, "tags": []}]}, r"line 2, field rubrics\[0\].points"), ({"prompt": []}, "line 2, field prompt"),
     ({"prompt_id": "one"}, "line 2: the id 'one' was already given at .*line 1"), ({"colour": "red"}, "line 2, field colour: is not a known field")],
)  # fmt: skip
def test_the_first_record_of_another_form_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "hb.jsonl").write_text(json.dumps(ORIGINAL) + "\n" + json.dumps(ORIGINAL | {"prompt_id": "two"} | change) + "\n")
    with pytest.raises(InputError, match=said):
        healthbench.read(tmp_path / "hb.jsonl")


def test_the_judge_is_given_the_whole_conversation_and_one_criterion(data: Path) -> None:
    [example] = healthbench.read(data / DATA)[:1]
    asks = healthbench.judge(example, healthbench.Plain(text="My answer."))
    assert len(asks) == len(example.rubrics) == len({drawn({"messages": ask.messages}, 2**32) for ask in asks})
    assert all(material({"messages": ask.messages}).keys() == {"conversation", "answer", "criterion"} for ask in asks)
