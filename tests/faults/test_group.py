"""Several processes as a pod has them: they stop together, the death of one ends the others soon, and a launcher brings all of them back."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml
from faulty import assert_equal, prepare, recipe, record, run, state_of
from watching import children, until

from promedical_jax import cluster
from promedical_jax.config import Mesh
from promedical_jax.recipe import dump
from promedical_jax.train.checkpoint import steps

LAUNCHER = Path(__file__).parents[2] / "launch" / "local.sh"
TIMEOUT = 900


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("group"))


def launch(config: Any, processes: int, *flags: str) -> subprocess.Popen:
    """The launcher, of a mesh of eight devices in all."""
    file = config.out.with_name(f"{config.out.name}.yaml")
    file.write_text(dump(config))
    more = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": os.pathsep.join(sys.path),
            "PROMEDICAL": f"{sys.executable} -m promedical_jax.cli"}  # fmt: skip
    command = [LAUNCHER, "--processes", str(processes), "--devices", str(8 // processes), *flags, "sft", file, config.out]
    return subprocess.Popen(list(map(str, command)), env=os.environ | more, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    try:
        out, error = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    return process.returncode, out + error


def losses(out: Path) -> np.ndarray:
    return np.array([json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()])


# The launcher alone


def test_a_dry_run_says_what_it_would_do(tmp_path: Path) -> None:
    command = [LAUNCHER, "--processes", "4", "--devices", "2", "--dry-run", "grpo", "a.yaml", tmp_path, "--steps", "7"]
    said = subprocess.run(command, text=True, capture_output=True)
    variables = "JAX_COORDINATOR_ADDRESS=127.0.0.1:<free port> JAX_NUM_PROCESSES=4 JAX_PROCESS_ID=<0..3>"
    assert said.returncode == 0 and said.stdout.splitlines() == [
        "would start 4 processes of 2 simulated devices, and up to 3 times again without a new checkpoint, each as",
        f"{variables} promedical train grpo --config a.yaml --out {tmp_path} --steps 7",
        "they would begin at the start",
    ]
    (tmp_path / "checkpoints" / "40").mkdir(parents=True)
    (tmp_path / "checkpoints" / "9").mkdir()
    (tmp_path / "checkpoints" / "50.orbax-checkpoint-tmp").mkdir()
    said = subprocess.run([LAUNCHER, "--dry-run", "grpo", "a.yaml", tmp_path], text=True, capture_output=True)
    assert said.stdout.splitlines()[-1] == "they would begin with the checkpoint of step 40"


@pytest.mark.parametrize("arguments", [[], ["sft"], ["--processes", "none", "sft", "a", "b"], ["--what", "sft", "a", "b"], ["--devices", "0", "sft", "a", "b"]])
def test_mistakes_are_refused(arguments: list[str]) -> None:
    said = subprocess.run([LAUNCHER, *arguments], text=True, capture_output=True)
    assert said.returncode == 2 and said.stderr.startswith("launch/local.sh [--processes N]") and said.stdout == ""


# A stand-in for the command: each start appends its number to a file, and does what the line of that number says.
STAND_IN = """#!/usr/bin/env bash
n=$(ls "$PLACE" | grep -c "^start-$JAX_PROCESS_ID-")
touch "$PLACE/start-$JAX_PROCESS_ID-$n"
line=$(sed -n "$((n + 1))p" "$PLACE/plan")
read -ra codes <<< "$line"
[[ "${codes[2]:-}" ]] && mkdir -p "$PLACE/run/checkpoints/${codes[2]}"
code="${codes[$JAX_PROCESS_ID]}"
[[ "$code" == KILL ]] && kill -9 $$
[[ "$code" == WAIT ]] && { trap 'exit 75' TERM; touch "$PLACE/waiting-$JAX_PROCESS_ID"; for _ in {1..600}; do sleep 0.1; done; }
exit "$code"
"""


@pytest.mark.parametrize(("plan", "code", "starts"), [
    (["0 0"], 0, 1),
    (["KILL 75", "0 0"], 0, 2),
    (["75 KILL 3", "75 75 6", "1 1 9", "0 0"], 0, 4),  # each start saved something
    (["2 75"], 2, 1),  # a mistake in the recipe is not mended by another try
    (["75 75"] * 9, 1, 4),  # three more without a checkpoint
    (["75 75 3", "75 75", "75 75", "75 75", "0 0"], 0, 5),
])  # fmt: skip
def test_a_group_that_dies_is_started_again(plan: list[str], code: int, starts: int, tmp_path: Path) -> None:
    (tmp_path / "promedical").write_text(STAND_IN)
    (tmp_path / "promedical").chmod(0o755)
    (tmp_path / "plan").write_text("\n".join(plan) + "\n")
    environment = os.environ | {"PLACE": str(tmp_path), "PROMEDICAL": str(tmp_path / "promedical")}
    done = subprocess.run([LAUNCHER, "sft", "a.yaml", tmp_path / "run"], env=environment, text=True, capture_output=True, timeout=60)
    assert (done.returncode, len(list(tmp_path.glob("start-0-*")))) == (code, starts), done.stderr
    assert ("gave up: 4 starts without a new checkpoint" in done.stderr) == (code == 1)
    assert ("a process was ended by signal 9" in done.stderr) in ((True, False) if "KILL" in plan[0] else (False,))


def test_a_launcher_that_is_told_to_stop_passes_it_on(tmp_path: Path) -> None:
    (tmp_path / "promedical").write_text(STAND_IN)
    (tmp_path / "promedical").chmod(0o755)
    (tmp_path / "plan").write_text("WAIT WAIT\n")
    environment = os.environ | {"PLACE": str(tmp_path), "PROMEDICAL": str(tmp_path / "promedical")}
    process = subprocess.Popen([LAUNCHER, "sft", "a.yaml", tmp_path / "run"], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: len(list(tmp_path.glob("waiting-*"))) == 2, 60)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 75 and len(list(tmp_path.glob("start-*"))) == 2


def test_who_lost_another_process_is_told_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And a bug of ours, or a run that is alone, keeps its own error."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with pytest.raises(jax.errors.JaxRuntimeError), cluster.survivors():
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with cluster.survivors():
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]\nmore")
    said = capsys.readouterr().err
    assert codes == [75] and said.startswith("stopped: another process of this run is gone (UNKNOWN: Gloo all-reduce failed") and said.count("\n") == 1
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE"), cluster.survivors():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")


# Whole runs


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_give_the_losses_of_one(processes: int, root: Path) -> None:
    keys = {"steps": 6, "log_every": 1, "mesh": Mesh(fsdp=4, tp=2)}
    one, several = recipe(root, "sft", "one", **keys), recipe(root, "sft", f"group-{processes}", **keys)
    if not (one.out / "model").exists():
        run(one)
    code, said = ended(launch(several, processes))
    assert code == 0, said[-4000:]
    print(json.dumps({"processes": processes, "largest_difference_of_a_loss": float(np.abs(losses(several.out) - losses(one.out)).max())}))
    np.testing.assert_allclose(losses(several.out), losses(one.out), rtol=0, atol=1e-6)
    assert yaml.safe_load((several.out / "recipe.yaml").read_text())["steps"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_and_the_launcher_brings_both_back(victim: int, root: Path) -> None:
    keys = {"steps": 40, "log_every": 1, "save_every": 4, "mesh": Mesh(fsdp=4, tp=2)}
    whole, killed = recipe(root, "sft", "pair-whole", **keys), recipe(root, "sft", f"pair-killed-{victim}", **keys)
    if not (whole.out / "model").exists():
        code, said = ended(launch(whole, 2))
        assert code == 0, said[-4000:]
    process = launch(killed, 2)
    until(lambda: (killed.out / "checkpoints" / "8").exists(), TIMEOUT)
    pids = children(process)
    os.kill(pids[victim], signal.SIGKILL)
    seconds = until(lambda: not Path(f"/proc/{pids[1 - victim]}").exists(), 60)
    code, said = ended(process)
    assert code == 0, said[-4000:]
    assert re.search(r"local\.sh: ended with code (137|75|134); starting again, with the checkpoint of step \d+", said), said[-4000:]
    assert "another process of this run is gone" in said or "another task died" in said
    print(json.dumps({"victim": victim, "seconds_until_the_other_ended": seconds}))
    assert_equal(state_of(killed.out), state_of(whole.out))


@pytest.mark.slow
def test_one_process_that_is_told_to_stop_stops_both_after_the_same_step(root: Path) -> None:
    keys = {"steps": 40, "log_every": 1, "save_every": 100, "mesh": Mesh(fsdp=4, tp=2)}
    whole, told = recipe(root, "sft", "told-whole", **keys), recipe(root, "sft", "told", **keys)
    code, said = ended(launch(whole, 2))
    assert code == 0, said[-4000:]
    process = launch(told, 2, "--restarts", "0")
    until(lambda: (told.out / "metrics.jsonl").exists() and len((told.out / "metrics.jsonl").read_text().splitlines()) > 3, TIMEOUT)
    os.kill(children(process)[1], signal.SIGTERM)
    code, said = ended(process)
    assert code == 0 and said.count(f"stopped: {told.out}: told to stop, and stopped after step") == 2, said[-4000:]
    assert len(set(re.findall(r"stopped after step (\d+) of 40, which is saved", said))) == 1
    assert_equal(state_of(told.out), state_of(whole.out))


@pytest.mark.slow
def test_a_shard_that_one_process_cannot_read_sends_both_to_the_checkpoint_before(root: Path) -> None:
    keys = {"steps": 6, "log_every": 1, "save_every": 2, "mesh": Mesh(fsdp=8)}
    config = recipe(root, "sft", "shard", **keys)
    code, said = ended(launch(config, 2))
    assert code == 0, said[-4000:]
    wanted = state_of(config.out)
    shutil.rmtree(config.out / "model")
    shards = [path for path in (config.out / "checkpoints" / "6" / "state" / "ocdbt.process_1" / "d").iterdir() if path.stat().st_size > 1000]
    assert shards
    for shard in shards:
        os.truncate(shard, 100)
    code, said = ended(launch(config, 2))
    assert code == 0 and said.count("checkpoint 6 is damaged (") == 1 and "going on from that of step 4" in said, said[-4000:]
    assert_equal(state_of(config.out), wanted)
    assert steps(config.out / "checkpoints")[-1] == 6 and record(config.out, 6)["run"]["data"] == {"cases": 48}
