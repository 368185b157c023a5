"""The corpus from questions to pairs by our own server: its replies are of the forms that are asked for, whatever the model is. Here it is a random one."""

import json
from collections.abc import Iterator
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
WRITERS = {"ada": "Answer it.", "ben": "Say in short what to do.", "cy": "Explain."}
PROMPTS = {"difficulty": "Grade it.", "topic": "Sort it.", "rubric": "Write criteria."} | WRITERS
LIKED = '"]}p'  # what ends a text, a list and an object in JSON; and the first letter of the tier that each rubric needs


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    """A random model that likes to come to an end: one number of its states is always positive, and speaks for certain letters."""
    folder, tokenizer = tmp_path_factory.mktemp("models"), build_tokenizer()
    config = replace(CONFIG, vocabulary=len(tokenizer), tied=False)
    params = {name: dict(x) if isinstance(x, dict) else np.array(x) for name, x in policy(config).items()}
    params["embed"] *= 5
    params["embed"][:, 0], params["unembed"][:, 0] = 2.5, 0.0
    params["unembed"][tokenizer(LIKED, add_special_tokens=False)["input_ids"], 0] = 3.0
    save_policy(folder / "policy", params, config, tokenizer)
    with hosted(folder, longest=2048, slots=16, queue=128, timeout=300) as made:
        yield made


def test_a_random_model_s_replies_make_a_corpus(host: Hosted, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps({"q": text}, ensure_ascii=False) + "\n" for text in QUESTIONS))
    for name, text in PROMPTS.items():
        (tmp_path / f"{name}.txt").write_text(text)
    at: dict[str, Any] = {"url": host.url, "model": "tiny", "concurrency": 32, "retries": 2, "timeout": 300.0, "max_tokens": 512}
    task = lambda name: at | {"prompt": str(tmp_path / f"{name}.txt")}  # noqa: E731
    recipe = {
        "out": str(tmp_path / "corpus"),
        "sources": [{"name": "mine", "path": str(tmp_path / "mine.jsonl"), "licence": "MIT", "question": "q"}],
        "sieve": {"shortest": 1},
        "difficulty": task("difficulty") | {"lowest": 0, "highest": 10},
        "topic": task("topic"),
        "writers": [task(name) | {"name": name} for name in WRITERS],
        "rubric": task("rubric"),
        "judges": [at | {"name": name} for name in ("one", "two")],
    }
    asked = host.service.counts
    run(CorpusConfig.model_validate(recipe))
    report = json.loads((tmp_path / "corpus" / "report.json").read_text())
    kept = {name: stage["kept"] for name, stage in report["stages"].items()}
    assert [*kept] == ["questions", "sieve", "difficulty", "topic", "answers", "rubric", "verdicts"] and kept["topic"] == len(QUESTIONS)
    assert all(set(stage["out"]) <= {"no reply"} for stage in report["stages"].values())  # a reply that max_tokens cut, thrice
    cases = read_cases(tmp_path / "corpus" / "cases.parquet")
    assert len(cases) == kept["verdicts"] >= len(QUESTIONS) // 2 and any("一" <= letter <= "鿿" for case in cases for letter in case.instruction[0].content)
    for case in cases:
        assert case.difficulty is not None and case.category and case.specialty and len(case.answers) >= 2
        assert any(criterion.tier is Tier.PROFICIENCY for criterion in case.rubric.criteria)
        assert len(case.verdicts) == 2 * len(case.answers) * len(case.rubric.criteria) and {one.rater for one in case.verdicts} == {"one", "two"}
    before = dict(asked)
    assert before["requests_total", '{path="/v1/chat/completions",status="200"}'] > 6 * len(QUESTIONS)
    run(CorpusConfig.model_validate(recipe))
    assert asked == before  # nothing is asked twice
