"""The small files that make a model folder beside its weights: config, tokenizer, chat template, licence. They travel byte for byte."""

import json
from pathlib import Path

import jax

from promedical_jax.atomic import replacing_folder
from promedical_jax.errors import InputError

TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
)  # fmt: skip
MODEL = ("config.json", "generation_config.json", "LICENSE*", "NOTICE*", "USE_POLICY*")
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def companions(folder: Path, patterns: tuple[str, ...] = MODEL + TOKENIZER) -> dict[str, bytes]:
    """The files of a model folder that are not weights, by their names below it."""
    return {str(path.relative_to(folder)): path.read_bytes() for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()}


def keep_companions(base: Path, model: Path, tokenizer: Path | None = None) -> None:
    """Makes `base` a folder of the model's companions, whole or not at all; where a tokenizer's folder is given, its files and none of the model's.

    Only process 0 writes, and only what differs: whoever reads `base` meanwhile finds it whole. Raises InputError for a model folder without config.json.
    """
    if not (model / "config.json").is_file():
        raise InputError(f"{model / 'config.json'}: no such file; a model is a folder with HF's config.json")
    files = companions(model, MODEL) | companions(tokenizer or model, TOKENIZER)
    if jax.process_index() > 0 or (base.is_dir() and companions(base) == files):
        return
    with replacing_folder(base) as part:
        write_files(part, files)


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def generation_config(fields: dict) -> dict[str, bytes]:
    """A minimal generation_config.json of a config.json's special tokens: where generation stops. Nothing where it names none."""
    special = {name: fields[name] for name in SPECIAL if fields.get(name) is not None}
    return {"generation_config.json": as_json(special)} if special else {}


def as_json(fields: dict) -> bytes:
    return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()
