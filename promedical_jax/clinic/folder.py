"""The clinic as files: a folder with training cases, held-out cases and a small untrained model that fits them; and what was varied, where something was."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from promedical_jax.clinic.cases import make_cases, paraphrase
from promedical_jax.clinic.tokenizer import build_tokenizer
from promedical_jax.clinic.variety import PLAIN, Variety
from promedical_jax.errors import InputError
from promedical_jax.rubric import Case, write_cases

TRAIN, HELD_OUT, PARAPHRASED, MODEL = "train.jsonl", "held_out.jsonl", "held_out_paraphrased.jsonl", "model"
VARIETY = "variety.json"  # a recipe for --config
FILES = (TRAIN, HELD_OUT, PARAPHRASED, MODEL, VARIETY)
# Small enough to learn the clinic from scratch on two CPU cores: 0.3 M parameters with the clinic's 512 tokens. Two layers match and copy; more only cost time.
SIZES: dict[str, Any] = {"width": 128, "depth": 2, "kv_heads": 4, "query_heads": 1, "head": 32, "feed_forward": 256}


def write_clinic(folder: str | Path, train: int, held_out: int, seed: int, replace: bool = False, variety: Variety = PLAIN) -> tuple[list[Case], list[Case]]:
    """Writes `folder`/train.jsonl, /held_out.jsonl, the same with other words for the criteria, and /model (tokenizer and config.json, no weights: training
    starts from random ones). Returns the training and the held-out cases. A variety that is not PLAIN is written beside them, as /variety.json.

    Everything is made in a folder beside it first. Raises InputError if one of these exists, unless `replace`; other files are left alone.
    """
    folder = Path(folder)
    present = [str(folder / name) for name in FILES if (folder / name).exists()]
    if present and not replace:
        raise InputError(f"{present[0]} exists; give --force to replace it, or another --out")
    cases = make_cases(train, seed, variety=variety), make_cases(held_out, seed, held_out=True, variety=variety)
    whole = folder.resolve()  # "." has no name
    part = whole.with_name(f".{whole.name}.{os.getpid()}.part")
    try:
        write_cases(part / TRAIN, cases[0])
        write_cases(part / HELD_OUT, cases[1])
        write_cases(part / PARAPHRASED, map(paraphrase, cases[1]))
        write_model(part / MODEL, variety)
        if variety != PLAIN:
            (part / VARIETY).write_text(variety.model_dump_json(indent=2) + "\n")
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            if (part / name).exists():
                os.replace(part / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror or error}); check the folder, its permissions and the free space") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return cases


def write_model(folder: Path, variety: Variety = PLAIN, sizes: Mapping[str, int] = MappingProxyType({})) -> None:
    """The clinic's tokenizer and a small Qwen3's config.json, as `transformers` reads them. `sizes`: those that are not SIZES'."""
    from promedical_jax.model.hf import hf_config
    from promedical_jax.model.rope import Rope
    from promedical_jax.model.transformer import ModelConfig

    tokenizer = build_tokenizer(variety)
    tokenizer.save_pretrained(folder)
    config = hf_config(ModelConfig(vocabulary=len(tokenizer), tied=True, rope=Rope(1e4), **(SIZES | dict(sizes))))
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    (folder / "config.json").write_text(json.dumps(config | special, indent=2) + "\n")
