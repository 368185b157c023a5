"""The chips that a stage can be compiled for without having them, and the topologies that they stand in."""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from promedical_jax.errors import InputError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """What one device offers. Peaks are those that the vendor publishes for bfloat16; `hbm` is what its compiler lets a program use.

    `stand_in`: the TPU whose compiler lays programs out in its place, where its own cannot be had without it.
    """

    name: str
    hbm: float  # bytes
    flops: float  # a second
    bandwidth: float  # bytes a second to its memory
    ici: float  # bytes a second to its neighbours, both directions together
    clock: float | None  # cycles a second that the compiler's estimates are in
    stand_in: str | None = None


# A tpu7x chip is two devices: figures are halves of the chip's, and its clock follows from the peak of four 256 x 256 matrix units.
CHIPS = {
    "v5e": Chip("v5e", 15.75 * GIB, 197e12, 819e9, 400e9, 1.5e9),
    "v5p": Chip("v5p", 95.74 * GIB, 459e12, 2765e9, 1200e9, 1.75e9),
    "v6e": Chip("v6e", 31.25 * GIB, 918e12, 1638e9, 800e9, 1.75e9),
    "tpu7x": Chip("tpu7x", 94.75 * GIB, 1153.5e12, 3690e9, 600e9, 2.2e9),
}
# GPUs of one host. `hbm` is nine tenths of the card's memory, for what CUDA and NCCL hold, as with XLA_PYTHON_CLIENT_MEM_FRACTION=.9.
GPUS = {
    "h100": Chip("h100", 0.9 * 79.6 * GIB, 989e12, 3350e9, 900e9, None, "v5p"),
    "h200": Chip("h200", 0.9 * 140.4 * GIB, 989e12, 4800e9, 900e9, None, "v5p"),
}
HOSTS = {"1": "1x1x1", "4": "2x2x1", "8": "2x2x2"}  # GPUs of a host, as the stand-in's chips stand
# So that JAX takes this machine's CPU, and the compiler does not complain that it finds no TPU here.
QUIET = {"JAX_PLATFORMS": "cpu", "TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_LOG_DIR": "disabled"}
ALIASES = {"v7x": "tpu7x"}
USE = "write it as chip:shape, such as v5e:4x4, v5p:2x2x2, v6e:2x4, tpu7x:2x2x1, h100:1, or cpu:8"


def topology(name: str) -> tuple[Chip, list[Any]]:
    """The chip and the devices of "v5p:2x2x2", of which programs can be compiled but not run, or of "cpu:8" (simulated ones).

    Call it before anything else asks JAX for devices. Raises InputError for a name that is none, and where the TPU compiler is not installed.
    """
    kind, _, shape = name.partition(":")
    kind = ALIASES.get(kind, kind)
    if kind == "cpu" and re.fullmatch(r"[1-9]\d*", shape):
        return _cpus(int(shape))
    if kind in GPUS and shape in HOSTS:
        chip = GPUS[kind]
        return chip, topology(f"{chip.stand_in}:{HOSTS[shape]}")[1]
    if kind in GPUS:
        raise InputError(f"--topology {name!r}: GPUs are planned for one host, of {', '.join(HOSTS)}; write it as {kind}:8")
    if kind not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", shape):
        raise InputError(f"--topology {name!r} is not known; {USE}")
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # no hardware to ask, and none to lock
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    alone = {"chips_per_host_bounds": (1, 1, 1)} if set(shape.split("x")) == {"1"} else {}
    try:
        return CHIPS[kind], list(topologies.get_topology_desc(platform="tpu", topology_name=f"{kind}:{shape}", **alone).devices)
    except Exception as error:
        if "libtpu" in str(error) or isinstance(error, NotImplementedError):
            raise InputError('plan: the TPU compiler is not installed; run pip install "promedical-jax[tpu]" (it needs no TPU)') from None
        raise InputError(f"--topology {name!r}: no such arrangement of {kind} chips ({str(error).splitlines()[0]}); {USE}") from None


def _cpus(count: int) -> tuple[Chip, list[Any]]:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    with suppress(RuntimeError):  # a program that has used its devices already has as many as it has
        jax.config.update("jax_num_cpu_devices", max(count, getattr(jax.config, "jax_num_cpu_devices", -1)))
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise InputError(f"--topology cpu:{count}: this process has {len(devices)} CPU devices already; plan in a fresh one")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Chip("cpu", memory / count, float("nan"), float("nan"), float("nan"), None), devices[:count]
