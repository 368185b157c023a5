"""Text of tokens as they come: never half a letter, and cut where a stop string begins, however the tokens are dealt out."""

from collections.abc import Sequence
from typing import Any

HALF = "\ufffd"  # what a decoder shows of bytes that are no letter, or none yet


class Letters:
    """The text of one answer, piece by piece; the pieces together are what the tokenizer makes of all tokens."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._tokens: list[int] = []  # the last ones that were told, and those that were not
        self._told = 0  # how many of these

    def add(self, token: int) -> str:
        """The text that this token completes; nothing while a letter wants more bytes."""
        self._tokens.append(token)
        return self._rest(last=False)

    def end(self) -> str:
        """What is left when no more tokens come: of half a letter, the sign for it."""
        return self._rest(last=True)

    def _rest(self, last: bool) -> str:
        before, whole = self._decode(self._tokens[: self._told]), self._decode(self._tokens)
        if whole.endswith(HALF) and not last:
            return ""
        # The tokens told last stay as the beginning of the next piece: some tokenizers write a word's space only where something stands before it.
        del self._tokens[: self._told]
        self._told = len(self._tokens)
        return whole[len(before) :]

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False) if tokens else ""


class Stops:
    """Text up to where the first of some strings is complete, without it. Of those that are complete at the same letter the longest counts."""

    def __init__(self, strings: Sequence[str]):
        self._strings = strings
        self._held = ""  # may be the beginning of one
        self.met = False

    def add(self, text: str) -> str:
        """What may be told now."""
        held = self._held + text
        found = [(at + len(string), at) for string in self._strings if (at := held.find(string)) >= 0]
        if found:
            self.met, self._held = True, ""
            return held[: min(found)[1]]
        keep = max((n for string in self._strings for n in range(1, len(string)) if held.endswith(string[:n])), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def end(self) -> str:
        """What was held back in vain."""
        return self._held
