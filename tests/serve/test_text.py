"""Tokens to text: pieces add up to the whole however they are dealt out, no letter is torn, and a stop string is cut exactly."""

from functools import cache
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from promedical_jax.clinic import build_tokenizer
from promedical_jax.serve.chat import Voice
from promedical_jax.serve.engine import Token
from promedical_jax.serve.text import HALF, Letters, Stops

tokenizer = cache(build_tokenizer)


def pieces(tokens: list[int]) -> list[str]:
    letters = Letters(tokenizer())
    return [*(letters.add(token) for token in tokens), letters.end()]


@given(st.text(max_size=40))
def test_pieces_add_up_to_the_text_and_tear_no_letter(text: str) -> None:
    tokens = tokenizer().encode(text, add_special_tokens=False)
    found = pieces(tokens)
    assert "".join(found) == text
    assert all(HALF not in piece for piece in found) or HALF in text


@given(st.lists(st.integers(0, 511), max_size=40))
def test_of_any_tokens_the_pieces_are_what_the_tokenizer_makes_of_all(tokens: list[int]) -> None:
    assert "".join(pieces(tokens)) == tokenizer().decode(tokens, skip_special_tokens=True)


def test_an_unfinished_letter_waits_and_is_shown_at_the_end() -> None:
    tokens = tokenizer().encode("é", add_special_tokens=False)
    assert len(tokens) == 2 and pieces(tokens) == ["", "é", ""] and pieces(tokens[:1]) == ["", HALF]


class Marked:
    """A tokenizer that writes a word's space only where something stands before it, as those of sentencepiece do."""

    def decode(self, tokens: list[int], **_: Any) -> str:
        return " ".join(f"w{token}" for token in tokens)


def test_a_space_before_a_word_is_kept_between_pieces() -> None:
    letters = Letters(Marked())
    assert "".join([letters.add(1), letters.add(2), letters.add(3), letters.end()]) == "w1 w2 w3"


letters = st.text("ab", max_size=30)
strings = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def by_letters(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition: read letter by letter; once some strings end here, cut before the longest."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


@given(letters, strings, st.lists(st.integers(1, 30)))
def test_a_stop_string_is_cut_the_same_however_the_text_is_dealt_out(text: str, stops: list[str], cuts: list[int]) -> None:
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    reader, said = Stops(stops), ""
    for start, end in pairwise(places):
        said += reader.add(text[start:end])
        if reader.met:
            break
    said += "" if reader.met else reader.end()
    assert (said, reader.met) == by_letters(text, stops)


def test_nothing_is_told_that_may_be_the_beginning_of_a_stop_string() -> None:
    reader = Stops(["STOP"])
    assert (reader.add("no S"), reader.add("T"), reader.add("A"), reader.add("STO"), reader.end()) == ("no ", "", "STA", "", "STO")


def test_a_choice_ends_at_the_token_that_completes_its_stop_string() -> None:
    tokens = [Token(number) for number in tokenizer().encode("xyz", add_special_tokens=False)]
    piece = Voice(tokenizer(), ["y"]).hear(0, tokens, "length")
    assert (piece.text, piece.end, piece.drawn, len(piece.tokens)) == ("x", "stop", 2, 2)
    whole = Voice(tokenizer(), ["q"]).hear(0, tokens, "stop")
    assert (whole.text, whole.end, whole.drawn) == ("xyz", "stop", 4)  # the token that ends the turn was drawn too
