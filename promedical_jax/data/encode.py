"""Cases to token arrays: chat template, criterion template, true lengths, labels. One case becomes one record that every stage reads.

An answer is followed by the end-of-turn token, as the policy must emit it. A criterion is the user's next turn, and the reward model reads its
score at that turn's last token, the end-of-turn token, which no padding can take the place of. A reward model that is told no criterion reads its scores at
the answer's own last token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any
from zlib import crc32

import numpy as np

from promedical_jax.config import Kind, Shapes
from promedical_jax.errors import InputError
from promedical_jax.rubric import Case, Tier
from promedical_jax.rubric.labels import EQUAL, Labels, RaterWeights, labels_of, overall_labels, unjudged

USER_TURN = "\n<|im_start|>user\n"  # a criterion is ChatML's next user turn
TIER_NUMBER = {tier: number for number, tier in enumerate(Tier)}


@dataclass(frozen=True)
class Encoded:
    """A case's token ids, ragged, the head that reads each of its criteria, and what the raters said. A criterion of no token is not told."""

    case: Case
    prompt: list[int]
    answers: list[list[int]]
    criteria: list[list[int]]
    heads: list[int]
    labels: Labels


@dataclass(frozen=True)
class Sizes:
    """The static shape of the batches of a run: P, A, R, K, C of DESIGN's tree."""

    prompt: int
    answers: int
    answer: int
    criteria: int
    criterion: int


def stop_token(tokenizer: Any) -> int:
    """The token that ends a turn. Raises InputError for a tokenizer without one or without a chat template. It may also be the padding token: we go by true
    lengths, and never look for it."""
    if tokenizer.eos_token_id is None or tokenizer.chat_template is None:
        raise InputError(f"tokenizer {tokenizer.name_or_path}: it has no eos token or no chat template; use the tokenizer of an instruct model")
    return tokenizer.eos_token_id


def encode(case: Case, tokenizer: Any, texts: Sequence[str] | None = None, kind: Kind = "explicit", raters: RaterWeights = EQUAL,
           tell: Callable[[str], list[int]] | None = None) -> Encoded:
    """Applies the chat template to the instruction, and tokenises answers and criteria as what follows it.

    `texts`: answers to take in place of the case's own; nobody has judged them. `kind`: of the reward model that reads the case: the blind one has a head for
    each criterion's tier and is told no more, the implicit one has one head, one score an answer and one label a pair. `tell`: the tokens of a criterion's
    text in another template.
    """
    end = stop_token(tokenizer)
    prompt = encode_instruction(case, tokenizer)
    own = [answer.text for answer in case.answers] if texts is None else texts
    answers = [[*encode_text(text, tokenizer), end] for text in own]
    heads = [0] if kind == "implicit" else [TIER_NUMBER[criterion.tier] for criterion in case.rubric.criteria]
    if kind == "explicit":
        tell = tell or partial(_tell, tokenizer=tokenizer)
        criteria = [tell(criterion.text) for criterion in case.rubric.criteria]
    else:
        criteria = [[] for _ in heads]
    labels = unjudged(len(own), len(heads)) if texts is not None else overall_labels(case) if kind == "implicit" else labels_of(case, raters)
    return Encoded(case, prompt, answers, criteria, heads, labels)


def _tell(text: str, tokenizer: Any) -> list[int]:
    return [*tokenizer.encode(USER_TURN, add_special_tokens=False), *encode_text(text, tokenizer), stop_token(tokenizer)]


def encode_instruction(case: Case, tokenizer: Any) -> list[int]:
    """The instruction in the chat template, up to where the answer begins."""
    return encode_messages([{"role": message.role, "content": message.content} for message in case.instruction], tokenizer, f"case {case.id!r}")


def encode_messages(messages: Sequence[dict[str, str]], tokenizer: Any, where: str) -> list[int]:
    """Messages {"role", "content"} in the chat template, up to where the next answer begins. Models that can think are asked not to. `where` they are from,
    for an InputError.

    Control tokens in a message are only their letters: no patient ends his turn and begins another one in the system's name.
    """
    control = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    forged = [number for number, message in enumerate(messages) if any(token in message["content"] for token in control)]
    secret = sha256("".join(message["content"] for message in messages).encode()).hexdigest()
    texts = {}
    shown = [dict(message) for message in messages]
    for number in forged:  # the template sees a mark in the place of such a text, which no message can hold, for it is made of all of them
        mark = f"text {number} {secret}"
        texts[mark], shown[number]["content"] = shown[number]["content"], mark
    whole = tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    tokens: list[int] = []
    for mark, text in texts.items():
        before, found, whole = whole.partition(mark)
        if not found:
            raise InputError(f"{where}: a message has control tokens in it, and the chat template changes or drops this message; take them out")
        tokens += [*tokenizer.encode(before, add_special_tokens=False), *encode_text(text, tokenizer)]
    return [*tokens, *tokenizer.encode(whole, add_special_tokens=False)]


def encode_text(text: str, tokenizer: Any) -> list[int]:
    """The tokens of a text in which control tokens are only their letters: no answer ends its turn and begins another one in the user's name."""
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)


def measure(encoded: Sequence[Encoded], shapes: Shapes, where: str) -> Sizes:
    """The sizes that hold every case: those of the recipe, or the data's largest rounded up to a multiple of 8.

    Raises InputError that counts the cases which do not fit the recipe's sizes and names the longest: nothing is cut.
    """
    longest = {
        "prompt": [len(e.prompt) for e in encoded],
        "answer": [max(map(len, e.answers), default=1) for e in encoded],
        "criterion": [max(map(len, e.criteria)) for e in encoded],
    }
    sizes = {}
    for name, lengths in longest.items():
        largest = max(lengths)
        limit = (getattr(shapes, name) or -(-largest // 8) * 8) if largest else 0  # criteria that are not told take no room
        if largest > limit:
            over = sum(length > limit for length in lengths)
            case, a = encoded[int(np.argmax(lengths))].case.id, "an" if name == "answer" else "a"
            raise InputError(
                f"{where}: {over} of {len(lengths)} cases have {a} {name} longer than {limit} tokens (case {case!r} has {largest}); "
                f"set shapes.{name} to {largest} or more, or take these cases out"
            )
        sizes[name] = limit
    return Sizes(answers=max(max(len(e.answers) for e in encoded), 1), criteria=max(len(e.criteria) for e in encoded), **sizes)


def to_arrays(encoded: Encoded, sizes: Sizes) -> dict[str, np.ndarray]:
    """One case padded on the right to static sizes.

    prompt [P], prompt_length, answers [A, R], answer_lengths [A], criteria [K, C], criterion_lengths [K], tiers [K] (index of the head that reads it),
    labels (of Labels, padded: nobody judged what is not there), case (a number made of the case's id: its draws in sampling depend on it alone).
    """
    tiers = np.zeros(sizes.criteria, np.int32)
    tiers[: len(encoded.heads)] = encoded.heads
    prompt, prompt_length = pad([encoded.prompt], 1, sizes.prompt)
    answers, answer_lengths = pad(encoded.answers, sizes.answers, sizes.answer)
    criteria, criterion_lengths = pad(encoded.criteria, sizes.criteria, sizes.criterion)
    return {
        "prompt": prompt[0],
        "prompt_length": prompt_length[0],
        "answers": answers,
        "answer_lengths": answer_lengths,
        "criteria": criteria,
        "criterion_lengths": criterion_lengths,
        "tiers": tiers,
        "labels": pad_labels(encoded.labels, sizes.answers, sizes.criteria),
        "case": np.int32(crc32(encoded.case.id.encode()) >> 1),
    }


def pad_labels(labels: Labels, answers: int, criteria: int) -> Labels:
    """The labels of so many answers and criteria, float32; nobody has judged those that are not there."""
    padded = Labels(*(x.astype(np.float32) for x in unjudged(answers, criteria)))
    a, k = labels.met.shape
    padded.met[:a, :k], padded.weight[:a, :k] = labels.met, labels.weight
    padded.wins[:a, :a, :k], padded.ties[:a, :a, :k] = labels.wins, labels.ties
    return padded


def step_up(n: int) -> int:
    """n rounded up to 1, 2, 3, 4, 6, 8, 12 and so on, so that few shapes are compiled for many batches."""
    power = 1 << max(n - 1, 0).bit_length()
    return n if n <= 2 else power * 3 // 4 if n <= power * 3 // 4 else power


def pad(rows: Sequence[Sequence[int]], count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Ragged rows -> [count, length] padded on the right with 0, and true lengths [count]."""
    table, lengths = np.zeros((count, length), np.int32), np.zeros(count, np.int32)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
        lengths[i] = len(row)
    return table, lengths
