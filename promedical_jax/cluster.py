"""Several processes as one run: joining them, agreeing, and who writes. On one machine without a cluster's environment all of this is nothing.

A run on several hosts is the same command on each. They find each other

- by JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID, which go before everything else: any machines, CPUs too;
- by themselves in a TPU pod (Google's TPU VMs and GKE), under Slurm, and under Open MPI's mpirun, where JAX reads the rest.

What decides is the environment alone, and whether `import jax` found TPU chips: no network is asked on a laptop. A notebook host with TPU chips of its own
(Colab, Kaggle) lists one worker and stays alone, as does a Slurm or MPI job of one task. On CPUs JAX's collectives go over gloo, its default.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from promedical_jax.errors import STOPPED, InputError

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# After how long a process from which nothing is heard counts as dead, and all others are ended; where they meet it, they know at once.
HEARTBEAT_SECONDS = 40
# How long a process that ends waits for the others before all are ended: the time that a run outlives an error in one of its processes.
# The stages end on a barrier, so that in a sound run nobody waits here for a file that another still writes.
SHUTDOWN_SECONDS = 60


def join() -> None:
    """Joins this process to its cluster, if its environment speaks of one; before anything touches a device, and once: later calls do nothing.

    Raises InputError for an environment that is incomplete, contradicts itself, or whose cluster JAX cannot make out.
    """
    if jax.distributed.is_initialized():
        return
    given = explicit(os.environ)
    if given:
        address, count, number = given
        if number == 0:
            _check_port(address)
        jax.distributed.initialize(address, count, number, cluster_detection_method="deactivate", shutdown_timeout_seconds=SHUTDOWN_SECONDS,
                                   heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
        return
    launcher = detected(os.environ)
    if launcher:
        try:
            jax.distributed.initialize(shutdown_timeout_seconds=SHUTDOWN_SECONDS, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
        except ValueError as error:  # JAX saw less of the cluster than we did
            raise InputError(f"{launcher} says that there are several processes, but JAX cannot find them ({error}); set {', '.join(EXPLICIT)}") from error


def explicit(environment: Mapping[str, str]) -> tuple[str, int, int] | None:
    """(coordinator's address, number of processes, this one's number) as the JAX_* variables say, None where none is set. Raises InputError."""
    missing = [name for name in EXPLICIT if not environment.get(name)]
    if len(missing) == len(EXPLICIT):
        return None
    if missing:
        present = next(name for name in EXPLICIT if name not in missing)
        raise InputError(f"{missing[0]} is not set, but {present} is; set {', '.join(EXPLICIT)}, or none of them")
    address = environment[EXPLICIT[0]]
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"JAX_COORDINATOR_ADDRESS={address} is not a host and a port; write it as in 10.0.0.1:8476")
    for name in EXPLICIT[1:]:
        if not environment[name].isdecimal():
            raise InputError(f"{name}={environment[name]} is not a whole number; processes are counted from 0")
    count, number = int(environment[EXPLICIT[1]]), int(environment[EXPLICIT[2]])
    if number >= count:
        raise InputError(f"JAX_PROCESS_ID={number} does not fit JAX_NUM_PROCESSES={count}; processes are counted from 0, so the last is {count - 1}")
    return address, count, number


def _check_port(address: str) -> None:
    """Raises InputError where another program has the coordinator's port: JAX crashes there."""
    try:
        socket.create_server(("", int(address.rpartition(":")[2]))).close()
    except OSError as error:
        raise InputError(f"JAX_COORDINATOR_ADDRESS={address}: process 0 cannot listen there ({error.strerror}); choose another port") from error


def detected(environment: Mapping[str, str]) -> str | None:
    """Which variable speaks of a cluster of several processes that JAX can join by itself; None on a machine that is alone. Asks no network."""

    def several(name: str) -> bool:
        return environment.get(name, "").isdecimal() and int(environment[name]) > 1

    # The node list is set within `srun` only: a batch script's own shell is one process, whatever the job has.
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    if "SLURM_STEP_NODELIST" in environment and several(tasks):
        return tasks
    if several("OMPI_COMM_WORLD_SIZE"):
        return "OMPI_COMM_WORLD_SIZE"
    # `import jax` marks a host that has TPU chips and libtpu.
    if environment.get("TPU_ML_PLATFORM") != "JAX" or "tpu" not in (environment.get("JAX_PLATFORMS") or "tpu"):
        return None
    if several("MEGASCALE_NUM_SLICES"):
        return "MEGASCALE_NUM_SLICES"
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):  # GKE; the first that is set counts, as for JAX
        if name in environment:
            return name if "," in environment[name] else None
    return None if "TPU_SKIP_MDS_QUERY" in environment else "TPU_ML_PLATFORM"  # a TPU VM: only its metadata server, which is near, knows the others


@contextmanager
def notice() -> Iterator[Callable[[int], bool]]:
    """Hears a notice that this run is to stop: SIGTERM, by which schedulers of spot machines give it. Asked before each step, by its number, what it yields
    says whether to stop there: after the same step in all processes, also where one of them alone was told, and without waiting for the others until then.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point  # JAX listens since the processes were joined
        return
    told: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # who runs this has Python's signals
        yield lambda step: False
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        yield lambda step: bool(told)
    finally:
        signal.signal(signal.SIGTERM, before)


# What JAX says where another process is gone: by its collectives on CPUs and GPUs, and by its coordination service.
LOST = ("gloo", "nccl", "connection reset", "connection closed", "socket closed", "coordination service", "coordination_service", "heartbeat")


def lost(error: BaseException) -> bool:
    """Whether this says that another process of the run is gone."""
    return jax.process_count() > 1 and any(word in str(error).lower() for word in LOST)


@contextmanager
def survivors() -> Iterator[None]:
    """Ends this process, with a sentence and exit code 75, where another process of the run has died: what they computed together is lost, and JAX would wait
    a minute for a farewell that nobody says. Where it waits for a dead one without a collective, JAX itself ends it after HEARTBEAT_SECONDS."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or not lost(error):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), "")[:160]
        print(f"stopped: another process of this run is gone ({reason}); start all of them again, and they go on from the last checkpoint", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(STOPPED)


def chief() -> bool:
    """Whether this is process 0, the one that writes what is written once."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process is here; `name` tells this place from others."""
    multihost_utils.sync_global_devices(name)


def agree(value: int) -> int:
    """Process 0's `value`, in every process."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def share(array: np.ndarray) -> np.ndarray:
    """Process 0's array, in every process; the others give one of its shape and type."""
    return np.asarray(multihost_utils.broadcast_one_to_all(array))


@contextmanager
def together() -> Iterator[None]:
    """A block that all processes pass, or none: an InputError or OSError in one is raised in it, and in the others as an InputError that quotes it.

    For what each process does alone, such as reading files: a block in which processes wait for each other hangs where one has left it.
    """
    failure: InputError | OSError | None = None
    try:
        yield
    except (InputError, OSError) as error:
        failure = error
    if jax.process_count() > 1:
        said = np.zeros(1024, np.uint8)
        sentence = (str(failure) or "an error")[:1024].encode()[: said.size] if failure else b""
        said[: len(sentence)] = np.frombuffer(sentence, np.uint8)
        for process, row in enumerate(multihost_utils.process_allgather(said)):
            if row.any() and not failure:
                raise InputError(f"process {process} cannot go on: {row.tobytes().rstrip(bytes(1)).decode(errors='replace')}")
    if failure:
        raise failure
