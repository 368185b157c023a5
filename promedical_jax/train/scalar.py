"""One score of a reward model's heads, for tools that know sequence classifiers with one label, and neither heads nor tiers.

Such a classifier of HF's has no bias and reads its score at the last token that does not pad. So our bias is left out, which is the same for every answer and
changes no comparison; and another token than the end-of-turn token, at which our scores are read, has to pad.
"""

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from promedical_jax.config import Kind
from promedical_jax.data.encode import USER_TURN, stop_token
from promedical_jax.data.load import load_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.model.hf.companions import as_json
from promedical_jax.model.hf.config import read_fields
from promedical_jax.model.transformer import ModelConfig
from promedical_jax.reward import TIERS

TOKENIZER, SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"
NAMES = (*(tier.value for tier in TIERS), "implicit")


@dataclass(frozen=True)
class Scalar:
    """A weighted sum of heads as a classifier with one label: what it computes, and the tokens that it goes by."""

    kind: Kind
    weights: dict[str, float]  # of the heads
    weight: np.ndarray  # [1, D] float32
    bias: float  # that is left out
    end: str  # the token at which it reads
    pad: str
    pad_id: int
    files: dict[str, bytes]  # those of the tokenizer that name another padding token
    note: str  # why another token pads than the tokenizer's own; empty where none does

    @property
    def formula(self) -> str:
        return " + ".join(f"{weight:.9g} x {name}" for name, weight in self.weights.items() if weight).replace("+ -", "- ")


def read_weights(text: str) -> dict[str, float]:
    """The weight of each head that a --scalar names, 1 of one that is named alone. Raises InputError for what is none."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, given, number = (piece.strip() for piece in part.partition("="))
        if name not in NAMES:
            raise InputError(f"--scalar: {name!r} is no head of a reward model; name {', '.join(NAMES)}, as in proficiency=1,safety=-2")
        if name in weights:
            raise InputError(f"--scalar: {name} is named twice; give it one weight")
        weights[name] = _number(number, name) if given else 1.0
    if not any(weights.values()):
        raise InputError("--scalar: every weight is 0, and so would be every score; give a head another one")
    return weights


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not (value == 0 or 1e-30 < abs(value) < 1e30):  # float32 holds what comes of it
        raise InputError(f"--scalar: the weight of {name} is {text!r}; give a number, such as 1, 0.1 or -2")
    return value


def aggregate(weights: dict[str, float], kind: Kind, heads: dict[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """The weighted sum of the heads' weights [1, D], in float32, and of their biases. Raises InputError for a head that this kind has not."""
    names = NAMES[-1:] if kind == "implicit" else NAMES[:-1]
    absent = [name for name in weights if name not in names]
    if absent:
        raise InputError(f"--scalar: a reward model of the {kind} kind has no head {absent[0]!r}; name {', '.join(names)}")
    row = np.array([weights.get(name, 0.0) for name in names], np.float32)
    return row[None] @ np.asarray(heads["weight"], np.float32), float(row @ np.asarray(heads["bias"], np.float32))


def as_classifier(weights: dict[str, float], kind: Kind, heads: dict[str, np.ndarray], base: Path, config: ModelConfig) -> Scalar:
    """The classifier of these weights. `base`: the folder with the model's config.json and tokenizer. Raises InputError where none can be made."""
    weight, bias = aggregate(weights, kind, heads)
    if not (base / "tokenizer.json").is_file():
        raise InputError(f"{base / 'tokenizer.json'}: no such file, and a classifier has to know what pads; put the files of the tokenizer there")
    tokenizer = load_tokenizer(base, config.vocabulary)
    end, own = stop_token(tokenizer), tokenizer.pad_token_id
    pad = padding_token(tokenizer, _stops(base), config.vocabulary)
    pad_id = tokenizer.convert_tokens_to_ids(pad)
    why = "has no padding token" if own is None else "pads with its end-of-turn token, at which scores are read"
    note = "" if pad_id == own else f"{pad}, which no text holds, is its padding token, for the tokenizer {why}"
    return Scalar(kind, weights, weight, bias, tokenizer.convert_ids_to_tokens(end), pad, pad_id, _renamed(base, pad), note)


def padding_token(tokenizer: Any, stops: Container[int], vocabulary: int) -> str:
    """The tokenizer's padding token where it is not the end-of-turn token, else a control token that no text, turn or stop has. InputError if there is none."""
    end = stop_token(tokenizer)
    if tokenizer.pad_token_id not in (None, end):
        return tokenizer.pad_token
    taken = [end, *(getattr(tokenizer, f"{role}_token_id") for role in ("bos", "unk", "cls", "sep"))]
    turns = f"{tokenizer.chat_template}{USER_TURN}"
    special = [(i, token.content) for i, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special and i < vocabulary]
    free = [text for i, text in special if i not in taken and i not in stops and text not in turns]
    if not free:
        what = f"{tokenizer.convert_ids_to_tokens(end)} ends a turn, and no other control token is free to pad with"
        raise InputError(f"{tokenizer.name_or_path}: {what}; add one to the tokenizer, and name it as pad_token in {TOKENIZER}")
    return min(free, key=lambda text: ("pad" not in text, "reserved" not in text))  # of equals the first


def _stops(base: Path) -> set[int]:
    """The tokens at which generation stops, as config.json and generation_config.json say."""
    files = [base / name for name in ("config.json", "generation_config.json") if (base / name).is_file()]
    given = [read_fields(file, "", "fetch it again").get("eos_token_id") for file in files]
    return {token for stop in given for token in (stop if isinstance(stop, list) else [stop]) if isinstance(token, int)}


def _renamed(base: Path, pad: str) -> dict[str, bytes]:
    """The tokenizer's files that have to name this padding token and do not yet."""
    files = {}
    for name in (TOKENIZER, SPECIAL_TOKENS):
        there = (base / name).is_file()
        fields = read_fields(base / name, "", "fetch it again") if there else {}
        said = fields.get("pad_token")
        if (there or name == TOKENIZER) and (said.get("content") if isinstance(said, dict) else said) != pad:
            files[name] = as_json(fields | {"pad_token": pad})
    return files
