"""kill -9 whenever it may come: whatever a run was doing, what it goes on from and what it comes to are the uninterrupted run's, to the bit."""

import json
import random
import re
import signal
import statistics
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from faulty import BATCH, CASES, assert_equal, beats, prepare, recipe, record, start, state_of

from promedical_jax.train.checkpoint import steps

pytestmark = pytest.mark.slow
STEPS, KILLS, TIMEOUT = 100, 20, 600


class Kill(NamedTuple):
    """What a kill cost: steps that were done and not saved, and seconds from the next start to its first new step."""

    during: str
    at: int
    lost: int
    seconds: float | None


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("killed"))


def rows(out: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Those that are whole."""
    text = (out / name).read_text() if (out / name).exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def newest(out: Path) -> int:
    return (steps(out / "checkpoints") or [0])[-1] if (out / "checkpoints").exists() else 0


def finish(process: subprocess.Popen) -> None:
    _out, error = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, error[-4000:]


def saving(out: Path) -> bool:
    return any(out.glob("checkpoints/*.orbax-checkpoint-tmp"))


def wait_for(process: subprocess.Popen, condition: Any) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)


def test_grpo_killed_at_twenty_moments(root: Path) -> None:
    """In the middle of steps at random, while a checkpoint is being written, and while programs are compiled before the first step."""
    keys = {"steps": STEPS, "log_every": 1, "save_every": 4}
    whole = recipe(root, "grpo", "whole", **keys)
    finish(start(whole))
    rng, config, kills = random.Random(0), recipe(root, "grpo", "killed", **keys), []
    process = start(config)
    for number in range(KILLS):
        began, seconds = time.monotonic(), None
        during = ["a step", "a save", "a step", "the start"][number % 4] if number else "the start"
        if during == "the start":
            time.sleep(rng.uniform(0.1, 20.0))
        else:
            wait_for(process, lambda: beats(process, config))  # noqa: B023
            seconds = round(time.monotonic() - began, 1)
            if during == "a save":
                wait_for(process, lambda: saving(config.out))
                time.sleep(rng.uniform(0, 0.03))
            else:
                wanted = rng.randint(1, 7)
                wait_for(process, lambda: len(beats(process, config)) >= wanted)  # noqa: B023
                time.sleep(rng.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        saved, done = newest(config.out), max(beats(process, config), default=0)
        kills.append(Kill(during, done, max(done - saved, 0), seconds))
        if saved:  # what it goes on from is what the uninterrupted run had there
            assert record(config.out, saved) == record(whole.out, saved)
            held = record(config.out, saved)["run"]["beside"]["ledger"]
            for name, length in zip(("rollouts.jsonl", "ledger.jsonl"), held, strict=True):
                assert (config.out / name).read_bytes()[:length] == (whole.out / name).read_bytes()[:length]
        if process.returncode == 0:
            break
        process = start(config)
    finish(process)
    assert_equal(state_of(config.out), state_of(whole.out))
    consumed = [row["case"] for row in rows(config.out, "rollouts.jsonl") if row["sample"] == 0]
    assert len(consumed) == STEPS * BATCH  # every case once an epoch, none twice and none left out
    assert all(len(set(consumed[at : at + CASES])) == CASES for at in range(0, len(consumed), CASES))
    lost, seconds = [kill.lost for kill in kills if kill.at], [kill.seconds for kill in kills if kill.seconds is not None]
    during = Counter(kill.during for kill in kills)
    print(json.dumps({"kills": len(kills), "during": during, "in_the_midst": len(lost), "lost_steps_mean": sum(lost) / len(lost), "lost_steps_max": max(lost),
                      "seconds_to_first_new_step_median": statistics.median(seconds), "all": kills}))  # fmt: skip
    assert len(kills) == KILLS
    assert max(lost) <= 4 + 4  # a save every 4 steps, of which one may have been under way


@pytest.mark.parametrize("at", ["the last save", "calibration", "the model's files"])
def test_a_reward_model_killed_at_its_end(at: str, root: Path, tmp_path: Path) -> None:
    keys = {"steps": 6, "log_every": 1, "save_every": 3}
    whole = recipe(root, "rm", "rm-whole", **keys)
    if not (whole.out / "model").exists():
        finish(start(whole))
    config = recipe(root, "rm", re.sub(r"\W", "-", at), **keys)
    process = start(config)
    wait_for(process, {"the last save": lambda: newest(config.out) == 3 and saving(config.out), "calibration": lambda: newest(config.out) == 6,
                       "the model's files": lambda: any(config.out.glob(".model*"))}[at])  # fmt: skip
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (config.out / "model").exists()
    finish(start(config))
    assert_equal(state_of(config.out), state_of(whole.out))
    assert not [path.name for path in config.out.glob(".*")]  # nor is anything half-made left
