"""Model folders for tests, as the stages write them."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from promedical_jax.model import hf
from promedical_jax.model.transformer import ModelConfig, Params
from promedical_jax.reward import RewardModel, reward_files


def save_policy(folder: Path, params: Params, config: ModelConfig, tokenizer: Any, extra: dict[str, bytes] | None = None) -> None:
    with TemporaryDirectory() as made:
        base = Path(made)
        tokenizer.save_pretrained(base)
        (base / "config.json").write_text(json.dumps(hf.hf_config(config)))
        hf.save(folder, params, config, base, card="", extra=extra)


def save_reward_model(folder: Path, model: RewardModel, tokenizer: Any) -> None:
    save_policy(folder, model.params["backbone"], model.config, tokenizer, reward_files(model.params["heads"], model.verdicts))
