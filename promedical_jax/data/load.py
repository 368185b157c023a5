"""What a recipe names, from its file: a tokenizer, and cases as tokens."""

from collections.abc import Callable, Sequence
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


def answers_only(cases: Sequence[Encoded], path: Path) -> list[Encoded]:
    """The cases that have answers to learn from; InputError if there are none."""
    return _only(cases, path, "answers", lambda case: bool(case.answers))


def judged_only(cases: Sequence[Encoded], path: Path) -> list[Encoded]:
    """The cases of whose answers somebody said something; InputError if there are none."""
    return _only(cases, path, "verdicts", lambda case: bool(case.answers) and bool(case.labels.said.any()))


def preferences_only(cases: Sequence[Encoded], path: Path) -> list[Encoded]:
    """The cases, encoded for the implicit kind, in which one answer is preferred to another; InputError if there are none."""
    return _only(cases, path, "two answers of which the raters prefer one", lambda case: bool((case.labels.wins > 0).any()))


def _only(cases: Sequence[Encoded], path: Path, what: str, has: Callable[[Encoded], bool]) -> list[Encoded]:
    kept = [case for case in cases if has(case)]
    if not kept:
        raise InputError(f"{path}: none of the {len(cases)} cases has {what}; this stage learns from them")
    if len(kept) < len(cases):
        Console(stderr=True, quiet=not chief()).print(f"{path}: {len(cases) - len(kept)} of {len(cases)} cases have no {what} and are left out", soft_wrap=True)
    return kept
