"""What a model thought aloud is no part of what it said: of words, of JSON, and of what was kept before."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from served import Server, at_once, says

from promedical_jax.asking import Ask, Asker, Plain, without_thinking
from promedical_jax.config import Endpoint


class Choice(BaseModel):
    model_config = ConfigDict(extra="forbid")

    answer: str


QUESTION = [{"role": "user", "content": "选哪一个?"}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("B", "B"), ("<think>A? C?</think>B", "B"), ("\n<think>\nA?\n</think>\n\nB", "\n\nB"), ("<think></think>B", "B"),
        ("也许是 A……</think>答案是 B😀", "答案是 B😀"),
        ("<think>A", ""), ("<think>A</think>", ""), ("<think>A</think><think>C</think>B", "B"),
        ("B, as <think>tags</think> show", "B, as <think>tags</think> show"),
        ("<think>" * 5000 + "</think>" * 5000 + "B", "B"),
    ],
)  # fmt: skip
def test_only_what_stands_behind_the_block_was_said(text: str, said: str) -> None:
    assert without_thinking(text) == said


@given(st.text(), st.text())
def test_a_block_before_a_text_changes_nothing(thought: str, said: str) -> None:
    thought = thought.replace("</think>", "")
    assert without_thinking(f"<think>{thought}</think>{said}") == without_thinking(said)
    assert without_thinking(without_thinking(said)) == without_thinking(said)


def asker(server: Server, **keys: Any) -> Asker:
    return Asker(Endpoint(**{"url": server.url, "model": "m", "timeout": 5.0, "retries": 1} | keys), pause=at_once)


def test_json_and_words_are_read_behind_it(server: Server) -> None:
    server.reply = says('<think>It is {"answer": "A"}, no, wait.</think>\n{"answer": "B"}')
    asking = asker(server)
    assert asking([Ask(QUESTION, Choice)]) == [Choice(answer="B")] and asking.counts["garbage"] == 0
    server.reply = says("<think>Should I?</think>\nRest.")
    assert asking([Ask(QUESTION, Plain)]) == [Plain(text="\nRest.")]


def test_tags_inside_a_sound_reply_are_its_own_words(server: Server) -> None:
    server.reply = says(json.dumps({"answer": "it says </think> and no more"}))
    assert asker(server)([Ask(QUESTION, Choice)]) == [Choice(answer="it says </think> and no more")]


def test_who_never_ends_thinking_has_said_nothing(server: Server) -> None:
    """And is asked anew, without its thoughts in the question."""
    bodies: list[dict[str, Any]] = []
    server.reply = lambda number, body: bodies.append(body) or says('<think>{"answer": "A"}')(number, body)
    asking = asker(server)
    assert asking([Ask(QUESTION, Choice), Ask(QUESTION, Plain)]) == [None, None] and asking.counts["garbage"] == 4
    assert all(body["messages"] == QUESTION for body in bodies)


def test_a_wrong_reply_is_shown_without_its_thoughts(server: Server) -> None:
    bodies: list[dict[str, Any]] = []
    server.reply = lambda number, body: bodies.append(body) or says("<think>long and winding</think>B!")(number, body)
    asker(server)([Ask(QUESTION, Choice)])
    assert bodies[1]["messages"][1] == {"role": "assistant", "content": "B!"}


def test_what_was_kept_before_is_read_the_same_way_and_asked_anew_where_it_says_nothing(server: Server, tmp_path: Path) -> None:
    import sqlite3

    server.reply = says("Rest.")
    kept = {"cache": tmp_path / "replies.sqlite"}
    assert asker(server, **kept)([Ask(QUESTION, Plain)]) == [Plain(text="Rest.")]
    for content, said, asked in (("<think>Hm.</think>Sleep.", "Sleep.", 0), ("<think>Hm, and on and on", "Rest.", 1)):
        with sqlite3.connect(kept["cache"]) as file:
            file.execute("UPDATE replies SET content = ?", (content,))
        server.seen.clear()
        assert asker(server, **kept)([Ask(QUESTION, Plain)]) == [Plain(text=said)] and sum(server.seen.values()) == asked
