"""Sources of questions: the real files for counts and content, small ones written here for the rules and the faults."""

import json
from collections import Counter
from pathlib import Path

import pytest

from promedical_jax.corpus.question import Question
from promedical_jax.corpus.sources import SOURCES, own_source, read_source
from promedical_jax.errors import InputError

FILES = {"medqa": "medqa", "medmcqa": "medmcqa", "pubmedqa": "pubmedqa/ori_pqal.json", "medquad": "medquad", "chatdoctor": "chatdoctor/chatdoctor5k.json",
         "kqa": "kqa/questions_w_answers.jsonl"}  # fmt: skip


@pytest.fixture(scope="session")
def read(data) -> dict[str, list[Question]]:
    return {name: list(read_source(SOURCES[name], data / path)) for name, path in FILES.items()}


def test_every_row_of_the_real_files_is_a_question(read: dict[str, list[Question]]) -> None:
    counts = {"medqa": 500, "medmcqa": 1000, "pubmedqa": 1000, "medquad": 1462, "chatdoctor": 5452, "kqa": 201}
    assert {name: len(each) for name, each in read.items()} == counts
    assert all(len({question.id for question in each}) == len(each) for each in read.values())
    assert all(question.reference for each in read.values() for question in each)
    assert Counter(question.licence for each in read.values() for question in each) == {"MIT": 2701, "Apache-2.0": 5452, "CC BY 4.0": 1462}


def test_what_a_question_of_each_file_says(read: dict[str, list[Question]]) -> None:
    first = {name: each[0] for name, each in read.items()}
    assert first["medqa"].text.endswith("\nD. Refuse to dictate the operative report")
    assert first["medqa"].reference == "B. Tell the attending that he cannot fail to disclose this mistake"
    assert first["medmcqa"].id == "medmcqa-45258d3d-b974-44dd-a161-c3fccbdadd88" and first["medmcqa"].provenance["subject_name"] == "Physiology"
    assert first["medmcqa"].reference == "A. Impulse through myelinated fibers is slower than non-myelinated fibers"
    assert first["pubmedqa"].id == "pubmedqa-21645374" and str(first["pubmedqa"].reference).startswith("yes\n\nResults depicted")
    crohn = next(question for question in read["medquad"] if question.id == "medquad-NIDDK-0000093-3")
    assert crohn.text == "What causes Crohn's Disease ?" and crohn.provenance["qtype"] == "causes" and crohn.provenance["publisher"] == "NIDDK"
    assert [message.role for message in first["chatdoctor"].instruction] == ["system", "user"] and first["chatdoctor"].text.startswith("Doctor, I have been")
    assert first["kqa"].text.startswith("Alright so I dont know much about Lexapro")


def questions(tmp_path: Path, name: str, *rows: dict) -> list[Question]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_source(SOURCES[name], path))


def test_the_formats_of_which_no_file_is_here(tmp_path: Path) -> None:
    talk = "The conversation between human and AI assistant.\n[|Human|] Is it bad?\n[|AI|] What is?\n[|Human|] My knee.\n[|AI|] Rest it.\n[|Human|] "
    (one,) = questions(tmp_path, "medical_instruction_120k", {"Conversation": talk})
    assert [(m.role, m.content) for m in one.instruction] == [("user", "Is it bad?"), ("assistant", "What is?"), ("user", "My knee.")]
    assert one.reference == "Rest it."
    both, alone = questions(tmp_path, "medinstruct_52k", {"instruction": "Explain.", "input": "Gout", "output": "A joint"},
                            {"instruction": "List three.", "input": "<noinput>", "output": ""})  # fmt: skip
    assert both.text == "Explain.\n\nGout" and alone.text == "List three." and alone.reference is None
    hub = {"question": "Which?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "exp": None, "id": "x"}
    known, secret = questions(tmp_path, "medmcqa_hub", hub | {"cop": 0}, hub | {"cop": -1, "id": "y"})
    assert known.reference == "A. a" and secret.reference is None
    (long,) = questions(tmp_path, "medical_eval_sphere", {"medical_question": "Why?", "response_a": "So."})
    assert long.text == "Why?" and long.id == "medical_eval_sphere-1" and long.licence == "unknown"
    (tmp_path / "questions.csv").write_text('question,category\n"What, then?",Renal\n')
    (dahl,) = read_source(SOURCES["dahl"], tmp_path / "questions.csv")
    assert dahl.text == "What, then?" and dahl.provenance == {"category": "Renal"}


def test_ones_own_source_by_its_fields_from_parquet(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list([{"nr": 7, "frage": "Was hilft?", "antwort": "Ruhe", "ort": {"klinik": "A"}}]).to_parquet(tmp_path / "mine.parquet")
    source = own_source("mine", "CC0-1.0", "frage", "antwort", "nr", ("ort",))
    (one,) = read_source(source, tmp_path / "mine.parquet")
    assert one == Question(id="mine-7", instruction=one.instruction, reference="Ruhe", source="mine", licence="CC0-1.0", provenance={"ort": '{"klinik": "A"}'})


GOOD = {"question": "Q?", "options": {"A": "x", "B": "y"}, "answer_idx": "A"}


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("medqa", {"question": "Q?"}, "line 2, field options: is None and should be an object"),
        ("medqa", GOOD | {"answer_idx": "E"}, "field answer_idx: 'E' is none of A, B"),
        ("medqa", GOOD | {"question": " "}, "field question: is ' ' and should be text"),
        ("medmcqa", {"question": "Q?", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 5}, "field cop: is 5 and should be a number from 1 to 4"),
        ("chatdoctor", {"input": "Q?"}, "field instruction: is missing; the row has input"),
        ("medical_instruction_120k", {"Conversation": "[|AI|] Hello."}, "field Conversation: has no turn"),
        ("medqa", GOOD | {"options": {"A": None, "B": "y"}}, "field options: is"),
        ("chatdoctor", {"instruction": "A.", "input": "B?", "output": ["C."]}, "field output: is .* and should be text or null"),
        ("chatdoctor", {"instruction": "A.", "input": "\ud83d"}, "field input: has half of a letter at place 1"),
    ],
)
def test_a_faulty_row_is_named_with_its_field_and_the_fix(tmp_path: Path, name: str, row: dict, words: str) -> None:
    good = {"medqa": GOOD, "medmcqa": row | {"cop": 1}, "chatdoctor": {"instruction": "A.", "input": "B?"}}.get(name, {"Conversation": "[|Human|] A [|AI|] B"})
    with pytest.raises(InputError, match=words.replace("?", r"\?").replace("[|", r"\[\|")):
        questions(tmp_path, name, good, row)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("a.jsonl", '{"question": ', "line 1: not valid JSON"),
        ("a.jsonl", "[1]", "line 1: is list and should be an object of fields"),
        ("a.json", '"one"', "holds one str; it should be a list of objects"),
        ("a.csv", "question\na,b\n", "line 2: has 2 cells where the header has 1"),
        ("a.csv", "question,question\na,b\n", "line 1: names a column twice"),
        ("a.xml", "<Document>", "not valid XML"),
        ("a.xml", '<?xml version="1.0" encoding="klingon"?><Document/>', "not valid XML"),
        ("a.parquet", "PAR", "is not a readable Parquet file"),
        ("a.txt", "Q?", "has the suffix '.txt'"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_place(tmp_path: Path, file: str, text: str, words: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=words):
        list(read_source(SOURCES["dahl"], tmp_path / file))


def test_ids_that_repeat_and_sources_without_a_place_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"q": "A?", "id": 1}\n{"q": "B?", "id": 1}\n')
    with pytest.raises(InputError, match=r"line 2: has the id 'mine-1' of .*line 1"):
        list(read_source(own_source("mine", "MIT", "q", key="id"), path))
    with pytest.raises(InputError, match="source dahl is not on the hub; give the path of its file"):
        list(read_source(SOURCES["dahl"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no file that ends in"):
        list(read_source(SOURCES["dahl"], tmp_path / "empty"))


def test_lines_of_json_are_read_by_another_name_too_and_a_field_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"q": "A?", "a": null}\n{"q": "B?", "a": "C."}\n')
    assert [one.reference for one in read_source(own_source("mine", "MIT", "q", "a"), tmp_path / "a.json")] == [None, "C."]
    with pytest.raises(InputError, match="line 1, field answr: is missing; the row has q, a"):
        list(read_source(own_source("mine", "MIT", "q", "answr"), tmp_path / "a.json"))
