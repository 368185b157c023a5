"""The whole corpus on every real question there is, with models that fail in every way: each stage's counts are those that follow from files and rules.

Nothing here is counted by the code under test: the files are read plainly, and what was asked is what came over the wire. All 9,615 questions go through sieve
and difficulty; the rule of the grader passes some hundred on, so that the stages behind ask a few thousand times.
"""

import json
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from scripted import LINES, everyone, flaky, hashed, reply
from served import Server

from promedical_jax.corpus import import_healthbench
from promedical_jax.corpus.pipeline import plan, run
from promedical_jax.corpus.recipe import CorpusConfig
from promedical_jax.rubric import Verdict, read_cases, write_cases

ROWS: dict[str, int] = {"medqa": 500, "medmcqa": 1000, "pubmedqa": 1000, "medquad": 1462, "chatdoctor": 5452, "kqa": 201}
# What the sieve makes of them. Who changes the sieve looks at what comes and goes, and changes this.
SIEVE: dict[str, Any] = {"kept": 9054, "out": {"copy": 381, "near copy": 177, "same meaning": 2, "short": 1}}
REFUSAL = json.dumps({"choices": [{"message": {"content": "I cannot help with that."}}]})
SHARES = {"grader": 400, "sorter": 20, "model-ben": 5, "model-cy": 5, "expert": 20, "judge-two": 10}  # each refuses one question in so many, every time


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text.strip()}]


def plainly(data: Path) -> dict[str, list[list[dict[str, str]]]]:
    """The messages of each source's questions."""
    lines = lambda path: [json.loads(line) for line in (data / path).read_text().splitlines()]  # noqa: E731
    options = lambda question, named: user("\n".join([question.strip(), "", *(f"{letter}. {text.strip()}" for letter, text in named)]))  # noqa: E731
    trees = [ElementTree.parse(path) for path in sorted((data / "medquad").rglob("*.xml"))]
    return {
        "medqa": [options(row["question"], row["options"].items()) for row in lines("medqa/us_4_options_test_500.jsonl")],
        "medmcqa": [options(row["question"], [(letter.upper(), row[f"op{letter}"]) for letter in "abcd"]) for row in lines("medmcqa/dev_1000.jsonl")],
        "pubmedqa": [user(row["QUESTION"]) for row in json.loads((data / "pubmedqa" / "ori_pqal.json").read_text()).values()],
        "medquad": [user(one.text) for tree in trees for one in tree.iter("Question") if one.text and one.text.strip()],
        "chatdoctor": [[{"role": "system", "content": row["instruction"]}, *user(row["input"])]
                       for row in json.loads((data / "chatdoctor" / "chatdoctor5k.json").read_text())],
        "kqa": [user(row["Question"]) for row in lines("kqa/questions_w_answers.jsonl")],
    }  # fmt: skip


def refuses(model: str, material: str) -> bool:
    return model in SHARES and hashed(f"{model} refuses {material}", SHARES[model]) == 0


def grade(material: str) -> int:
    """5 to 9 for one question in fifty."""
    drawn = hashed(material, 250)
    return drawn + 5 if drawn < 5 else (0, 1, 2, 3, 4, 10)[drawn % 6]


def replying(number: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
    material = body["messages"][1]["content"]
    if refuses(body["model"], material):
        return 200, REFUSAL, {}
    if body["model"] == "grader":
        return 200, json.dumps({"choices": [{"message": {"content": json.dumps({"difficulty": grade(material)})}}]}), {}
    return reply(number, body)


@pytest.fixture
def whole(data: Path, server: Server, tmp_path: Path) -> dict[str, Any]:
    """The recipe that README.md runs, and a model for each task."""
    write_cases(tmp_path / "healthbench.jsonl", import_healthbench(data / "healthbench"))
    text = (Path(__file__).parents[2] / "configs" / "corpus" / "questions.yaml").read_text()
    text = text.replace("../shared/data", str(data)).replace("runs/healthbench/cases.jsonl", str(tmp_path / "healthbench.jsonl"))
    at = {"url": server.url, "concurrency": 32, "retries": 3, "timeout": 20.0}
    recipe = yaml.safe_load(text)
    return recipe | {
        "out": str(tmp_path / "corpus"),
        "sieve": recipe["sieve"] | {"languages": ["en"]},
    } | everyone(at)  # fmt: skip


def test_the_sieve_keeps_of_the_real_questions_what_files_say(whole: dict[str, Any], data: Path) -> None:
    """Asks nobody, and so takes seconds."""
    alone = CorpusConfig.model_validate({name: whole[name] for name in ("out", "sources", "suites", "sieve")})
    run(alone)
    questions, sifted, *_ = plan(alone)
    assert {name: len(each) for name, each in plainly(data).items()} == ROWS
    assert questions.kept() == sum(ROWS.values()) == SIEVE["kept"] + sum(SIEVE["out"].values())
    assert {"kept": sifted.kept(), "out": sifted.reasons()} == SIEVE
    texts = [each[-1]["content"] for source in plainly(data).values() for each in source]
    long_enough = [text for text in texts if len(text.split()) >= 3]
    assert SIEVE["out"]["short"] == len(texts) - len(long_enough)
    assert SIEVE["out"]["copy"] == len(long_enough) - len({" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in long_enough})


@pytest.mark.slow
def test_every_real_question_ends_where_files_and_rules_say(whole: dict[str, Any], data: Path, server: Server, quick: None) -> None:
    asked: defaultdict[str, set[str]] = defaultdict(set)

    def noting(number: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        asked[body["model"]].add(body["messages"][1]["content"])
        return flaky(number, body, 40, replying)

    server.reply = noting
    run(CorpusConfig.model_validate(whole))
    report = json.loads((Path(whole["out"]) / "report.json").read_text())
    stages, requests = report["stages"], sum(server.seen.values())

    assert stages["questions"] == {"kept": sum(ROWS.values()), "out": {}} and stages["sieve"] == SIEVE

    materials = {json.dumps({"question": each}, ensure_ascii=False) for source in plainly(data).values() for each in source}
    graded = asked["grader"]
    assert len(graded) == SIEVE["kept"] and graded <= materials
    silent = {one for one in graded if refuses("grader", one)}
    hard = {one for one in graded - silent if 5 <= grade(one) <= 9}
    assert stages["difficulty"] == {"kept": len(hard), "out": {"no reply": len(silent), "difficulty": len(graded - silent - hard)}}
    assert silent and len(hard) > 100

    assert asked["sorter"] == hard
    placed = {one for one in hard if not refuses("sorter", one)}
    assert stages["topic"] == {"kept": len(placed), "out": {"no reply": len(hard - placed)}} and placed < hard

    assert asked["model-ada"] == asked["model-ben"] == asked["model-cy"] == placed
    writers = {one: [name for name in ("ada", "ben", "cy") if not refuses(f"model-{name}", one)] for one in placed}
    answered = {one for one, names in writers.items() if len(names) >= 2}
    assert stages["answers"] == {"kept": len(answered), "out": {"no reply": len(placed - answered)}} and answered < placed
    assert Counter(map(len, writers.values())).keys() == {1, 2, 3}

    shown = {json.dumps({"question": json.loads(one)["question"]}, ensure_ascii=False): one for one in asked["expert"]}
    assert shown.keys() == answered
    ruled = {one for one in answered if not refuses("expert", shown[one])}
    assert stages["rubric"] == {"kept": len(ruled), "out": {"no reply": len(answered - ruled)}} and ruled < answered

    answers = sum(len(writers[one]) for one in ruled)
    assert len(asked["judge-one"]) == len(asked["judge-two"]) == answers * len(LINES)
    assert stages["verdicts"] == {"kept": len(ruled), "out": {}}

    cases = read_cases(Path(whole["out"]) / "cases.parquet")
    assert len(cases) == len(ruled) == sum(report["parts"].values()) and sum(len(case.answers) for case in cases) == answers
    said = Counter((j.rater, j.verdict is Verdict.ABSTAIN) for case in cases for j in case.verdicts)
    mute = {one for one in asked["judge-two"] if refuses("judge-two", one)}
    abstains = lambda judge, one: "abstain" in reply(0, {"model": judge, "messages": [{"content": "judge"}, {"content": one}]})[1]  # noqa: E731
    assert said["one", True] == sum(abstains("judge-one", one) for one in asked["judge-one"])
    assert said["two", True] == sum(one in mute or abstains("judge-two", one) for one in asked["judge-two"]) and mute
    pairs = sum(len(writers[one]) * (len(writers[one]) - 1) // 2 for one in ruled)
    assert {tier: sum(each.values()) for tier, each in report["pairs"].items()} == {"proficiency": 2 * pairs, "excellence": 0, "safety": pairs}
    assert requests > 1.1 * sum(map(len, asked.values()))  # so much failed on its way

    run(CorpusConfig.model_validate(whole))
    assert sum(server.seen.values()) == requests
