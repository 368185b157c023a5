"""Host memory and time of loading a random checkpoint of 2 GB in 8 files onto 8 simulated devices, beside the naive way: every file read, then placed.

    python -m benchmarks.load_weights

Prints one JSON line. Each way runs in a process of its own; memory is the peak resident set of that process, absolute and above what it held before.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file

from promedical_jax.model import hf, transformer
from promedical_jax.model.hf import names
from promedical_jax.model.rope import Rope
from promedical_jax.model.sharding import make_mesh, shardings
from promedical_jax.model.transformer import ModelConfig

GB = 1e9
DEVICES, FSDP, TP, FILES = 8, 4, 2, 8
# Qwen3-0.6B with 22 of its 28 layers: 0.50 G parameters, 2.0 GB in float32, of which 0.6 GB are the embedding.
CONFIG = ModelConfig(vocabulary=151936, width=1024, depth=22, kv_heads=8, query_heads=2, head=128, feed_forward=3072, rope=Rope(1e6), tied=True)
SHARD_BYTES = 208_000_000  # makes FILES files


def make(folder: Path) -> None:
    """A random checkpoint in `folder`/model."""
    rng = np.random.default_rng(0)
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text(json.dumps(hf.hf_config(CONFIG)))
    draw = lambda leaf: rng.standard_normal((CONFIG.depth, *leaf.shape) if leaf.stacked else leaf.shape, np.float32)  # noqa: E731
    params = names.tree_of({leaf.path: draw(leaf) for leaf in names.leaves(CONFIG)})
    hf.save(folder / "model", params, CONFIG, folder / "base", card="", shard_bytes=SHARD_BYTES)


def load(way: str, folder: Path) -> dict[str, Any]:
    """What one way needs, in this process."""
    where = shardings(make_mesh(FSDP, TP), transformer.axes(CONFIG))
    before, began = resident("VmRSS"), time.perf_counter()
    params: Any
    if way == "streamed":
        params = hf.load(folder, CONFIG, where)
    else:
        tensors = {name: x for file in sorted(folder.glob("*.safetensors")) for name, x in load_file(file).items()}
        params = jax.device_put(hf.from_hf(tensors, CONFIG, str(folder)), where)
    jax.block_until_ready(params)
    seconds, peak = time.perf_counter() - began, resident("VmHWM")
    arrays = sum(x.nbytes for x in jax.tree.leaves(params)) / GB
    held = sum(shard.data.nbytes for x in jax.tree.leaves(params) for shard in x.addressable_shards) / GB  # norms are on every device
    return {
        "arrays_gb": round(arrays, 3),
        "arrays_on_devices_gb": round(held, 3),
        "resident_before_gb": round(before, 3),
        "peak_resident_gb": round(peak, 3),
        "peak_over_arrays": round(peak / arrays, 3),
        "peak_above_before_over_arrays": round((peak - before) / arrays, 3),
        "seconds": round(seconds, 1),
        "checksum": [float(np.asarray(params["layers"][name][-1], np.float64).sum()) for name in ("q", "o", "down")],
    }


def resident(field: str) -> float:
    """GB by the kernel: VmRSS is now, VmHWM the most so far."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / GB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=["streamed", "naive"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        jax.config.update("jax_num_cpu_devices", DEVICES)
        print(json.dumps(load(arguments.way, arguments.folder)))
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    with tempfile.TemporaryDirectory() as temporary:
        make(Path(temporary))
        model = Path(temporary) / "model"
        files = sorted(model.glob("*.safetensors"))
        assert len(files) == FILES
        run = [sys.executable, "-m", "benchmarks.load_weights", "--folder", str(model), "--way"]
        ways = {way: json.loads(subprocess.run([*run, way], check=True, stdout=subprocess.PIPE).stdout) for way in ("streamed", "naive")}
        size = sum(file.stat().st_size for file in files) / GB
    assert ways["streamed"].pop("checksum") == ways["naive"].pop("checksum")
    print(
        json.dumps(
            {
                "benchmark": "load_weights",
                "command": "python -m benchmarks.load_weights",
                "machine": {"cpus": len(os.sched_getaffinity(0)), "processor": platform.machine()},
                "versions": {name: version(name) for name in ("promedical-jax", "jax", "safetensors", "numpy")},
                "checkpoint": {"files": FILES, "gb": round(size, 3), "dtype": "float32"},
                "devices": {"count": DEVICES, "mesh": {"fsdp": FSDP, "tp": TP}},
                **ways,
            }
        )
    )


if __name__ == "__main__":
    main()
