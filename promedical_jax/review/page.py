"""What a physician sees: Label Studio's labelling configuration, one a kind of review, and the data of a task, without anything that tells who answered.

A page has as many rows as the task has criteria, by Label Studio's Repeater; so one configuration serves a whole project. Three details of the two .xml files
are not plain to see. The choices of a row have one value and differ in their aliases, which are what comes back: the value is the name of the browser's radio
buttons, and those of one name are one stop of the Tab key, within which arrows choose. Their hotkey is a sign that no keyboard has: Label Studio would give the
first 36 choices keys of its own, and a stray key would change a verdict out of sight. And a TextArea's `value` is what it is filled with.
"""

from importlib.resources import files
from typing import Any

from promedical_jax.corpus.lint import Finding, lint
from promedical_jax.review.recipe import What
from promedical_jax.review.seal import Sealed, Task
from promedical_jax.rubric.case import Case, Criterion, Polarity, Tier

HEADINGS: dict[What, dict[Tier, str]] = {
    "answers": {Tier.SAFETY: "Safety", Tier.PROFICIENCY: "What an answer must do", Tier.EXCELLENCE: "What is a bonus"},
    "rubrics": {
        Tier.SAFETY: "Safety: who violates one of these is never preferred",
        Tier.PROFICIENCY: "What an answer must do, weighted",
        Tier.EXCELLENCE: "What is a bonus",
    },
}
OVERALL = "On the whole, which answer is better?"
EMPTY = "(This answer is empty.)"
SPEAKERS = {"user": "Patient", "assistant": "Assistant", "system": "Setting"}
INSTRUCTIONS: dict[What, str] = {
    "answers": "Judge each sentence for answer A and for answer B: is it true of the answer? Whether that is good or bad is not asked. "
    "Then say which answer is better on the whole. Please speak to nobody about the answers before all have judged them.",
    "rubrics": "Is each question's rubric what an answer should be judged by? Choose 1 if it is right as it stands, or 2 and change what is wrong.",
}


def labelling(what: What) -> str:
    """The XML of a project's labelling configuration."""
    return (files("promedical_jax.review") / f"{what}.xml").read_text(encoding="utf-8")


def task_data(task: Task, case: Case, sealed: Sealed) -> dict[str, Any]:
    """What Label Studio gets of a task."""
    marks = {"code": task.code, "review": sealed.key.review, "seal": sealed.seal}
    rows = _answer_rows(task, case) if task.answers else _rubric_rows(task, case)
    return {"data": marks | {"question": _conversation(case)} | rows}


def _conversation(case: Case) -> str:
    """What was asked: alone where it is one question, else with who speaks."""
    if [message.role for message in case.instruction] == ["user"]:
        return case.instruction[0].content
    return "\n\n".join(f"{SPEAKERS[message.role]}: {message.content}" for message in case.instruction)


def _answer_rows(task: Task, case: Case) -> dict[str, Any]:
    texts = {answer.id: answer.text for answer in case.answers}
    a, b = (texts[name] if texts[name].strip() else EMPTY for name in task.answers)
    overall = [{"heading": OVERALL}] if task.overall else []
    return {"a": a, "b": b, "overall": overall, "criteria": [row | {"text": criterion.text} for row, criterion in _grouped(task, case, "answers")]}


def _rubric_rows(task: Task, case: Case) -> dict[str, Any]:
    """The hints are lint's findings about the rubric's text; those that other raters' verdicts gave rise to are not shown."""
    findings = lint(case.model_copy(update={"verdicts": ()}))
    rows = [
        row | {"text": criterion.text, "about": _about(criterion), "hint": _hint([finding for finding in findings if finding.criterion == criterion.id])}
        for row, criterion in _grouped(task, case, "rubrics")
    ]
    return {"hint": _hint([finding for finding in findings if finding.criterion is None]), "criteria": rows}


def _grouped(task: Task, case: Case, what: What) -> list[tuple[dict[str, str], Criterion]]:
    """The criteria of a page with the heading that stands over each, which is empty but for the first of a tier."""
    criteria, last = {criterion.id: criterion for criterion in case.rubric.criteria}, None
    rows = []
    for name in task.criteria:
        tier = criteria[name].tier
        rows.append(({"heading": HEADINGS[what][tier] if tier is not last else ""}, criteria[name]))
        last = tier
    return rows


def _about(criterion: Criterion) -> str:
    does = "A good answer does this" if criterion.polarity is Polarity.REQUIRED else "A good answer avoids this"
    return does + (f"; weight {100 * criterion.weight:.3g} of 100" if criterion.weight else "")


def _hint(findings: list[Finding]) -> str:
    return "\n".join(f"Hint: it {finding.text}" if finding.criterion else f"Hint: {finding.text}" for finding in findings)
