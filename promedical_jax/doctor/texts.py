"""Whether a tokenizer and its chat template say what training believes that they say."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from promedical_jax.config import Kind
from promedical_jax.data.encode import Encoded, Sizes, encode_messages, encode_text, stop_token, to_arrays
from promedical_jax.errors import InputError

SAMPLES = ("Take 20 mg, twice daily.", "1. Rest.\n2. Come back in 7 days.", "37.5 °C: 每日两次，饭后服用。", "naïve – “quoted” 🩺")
QUESTION = [{"role": "user", "content": "How is gout treated?"}]


def template_round_trip(tokenizer: Any) -> str:
    """Answers come back from their tokens as they were, and a conversation in full goes on where the instruction alone ends."""
    for text in SAMPLES:
        back = tokenizer.decode(encode_text(text, tokenizer), clean_up_tokenization_spaces=False)
        if back != text:
            raise InputError(f"tokenizer: {text!r} comes back from its tokens as {back!r}; use the tokenizer that the model was trained with")
    asked = tokenizer.decode(encode_messages(QUESTION, tokenizer, "doctor"), clean_up_tokenization_spaces=False)
    for text in SAMPLES:
        whole = _whole(tokenizer, text)
        if not whole.startswith(asked):
            at = next((i for i, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b), min(len(asked), len(whole)))
            what = f"with its answer the conversation goes {whole[at : at + 40]!r} where the instruction alone goes {asked[at : at + 40]!r}"
            raise InputError(f"chat template: {what}, so that answers would be learned behind another text; use the model's own template")
        if not whole[len(asked) :].startswith(text):
            raise InputError(f"chat template: the answer {text!r} is written as {whole[len(asked) :][: len(text) + 20]!r}; use the model's own template")
    return f"{len(SAMPLES)} answers come back as they were, each right behind the instruction"


def turn_end(tokenizer: Any) -> str:
    """A turn ends, in the template, with the token that answers are taught to end with."""
    stop = stop_token(tokenizer)
    end = tokenizer.convert_ids_to_tokens(stop)
    behind = _whole(tokenizer, SAMPLES[0]).rpartition(SAMPLES[0])[2]
    if not behind.startswith(end):
        what = f"the tokenizer's eos token is {end!r}, and the chat template ends a turn with {behind.strip() or 'nothing'!r}"
        raise InputError(f"{what}: answers would be taught to end in a way that nobody stops at; set eos_token in tokenizer_config.json to what ends a turn")
    same = ", which also pads: lengths are kept beside the tokens, and padding is never looked for" if tokenizer.pad_token_id == stop else ""
    return f"a turn ends with {end}{same}"


def scored_position(cases: Sequence[Encoded], sizes: Sizes, stop: int, kind: Kind) -> str:
    """Where a reward model reads its scores there stands the token that ends the turn, padded or not."""
    count = 0
    for case in cases:
        arrays = to_arrays(case, sizes)
        read = (arrays["criteria"], arrays["criterion_lengths"]) if kind == "explicit" else (arrays["answers"], arrays["answer_lengths"])
        real = len(case.criteria) if kind == "explicit" else len(case.answers)
        for tokens, length in zip(*(x[:real] for x in read), strict=True):
            if length < 1 or tokens[length - 1] != stop:
                what = "criterion" if kind == "explicit" else "answer"
                raise InputError(f"case {case.case.id!r}: a score would be read at a token that does not end its {what}; this is a fault of ours, report it")
            count += 1
    return f"{count:,} scores of {len(cases):,} cases are read at the token that ends a turn"


def groups(cases: Sequence[Encoded], sizes: Sizes) -> str:
    """In a batch each case has its own answers, under its own number."""
    rows = [to_arrays(case, sizes) for case in cases]
    numbers = np.array([row["case"] for row in rows])
    if len(set(numbers.tolist())) < len(rows):
        twice = next(i for i, number in enumerate(numbers) if (numbers == number).sum() > 1)
        same = [case.case.id for case, number in zip(cases, numbers, strict=True) if number == numbers[twice]]
        raise InputError(f"cases {' and '.join(map(repr, same))} have the same number, and would be sampled alike; give one another id")
    for case, row in zip(cases, rows, strict=True):
        told = [row["answers"][a, : row["answer_lengths"][a]].tolist() for a in range(len(case.answers))]
        if told != [list(answer) for answer in case.answers] or row["prompt"][: row["prompt_length"]].tolist() != list(case.prompt):
            raise InputError(f"case {case.case.id!r}: its row of a batch holds other tokens than its own; this is a fault of ours, report it")
    return f"{len(cases):,} cases keep their own answers in a batch, each under a number of its own"


def _whole(tokenizer: Any, answer: str) -> str:
    messages = [*QUESTION, {"role": "assistant", "content": answer}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False, enable_thinking=False)
