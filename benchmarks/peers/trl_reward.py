"""The peer's side of reward-model training: TRL's RewardTrainer for one epoch over pairs of token ids, in float32 on two CPU cores.

    python -m venv trl && trl/bin/pip install torch==2.13.0 numpy trl==1.16.0
    trl/bin/python benchmarks/peers/trl_reward.py --data pairs.npz --model FOLDER --out temporary

`pairs.npz` has `chosen` and `rejected` [N, T], ids padded to the right, and `chosen_length` and `rejected_length` [N]. Of the model's folder only config.json
is read: the weights are random. The defaults are the fastest settings that were tried; both kinds of attention, and 8 or 16 pairs a step, are equal within the
noise. Prints one JSON line: the seconds of the steps after `--warm` ones, which compile, and the pairs and real tokens trained in them; a last batch that is
not full is trained on, but not timed.

PyTorch's matrix products are MKL's, which take AVX-512 on Intel's processors only; `matmul_gflops` shows what they reach. On another processor with AVX-512
this doubles them, and keeps large tensors from being mapped anew in each step:

    echo 'int mkl_serv_intel_cpu_true(void) { return 1; }' | cc -shared -fPIC -x c - -o as_intel.so
    export LD_PRELOAD=$PWD/as_intel.so MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=17179869184
"""

import argparse
import json
import os
import platform
import statistics
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
SIDES = ("chosen", "rejected")


class Counting(RewardTrainer):
    """Counts what is trained on: the pairs, real tokens and padded tokens of each step."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.counts: list[tuple[int, int, int]] = []

    def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> torch.Tensor:
        ids, real = inputs["input_ids"], inputs["attention_mask"]
        self.counts.append((len(ids) // 2, int(real.sum()), ids.numel()))
        return super().training_step(model, inputs, *rest, **named)


class Clock(TrainerCallback):
    """Notes when each step was done, its update included."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.marks.append(time.perf_counter())


def pairs_of(file: Path) -> tuple[Dataset, int]:
    """The pairs under the names by which TRL knows that they are tokenized, and the number of their tokens."""
    read = np.load(file)
    lengths = {side: read[f"{side}_length"] for side in SIDES}
    columns = {f"{side}_ids": [row[:length] for row, length in zip(read[side], lengths[side], strict=True)] for side in SIDES}
    data = Dataset.from_dict({**columns, "length": np.maximum(*lengths.values())})
    return data.with_format("numpy", columns=list(columns), output_all_columns=True), int(sum(each.sum() for each in lengths.values()))


def model_of(folder: Path, attention: str) -> tuple[Qwen3ForSequenceClassification, PreTrainedTokenizerFast]:
    """Random weights, with one token more than config.json has: the padding, which so is in no text; and a tokenizer that knows only this token."""
    config = AutoConfig.from_pretrained(folder)
    padding = config.vocab_size
    config.update({"vocab_size": padding + 1, "pad_token_id": padding, "num_labels": 1})
    tokenizer = Tokenizer(models.WordLevel({"<pad>": padding}, unk_token="<pad>"))
    model = Qwen3ForSequenceClassification(config).float()
    model.set_attn_implementation(attention)
    assert model.model.config._attn_implementation == attention
    return model, PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


def matmul_gflops(rows: int = 8192, width: int = 256, times: int = 20) -> float:
    """What products of these sizes reach, in 10^9 operations a second."""
    left, right, out = torch.ones(rows, width), torch.ones(width, width), torch.empty(rows, width)
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        seconds.append(time.perf_counter() - start)
    return 2e-9 * rows * width * width / statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder for what the trainer may write")
    parser.add_argument("--batch", type=int, default=8, help="pairs a step")
    parser.add_argument("--warm", type=int, default=10, help="first steps, which are not timed")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")
    parser.add_argument("--order", choices=("group_by_length", "random", "sequential"), default="group_by_length")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="torch.compile")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    logging.set_verbosity_error()
    data, real = pairs_of(given.data)
    last = len(data) // given.batch
    if not 1 <= given.warm < last:
        parser.error(f"{len(data)} pairs are {last} full batches, of which --warm {given.warm} leaves none to time")
    model, tokenizer = model_of(given.model, given.attention)
    # without remove_unused_columns=False, `length` is dropped before the order by length asks for it
    settings = {
        "per_device_train_batch_size": given.batch, "num_train_epochs": 1, "max_length": None, "train_sampling_strategy": given.order,
        "remove_unused_columns": False, "torch_compile": given.compile, "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "disable_dropout": True, "optim": "adamw_torch_fused", "learning_rate": 1e-5, "max_grad_norm": 1.0,
        "dataloader_num_workers": 0, "dataloader_pin_memory": False,
    }  # fmt: skip
    quiet = {"logging_strategy": "no", "save_strategy": "no", "eval_strategy": "no", "report_to": "none", "disable_tqdm": True}
    gflops, clock = matmul_gflops(), Clock()
    config = RewardConfig(output_dir=str(given.out), **settings, **quiet)
    trainer = Counting(model=model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[clock])
    loss = trainer.train().training_loss
    trained = [sum(count) for count in zip(*trainer.counts, strict=True)]
    assert trained[:2] == [len(data), real], f"{trained[:2]} pairs and tokens were trained on, of {[len(data), real]}"

    pairs, tokens, padded = (sum(count) for count in zip(*trainer.counts[given.warm : last], strict=True))
    steps = np.diff(clock.marks[given.warm - 1 : last])
    result = {
        "peer": "trl", "pairs": len(data), "pairs_timed": pairs, "steps_timed": len(steps), "seconds": round(steps.sum(), 3),
        "pairs_per_second": round(pairs / steps.sum(), 3), "tokens_per_second": round(tokens / steps.sum(), 1), "fill": round(tokens / padded, 4),
        "step_s": {"median": round(float(np.median(steps)), 4), "slowest": round(steps.max(), 4)}, "loss": round(loss, 4),
        "parameters": model.num_parameters(), "matmul_gflops": round(gflops), "settings": {"attention": given.attention, "dtype": str(model.dtype), **settings},
        "machine": {"threads": torch.get_num_threads(), "cpus": len(os.sched_getaffinity(0)), "processor": platform.machine(), "load": os.getloadavg()[0],
                    "preload": Path(os.environ.get("LD_PRELOAD", "")).name, "malloc": {k: v for k, v in os.environ.items() if k.startswith("MALLOC_")}},
        "versions": {name: version(name) for name in ("trl", "torch", "transformers")},
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
