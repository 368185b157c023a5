"""The corpus from questions to pairs by our own server: its replies are of the forms that are asked for, whatever the models are. Here they are random ones."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import save_policy
from tiny import CONFIG, policy

from promedical_jax.clinic import build_tokenizer
from promedical_jax.corpus.pipeline import run
from promedical_jax.corpus.recipe import CorpusConfig
from promedical_jax.rubric import Tier, read_cases
from tests.serve.hosted import Hosted, hosted

QUESTIONS = ["How is gout treated?", "Is a fever of 39 urgent?", "痛风发作时该怎么办？", "What stops nosebleeds?", "Is milk bad?", "孕妇发热可以用什么药？"]
WRITERS = ["ada", "ben", "cy"]
SEEDS = {"ada": 4, "ben": 0, "cy": 2, "dee": 1}  # the first three find an end to each reply; the judge dee says something else of some answers than of others
PROMPTS = {"difficulty": "Grade it.", "topic": "Sort it.", "answer": "Answer it.", "rubric": "Write criteria."}
LIKED = {'"': 3.5, "]": 2.5, "}": 2.5, "p": 2.5}  # what ends a text, a list and an object in JSON; and the first letter of the tier that each rubric needs
UNDECIDED = {"u": 0.03}  # how dee likes the first letter of unmet, so that it and abstain are about as likely
OK = '{path="/v1/chat/completions",status="200"}'


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Hosted]]:
    """Random models that like to come to an end: one number of their states is always positive, and speaks for certain letters."""
    tokenizer = build_tokenizer()
    config = replace(CONFIG, vocabulary=len(tokenizer), tied=False)
    with ExitStack() as stack:
        made = {}
        for name, seed in SEEDS.items():
            folder = tmp_path_factory.mktemp(name)
            params = {part: dict(x) if isinstance(x, dict) else np.array(x) for part, x in policy(config, seed).items()}
            params["embed"] *= 5
            params["embed"][:, 0], params["unembed"][:, 0] = 2.5, 0.0
            for letter, liking in (LIKED | (UNDECIDED if name == "dee" else {})).items():
                params["unembed"][tokenizer(letter, add_special_tokens=False)["input_ids"], 0] = liking
            save_policy(folder / "policy", params, config, tokenizer)
            made[name] = stack.enter_context(hosted(folder, name=name, longest=1024, slots=16, queue=128, timeout=300))
        yield made


def test_replies_of_random_models_make_a_corpus(hosts: dict[str, Hosted], tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps({"q": text}, ensure_ascii=False) + "\n" for text in QUESTIONS))
    for name, text in PROMPTS.items():
        (tmp_path / f"{name}.txt").write_text(text)

    def of(name: str) -> dict[str, Any]:
        return {"url": hosts[name].url, "model": name, "concurrency": 32, "retries": 2, "timeout": 300.0, "max_tokens": 256}

    def task(name: str, prompt: str) -> dict[str, Any]:
        return of(name) | {"prompt": str(tmp_path / f"{prompt}.txt")}

    config = CorpusConfig.model_validate({
        "out": str(tmp_path / "corpus"),
        "sources": [{"name": "mine", "path": str(tmp_path / "mine.jsonl"), "licence": "MIT", "question": "q"}],
        "sieve": {"shortest": 1},
        "difficulty": task("ada", "difficulty") | {"lowest": 0, "highest": 10},
        "topic": task("ada", "topic"),
        "writers": [task(name, "answer") | {"name": name} for name in WRITERS],
        "rubric": task("ada", "rubric"),
        "judges": [of(name) | {"name": name} for name in ("ada", "dee")],
    })  # fmt: skip
    run(config)
    report = json.loads((tmp_path / "corpus" / "report.json").read_text())
    kept = {name: stage["kept"] for name, stage in report["stages"].items()}
    assert [*kept] == ["questions", "sieve", "difficulty", "topic", "answers", "rubric", "verdicts"] and set(kept.values()) == {len(QUESTIONS)}

    cases = read_cases(tmp_path / "corpus" / "cases.parquet")
    assert {case.instruction[0].content for case in cases} == set(QUESTIONS)
    for case in cases:
        assert case.difficulty is not None and case.category and case.specialty and [answer.id for answer in case.answers] == WRITERS
        assert any(criterion.tier is Tier.PROFICIENCY for criterion in case.rubric.criteria)
        said = {(one.answer, one.criterion, one.rater) for one in case.verdicts}
        assert said == {(answer, one.id, rater) for answer in WRITERS for one in case.rubric.criteria for rater in ("ada", "dee")}
    parts = {name: read_cases(path) if (path := tmp_path / "corpus" / f"{name}.jsonl").exists() else [] for name in report["parts"]}
    assert report["parts"] == {name: len(part) for name, part in parts.items()}
    assert sorted(case.id for part in parts.values() for case in part) == sorted(case.id for case in cases)
    for tier, counted in report["pairs"].items():
        assert sum(counted.values()) == 3 * sum(one.tier.value == tier for case in cases for one in case.rubric.criteria)  # of three answers
    assert report["pairs"]["proficiency"]["pair"]  # where dee abstains from one answer, and not from another

    asked = {name: dict(host.service.counts) for name, host in hosts.items()}
    assert all({key[1] for key in counts if key[0] == "requests_total"} == {OK} for counts in asked.values())  # all four were asked, and nobody in vain
    assert all(not host.service.engine.faults for host in hosts.values())
    for file in (tmp_path / "corpus").glob("*-*.parquet"):
        file.unlink()
    run(config)  # anew from the replies, which are kept
    assert {name: dict(host.service.counts) for name, host in hosts.items()} == asked
    assert json.loads((tmp_path / "corpus" / "report.json").read_text()) == report and read_cases(tmp_path / "corpus" / "cases.parquet") == cases
