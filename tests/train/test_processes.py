"""Several processes are one run: two with four devices each give the losses and weights of one with eight, and write each file once."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from promedical_jax import cluster
from promedical_jax.cli import main
from promedical_jax.errors import InputError
from promedical_jax.train import loop

STEPS, SAVE_EVERY = 4, 2
TIMEOUT = 300  # seconds; a run takes about 15
# The command, in a process that notes each file below a folder that Python opens to write, or puts there by renaming. With a third argument it is killed
# after its third step, once the checkpoint of the second is whole.
COMMAND = """
import os, signal, sys, time
from pathlib import Path
root, kill, *arguments = sys.argv[1:]
written = set()
def note(event, values):
    if event == "open" and isinstance(values[0], (str, os.PathLike)) and values[2] & (os.O_WRONLY | os.O_RDWR):
        written.add(os.path.abspath(values[0]))
    elif event == "os.rename":
        written.add(os.path.abspath(values[1]))
sys.addaudithook(note)
from promedical_jax.cli import main
from promedical_jax.train import loop
if kill:
    advance = loop.Meter.advance
    def stop(meter, done, *rest):
        advance(meter, done, *rest)
        if done == 3:
            while not Path(kill).exists():
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
    loop.Meter.advance = stop
code = main(arguments)
print(*sorted(os.path.relpath(path, root) for path in written if path.startswith(root)), sep="\\n")
sys.exit(code)
"""


class Ended(NamedTuple):
    code: int
    out: list[str]
    error: str


def two(program: str, *arguments: str) -> list[Ended]:
    """Runs a Python program in two processes of four devices that can find each other."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    shared = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4", "JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2",
              "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
              "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}  # fmt: skip
    started = [
        subprocess.Popen([sys.executable, "-c", program, *arguments], env=os.environ | shared | {"JAX_PROCESS_ID": str(number)}, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in range(2)
    ]  # fmt: skip
    said = []
    try:
        for process in started:
            said.append(process.communicate(timeout=TIMEOUT))
    finally:
        for process in started:
            process.kill()
    # Gloo tells of its connections from several threads at once, so that a line of its may be broken anywhere.
    lines = [[line for line in out.splitlines() if not line.startswith("[Gloo]") and "peer ranks" not in line] for out, _ in said]
    return [Ended(process.returncode, out, error) for process, out, (_, error) in zip(started, lines, said, strict=True)]


def succeed(ended: list[Ended]) -> list[Ended]:
    for number, process in enumerate(ended):
        assert process.code == 0, f"process {number} ended with {process.code}:\n{process.error[-4000:]}"
    return ended


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clinic")
    assert main(["data", "clinic", "--out", str(folder), "--train", "24", "--held-out", "1"]) == 0
    return folder


def flags(stage: str, clinic: Path, mesh: tuple[int, int], out: Path, **more: object) -> list[str]:
    # A low rate: Adam makes steps of full size of gradients that are only rounding, and a high one would make them visible in the weights.
    keys = {"model": clinic / "model", "cases": clinic / "train.jsonl", "out": out, "steps": STEPS, "save_every": SAVE_EVERY, "log_every": 1,
            "optimizer.learning_rate": 1e-4, "mesh.fsdp": mesh[0], "mesh.tp": mesh[1]} | more  # fmt: skip
    return ["train", stage, *(text for key, value in keys.items() for text in (f"--{key}", str(value)))]


def files(folder: Path, starts: int = 1) -> set[str]:
    """The files of a run, without Orbax's own, and without TensorBoard's, one a start, whose names tell when it was."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "checkpoints" not in path.parts}
    events = {name for name in found if name.startswith("tensorboard/")}
    assert len(events) == starts
    return (found - events) | {str(path.relative_to(folder)) for path in folder.glob("checkpoints/*")}


def assert_same_run(run: Path, wanted: Path, starts: int = 1, tolerance: float = 1e-5, of_weights: float = 1e-5) -> None:
    """Equal figures at each step, equal weights, and the same files, each whole."""
    rows, same = ([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (run, wanted))
    assert [row["step"] for row in rows] == [row["step"] for row in same] == list(range(STEPS))
    for name in same[0]:
        within = min(tolerance, 1e-6) if name == "loss" else tolerance
        np.testing.assert_allclose([row[name] for row in rows], [row[name] for row in same], rtol=within, atol=within, err_msg=name)
    assert files(run, starts) == files(wanted)
    for file in wanted.glob("model/*.safetensors"):
        weights, expected = load_file(run / "model" / file.name), load_file(file)
        assert weights.keys() == expected.keys()
        for name, array in expected.items():
            assert np.abs(weights[name] - array).max() <= of_weights * np.abs(array).max(), name


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """The values within nested JSON by where they stand."""
    if not isinstance(value, dict | list):
        return {name: value}
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return {place: leaf for key, one in inner for place, leaf in leaves(one, f"{name}/{key}").items()}


def assert_written_once(ended: list[Ended]) -> None:
    """Beside their shares of the checkpoints, process 0 alone writes."""
    own, other = ({path for path in process.out if Path(path).suffix and "checkpoints" not in Path(path).parts} for process in ended)
    assert {"metrics.jsonl", "recipe.yaml"} <= {Path(path).name for path in own} and not other
    assert "the trained model is in" in "".join(ended[0].out) and "step" not in ended[1].error and "the trained model" not in "".join(ended[1].out)


# Whole runs


@pytest.mark.parametrize("mesh", [pytest.param((8, 1), marks=pytest.mark.slow), (4, 2)])  # README's two hosts are a mesh of the first sort
def test_two_processes_train_as_one_does(mesh: tuple[int, int], clinic: Path, tmp_path: Path) -> None:
    """The second of the two runs is killed in both processes, and one process alone goes on with it."""
    one, both = tmp_path / "one", tmp_path / "both"
    assert main(flags("sft", clinic, mesh, one)) == 0
    losses = [json.loads(line)["loss"] for line in (one / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.1  # else the weights below are those of the start
    if mesh == (8, 1):
        assert_written_once(succeed(two(COMMAND, str(both), "", *flags("sft", clinic, mesh, both))))
    else:
        # Each recipe names its folder, so the one process finds the run of the two as its own.
        killed = two(COMMAND, str(both), str(both / "checkpoints" / "2"), *flags("sft", clinic, mesh, both))
        assert all(process.code < 0 for process in killed) and not (both / "model").exists(), killed[0].error[-4000:]
        steps, advance = [], loop.Meter.advance
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.Meter, "advance", lambda meter, done, *rest: steps.append(done) or advance(meter, done, *rest))
            assert main(flags("sft", clinic, mesh, both)) == 0
        assert steps == [3, 4]
    assert_same_run(both, one, starts=1 if mesh == (8, 1) else 2)


@pytest.mark.slow
def test_two_processes_train_a_reward_model_and_align_a_policy_with_it(clinic: Path, tmp_path: Path) -> None:
    """Killed in two processes and gone on with in two."""
    common = {"calibration.share": 0.2, "held_out_share": 0.2}
    one, both = (tmp_path / "judge" / name for name in ("one", "both"))
    assert main(flags("rm", clinic, (4, 2), one, **common)) == 0
    killed = two(COMMAND, str(both), str(both / "checkpoints" / "2"), *flags("rm", clinic, (4, 2), both, **common))
    assert all(process.code < 0 for process in killed), killed[0].error[-4000:]
    assert_written_once(succeed(two(COMMAND, str(both), "", *flags("rm", clinic, (4, 2), both, **common))))
    assert_same_run(both, one, starts=2)
    assert (both / "held_out.jsonl").read_text() == (one / "held_out.jsonl").read_text()
    found, wanted = (leaves(json.loads((folder / "evaluation.json").read_text())) for folder in (both, one))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == (pytest.approx(value, rel=1e-5, abs=1e-6) if isinstance(value, float) else value), name

    policy = tmp_path / "policy"
    assert main(flags("sft", clinic, (8, 1), policy)) == 0
    common = {"model": policy / "model", "reward_model": one / "model", "answers": 4, "answer_tokens": 12}
    one, both = (tmp_path / "aligned" / name for name in ("one", "both"))
    assert main(flags("grpo", clinic, (4, 2), one, **common)) == 0
    assert_written_once(succeed(two(COMMAND, str(both), "", *flags("grpo", clinic, (4, 2), both, **common))))
    # Where a weight's gradient is hardly more than rounding, Adam makes a step of up to 1e-4 of it all the same.
    assert_same_run(both, one, of_weights=2e-4)
    for name in ("rollouts.jsonl", "ledger.jsonl"):
        assert len((both / name).read_text().splitlines()) == len((one / name).read_text().splitlines()) > 0
    said = [[json.loads(line)["text"] for line in (folder / "rollouts.jsonl").read_text().splitlines()] for folder in (one, both)]
    assert said[0] == said[1]


def test_what_one_process_cannot_do_none_does(clinic: Path, tmp_path: Path) -> None:
    """A host without the cases, or given another recipe, ends the run on all hosts, soon, with a sentence on each."""
    program = """
import os, sys
from promedical_jax.cli import main
missing, other = list(sys.argv[1:]), list(sys.argv[1:])
if os.environ["JAX_PROCESS_ID"] == "1":
    missing[missing.index("--cases") + 1] += ".none.jsonl"
    other += ["--seed", "1"]
print(main(missing), main(other))
"""
    out = tmp_path / "out"
    for number, process in enumerate(succeed(two(program, *flags("sft", clinic, (8, 1), out)))):
        assert process.out == ["2 2"] and "Traceback" not in process.error
        missing, other = (line for line in process.error.splitlines() if line.startswith("error: "))
        assert f"{'' if number else 'process 1 cannot go on: '}{clinic / 'train.jsonl.none.jsonl'} does not exist" in missing
        assert f"{out / 'recipe.yaml'}: process 1 was started with another recipe" in other
    assert not out.exists()


def test_what_processes_share() -> None:
    """Agreement, errors, and arrays whose parts lie on both processes: with eight-way tensors both hold every row of a batch."""
    program = """
import jax, numpy as np, sys
from promedical_jax import cluster
from promedical_jax.data.batches import to_devices, to_host
from promedical_jax.errors import InputError
from promedical_jax.model.sharding import make_mesh
cluster.join()
cluster.join()
number = jax.process_index()
assert jax.process_count() == 2 and jax.device_count() == 8 and cluster.chief() == (number == 0)
assert cluster.agree(7 + number) == 7
with cluster.together():
    pass
for failing in (0, 1):
    try:
        with cluster.together():
            if number == failing:
                raise InputError("größer als erlaubt")
        raise SystemExit("nothing was raised")
    except InputError as error:
        assert str(error) == ("" if number == failing else f"process {failing} cannot go on: ") + "größer als erlaubt", error
rows = np.arange(48, dtype=np.float32).reshape(8, 6)
for mesh, held in (((8, 1), 4), ((4, 2), 4), ((2, 4), 4), ((1, 8), 8)):
    with jax.set_mesh(make_mesh(*mesh)):
        placed = to_devices({"x": rows})["x"]
        assert placed.shape == (8, 6) and len({shard.index[0].start for shard in placed.addressable_shards}) * 8 // mesh[0] == held
        np.testing.assert_array_equal(to_host(placed), rows)
cluster.barrier("end")
"""
    succeed(two(program))


# How a process finds its cluster

ADDRESS = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:8476"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [({}, None), ({"HOME": "/"}, None), (ADDRESS | {"JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}, ("10.0.0.1:8476", 4, 3))],
)  # fmt: skip
def test_the_environment_names_a_cluster(environment: dict[str, str], found: tuple | None) -> None:
    assert cluster.explicit(environment) == found


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        (ADDRESS, "JAX_NUM_PROCESSES is not set, but JAX_COORDINATOR_ADDRESS is"),
        ({"JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS is not set, but JAX_PROCESS_ID is"),
        (ADDRESS | {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID is not set"),
        (ADDRESS | {"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}, "JAX_NUM_PROCESSES=two is not a whole number"),
        (ADDRESS | {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID=2 does not fit JAX_NUM_PROCESSES=2"),
        (ADDRESS | {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID=-1 is not a whole number"),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "10.0.0.1 is not a host and a port"),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1:99999", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "10.0.0.1:99999 is not a host and a port"),
    ],
)  # fmt: skip
def test_half_a_cluster_is_refused(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        cluster.explicit(environment)
    assert sentence in str(error.value) and "\n" not in str(error.value)


STEP = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
TPU = {"TPU_ML_PLATFORM": "JAX"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        (STEP | {"SLURM_NTASKS": "8"}, None),  # a batch script's own shell
        (STEP | {"SLURM_NTASKS": "8", "SLURM_STEP_NODELIST": "a[1-8]"}, "SLURM_NTASKS"),
        (STEP | {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NODELIST": "a1"}, None),  # a shell inside a job
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE"),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, None),  # without chips
        (TPU, "TPU_ML_PLATFORM"),
        (TPU | {"TPU_SKIP_MDS_QUERY": "1"}, None),
        (TPU | {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_SKIP_MDS_QUERY": "1"}, "TPU_WORKER_HOSTNAMES"),
        (TPU | {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        (TPU | {"TPU_PROCESS_ADDRESSES": "local", "TPU_WORKER_HOSTNAMES": "a,b"}, None),
        (TPU | {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, "MEGASCALE_NUM_SLICES"),
    ],
)  # fmt: skip
def test_a_cluster_is_seen_and_a_lone_machine_too(environment: dict[str, str], found: str | None) -> None:
    assert cluster.detected(environment) == cluster.detected(environment | {"JAX_PLATFORMS": "tpu,cpu"}) == found
    if found and found.startswith(("TPU", "MEGASCALE")):
        assert cluster.detected(environment | {"JAX_PLATFORMS": "cpu"}) is None  # told to leave the chips alone


@pytest.mark.parametrize("environment", [{}, {"OMPI_COMM_WORLD_SIZE": "4"}, ADDRESS | {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}], ids=str)
def test_joining(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on a machine alone; in a cluster once, and where JAX finds none of its own an error that says what to set."""
    calls: list[tuple] = []
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: bool(calls))

    def initialize(*given: object, **_: object) -> None:
        if not given:
            raise ValueError("coordinator_address should be defined.")
        calls.append(given)

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    if "OMPI_COMM_WORLD_SIZE" in environment:
        with pytest.raises(InputError, match="OMPI_COMM_WORLD_SIZE says that there are several processes, but JAX cannot find them"):
            cluster.join()
        return
    cluster.join()
    cluster.join()
    assert calls == ([("10.0.0.1:8476", 2, 0)] if environment else [])


def test_a_taken_port_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(os, "environ", {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"})
        with pytest.raises(InputError, match=f"localhost:{port}: process 0 cannot listen there"):
            cluster.join()
