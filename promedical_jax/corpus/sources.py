"""The nine public sources of ProMedical-Preference-50k, K-QA's questions, and anybody's own by a map of fields: rows to Questions.

Each source says where it is on the hub, under which licence, and how its rows are read; the hub's columns and the files that its authors published differ, and
both are read. Licences are those that the authors state; where they state none, "unknown", which a filter by licence leaves out.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from promedical_jax.corpus.formats import Row, flat, hub_rows, read_rows
from promedical_jax.corpus.question import Question
from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Message

NO_INPUT = {"", "<noinput>", "noinput"}  # how instruction data says that there is none
TURN = re.compile(r"\[\|(Human|AI)\|\]")


OF_MCQ = ("subject_name", "topic_name", "choice_type")


class _Faulty(ValueError):
    """A row that cannot be used; the message names the field and the fix."""


@dataclass(frozen=True)
class Draft:
    """What a row says: the instruction, and beside it what the source has."""

    messages: tuple[Message, ...]
    reference: str | None = None
    key: str | None = None  # the source's own id


@dataclass(frozen=True)
class Source:
    """`hub`: repository, configuration or None, split. `draft` reads a row, and gives None for one that asks nothing, such as an empty line of a sheet."""

    name: str
    licence: str
    hub: tuple[str, str | None, str] | None
    draft: Callable[[Row], Draft | None]
    kept: tuple[str, ...] = ()  # fields that go into the provenance


def read_source(source: Source, path: Path | None = None) -> Iterator[Question]:
    """The questions of a source in their order: from a file or folder as its authors publish it, or, without `path`, from the hub.

    Raises InputError naming the row and the field, for ids that repeat too.
    """
    seen: dict[str, str] = {}
    for number, (place, row) in enumerate(read_rows(path) if path else _from_hub(source), start=1):
        try:
            draft = source.draft(row)
        except _Faulty as fault:
            raise InputError(f"{place}, {fault}") from None
        if draft is None:
            continue
        id_ = f"{source.name}-{draft.key or number}"
        if id_ in seen:
            raise InputError(f"{place}: has the id {id_!r} of {seen[id_]}; rename or delete one of them")
        seen[id_] = place
        provenance = {name: flat(row[name]) for name in source.kept if row.get(name) not in (None, "")}
        reference = draft.reference.strip() if draft.reference and draft.reference.strip() else None
        yield Question(id=id_, instruction=draft.messages, reference=reference, source=source.name, licence=source.licence, provenance=provenance)


def _from_hub(source: Source) -> Iterator[tuple[str, Row]]:
    if source.hub is None:
        raise InputError(f"source {source.name} is not on the hub; give the path of its file")
    from datasets import load_dataset

    name, configuration, split = source.hub
    yield from hub_rows(load_dataset(name, configuration, split=split), f"{name}, {split}")


# What a row says


def _text(row: Row, *names: str) -> str:
    """The first of these fields that the row has, which must be text that says something."""
    name = next((name for name in names if name in row), None)
    if name is None:
        raise _Faulty(f"field {names[0]}: is missing; the row has {', '.join(map(str, row)) or 'none'}")
    if not isinstance(row[name], str) or not row[name].strip():
        raise _Faulty(f"field {name}: is {row[name]!r:.60} and should be text; add it, or delete the row")
    return _sound(name, row[name].strip())


def _optional(row: Row, *names: str) -> str | None:
    """The first of these fields that says something; one that is there and is no text is a fault."""
    for name in names:
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            raise _Faulty(f"field {name}: is {value!r:.60} and should be text or null; correct it, or delete the row")
        if value and value.strip():
            return _sound(name, value)
    return None


def _sound(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _Faulty(f"field {name}: has half of a letter at place {error.start + 1}, which no file takes; correct it, or delete the row") from None
    return text


def _user(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def _choices(question: str, options: Mapping[str, str]) -> tuple[Message, ...]:
    return _user("\n".join([question, "", *(f"{letter}. {text}" for letter, text in options.items())]))


def _medqa(row: Row) -> Draft:
    options = row.get("options")
    if not isinstance(options, dict) or not options or not all(isinstance(text, str) and text.strip() for text in options.values()):
        raise _Faulty(f"field options: is {options!r:.60} and should be an object of letters and texts; correct the row")
    answer = _text(row, "answer_idx", "answer")
    if answer not in options:
        raise _Faulty(f"field answer_idx: {answer!r} is none of {', '.join(options)}; correct it")
    return Draft(_choices(_text(row, "question"), options), f"{answer}. {options[answer]}")


def _medmcqa(row: Row, first: int) -> Draft:
    """`first`: the number of the first option, 1 in the authors' files and 0 on the hub, where -1 marks an answer that is kept secret."""
    options = {letter.upper(): _text(row, f"op{letter}") for letter in "abcd"}
    number = row.get("cop")
    if not isinstance(number, int) or number - first not in (-1, 0, 1, 2, 3):
        raise _Faulty(f"field cop: is {number!r} and should be a number from {first} to {first + 3}; correct it")
    letter = "ABCD"[number - first] if number >= first else None
    said = f"{letter}. {options[letter]}" if letter else None
    explained = "\n\n".join(part for part in (said, _optional(row, "exp")) if part)
    return Draft(_choices(_text(row, "question"), options), explained, _optional(row, "id"))


def _pubmedqa(row: Row) -> Draft:
    """The question alone: what the paper's abstract says is the reference, for nobody who asks has read it."""
    key = row.get("key", row.get("pubid"))
    answer = "\n\n".join(part for part in (_optional(row, "final_decision"), _optional(row, "LONG_ANSWER", "long_answer")) if part)
    return Draft(_user(_text(row, "QUESTION", "question")), answer, None if key is None else str(key))


def _medquad(row: Row) -> Draft | None:
    if not _optional(row, "question"):
        return None  # documents without pairs have one empty pair
    return Draft(_user(_text(row, "question")), _optional(row, "answer"), _optional(row, "qid", "question_id"))


def _instruction(row: Row, persona: bool) -> Draft:
    """`persona`: the instruction is the same in each row and says who answers, and the input is what a patient asks."""
    order, given = _text(row, "instruction"), (_optional(row, "input") or "").strip()
    reference = _optional(row, "output")
    if given.lower() in NO_INPUT:
        return Draft(_user(order), reference)
    if persona:
        return Draft((Message(role="system", content=order), *_user(given)), reference)
    return Draft(_user(f"{order}\n\n{given}"), reference)


def _conversation(row: Row) -> Draft:
    """Turns marked [|Human|] and [|AI|]: the last of the assistant's is the reference, all before it the instruction."""
    parts = TURN.split(_text(row, "Conversation", "conversation"))[1:]
    turns = [(speaker, text.strip()) for speaker, text in zip(parts[::2], parts[1::2], strict=True) if text.strip()]
    if turns and turns[-1][0] == "Human" and len(turns) > 1:
        turns.pop()  # a question that nobody answered
    *before, (speaker, last) = turns or [("", "")]
    if speaker != "AI" or not before or before[-1][0] != "Human":
        raise _Faulty("field Conversation: has no turn of [|Human|] that one of [|AI|] answers; correct or delete the row")
    return Draft(tuple(Message(role="user" if who == "Human" else "assistant", content=text) for who, text in before), last)


def _fields(row: Row, question: str, reference: str | None, key: str | None) -> Draft:
    if reference and reference not in row:
        raise _Faulty(f"field {reference}: is missing; the row has {', '.join(map(str, row))}")
    found = row.get(key) if key else None
    if key and found in (None, ""):
        raise _Faulty(f"field {key}: is missing; the row has {', '.join(map(str, row))}")
    return Draft(_user(_text(row, question)), _optional(row, reference) if reference else None, None if found is None else str(found))


def own_source(name: str, licence: str, question: str, reference: str | None = None, key: str | None = None, kept: tuple[str, ...] = (),
               hub: tuple[str, str | None, str] | None = None) -> Source:  # fmt: skip
    """Anybody's source: `question`, `reference`, `key` (its ids) and `kept` (for the provenance) name fields of its rows."""
    return Source(name, licence, hub, partial(_fields, question=question, reference=reference, key=key), kept)


SOURCES = {
    source.name: source
    for source in (
        Source("medqa", "MIT", ("GBaker/MedQA-USMLE-4-options", None, "train"), _medqa, ("meta_info",)),
        own_source("medical_eval_sphere", "unknown", "medical_question", hub=("lavita/medical-eval-sphere", None, "medical_qa_benchmark_v1.0")),
        Source("pubmedqa", "MIT", ("qiaojin/PubMedQA", "pqa_labeled", "train"), _pubmedqa, ("YEAR", "MESHES", "final_decision")),
        own_source("dahl", "unknown", "question", kept=("category",)),
        Source("medical_instruction_120k", "MIT", ("Mohammed-Altaf/medical-instruction-120k", None, "train"), _conversation),
        Source("medinstruct_52k", "unknown", ("lavita/AlpaCare-MedInstruct-52k", None, "train"), partial(_instruction, persona=False)),
        Source("medquad", "CC BY 4.0", ("lavita/MedQuAD", None, "train"), _medquad, ("document", "publisher", "url", "focus", "qtype")),
        Source("chatdoctor", "Apache-2.0", ("lavita/ChatDoctor-HealthCareMagic-100k", None, "train"), partial(_instruction, persona=True)),
        Source("medmcqa", "MIT", None, partial(_medmcqa, first=1), OF_MCQ),
        Source("medmcqa_hub", "Apache-2.0", ("openlifescienceai/medmcqa", None, "train"), partial(_medmcqa, first=0), OF_MCQ),
        own_source("kqa", "MIT", "Question", "Free_form_answer", kept=("Sources",)),
    )
}
