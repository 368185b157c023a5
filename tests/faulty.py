"""Runs of all stages on a tiny clinic, to be stopped, killed and gone on with: `python faulty.py RECIPE` runs one, and `state_of` says what it came to."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

STAGES = ("sft", "rm", "dpo", "grpo", "ppo")
CASES, BATCH, STEPS = 20, 8, 10  # batches straddle epochs; the second one begins with step 5 exactly


def prepare(root: Path) -> Path:
    """A folder with cases, a policy and a reward model that does not know the cases."""
    from folders import save_policy, save_reward_model
    from tiny import CONFIG, policy, reward_params

    from promedical_jax.clinic import build_tokenizer, make_cases
    from promedical_jax.reward import UNCALIBRATED, RewardModel
    from promedical_jax.rubric import write_cases

    tokenizer = build_tokenizer()
    model = replace(CONFIG, vocabulary=len(tokenizer))
    write_cases(root / "cases.jsonl", make_cases(CASES, seed=0, answers=2))
    write_cases(root / "held_out.jsonl", make_cases(6, seed=0, held_out=True, answers=1))
    save_policy(root / "policy", policy(model), model, tokenizer)
    save_reward_model(root / "judge", RewardModel(reward_params(model, seed=3), model, UNCALIBRATED), tokenizer)
    return root


def recipe(root: Path, stage: str, out: str, **keys: Any) -> Any:
    """The config of a run of a stage in `root`/`out`: saved every third step, its figures logged every second, so that the two fall apart."""
    from promedical_jax.config import Calibration, DpoConfig, GrpoConfig, Keep, OnPolicy, Optimizer, PpoConfig, RmConfig, SftConfig, Shapes, Watch

    schema = {"sft": SftConfig, "rm": RmConfig, "dpo": DpoConfig, "grpo": GrpoConfig, "ppo": PpoConfig}[stage]
    common = {"out": root / out, "cases": root / "cases.jsonl", "model": root / "policy", "steps": STEPS, "batch": BATCH, "log_every": 2, "save_every": 3,
              "keep": Keep(every=1), "shapes": Shapes(prompt=56, answer=48, criterion=16),
              "optimizer": Optimizer(learning_rate=1e-3, warmup=2, weight_decay=0.1)}  # fmt: skip
    if issubclass(schema, OnPolicy):
        common |= {"reward_model": root / "judge", "answers": 4, "answer_tokens": 12, "kl": 0.1}
    if schema is GrpoConfig:
        common |= {"watch": Watch(cases=root / "held_out.jsonl", answers=2, patience=None)}
    if schema is RmConfig:
        common |= {"calibration": Calibration(share=0.3)}
    return schema(**common | keys)


def run(config: Any) -> None:
    """In this process; the clinic's truth is asked where the stage takes one."""
    from promedical_jax.clinic import truth
    from promedical_jax.config import DpoConfig, GrpoConfig, PpoConfig, RmConfig, SftConfig
    from promedical_jax.train import dpo, grpo, ppo, rm, sft

    runs: dict[type, Callable[[Any], Any]] = {SftConfig: sft.run, RmConfig: rm.run, DpoConfig: dpo.run, GrpoConfig: partial(grpo.run, truth=truth),
                                              PpoConfig: partial(ppo.run, truth=truth)}  # fmt: skip
    runs[type(config)](config)


def start(config: Any, devices: int = 1, **environment: str) -> subprocess.Popen:
    """In a process of its own, which goes on with what is there."""
    import jax

    from promedical_jax.recipe import dump

    file = config.out.with_name(f"{config.out.name}.yaml")
    file.write_text(dump(config))
    more = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path)}  # fmt: skip
    return subprocess.Popen([sys.executable, __file__, str(file)], env=os.environ | more | environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)  # fmt: skip


def beats(process: subprocess.Popen, config: Any) -> list[int]:
    """The steps, from 1, that this process has done."""
    file = config.out.with_name(f"{config.out.name}.beats")
    lines = [line.split() for line in (file.read_text() if file.exists() else "").splitlines(keepends=True) if line.endswith("\n")]
    return [int(done) for pid, done in lines if int(pid) == process.pid]


def record(out: Path, step: int) -> dict[str, Any]:
    """What a checkpoint remembers, with a checksum of each array of parameters, optimizer and counters."""
    return json.loads((out / "checkpoints" / str(step) / "run" / "data.json").read_text())


def state_of(out: Path) -> dict[str, Any]:
    """All that a finished run came to, to the bit: its last checkpoint's arrays, figures, rows and model files."""
    last = max(int(path.name) for path in (out / "checkpoints").iterdir() if path.name.isdecimal())
    found: dict[str, Any] = {"step": last, "checkpoint": record(out, last)}
    for file in sorted(path for path in [*out.glob("*.jsonl"), *(out / "model").glob("*")] if path.is_file()):
        found[str(file.relative_to(out))] = file.read_bytes()
    found.pop("model/README.md", None)  # names the run's folder
    return found


def assert_equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == value, f"{name} differs"


if __name__ == "__main__":
    from promedical_jax.errors import STOPPED, Stopped
    from promedical_jax.train.export import read_stage
    from promedical_jax.train.metrics import Meter

    config, advance = read_stage(Path(sys.argv[1])), Meter.advance
    assert config
    beats = config.out.with_name(f"{config.out.name}.beats").open("a", buffering=1)

    def beat(meter: Meter, done: int, *rest: Any) -> None:
        advance(meter, done, *rest)
        beats.write(f"{os.getpid()} {done}\n")

    Meter.advance = beat  # type: ignore[method-assign]
    try:
        run(config)
    except Stopped as end:
        print(end)
        sys.exit(STOPPED)
