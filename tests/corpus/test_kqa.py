"""K-QA: small handwritten files for the rules, the real files for the counts."""

import csv
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from promedical_jax.corpus import import_kqa
from promedical_jax.corpus.kqa import LABELS, QUESTIONS
from promedical_jax.errors import InputError
from promedical_jax.rubric import Tier, Verdict, read_cases, satisfied_matrix, score, write_cases

DATA = Path(os.environ.get("PROMEDICAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "kqa"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the K-QA files are not at {DATA}; set PROMEDICAL_DATA to the folder that holds kqa/")

QUESTION = {
    "Question": "Is it contagious?\n",
    "Free_form_answer": "Mostly. Wash your hands.",
    "Must_have": [" It is contagious.", "Wash your hands.", "Stay at home."],
    "Nice_to_have": ["Fungi can\ncause it."],
    "Sources": "https://example.org",
    "ICD_10_diag": None,
}
ROW = {
    "Question": "Is it contagious?",
    "llm_x": "m1",
    "answer": "Yes, wash.",
    "claim": "It is contagious. ",
    "category_x": "Must_have",
    "majority_label": "Entailment",
    "label_0": "Entailment",
    "label_1": "Neutral",
    "label_2": "Contradiction",
}
NICE = ROW | {"claim": "Fungi can cause it.", "category_x": "Nice_to_have", "label_2": "Entailment"}


def folder_with(tmp_path, questions=(QUESTION,), rows=(ROW, NICE)):
    (tmp_path / QUESTIONS).write_text("".join(json.dumps(q) + "\n" for q in questions))
    with (tmp_path / LABELS).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


def said(folder):
    with pytest.raises(InputError) as caught:
        import_kqa(folder)
    return str(caught.value).replace(f"{folder}/", "")


def test_statements_become_criteria(tmp_path):
    (case,) = import_kqa(folder_with(tmp_path))
    assert [(c.id, c.text, c.tier.value, c.weight) for c in case.rubric.criteria] == [
        ("must_1", "States: It is contagious.", "proficiency", 1 / 3),
        ("must_2", "States: Wash your hands.", "proficiency", 1 / 3),
        ("must_3", "States: Stay at home.", "proficiency", 1 / 3),
        ("nice_1", "States: Fungi can\ncause it.", "excellence", None),
        ("no_contradiction", "Contradicts no statement of the physicians' answer.", "safety", None),
    ]
    assert case.instruction[0].content == "Is it contagious?"
    assert [(a.id, a.source, a.text) for a in case.answers] == [("physicians", "physicians", "Mostly. Wash your hands."), ("m1", "m1", "Yes, wash.")]
    assert case.provenance == {"source": "K-QA, github.com/Itaymanes/K-QA", "licence": "MIT", "references": "https://example.org"}


def test_labels_become_verdicts_by_rater(tmp_path):
    (case,) = import_kqa(folder_with(tmp_path))
    said = {(j.answer, j.criterion, j.rater): j.verdict.value for j in case.verdicts}
    assert said == {
        ("m1", "must_1", "physician_0"): "met",
        ("m1", "must_1", "physician_1"): "unmet",
        ("m1", "must_1", "physician_2"): "unmet",
        ("m1", "nice_1", "physician_0"): "met",
        ("m1", "nice_1", "physician_1"): "unmet",
        ("m1", "nice_1", "physician_2"): "met",
        ("m1", "no_contradiction", "physician_0"): "met",
        ("m1", "no_contradiction", "physician_1"): "met",
        ("m1", "no_contradiction", "physician_2"): "unmet",
    }
    assert all(j.human for j in case.verdicts)
    scores = score(case.rubric.criteria, satisfied_matrix(case, "physician_2"))
    np.testing.assert_array_equal(scores.s1, [np.nan, 0])
    np.testing.assert_array_equal(scores.s3, [0, 1])


def test_neighbours_labelled_as_one_are_one_criterion_and_it_is_said(tmp_path):
    row = ROW | {"claim": "Wash your hands.Stay at home."}
    (case,) = import_kqa(folder_with(tmp_path, rows=[row]))
    assert [(c.id, c.weight) for c in case.rubric.criteria if c.weight] == [("must_1", 0.5), ("must_2", 0.5)]
    assert case.rubric.criteria[1].text == "States: Wash your hands. Stay at home."
    assert {j.criterion for j in case.verdicts} == {"must_2", "no_contradiction"}
    assert case.provenance["note"] == "Must_have 2 and 3 were labelled as one and are one criterion"


def test_blank_and_repeated_statements_are_left_out_and_it_is_said(tmp_path):
    question = QUESTION | {"Must_have": ["It is contagious.", " ", "It is  contagious."]}
    (case,) = import_kqa(folder_with(tmp_path, questions=[question]))
    assert [(c.id, c.weight) for c in case.rubric.criteria if c.weight] == [("must_1", 1.0)]
    assert case.provenance["note"] == "Must_have 2 is blank and left out; Must_have 3 repeats 1 and is left out"


@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        ({"Must_have": []}, "questions_w_answers.jsonl, line 1, field Must_have: holds no statement; a case needs one at least"),
        ({"Must_have": ["  "]}, "field Must_have: holds no statement"),
        ({"Must_have": [3]}, "questions_w_answers.jsonl, line 1, field Must_have[0]: is 3 and should be a valid string; mend it"),
        ({"Question": " "}, "line 1, field Question: the text is empty"),
        ({"Free_form_answer": ""}, "line 1, field Free_form_answer: the text is empty"),
        ({"Must_hav": []}, "line 1, field Must_hav: is not a known field; did you mean 'Must_have'?"),
    ],
)
def test_a_faulty_question_is_named(tmp_path, question, complaint):
    assert complaint in said(folder_with(tmp_path, questions=[QUESTION | question]))


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"claim": "It is not."}, "physician_labels_30q.csv, line 3, field claim: is no Must_have statement of its question"),
        ({"category_x": "Nice_to_have"}, "line 3, field claim: is no Nice_to_have statement"),
        ({"category_x": "Must"}, "line 3, field category_x: is 'Must'; use one of 'Must_have' or 'Nice_to_have'"),
        ({"label_1": "Maybe"}, "line 3, field label_1: is 'Maybe'; use one of 'Entailment', 'Neutral' or 'Contradiction'"),
        ({"Question": "Is it?"}, "line 3, field Question: 'Is it?' is not in questions_w_answers.jsonl"),
        ({"answer": "Another."}, "line 3, field answer: differs from the earlier answer of 'm1'"),
        ({"answer": ""}, "line 3, field answer: the text is empty"),
        ({}, "line 3, field claim: this claim on the answer of 'm1' is already labelled at physician_labels_30q.csv, line 2"),
        ({"llm_x": "physicians"}, "line 3, field answer: differs from the earlier answer of 'physicians'"),
    ],
)
def test_a_faulty_row_is_named(tmp_path, row, complaint):
    assert complaint in said(folder_with(tmp_path, rows=[ROW, ROW | row]))


def test_lines_are_counted_where_a_cell_has_line_breaks(tmp_path):
    rows = [ROW | {"answer": "Yes,\n\nwash."}, ROW | {"label_0": "?"}]
    assert "physician_labels_30q.csv, line 5, field label_0" in said(folder_with(tmp_path, rows=rows))


def test_files_that_cannot_be_read(tmp_path):
    assert "physician_labels_30q.csv does not exist" in said(tmp_path)
    folder = folder_with(tmp_path)
    (folder / LABELS).write_text((folder / LABELS).read_text() + "one,two\n")
    assert "line 4: has 2 cells and the header has 9" in said(folder)
    (folder / LABELS).write_text('Question,llm_x\n"open')
    assert "not valid CSV" in said(folder)
    (folder / LABELS).write_bytes(b"Question\n\xff\n")
    assert "save it as UTF-8" in said(folder)
    folder_with(tmp_path)
    (folder / QUESTIONS).unlink()
    assert "questions_w_answers.jsonl does not exist" in said(folder)


@pytest.fixture(scope="module")
def cases():
    return import_kqa(DATA)


@needs_data
def test_the_real_counts_reconcile(cases):
    assert len(cases) == 201
    tiers = Counter(c.tier for case in cases for c in case.rubric.criteria)
    # 892 must-have and 697 nice-to-have statements, less three blank ones and one joined pair in each category
    assert tiers == {Tier.PROFICIENCY: 892 - 3 - 1, Tier.EXCELLENCE: 697 - 1, Tier.SAFETY: 201}
    notes = [note for case in cases if "note" in case.provenance for note in case.provenance["note"].split("; ")]
    assert sum("blank" in note for note in notes) == 3 and sum("labelled as one" in note for note in notes) == 2 and len(notes) == 5
    assert Counter(a.source for case in cases for a in case.answers) == {"physicians": 201, "gpt4": 10, "gpt35": 7, "askk": 7, "bard": 6}


@needs_data
def test_every_real_label_is_a_verdict(cases):
    with (DATA / LABELS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = Counter(row[f"label_{n}"] for row in rows for n in range(3))
    statements = Counter(j.verdict for case in cases for j in case.verdicts if j.criterion != "no_contradiction")
    assert len(rows) == 253 and sum(statements.values()) == 3 * 253
    assert statements == {Verdict.MET: labels["Entailment"], Verdict.UNMET: labels["Neutral"] + labels["Contradiction"]}
    violated = {(row["Question"].strip(), row["llm_x"], n) for row in rows for n in range(3) if row[f"label_{n}"] == "Contradiction"}
    vetoes = [(case.instruction[0].content, j) for case in cases for j in case.verdicts if j.criterion == "no_contradiction"]
    assert len(vetoes) == 3 * 30
    assert {(question, j.answer, int(j.rater[-1])) for question, j in vetoes if j.verdict is Verdict.UNMET} == violated and len(violated) == 19


@needs_data
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_real_cases_round_trip(cases, tmp_path, suffix):
    write_cases(tmp_path / f"kqa{suffix}", cases)
    assert read_cases(tmp_path / f"kqa{suffix}") == cases
