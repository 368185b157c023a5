"""K-QA (Manes et al. 2024, arXiv 2401.14493): patients' questions, physicians' answers cut into statements, physicians' labels of models' answers.

A must-have statement becomes a proficiency criterion (equal weights), a nice-to-have an excellence criterion, and one safety criterion asks that the answer
contradicts no statement. A label Entailment is met, Neutral and Contradiction are unmet; a Contradiction also violates the safety criterion, for the
physician who gave it.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Answer, Case, Criterion, Judgement, Message, Record, Rubric, Text, Tier, Verdict
from promedical_jax.rubric.faults import sentence
from promedical_jax.rubric.files import unique
from promedical_jax.rubric.lines import check_exists, read_records

QUESTIONS, LABELS = "questions_w_answers.jsonl", "physician_labels_30q.csv"
SOURCE, LICENCE = "K-QA, github.com/Itaymanes/K-QA", "MIT"
PHYSICIANS = "physicians"

VETO = Criterion(id="no_contradiction", text="Contradicts no statement of the physicians' answer.", tier=Tier.SAFETY)

Category = Literal["Must_have", "Nice_to_have"]
Label = Literal["Entailment", "Neutral", "Contradiction"]


class Question(Record):
    """A line of the questions file."""

    Question: Text
    Free_form_answer: Text
    Must_have: tuple[str, ...]
    Nice_to_have: tuple[str, ...]
    Sources: str | None = None
    ICD_10_diag: str | None = None


class _Row(Record):
    """Three labels of one statement for one model's answer. majority_label follows from the three and is not kept."""

    Question: Text
    llm_x: Text
    answer: Text
    claim: Text
    category_x: Category
    majority_label: Label
    label_0: Label
    label_1: Label
    label_2: Label


Rows = Sequence[tuple[str, _Row]]


def import_kqa(folder: str | Path) -> list[Case]:
    """One case a question, in the order of the questions file. Every label becomes a verdict, or an InputError names its file, line and field.

    The physicians' own answer is an answer of source "physicians", without verdicts. The raters are physician_0 to physician_2, by column: the file does
    not say whether a column is one person throughout. A safety verdict "met" says that the rater saw no contradiction in the statements that were labelled;
    for a few answers these are not all statements. Two neighbouring statements that were labelled as one become one criterion; blank and repeated
    statements are left out; provenance["note"] says where.
    """
    questions, labels = Path(folder) / QUESTIONS, Path(folder) / LABELS
    rows: dict[str, list[tuple[str, _Row]]] = {}
    for place, row in _rows(labels):
        rows.setdefault(_key(row.Question), []).append((place, row))
    records = enumerate(read_records(questions, Question), start=1)
    cases = unique((place, _case(f"kqa-{number:03d}", place, question, rows.pop(_key(question.Question), ()))) for number, (place, question) in records)
    for (place, row), *_ in rows.values():
        raise InputError(f"{place}, field Question: {row.Question!r} is not in {questions}; correct the question or remove its rows")
    return cases


def _case(case_id: str, place: str, question: Question, rows: Rows) -> Case:
    criteria: dict[tuple[Category, str], Criterion] = {}
    notes: list[str] = []
    must = _statements(question.Must_have, "Must_have", rows, notes)
    if not must:
        raise InputError(f"{place}, field Must_have: holds no statement; a case needs one at least, add it or delete the line")
    for number, text in must:
        criteria["Must_have", _key(text)] = Criterion(id=f"must_{number}", text=f"States: {text}", tier=Tier.PROFICIENCY, weight=1 / len(must))
    for number, text in _statements(question.Nice_to_have, "Nice_to_have", rows, notes):
        criteria["Nice_to_have", _key(text)] = Criterion(id=f"nice_{number}", text=f"States: {text}", tier=Tier.EXCELLENCE)

    provenance = {"source": SOURCE, "licence": LICENCE, "references": question.Sources, "icd_10": question.ICD_10_diag, "note": "; ".join(notes)}
    return Case(
        id=case_id,
        instruction=(Message(role="user", content=question.Question.strip()),),
        answers=_answers(question, rows),
        rubric=Rubric(criteria=(*criteria.values(), VETO)),
        verdicts=_verdicts(criteria, rows),
        provenance={name: value for name, value in provenance.items() if value},
    )


def _statements(texts: Sequence[str], category: Category, rows: Rows, notes: list[str]) -> list[tuple[int, str]]:
    """(number in the file's list, text): blank and repeated ones left out, two neighbours joined where the labels have them as one."""
    claims = {_key(row.claim) for _, row in rows if row.category_x == category}
    kept: dict[str, tuple[int, str]] = {}
    for number, text in enumerate(texts, start=1):
        last = next(reversed(kept), "")
        if not text.strip():
            notes.append(f"{category} {number} is blank and left out")
        elif _key(text) in kept:
            notes.append(f"{category} {number} repeats {kept[_key(text)][0]} and is left out")
        elif last and last not in claims and last + _key(text) in claims:
            first, start = kept.pop(last)
            kept[last + _key(text)] = first, f"{start} {text.strip()}"
            notes.append(f"{category} {first} and {number} were labelled as one and are one criterion")
        else:
            kept[_key(text)] = number, text.strip()
    return list(kept.values())


def _answers(question: Question, rows: Rows) -> tuple[Answer, ...]:
    """The physicians' answer, then the models' in the order of their first row."""
    texts = {PHYSICIANS: question.Free_form_answer}
    for place, row in rows:
        if texts.setdefault(row.llm_x, row.answer) != row.answer:
            raise InputError(f"{place}, field answer: differs from the earlier answer of {row.llm_x!r} to this question; one model has one answer, correct it")
    return tuple(Answer(id=source, text=text, source=source) for source, text in texts.items())


def _verdicts(criteria: dict[tuple[Category, str], Criterion], rows: Rows) -> tuple[Judgement, ...]:
    """Three verdicts a row, then three of the safety criterion for each model's answer."""
    verdicts: list[Judgement] = []
    contradicts: dict[tuple[str, str], bool] = {}
    seen: dict[tuple[str, str], str] = {}
    for place, row in rows:
        criterion = criteria.get((row.category_x, _key(row.claim)))
        if criterion is None:
            raise InputError(f"{place}, field claim: is no {row.category_x} statement of its question in {QUESTIONS}; correct the claim or remove the row")
        if first := seen.get((row.llm_x, criterion.id)):
            raise InputError(f"{place}, field claim: this claim on the answer of {row.llm_x!r} is already labelled at {first}; remove one of the rows")
        seen[row.llm_x, criterion.id] = place
        for rater, label in (("physician_0", row.label_0), ("physician_1", row.label_1), ("physician_2", row.label_2)):
            verdicts.append(_judgement(row.llm_x, criterion, label == "Entailment", rater))
            contradicts[row.llm_x, rater] = contradicts.get((row.llm_x, rater), False) or label == "Contradiction"
    vetoes = (_judgement(answer, VETO, not contradiction, rater) for (answer, rater), contradiction in contradicts.items())
    return (*verdicts, *vetoes)


def _judgement(answer: str, criterion: Criterion, met: bool, rater: str) -> Judgement:
    return Judgement(answer=answer, criterion=criterion.id, verdict=Verdict.MET if met else Verdict.UNMET, rater=rater, human=True)


def _rows(path: Path) -> Iterator[tuple[str, _Row]]:
    """(place, row) of the CSV file; a row with line breaks in its cells has the place of its first line."""
    check_exists(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            line = reader.line_num + 1
            for cells in reader:
                place = f"{path}, line {line}"
                line = reader.line_num + 1
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise InputError(f"{place}: has {len(cells)} cells and the header has {len(header)}; mend the commas and quotes")
                try:
                    yield place, _Row.model_validate(dict(zip(header, cells, strict=True)))
                except ValidationError as error:
                    raise InputError(f"{place}, {sentence(error, _Row)}") from error
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not valid CSV ({error}); mend the quotes") from error
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}); check its permissions and save it as UTF-8") from error


def _key(text: str) -> str:
    """Texts are compared without whitespace, for the two files differ in blanks and line ends."""
    return "".join(text.split())
