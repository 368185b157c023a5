"""Answers that are JSON, or JSON of a schema: which tokens may come next, by llguidance. The only file that knows it.

A grammar is compiled once a request, outside of the engine's thread, and each choice gets a copy of its own. Blanks stand where `json.dumps` puts them and
nowhere else: a small model would write them without an end.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer
from llguidance.numpy import fill_next_token_bitmask

from promedical_jax.serve.protocol import Fault, ResponseFormat

BLANKS: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANY = {"type": "object"}  # what json_object asks for


class Grammars:
    """What a tokenizer's tokens can write. `vocabulary`: the model's, which may have more tokens than the tokenizer; `stop` ends an answer."""

    def __init__(self, tokenizer: Any, vocabulary: int, stop: int):
        self._tokens = from_tokenizer(tokenizer, vocabulary, stop)

    def guides(self, wanted: ResponseFormat, choices: int) -> Sequence["JsonGuide"]:
        """One for each choice. Raises Fault for a schema that is none, or has what cannot be kept to."""
        schema = wanted.json_schema.schema_ if wanted.json_schema else ANY
        matcher = LLMatcher(self._tokens, LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=BLANKS))
        if matcher.is_error():
            why = " ".join(matcher.get_error().split())[:300]
            raise Fault(400, f"response_format.json_schema.schema: answers cannot be kept to it ({why}); change the schema", "invalid_schema")
        return [JsonGuide(matcher.deep_copy()) for _ in range(choices)]


class JsonGuide:
    """See `engine.Guide`."""

    def __init__(self, matcher: LLMatcher):
        self._matcher = matcher

    def allow(self, bits: np.ndarray) -> bool:
        fill_next_token_bitmask(self._matcher, bits[None])
        return not self._matcher.is_error()

    def hear(self, token: int) -> None:
        self._matcher.consume_token(token)
