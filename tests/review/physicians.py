"""What physicians do in a test: fields of a page filled in, as Label Studio sends them back, by opinions that are known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from promedical_jax.clinic import make_cases
from promedical_jax.review.recipe import ReviewConfig
from promedical_jax.review.seal import Task
from promedical_jax.rubric import Case, Verdict, write_cases

Opinion = Callable[[str, str, str], str]  # case, answer, criterion -> met, unmet, abstain, or nothing
Favourite = Callable[[str, tuple[str, ...]], str]  # case, two answers in the order of their ids -> the id of the better one, "equal" or nothing


def choices(name: str, value: str) -> dict[str, Any]:
    return {"id": name, "from_name": name, "to_name": "question", "type": "choices", "origin": "manual", "value": {"choices": [value]}}


def texts(name: str, *values: str) -> dict[str, Any]:
    return {"id": name, "from_name": name, "to_name": "question", "type": "textarea", "origin": "manual", "value": {"text": list(values)}}


def number(name: str, value: float) -> dict[str, Any]:
    return {"id": name, "from_name": name, "to_name": "question", "type": "number", "origin": "manual", "value": {"number": value}}


def judge(task: Task, opinion: Opinion, favourite: Favourite) -> list[dict[str, Any]]:
    """A page of a review of answers, by opinions on answers and not on letters."""
    said = []
    for letter, answer in zip("ab", task.answers, strict=True):
        for row, criterion in enumerate(task.criteria):
            if verdict := opinion(task.case, answer, criterion):
                said.append(choices(f"{letter}_{row}", verdict))
    better = favourite(task.case, tuple(sorted(task.answers))) if task.overall else ""
    if better:
        said.append(choices("better_0", better if better == "equal" else "ab"[task.answers.index(better)]))
    return said


def truth(cases: list[Case]) -> Opinion:
    """What the clinic's checker says."""
    said = {(case.id, one.answer, one.criterion): one.verdict for case in cases for one in case.verdicts}
    return lambda case, answer, criterion: said[case, answer, criterion].value


def otherwise(verdict: str) -> str:
    return {Verdict.MET.value: Verdict.UNMET.value, Verdict.UNMET.value: Verdict.MET.value}.get(verdict, verdict)


def clinic(folder: Path, count: int = 12) -> tuple[Path, list[Case]]:
    """A file of the clinic's cases with three answers each."""
    cases = make_cases(count, seed=3, answers=3)
    write_cases(folder / "cases.jsonl", cases)
    return folder / "cases.jsonl", cases


def recipe(folder: Path, **changes: Any) -> ReviewConfig:
    given: dict[str, Any] = {"cases": folder / "cases.jsonl", "out": folder / "out", "what": "answers", "physicians": ("ada", "ben"), "adjudicator": "cleo"}
    return ReviewConfig.model_validate(given | changes)
