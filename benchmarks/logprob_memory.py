"""Memory and time of the log-probabilities of a row of tokens and their gradients: chunks of the vocabulary against all logits at once.

    python -m benchmarks.logprob_memory --out benchmarks/results/logprob_memory.json

Log-probability and entropy of T targets and the gradients of hidden states and unembedding under random cotangents of both, in float32 on one CPU
device. Each way runs in a process of its own. `temporary` is what the compiled program says of itself; `peak` is how far the resident memory grew in the
first run above what it was when the inputs existed and the program was compiled; both in MiB. The output, mostly the unembedding's gradient, is in `peak`
and not in `temporary`. `bare` is the same without entropy, the stricter comparison: with it the naive way grows by 21 GiB, twice what its program says of
itself. `ratio` is ours by the naive one. Prints one JSON line. Linux only, with 23 GiB free.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from promedical_jax.model.logprob import log_probs

V, T, D = 151_936, 4_096, 1_024  # the vocabulary of Qwen3, and the width of its 0.6B
MIB = 2**20
WAYS = {"ours": 3, "naive": 2}  # and how often each is timed


def naive(hidden, targets, unembed):
    every = jax.nn.log_softmax(jnp.einsum("btd,vd->btv", hidden, unembed))
    return jnp.take_along_axis(every, targets[..., None], -1)[..., 0], -(jnp.exp(every) * every).sum(-1)


def naive_bare(hidden, targets, unembed):
    every = jax.nn.log_softmax(jnp.einsum("btd,vd->btv", hidden, unembed))
    return jnp.take_along_axis(every, targets[..., None], -1)[..., 0], 0.0


def ours_bare(hidden, targets, unembed):
    return log_probs(hidden, targets, unembed)[0], 0.0


FUNCTIONS = {"ours": log_probs, "naive": naive, "ours_bare": ours_bare, "naive_bare": naive_bare}


def status(field: str) -> float:
    """MiB of a field of this process's status: VmRSS is the resident memory, VmHWM its peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


@jax.jit
def inputs():
    """Logits of standard deviation 3, and random cotangents."""
    keys = jax.random.split(jax.random.key(0), 4)
    hidden, unembed = jax.random.normal(keys[0], (1, T, D)), 3 * D**-0.5 * jax.random.normal(keys[1], (V, D))
    return hidden, jax.random.randint(keys[2], (1, T), 0, V), unembed, jax.random.normal(keys[3], (2, 1, T))


def measure(way: str, times: int, keep: Path) -> dict:
    """One way in this process; its values and gradients go to the file `keep`."""

    def loss(hidden, targets, unembed, cotangents):
        chosen, entropy = FUNCTIONS[way](hidden, targets, unembed)
        return (cotangents[0] * chosen).sum() + (cotangents[1] * entropy).sum(), (chosen, entropy)

    given = jax.block_until_ready(inputs())
    program = jax.jit(jax.value_and_grad(loss, (0, 2), has_aux=True)).lower(*given).compile()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before, seconds = status("VmRSS"), []
    for i in range(times):
        start = time.perf_counter()
        result = jax.block_until_ready(program(*given))
        seconds.append(time.perf_counter() - start)
        if i == 0:
            peak = status("VmHWM") - before
            (_, values), gradients = jax.device_get(result)
            np.savez(keep, chosen=values[0], entropy=values[1], hidden=gradients[0], unembed=gradients[1])
            del values, gradients
        del result
    memory = program.memory_analysis()
    assert memory is not None  # the CPU's compiler gives one
    return {
        "temporary": round(memory.temp_size_in_bytes / MIB, 1),
        "output": round(memory.output_size_in_bytes / MIB, 1),
        "peak": round(peak, 1),
        "seconds": round(statistics.median(seconds), 1),
        "all_seconds": [round(s, 1) for s in seconds],
    }


def alone(way: str, times: int, keep: Path) -> dict:
    """`measure` in a fresh process of one CPU device."""
    command = [sys.executable, "-m", "benchmarks.logprob_memory", "--way", way, "--times", str(times), "--keep", str(keep)]
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}).stdout
    return json.loads(shown.splitlines()[-1])


def ratios(ours: dict, naive: dict) -> dict[str, float]:
    """Ours by the naive way; `whole` is temporaries and output together, `peak_beyond_output` the growth less the output."""
    sums = [{"temporary": m["temporary"], "whole": m["temporary"] + m["output"], "peak": m["peak"], "peak_beyond_output": m["peak"] - m["output"]}
            for m in (ours, naive)]  # fmt: skip
    return {name: round(value / sums[1][name], 4) for name, value in sums[0].items()}


def apart(folder: Path) -> dict[str, float]:
    """Largest difference of each array by its largest entry."""
    with np.load(folder / "ours.npz") as ours, np.load(folder / "naive.npz") as theirs:
        return {name: float(f"{np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max():.1e}") for name in ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    parser.add_argument("--way", choices=FUNCTIONS, help="measure this one in this process, as the benchmark calls itself")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.times, arguments.keep)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        full = {way: alone(way, times, folder / f"{way}.npz") for way, times in WAYS.items()}
        differences = apart(folder)
        bare = {way: alone(f"{way}_bare", 1, folder / f"{way}.npz") for way in WAYS}
    for memory in bare.values():  # a first run, which its page faults slow down, is no measure of time
        del memory["seconds"], memory["all_seconds"]
    result = {
        "benchmark": "logprob_memory",
        "command": "python -m benchmarks.logprob_memory --out benchmarks/results/logprob_memory.json",
        "machine": {"cpus": len(os.sched_getaffinity(0)), "processor": platform.machine()},
        "versions": {name: version(name) for name in ("promedical-jax", "jax")},
        "sizes": {"vocabulary": V, "tokens": T, "width": D},
        **full,
        "ratio": ratios(**full),
        "bare": {**bare, "ratio": ratios(**bare)},
        "relative_difference": differences,
    }
    print(json.dumps(result))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
