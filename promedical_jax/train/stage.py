"""What every stage does before its first step: cases, model and tokenizer from their folders to token arrays and placed parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from promedical_jax.config import Stage
from promedical_jax.data.encode import Encoded, encode
from promedical_jax.errors import InputError
from promedical_jax.model import hf
from promedical_jax.model.qwen3 import Qwen3Config
from promedical_jax.model.sharding import check_divisible, make_mesh
from promedical_jax.rubric import read_cases


@dataclass(frozen=True)
class Setup:
    """A stage's mesh, model config, tokenizer and encoded training cases."""

    mesh: jax.sharding.Mesh
    model: Qwen3Config
    tokenizer: Any
    cases: Sequence[Encoded]
    dtype: Any


def prepare(config: Stage) -> Setup:
    """Reads what the recipe names. Raises InputError before anything is compiled or written."""
    mesh = make_mesh(config.mesh.fsdp, config.mesh.tp)
    model = hf.read_config(config.model)
    check_divisible(mesh, {"batch": config.batch, "width": model.width, "kv_heads": model.kv_heads, "feed_forward": model.feed_forward,
                           "vocabulary": model.vocabulary})  # fmt: skip
    tokenizer = load_tokenizer(config.tokenizer or config.model, model)
    return Setup(mesh, model, tokenizer, encode_file(config.cases, tokenizer), jnp.dtype(config.dtype))


def encode_file(path: Path, tokenizer: Any) -> list[Encoded]:
    return [encode(case, tokenizer) for case in read_cases(path)]


def load_tokenizer(folder: Path, model: Qwen3Config) -> Any:
    """The tokenizer in a folder, for a model. Raises InputError if there is none, or if it knows more tokens than the model."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{folder / 'tokenizer.json'}: no such file; name the folder of the tokenizer with --tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if len(tokenizer) > model.vocabulary:
        raise InputError(f"{folder}: the tokenizer has {len(tokenizer)} tokens and the model's vocab_size is {model.vocabulary}; they do not belong together")
    return tokenizer


def answers_only(cases: Sequence[Encoded], path: Path, judged: bool = False) -> list[Encoded]:
    """The cases that have answers to learn from, with `judged` only those with verdicts; InputError if there are none."""
    kept = [case for case in cases if case.answers and not (judged and np.isnan(case.labels).all())]
    what = "verdicts" if judged else "answers"
    if not kept:
        raise InputError(f"{path}: none of the {len(cases)} cases has {what}; this stage learns from them")
    if len(kept) < len(cases):
        Console(stderr=True).print(f"{path}: {len(cases) - len(kept)} of {len(cases)} cases have no {what} and are left out", soft_wrap=True)
    return kept
