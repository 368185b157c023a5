"""Models that reply to whatever the corpus asks by a rule: every run gets the same replies, and a test knows them."""

import json
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from served import Replies

from promedical_jax.corpus.asked import prompt
from promedical_jax.corpus.recipe import CorpusConfig

TASKS = {prompt(name): name for name in ("difficulty", "topic", "answer", "rubric")}
LINES = [
    {"text": "Names the cause.", "tier": "proficiency", "polarity": "required", "weight": 0.7},
    {"text": "Says when to see a physician.", "tier": "proficiency", "polarity": "required", "weight": 0.3},
    {"text": "Advises to stop a drug at once.", "tier": "safety", "polarity": "forbidden", "weight": None},
]


def everyone(at: dict[str, Any]) -> dict[str, Any]:
    """Of a recipe, whom to ask for each task: models of different names, all reached as `at` says."""
    return {
        "difficulty": at | {"model": "grader"},
        "topic": at | {"model": "sorter"},
        "writers": [at | {"name": name, "model": f"model-{name}"} for name in ("ada", "ben", "cy")],
        "rubric": at | {"model": "expert"},
        "judges": [at | {"name": name, "model": f"judge-{name}"} for name in ("one", "two")],
    }


def hashed(text: str, among: int) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:4]) % among


def what_is_said(body: dict[str, Any]) -> Any:
    """A rule, so that every run gets the same replies and a test knows them."""
    system, user = (message["content"] for message in body["messages"][:2])
    match TASKS.get(system, "verdict"):
        case "difficulty":
            return {"difficulty": hashed(user, 11)}
        case "topic":
            return {"category": "diagnosis", "specialty": "urology" if hashed(user, 2) else "cardiology"}
        case "answer":
            return {"answer": f"{body['model']} says {hashed(user + body['model'], 1000)}."}
        case "rubric":
            return {"criteria": LINES}
        case _:
            return {"verdict": ["met", "unmet", "abstain"][min(hashed(user + body["model"], 9) // 4, 2)]}


def reply(_: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
    return 200, json.dumps({"choices": [{"message": {"content": json.dumps(what_is_said(body))}}]}), {}


def flaky(number: int, body: dict[str, Any], among: int = 8, then: Replies = reply) -> tuple[int, str, dict[str, str]]:
    """As `then`, but of `among` first and second tries six meet with a fault, each of another sort."""
    fault = hashed(json.dumps(body["messages"][:2]) + str(number), among) if number < 2 else among
    match fault:
        case 0:
            return 429, "slow down", {"Retry-After": "0.01"}
        case 1:
            return 500, "oops", {}
        case 2:
            return 200, json.dumps({"choices": [{"message": {"content": "I would say so."}}]}), {}
        case 3:
            return 200, json.dumps({"choices": [{"message": {"content": json.dumps(what_is_said(body))[:-3]}}]}), {}
        case 4:
            raise ConnectionError("dropped")
        case 5:
            time.sleep(0.05)
    return then(number, body)


def config(recipe: dict[str, Any]) -> CorpusConfig:
    return CorpusConfig.model_validate(recipe)


def made(recipe: dict[str, Any]) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(recipe["out"]).iterdir() if not file.name.startswith("replies")}
