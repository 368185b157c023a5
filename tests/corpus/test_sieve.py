"""The sieve: each reason by itself, who stands for a cluster, planted items of benchmarks, and the real sources whole."""

import numpy as np
import pytest
from texts import questions as texts_of

from promedical_jax.corpus.question import Question
from promedical_jax.corpus.recipe import Sieve
from promedical_jax.corpus.sieve import sieve
from promedical_jax.corpus.sources import SOURCES, read_source
from promedical_jax.likeness import NGRAMS, Space
from promedical_jax.rubric import Message


def question(number: int, text: str, reference: str | None = None, licence: str = "MIT") -> Question:
    return Question(id=f"q{number}", instruction=(Message(role="user", content=text),), reference=reference, source="test", licence=licence)


def said(*texts: str) -> list[Question]:
    return [question(number, text) for number, text in enumerate(texts)]


def test_each_reason_names_what_it_found() -> None:
    asked = [
        question(0, "What is the first line treatment of acute gout in an old patient with a weak heart?"),
        question(1, "WHAT is the first line   treatment of acute gout in an old patient with a weak heart?", "Colchicine."),
        question(2, "What is the first line treatment of acute gout in an old pateint with a weak heart?"),
        question(3, "Why?"),
        question(4, "Is it safe to fly with a cold?", licence="unknown"),
        question(5, " ".join(["word"] * 30)),
    ]
    kept, dropped = sieve(asked, Sieve(licences=("MIT",), longest=25))
    assert [q.id for q in kept] == ["q1"]  # it has a reference
    assert [(d.id, d.reason, d.because) for d in dropped] == [
        ("q4", "licence", "unknown"), ("q3", "short", "1 words"), ("q5", "long", "30 words"), ("q0", "copy", "q1"), ("q2", "near copy", "q1"),
    ]  # fmt: skip


def test_of_equals_the_longest_stays_and_then_the_first() -> None:
    longer = "How long should somebody rest after a mild concussion at school?!"
    kept, dropped = sieve(said(longer[:-1], longer, "Something else entirely, about knees.", "Something else entirely, about knees."))
    assert [q.id for q in kept] == ["q1", "q2"] and [d.because for d in dropped] == ["q2", "q1"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_items_of_benchmarks_are_found_verbatim_always_and_lightly_edited_nearly_always(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items, clean = texts_of(200, seed), texts_of(1000, seed + 100)
    verbatim = [f"Please help me. {text} Thank you." for text in items[:100]]

    def edited(text: str) -> str:  # one word of it dropped, doubled or misspelt
        words = text.split()
        place = int(rng.integers(len(words)))
        words[place : place + 1] = [[], [words[place]] * 2, [words[place][::-1]]][rng.integers(3)]
        return " ".join(words)

    kept, dropped = sieve(said(*clean, *verbatim, *map(edited, items[100:])), Sieve(near=1.0), {"suite": items})
    gone = {int(d.id[1:]) for d in dropped if d.reason == "benchmark"}
    assert set(range(1000, 1100)) <= gone
    assert len(gone & set(range(1100, 1200))) >= 95
    assert len(gone & set(range(1000))) <= 10 and len(kept) == 1200 - len(dropped)
    assert all(d.because.startswith("suite, item ") for d in dropped if d.reason == "benchmark")


def test_signs_of_chinese_are_words() -> None:
    asked = said("痛风急性发作时可以服用阿司匹林吗？", "痛吗", "Is 5mg of 华法林 safe?")
    kept, dropped = sieve(asked, Sieve(shortest=4, longest=17))
    assert [q.id for q in kept] == ["q0", "q2"] and [(d.id, d.because) for d in dropped] == [("q1", "2 words")]


def test_the_same_words_in_another_order_are_the_same_question_and_the_same_item() -> None:
    asked = said(
        "A man of sixty with gout takes warfarin. Which drug is best for him?",
        "Which drug is best for him: a man of sixty with gout takes warfarin?",
        "Which drug is best for him: a man of sixty with gout takes heparin?",
        "For burns of the hand at work, what is the first thing to do, and when is it too late?",
    )
    suite = ["At work, when is it too late, and what is the first thing to do for burns of the hand?"]
    kept, dropped = sieve(asked, Sieve(near=1.0, benchmark=1.0), {"suite": suite})
    assert [(d.id, d.reason, d.because) for d in dropped] == [("q1", "same meaning", "q0"), ("q3", "benchmark", "suite, item 1")]
    assert [q.id for q in kept] == ["q0", "q2"]
    assert len(sieve(asked, Sieve(near=1.0, meaning=None, benchmark=1.0, benchmark_meaning=None), {"suite": ["At work?"]})[0]) == 4


def test_each_text_has_its_vector_made_once() -> None:
    made: list[str] = []
    space = Space(lambda texts: (made.extend(texts), NGRAMS.embed(texts))[1], NGRAMS.near)
    asked = said(*texts_of(20, 0))
    sieve(asked, Sieve(), {"suite": texts_of(3, 50)}, space)
    assert sorted(made) == sorted([*texts_of(20, 0), *texts_of(3, 50)])


def test_a_short_item_is_found_by_all_its_words_and_a_shorter_one_by_its_likeness() -> None:
    asked = said("My aunt asks, what is a stroke, and can it be cured at home these days?", "Chest pain", "Can chest pain go away by itself in a day?")
    kept, dropped = sieve(asked, Sieve(shortest=1), {"short": ["What is a stroke?", "Chest pain."]})
    assert [(d.id, d.because) for d in dropped] == [("q0", "short, item 1"), ("q1", "short, item 2")] and [q.id for q in kept] == ["q2"]


def test_nothing_is_lost_of_the_real_sources_and_twice_gives_the_same(data) -> None:
    read = [*read_source(SOURCES["chatdoctor"], data / "chatdoctor" / "chatdoctor5k.json"), *read_source(SOURCES["medquad"], data / "medquad")]
    kept, dropped = sieve(read)
    assert {q.id for q in kept} | {d.id for d in dropped} == {q.id for q in read}
    assert len(kept) + len(dropped) == len(read)
    copies = [d for d in dropped if d.reason == "copy"]
    assert {d.id for d in copies} >= {"medquad-NIDDK-0000093-2"} and len(kept) < len(read)  # "What is (are) Crohn's Disease ?" stands there twice
    again, gone = sieve(read)
    assert again == kept and gone == dropped
    assert {d.reason for d in sieve(kept)[1]} <= {"near copy"}  # nothing is dropped twice for itself
