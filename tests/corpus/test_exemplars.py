"""Which approved rubrics a writer is shown: the nearest, never a question's own, and the same whatever the order of the pool."""

from pathlib import Path

from promedical_jax.corpus.exemplars import examples, read_pool
from promedical_jax.corpus.question import Question
from promedical_jax.likeness import NGRAMS
from promedical_jax.rubric import Case, Criterion, Message, Rubric, Tier, write_cases

RUBRIC = Rubric(criteria=(Criterion(id="c1", text="Names it.", tier=Tier.PROFICIENCY, weight=1.0),))
GOUT, ASTHMA, FEVER = "Which drug is best for acute gout?", "Which inhaler is best for mild asthma?", "When is fever in a baby dangerous?"


def approved(name: str, text: str) -> Case:
    return Case(id=name, instruction=(Message(role="user", content=text),), rubric=RUBRIC)


def question(name: str, text: str) -> Question:
    return Question(id=name, instruction=(Message(role="user", content=text),), source="s", licence="MIT")


def test_the_nearest_are_shown_and_never_the_question_itself() -> None:
    pool = [approved("a", GOUT), approved("b", ASTHMA), approved("c", FEVER), approved("d", ASTHMA.upper()), approved("e", ASTHMA + "!")]
    asked = [question("x", "Which drug is best for chronic gout?"), question("b", ASTHMA), question("y", ASTHMA), question("c", "Something else about asthma?")]
    shown = examples(asked, pool, 2, NGRAMS)
    assert shown[0][0].id == "a" and len(shown[0]) == 2
    assert {case.id for case in shown[1]} == {case.id for case in shown[2]} and not {case.id for case in shown[1]} & {"b", "d"}
    assert "c" not in {case.id for case in shown[3]} and shown[3][0].id in ("b", "d", "e")
    assert [len(each) for each in examples(asked, pool[:1], 2, NGRAMS)] == [1, 1, 1, 1]
    assert examples(asked, [], 2, NGRAMS) == [[], [], [], []] == examples(asked, pool, 0, NGRAMS)


def test_a_pool_is_read_in_the_order_of_its_ids_and_may_be_absent(tmp_path: Path) -> None:
    write_cases(tmp_path / "pool.jsonl", [approved("b", ASTHMA), approved("a", GOUT)])
    assert [case.id for case in read_pool(tmp_path / "pool.jsonl")] == ["a", "b"]
    assert read_pool(tmp_path / "none.jsonl") == [] == read_pool(None)
