"""What may come next in an answer that has to be JSON, by walks that take any token which is allowed: jsonschema and pydantic say what the texts are."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from promedical_jax.asking import Reply
from promedical_jax.clinic import build_tokenizer
from promedical_jax.corpus.asked import Answered, Difficulty, Line, Topic
from promedical_jax.serve import slots
from promedical_jax.serve.grammar import Grammars
from promedical_jax.serve.protocol import Fault, JsonSchema, ResponseFormat

TOKENIZER = build_tokenizer()
STOP, VOCABULARY = TOKENIZER.eos_token_id, len(TOKENIZER) + 40  # a model's table is often longer than its tokenizer's
GRAMMARS = Grammars(TOKENIZER, VOCABULARY, STOP)


def of_schema(schema: Any) -> ResponseFormat:
    return ResponseFormat(type="json_schema", json_schema=JsonSchema(name="a", schema=schema))


def walk(wanted: ResponseFormat, seed: int, most: int = 300) -> Iterator[tuple[str, bool]]:
    """The text after each token of an answer, and whether it may end there."""
    [guide] = GRAMMARS.guides(wanted, 1)
    bits, rng, tokens = np.empty(slots.words(VOCABULARY), np.int32), np.random.default_rng(seed), list[int]()
    for _ in range(most):
        assert guide.allow(bits)
        allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))
        assert len(allowed) and allowed[-1] < len(TOKENIZER)  # no token that has no text
        yield TOKENIZER.decode(tokens), STOP in allowed
        # Short tokens end words and lists: without a liking for them a walk hardly ever ends.
        if STOP in allowed and (len(allowed) == 1 or rng.random() < 0.5):
            return
        others = [token for token in allowed if token != STOP]
        closing = [token for token in others if TOKENIZER.decode([token]) in ('"', "]", "}")]
        tokens.append(int(rng.choice(closing if closing and rng.random() < 0.4 else others)))
        guide.hear(tokens[-1])


scalars = st.one_of(
    st.just({"type": "boolean"}), st.just({"type": "null"}), st.just({"enum": ["ja", "nein", "不明", 3, None]}),
    st.integers(-20, 20).map(lambda low: {"type": "integer", "minimum": low, "maximum": low + 9}),
    st.integers(0, 4).map(lambda least: {"type": "string", "minLength": least, "maxLength": least + 3}),
    st.just({"type": "string", "pattern": "^[ab]{1,3}$"}),
)  # fmt: skip
nested = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.tuples(inner, st.integers(0, 2)).map(lambda x: {"type": "array", "items": x[0], "minItems": x[1], "maxItems": x[1] + 1}),
        st.lists(inner, min_size=1, max_size=2).map(lambda each: {"anyOf": each}),
        st.tuples(inner, inner).map(lambda x: {"type": "object", "properties": {"title": x[0], "maxLenght": x[1]}, "required": ["title"],
                                               "additionalProperties": False}),
    ),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=60)
@given(nested, st.integers(0, 2**32 - 1))
def test_an_answer_may_end_where_it_is_of_its_schema_and_nowhere_else(schema: dict[str, Any], seed: int) -> None:
    """A number may end and go on; all else that is of the schema is over."""
    judge = jsonschema.Draft202012Validator(schema)
    for text, may_end in walk(of_schema(schema), seed):
        try:
            whole = judge.is_valid(json.loads(text))
        except json.JSONDecodeError:
            whole = False
        assert may_end == whole, text


@pytest.mark.parametrize("form", [Difficulty, Topic, Answered, Reply, Line])
def test_what_is_asked_of_models_is_kept_to_as_far_as_pydantic_sees(form: type[BaseModel]) -> None:
    for seed in range(10):
        *_, (text, ended) = walk(of_schema(form.model_json_schema()), seed)
        assert ended, text
        assert json.dumps(form.model_validate_json(text).model_dump(mode="json"), ensure_ascii=False)


def test_any_object_is_one() -> None:
    ends = [text for seed in range(6) for text, ended in walk(ResponseFormat(type="json_object"), seed) if ended]
    assert ends and all(isinstance(json.loads(text), dict) for text in ends)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "string", "maxLenght": 3}, "schema: the keyword 'maxLenght' is none that answers can be kept to; did you mean 'maxLength'?"),
        ({"$defs": {"a": {"items": [{"extends": {}}]}}}, r"schema.\$defs.a.items\[0\]: the keyword 'extends' .*; take it out"),
        ({"additionalProperties": {"oneOf": [{}, {"disallow": "string"}]}}, r"additionalProperties.oneOf\[1\]: the keyword 'disallow'"),
        ({"type": "string", "pattern": "("}, r"cannot be kept to it \(.+\); change the schema"),
        ({"type": "object", "properties": {"a": 3}}, "cannot be kept to it"),
    ],
)
def test_what_would_be_passed_over_is_refused_by_name_and_place(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(Fault, match=said) as error:
        GRAMMARS.guides(of_schema(schema), 1)
    assert error.value.status == 400


@pytest.mark.parametrize("schema", [
    {"const": {"maxLenght": 3}}, {"enum": [{"nullable": True}]}, {"type": "integer", "default": {"extends": 1}, "examples": [{"x": 1}]},
    {"type": "object", "properties": {"nullable": {"type": "null"}}, "title": "t", "description": "d"}, True,
])  # fmt: skip
def test_names_and_values_of_ones_own_are_no_keywords(schema: Any) -> None:
    wanted = of_schema(schema) if isinstance(schema, dict) else of_schema({"type": "array", "items": schema})
    assert len(GRAMMARS.guides(wanted, 3)) == 3
