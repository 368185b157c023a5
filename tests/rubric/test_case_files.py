"""Files of cases: exact round trips, sentences for faulty input, and nothing half-written."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promedical_jax.errors import InputError
from promedical_jax.rubric import (
    Answer,
    Case,
    Criterion,
    Judgement,
    Message,
    Polarity,
    Rubric,
    Tier,
    Verdict,
    from_dataset,
    read_cases,
    to_dataset,
    write_cases,
)

SUFFIXES = [".jsonl", ".parquet"]

characters = st.characters(exclude_categories=["Cs"])
texts = st.text(characters, min_size=1, max_size=12).filter(str.strip)
odd_texts = st.sampled_from(["a\u2028b\u2029c\x85d", "line\r\nbreak\rreturn", "\x00\x1f", "\ufeffmark", 'quote " and \\', "null", "🩺 é 漢", " padded "])
words = st.one_of(texts, odd_texts)


@st.composite
def any_case(draw):
    names = st.lists(words, min_size=1, max_size=3, unique=True)
    answers = [Answer(id=name, text=draw(words), source=draw(st.none() | words)) for name in draw(st.just([]) | names)]
    shares = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    tiers = [Tier.PROFICIENCY] * len(shares) + draw(st.lists(st.sampled_from([Tier.EXCELLENCE, Tier.SAFETY]), max_size=3))
    criteria = [
        Criterion(
            id=f"k{n}",
            text=draw(words),
            tier=tier,
            polarity=draw(st.sampled_from(list(Polarity))),
            weight=shares[n] / sum(shares) if tier is Tier.PROFICIENCY else None,
            dimension=draw(st.none() | words),
        )
        for n, tier in enumerate(tiers)
    ]
    pairs = [(a.id, c.id) for a in answers for c in criteria]
    judged = draw(st.lists(st.sampled_from(pairs), max_size=5, unique=True)) if pairs else []
    verdicts = [Judgement(answer=a, criterion=c, verdict=draw(st.sampled_from(list(Verdict))), rater=draw(words), human=draw(st.booleans())) for a, c in judged]
    return Case(
        id=draw(words),
        instruction=tuple(Message(role=draw(st.sampled_from(["system", "user", "assistant"])), content=draw(words)) for _ in range(draw(st.integers(1, 3)))),
        answers=tuple(answers),
        rubric=Rubric(criteria=tuple(criteria)),
        verdicts=tuple(verdicts),
        specialty=draw(st.none() | words),
        category=draw(st.none() | words),
        difficulty=draw(st.none() | st.floats(0, 10)),
        provenance=draw(st.dictionaries(st.text(characters, max_size=5), st.text(characters), max_size=3)),
    )


case_lists = st.lists(any_case(), min_size=1, max_size=3, unique_by=lambda case: case.id)
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def fields(case_id="c1"):
    return {
        "id": case_id,
        "instruction": [{"role": "user", "content": "q"}],
        "answers": [{"id": "x", "text": "t"}],
        "rubric": {"criteria": [{"id": "a", "text": "t", "tier": "proficiency", "weight": 1.0}]},
        "verdicts": [{"answer": "x", "criterion": "a", "verdict": "met", "rater": "r"}],
    }


def case(case_id="c1"):
    return Case.model_validate(fields(case_id))


def refused(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_cases(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path.parent}/")


@pytest.mark.parametrize("suffix", SUFFIXES)
@quick
@given(cases=case_lists)
def test_cases_read_back_as_they_were(tmp_path, suffix, cases):
    path = tmp_path / f"cases{suffix}"
    write_cases(path, cases)
    assert read_cases(path) == cases
    assert os.listdir(tmp_path) == [path.name]


@quick
@given(cases=case_lists)
def test_datasets_round_trip(cases):
    assert from_dataset(to_dataset(cases)) == cases


def test_parquet_has_real_nested_columns_and_opens_in_datasets(tmp_path):
    from datasets import Dataset

    from promedical_jax.rubric.files import features

    path = tmp_path / "cases.parquet"
    write_cases(path, [case("c1"), case("c2")])
    dataset = Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert dataset.features == features()
    assert dataset[1]["rubric"]["criteria"][0]["weight"] == 1
    assert from_dataset(dataset) == read_cases(path)


def test_a_dataset_that_others_made_is_read_where_its_fields_are_known():
    from datasets import Dataset

    rows = [fields("c1") | {"provenance": {"source": "here"}}, fields("c2")]
    assert [c.provenance for c in from_dataset(Dataset.from_list(rows))] == [{"source": "here"}, {}]
    with pytest.raises(InputError, match="dataset, row 2, field id: 'c1' is already the id of the case at dataset, row 1"):
        from_dataset(Dataset.from_list([fields(), fields()]))
    with pytest.raises(InputError, match=r"dataset, row 1, field score: is not a known field"):
        from_dataset(Dataset.from_list([fields() | {"score": 1}]))
    with pytest.raises(InputError, match=r"dataset, row 1, field provenance: not valid JSON"):
        from_dataset(Dataset.from_list([fields() | {"provenance": "{"}]))
    with pytest.raises(InputError, match=r"dataset, row 1, field provenance: is 3 and should be an object"):
        from_dataset(Dataset.from_list([fields() | {"provenance": "3"}]))
    with pytest.raises(InputError, match=r"dataset, row 1: holds a value that JSON has no form for"):
        from_dataset(Dataset.from_list([fields() | {"category": b"bytes"}]))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"id": ', "cases.jsonl, line 3: not valid JSON (Expecting value"),
        ("{'id': 1}", "cases.jsonl, line 3: not valid JSON (Expecting property name"),
        ('{"id": "a", "id": "b"}', "cases.jsonl, line 3: not valid JSON (the key 'id' occurs twice in one object); mend or delete the line"),
        ('{"id": "a", "provenance": {"x": "1", "x": "2"}}', "the key 'x' occurs twice in one object"),
        ('{"id": "a", "difficulty": NaN}', "NaN is not a JSON number"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 10_000, "not valid JSON"),
        ("[]", "cases.jsonl, line 3: is [] and should be an object; mend it"),
        ("null", "cases.jsonl, line 3: is None and should be an object; mend it"),
        (json.dumps(fields()) + json.dumps(fields()), "not valid JSON (Extra data"),
        (json.dumps(fields() | {"id": "\ud800"}), "cases.jsonl, line 3: invalid JSON"),
        (json.dumps(fields() | {"difficulty": "5"}), "cases.jsonl, line 3, field difficulty: is '5' and should be a valid number; mend it"),
        (json.dumps(fields() | {"difficulty": 11}), "field difficulty: is 11 and should be less than or equal to 10; mend it"),
        (json.dumps(fields() | {"dificulty": 1}), "field dificulty: is not a known field; did you mean 'difficulty'?"),
        (json.dumps(fields("c0")), "cases.jsonl, line 3, field id: 'c0' is already the id of the case at"),
    ],
)
def test_a_faulty_line_is_named(tmp_path, line, complaint):
    assert complaint in refused(tmp_path / "cases.jsonl", f"{json.dumps(fields('c0'))}\n\n{line}\n")


def test_a_field_deep_inside_is_named(tmp_path):
    faulty = fields()
    faulty["rubric"]["criteria"] = [faulty["rubric"]["criteria"][0] | {"id": name, "weight": weight} for name, weight in (("a", 0.5), ("b", 0.5), ("c", -1))]
    message = refused(tmp_path / "cases.jsonl", json.dumps(faulty))
    assert message == "cases.jsonl, line 1, field rubric.criteria[2].weight: is -1 and should be greater than 0; mend it"


def test_other_encodings_are_refused_and_a_byte_order_mark_is_not(tmp_path):
    path = tmp_path / "cases.jsonl"
    assert "cases.jsonl, line 2: not valid UTF-8 (byte 9" in refused(path, json.dumps(fields()).encode() + b'\n{"id": "\xff"}')
    assert "not valid UTF-8" in refused(path, json.dumps(fields()).encode("utf-16"))
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(fields()).encode() + b"\r\n")
    assert read_cases(path) == [case()]


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_refused(tmp_path, content):
    assert "cases.jsonl holds no case" in refused(tmp_path / "cases.jsonl", content)


def test_a_broken_parquet_file_is_refused(tmp_path):
    path = tmp_path / "cases.parquet"
    assert "is not a readable Parquet file" in refused(path, b"PAR1 and then nothing of it")
    assert "is not a readable Parquet file" in refused(path, b"")
    write_cases(path, [case(f"c{n}") for n in range(50)])
    assert "is not a readable Parquet file" in refused(path, path.read_bytes()[:-20])


def test_a_faulty_parquet_row_is_named(tmp_path):
    from pyarrow import parquet

    path = tmp_path / "cases.parquet"
    parquet.write_table(to_dataset([case("c1"), case("c2")]).data.table.set_column(0, "id", [["c1", " "]]), path)
    with pytest.raises(InputError, match=r"cases\.parquet, row 2, field id: the text is empty"):
        read_cases(path)


def test_paths_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_cases(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"suffix '.csv'.* ends in .jsonl or .parquet"):
        read_cases(tmp_path / "cases.csv")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_cases(tmp_path / "folder.jsonl")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("faulty", "complaint"),
    [
        (case().model_copy(update={"id": ""}), "case 2 of those to write, field id: the text is empty"),
        (case().model_copy(update={"id": 7}), "case 2 of those to write"),
        (case().model_copy(update={"id": "\ud800"}), "case 2 of those to write"),
        (case().model_copy(update={"difficulty": float("nan")}), "case 2 of those to write"),
        (case().model_copy(update={"rubric": None}), "case 2 of those to write"),
        (case("c1"), "field id: 'c1' is already the id of the case at case 1 of those to write"),
    ],
)
def test_nothing_is_written_if_any_case_is_invalid(tmp_path, suffix, faulty, complaint):
    path = tmp_path / f"cases{suffix}"
    path.write_text("precious")
    with pytest.raises(InputError, match=complaint):
        write_cases(path, [case("c1"), faulty])
    assert path.read_text() == "precious" and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failure_while_writing_leaves_the_target_as_it_was(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"cases{suffix}"
    path.write_text("precious")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); check the folder"):
        write_cases(path, [case()])
    assert path.read_text() == "precious" and os.listdir(tmp_path) == [path.name]


def test_writing_replaces_makes_folders_and_refuses_what_cannot_be_read_back(tmp_path):
    path = tmp_path / "new" / "folder" / "cases.jsonl"
    write_cases(path, [case("c1")])
    write_cases(path, iter([case("c2")]))
    assert [c.id for c in read_cases(path)] == ["c2"]
    with pytest.raises(InputError, match="there is no case to write"):
        write_cases(path, [])
    with pytest.raises(InputError, match="no format of cases"):
        write_cases(tmp_path / "cases", [case()])
    (tmp_path / "a_file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        write_cases(tmp_path / "a_file" / "cases.jsonl", [case()])
