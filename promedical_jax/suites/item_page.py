"""One item as the page of a comparison shows it: what was asked, what each run answered, and what was said of each criterion."""

import json
from collections.abc import Sequence
from html import escape

from pydantic import JsonValue

from promedical_jax.bench.parts import said, verdict
from promedical_jax.bench.svg import percent, short
from promedical_jax.rubric.case import Polarity
from promedical_jax.suites.suite import Line, Marked

Marks = Sequence[tuple[str, Marked]]  # by the names of the runs


def item(name: str, marks: Marks, opened: bool = False) -> str:
    first = marks[0][1]
    turns = "".join(f'<div class="turn"><h4>{message.role.capitalize()}</h4>{said(message.content)}</div>' for message in first.instruction)
    shown = _shown(marks)
    return (
        f'<details class="example card"{" open" if opened else ""}><summary><h3>{escape(name)}</h3><span>{_scores(marks)}</span></summary>'
        f'<div class="body">{turns}<div class="pair">{_answers(marks, shown)}</div>{_criteria(marks, shown)}</div></details>'
    )


def _scores(marks: Marks) -> str:
    """Who scored what; of a suite without one score of an item, its first numbers."""
    if any(mark.score is not None for _, mark in marks) or not marks[0][1].parts:
        return ", ".join(f"{escape(run)} {number(mark.score)}" for run, mark in marks)
    return "; ".join(f"{escape(run)}: {', '.join(f'{escape(part)} {number(value)}' for part, value in mark.parts.items())}" for run, mark in marks)


def _shown(marks: Marks) -> int:
    """Which of several answers to show: the first where the runs' verdicts differ on most criteria."""
    count = min(_count(mark) for _, mark in marks)
    apart = [sum(len({json.dumps(one) for one in row}) > 1 for row in zip(*(_of(mark, g) for _, mark in marks), strict=False)) for g in range(count)]
    return apart.index(max(apart)) if apart else 0


def _count(mark: Marked) -> int:
    return len(mark.reply) if isinstance(mark.reply, list) else 1


def _of(mark: Marked, answer: int) -> tuple[JsonValue, ...]:
    """The verdicts on one of its answers."""
    return mark.verdicts[answer * len(mark.criteria) : (answer + 1) * len(mark.criteria)]


def _answers(marks: Marks, shown: int) -> str:
    """What was replied; once, where it is the same for all, as an answer of the file that only its judges differ on."""
    if len({json.dumps(mark.reply) for _, mark in marks}) == 1 and marks[0][1].reply is not None:
        texts = _texts(marks[0][1].reply, shown)
        css = "answer whole" if len(texts) == 1 else "answer"
        same = "".join(f'<div class="{css}"><h4>{escape(name or f"The answer{_place(marks[0][1], shown)}")}</h4>{said(text)}</div>' for name, text in texts)
        return same + "".join(f'<div class="answer">{_head(run, "")}{_chips(mark)}</div>' for run, mark in marks)
    return "".join(_answer(run, mark, shown) for run, mark in marks)


def _answer(run: str, mark: Marked, shown: int) -> str:
    texts = "".join((f"<h4>{escape(name)}</h4>" if name else "") + said(text) for name, text in _texts(mark.reply, shown))
    return f'<div class="answer">{_head(run, _place(mark, shown))}{texts}{_chips(mark)}</div>'


def _place(mark: Marked, shown: int) -> str:
    return f", answer {shown + 1} of {_count(mark)}" if _count(mark) > 1 else ""


def _head(run: str, place: str) -> str:
    return f"<h4>{escape(run)}{place}</h4>"


def _chips(mark: Marked) -> str:
    score = "" if mark.score is None and mark.parts else f"<li>score <b>{number(mark.score)}</b></li>"
    score = f"<li>mean of {_count(mark)} answers:</li>{score}" if _count(mark) > 1 else score
    return f'<ul class="chips">{score}{"".join(f"<li>{escape(part)} <b>{number(value)}</b></li>" for part, value in mark.parts.items())}</ul>'


def _texts(reply: JsonValue, shown: int) -> list[tuple[str, str]]:
    """A reply in a model's own words as it is, one of several texts, texts with a name each, any other as JSON, and none as nothing."""
    if isinstance(reply, list) and shown < len(reply) and isinstance(reply[shown], str):
        return [("", str(reply[shown]))]
    if isinstance(reply, dict) and isinstance(reply.get("text"), str):
        return [("", str(reply["text"]))]
    if isinstance(reply, dict) and reply and all(isinstance(value, str) for value in reply.values()):
        return [(name, str(value)) for name, value in reply.items()]
    return [("", "" if reply is None else json.dumps(reply, ensure_ascii=False))]


def _criteria(marks: Marks, shown: int) -> str:
    """A row a criterion, by its group: what was said of it of each run, and where physicians judged it too, what they say."""
    lines = max((mark.criteria for _, mark in marks), key=len)
    if not lines:
        return ""
    columns = [(run, [*_of(mark, shown), *[None] * len(lines)]) for run, mark in marks]
    truth = marks[0][1].beliefs.get("truth")
    if truth is not None:
        columns = [("Physicians", [{"met": truth == 1.0}] * len(lines)), *columns]
    weighted = any(line.weight is not None for line in lines)
    rows = ""
    for group in dict.fromkeys(line.group for line in lines):
        rows += f'<tr class="tier"><th colspan="{1 + weighted + len(columns)}" scope="colgroup">{escape(group.capitalize())}</th></tr>' if group else ""
        for k, line in enumerate(lines):
            if line.group == group:
                cells = "".join(f'<td class="verdict" data-name="{escape(run)}">{_heard(column[k], line)}</td>' for run, column in columns)
                weight = f'<td class="weight">{percent(line.weight) if line.weight is not None else ""}</td>' if weighted else ""
                rows += f"<tr><td>{escape(line.text)}</td>{weight}{cells}</tr>"
    heads = "".join(f'<th class="verdict">{escape(run)}</th>' for run, _ in columns)
    heads = f'<th class="weight">Weight</th>{heads}' if weighted else heads
    return f'<table class="rubric runs"><thead><tr><th>Criterion</th>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def _heard(word: JsonValue, line: Line) -> str:
    """What was said of a criterion, in the forms that suites ask for."""
    if isinstance(word, dict) and word.get("verdict") in ("met", "unmet"):
        return verdict(word["verdict"] == "met", line.polarity)
    if isinstance(word, dict) and isinstance(word.get("met"), bool):
        return verdict(bool(word["met"]), line.polarity)
    if isinstance(word, dict) and word.get("label") in ("Entailment", "Neutral"):
        return verdict(word["label"] == "Entailment", Polarity.REQUIRED)
    if isinstance(word, dict) and isinstance(word.get("label") or word.get("better"), str):
        return f"<span>{escape(str(word.get('label') or word.get('better')))}</span>"
    return verdict(None, line.polarity)


def number(value: float | None) -> str:
    return "abstained" if value is None else short(value)
