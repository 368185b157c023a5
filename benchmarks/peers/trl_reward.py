"""The peer's side of reward-model training: TRL's RewardTrainer for one epoch over token pairs, in float32 on two CPU cores.

    python -m venv trl && trl/bin/pip install torch numpy trl
    trl/bin/python benchmarks/peers/trl_reward.py --data pairs.npz --model FOLDER --out temporary

`pairs.npz` has `chosen` and `rejected` [N, T], ids padded to the right, and `chosen_length` and `rejected_length` [N]. Of the model's folder only config.json
is read: the weights are random. The defaults are what was fastest here. Prints one JSON line: the seconds after `--warm` steps, which are not counted, and the
pairs and real tokens trained in them.
"""

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import AutoConfig, PreTrainedTokenizerFast, Qwen3ForSequenceClassification, TrainerCallback, logging
from trl import RewardConfig, RewardTrainer

THREADS = 2


class Counting(RewardTrainer):
    """Counts what it is given, and notes when each step was done."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.pairs, self.tokens, self.places = [0], [0], [0]
        self.marks = [time.perf_counter()]

    def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> torch.Tensor:
        self.pairs.append(len(inputs["input_ids"]) // 2)
        self.tokens.append(int(inputs["attention_mask"].sum()))
        self.places.append(inputs["input_ids"].numel())
        return super().training_step(model, inputs, *rest, **named)


class Clock(TrainerCallback):
    marks: list[float]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.marks.append(time.perf_counter())


def pairs_of(file: Path) -> tuple[Dataset, int]:
    """The pairs as TRL takes them when they need no tokenizer, and the number of their real tokens."""
    read = np.load(file)
    ids = {side: [row[:length] for row, length in zip(read[side], read[f"{side}_length"], strict=True)] for side in ("chosen", "rejected")}
    longest = np.maximum(read["chosen_length"], read["rejected_length"])
    data = Dataset.from_dict({"chosen_ids": ids["chosen"], "rejected_ids": ids["rejected"], "length": longest})
    return data.with_format("numpy", columns=["chosen_ids", "rejected_ids"], output_all_columns=True), int(read["chosen_length"].sum() + read["rejected_length"].sum())


def model_of(folder: Path, attention: str) -> tuple[Qwen3ForSequenceClassification, PreTrainedTokenizerFast]:
    """A model with random weights and one token more than the folder's: the padding, which so occurs in no text; and a tokenizer that knows only that."""
    config = AutoConfig.from_pretrained(folder)
    padding = config.vocab_size
    config.update({"vocab_size": padding + 1, "pad_token_id": padding, "num_labels": 1, "dtype": "float32", "use_cache": False})
    config._attn_implementation = attention
    words = Tokenizer(models.WordLevel({"<pad>": padding}, unk_token="<pad>"))
    return Qwen3ForSequenceClassification(config).float(), PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder for what the trainer may write")
    parser.add_argument("--batch", type=int, default=16, help="pairs a step")
    parser.add_argument("--warm", type=int, default=2, help="first steps that are not counted")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")
    parser.add_argument("--order", choices=("group_by_length", "random", "sequential"), default="group_by_length")
    parser.add_argument("--workers", type=int, default=0, help="processes that load the data")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    logging.set_verbosity_error()
    data, real = pairs_of(given.data)
    model, tokenizer = model_of(given.model, given.attention)
    settings = {
        "per_device_train_batch_size": given.batch, "train_sampling_strategy": given.order, "dataloader_num_workers": given.workers,
        "torch_compile": given.compile, "num_train_epochs": 1, "optim": "adamw_torch_fused", "learning_rate": 1e-5, "max_grad_norm": 1.0,
        "bf16": False, "gradient_checkpointing": False, "max_length": None, "disable_dropout": True, "use_cpu": True, "dataloader_pin_memory": False,
        "remove_unused_columns": False, "logging_nan_inf_filter": False,
    }  # fmt: skip
    quiet = {"logging_strategy": "no", "save_strategy": "no", "eval_strategy": "no", "report_to": "none", "disable_tqdm": True}
    clock = Clock()
    arguments = RewardConfig(output_dir=str(given.out), **settings, **quiet)
    trainer = Counting(model=model, args=arguments, train_dataset=data, processing_class=tokenizer, callbacks=[clock])
    clock.marks = trainer.marks
    loss = trainer.train().training_loss
    assert sum(trainer.pairs) == len(data) and sum(trainer.tokens) == real, "pairs or tokens were dropped"
    after = given.warm + 1
    seconds = trainer.marks[-1] - trainer.marks[given.warm]
    pairs, tokens, places = (sum(counts[after:]) for counts in (trainer.pairs, trainer.tokens, trainer.places))
    result = {
        "peer": "trl", "pairs": len(data), "pairs_timed": pairs, "steps_timed": len(trainer.marks) - after, "seconds": round(seconds, 3),
        "pairs_per_second": round(pairs / seconds, 3), "tokens_per_second": round(tokens / seconds, 1), "fill": round(tokens / places, 4),
        "loss": round(loss, 4), "parameters": model.num_parameters(), "settings": {"attention": given.attention, "dtype": str(model.dtype), **settings},
        "machine": {"threads": torch.get_num_threads(), "cpus": len(os.sched_getaffinity(0)), "processor": platform.machine(), "load": os.getloadavg()[0]},
        "versions": {name: version(name) for name in ("trl", "torch", "transformers")},
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
