"""Whether there are the devices, the memory and the disk that a training needs."""

import shutil
from pathlib import Path
from typing import NamedTuple

import jax

from promedical_jax.config import Stage
from promedical_jax.doctor.finding import NotApplicable
from promedical_jax.errors import InputError
from promedical_jax.model import lora, transformer
from promedical_jax.model.transformer import ModelConfig

GIB = 2**30


class Need(NamedTuple):
    """Bytes, over all devices: of the parameters that stay as they are, of what is trained with its optimizer, and of the parameters in a model folder."""

    frozen: int
    trained: int
    folder: int


def need(config: Stage, model: ModelConfig) -> Need:
    """By sizes alone. Trained parameters are kept in `weights`, with float32 masters where that is narrower, and two float32 moments."""
    whole = sum(x.size for x in jax.tree.leaves(transformer.shapes(model)))
    each = 12 if config.weights == "float32" else 14
    narrow = 2 if config.dtype == "bfloat16" else 4
    if not config.lora.rank:
        return Need(0, each * whole, 4 * whole)
    adapters = jax.eval_shape(lambda: lora.init(model, config.lora.rank, config.lora.targets, jax.random.key(0)))
    return Need(narrow * whole, each * sum(x.size for x in jax.tree.leaves(adapters)), narrow * whole)


def devices(mesh: jax.sharding.Mesh) -> str:
    """What the run will use."""
    found = jax.devices()
    kinds = sorted({device.device_kind for device in found})
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1) or "one device"
    return f"{len(found)} of {', '.join(kinds)}{processes}, as {axes}"


def memory(wanted: Need, count: int) -> str:
    """Of a device, where parameters and optimizer are split over `count` of them; on the CPU all share the host's. What activations need is not counted:
    `promedical plan` says it."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        most, part, where = stats["bytes_limit"], (wanted.frozen + wanted.trained) / count, "of a device"
    else:
        available = _host_memory()
        if available is None:
            raise NotApplicable("neither the devices nor the system say how much memory there is")
        most, part, where = available, float(wanted.frozen + wanted.trained), "of this machine"
    said = f"parameters and optimizer take {part / GIB:.2f} of {most / GIB:.2f} GiB {where}"
    if part > most:
        raise InputError(f"{said}; train adapters (lora.rank), keep weights in bfloat16, or use more devices")
    return said


def disk(config: Stage, wanted: Need) -> str:
    """For the checkpoints that stay, one more while it is written, and the model folder; less what a run that goes on has there already."""
    out = config.out
    places = config.keep.last + config.keep.best + 1
    if config.keep.every:
        places += config.steps // config.keep.every
    there = sum(file.stat().st_size for file in (out / "checkpoints").rglob("*") if file.is_file())
    wanted_bytes = max(places * wanted.trained - there, 0) + wanted.folder
    free = shutil.disk_usage(next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())).free
    said = f"{places} checkpoints and the model take up to {wanted_bytes / GIB:.2f} of {free / GIB:.2f} GiB free at {out}"
    if wanted_bytes > free:
        raise InputError(f"{said}; free space, choose another --out, or keep fewer checkpoints (keep.last, keep.best, keep.every)")
    return said


def _host_memory() -> int | None:
    """Bytes that are available now; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
