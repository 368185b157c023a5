"""Answers that are JSON, or JSON of a schema: which tokens may come next, by llguidance. The only file that knows it.

A grammar is compiled once a request, outside of the engine's thread, and each choice gets a copy of its own. Blanks stand where `json.dumps` puts them and
nowhere else: a small model would write them without an end. llguidance refuses what it knows and cannot keep to, and passes over what it does not know: here
every keyword is looked at, so that `maxLenght` is no wish that nobody heard.
"""

import difflib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from promedical_jax.serve.protocol import Fault, ResponseFormat

BLANKS: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANY = {"type": "object"}  # what json_object asks for
WHERE = "response_format.json_schema.schema"
NAMED = {"properties", "patternProperties", "$defs", "definitions"}  # keywords that hold schemas by name,
NESTED = {"allOf", "anyOf", "oneOf", "items", "prefixItems", "additionalProperties"}  # or a schema, or several
# What is kept to, as far as llguidance can, which says itself where it cannot; and what asks for nothing.
KEPT = NAMED | NESTED | {
    "type", "enum", "const", "$ref", "required", "minProperties", "maxProperties", "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern", "format", "$schema", "$id", "$anchor",
}  # fmt: skip
ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator", "$comment"}


class Grammars:
    """What a tokenizer's tokens can write. `vocabulary`: the model's, which may have more tokens than the tokenizer; `stop` ends an answer."""

    def __init__(self, tokenizer: Any, vocabulary: int, stop: int):
        self._tokens = from_tokenizer(tokenizer, vocabulary, stop)

    def guides(self, wanted: ResponseFormat, choices: int) -> Sequence["JsonGuide"]:
        """One for each choice. Raises Fault for a schema that is none, or has what cannot be kept to."""
        schema = wanted.json_schema.schema_ if wanted.json_schema else ANY
        _check(schema, WHERE)
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema, allow_nan=False), overrides=BLANKS)
        except ValueError as error:  # a number that JSON does not have
            raise _refused(str(error)) from None
        matcher = LLMatcher(self._tokens, grammar, log_level=0)
        if matcher.is_error():
            raise _refused(matcher.get_error())
        fill_next_token_bitmask(matcher, allocate_token_bitmask(1, self._tokens.vocab_size))
        if matcher.is_error():  # a schema that is made of itself, for instance
            raise _refused(f"no answer can begin: {matcher.get_error()}")
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


def _check(schema: Any, path: str) -> None:
    """Raises Fault for a keyword, at whatever depth, that would be passed over."""
    if isinstance(schema, list):
        for number, one in enumerate(schema):
            _check(one, f"{path}[{number}]")
    if not isinstance(schema, dict):
        return
    for name, value in schema.items():
        if name not in KEPT | ANNOTATIONS:
            close = difflib.get_close_matches(name, sorted(KEPT | ANNOTATIONS), 1)
            mend = f"did you mean {close[0]!r}?" if close else "take it out"
            raise Fault(400, f"{path}: the keyword {name[:60]!r} is none that answers can be kept to; {mend}", "invalid_schema")
        if name in NAMED and isinstance(value, dict):
            for key, one in value.items():
                _check(one, f"{path}.{name}.{key}")
        elif name in NESTED:
            _check(value, f"{path}.{name}")


def _refused(why: str) -> Fault:
    why = " ".join(why.partition("<state>")[0].split())[:300]  # behind which llguidance shows its inside
    return Fault(400, f"{WHERE}: answers cannot be kept to it ({why}); change the schema", "invalid_schema")
