"""What a recipe names, from its file: a tokenizer, and cases as tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from promedical_jax.cluster import chief
from promedical_jax.config import Kind
from promedical_jax.data.encode import Encoded, encode
from promedical_jax.errors import InputError
from promedical_jax.rubric import read_cases
from promedical_jax.rubric.labels import EQUAL, RaterWeights


def encode_file(path: Path, tokenizer: Any, kind: Kind = "explicit", raters: RaterWeights = EQUAL) -> list[Encoded]:
    return [encode(case, tokenizer, kind=kind, raters=raters) for case in read_cases(path)]


def load_tokenizer(folder: Path, vocabulary: int) -> Any:
    """The tokenizer in a folder, for a model of so many tokens. Raises InputError if there is none, or if it knows more tokens than the model."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{folder / 'tokenizer.json'}: no such file; name the folder of the tokenizer with --tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if len(tokenizer) > vocabulary:
        raise InputError(f"{folder}: the tokenizer has {len(tokenizer)} tokens and the model's vocab_size is {vocabulary}; they do not belong together")
    return tokenizer


def answers_only(cases: Sequence[Encoded], path: Path, judged: bool = False) -> list[Encoded]:
    """The cases that have answers to learn from, with `judged` only those with verdicts; InputError if there are none."""
    kept = [case for case in cases if case.answers and not (judged and not case.labels.said.any())]
    what = "verdicts" if judged else "answers"
    if not kept:
        raise InputError(f"{path}: none of the {len(cases)} cases has {what}; this stage learns from them")
    if len(kept) < len(cases):
        Console(stderr=True, quiet=not chief()).print(f"{path}: {len(cases) - len(kept)} of {len(cases)} cases have no {what} and are left out", soft_wrap=True)
    return kept
