"""300 steps of GRPO with a checkpoint every twentieth: the host's memory does not grow, and nothing is compiled after the second step."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from faulty import prepare, recipe

from promedical_jax.config import Keep, Watch
from promedical_jax.recipe import dump

STEPS, FROM = 300, 60
BOUND = 0.01  # MiB a step: 1 GiB in 100,000 steps
# For each thread glibc keeps a pool of what was freed, and these come to their size over the first 200 steps: 5 to 15 MiB in all, once, which the slope of 300
# steps would show as a leak. With one pool, and freed blocks given back at once, what is resident is what is held.
GIVEN_BACK = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
# Run by itself; notes after every twentieth step the memory that is its own (files that are mapped come and go as the kernel likes), and of each program that
# is compiled after which step it was.
PROGRAM = """
import ctypes, gc, json, sys
import jax
from pathlib import Path
from promedical_jax.train import loop
from promedical_jax.train.export import read_stage
import faulty
memory, compiled, at = [], [], [0]
trim = ctypes.CDLL("libc.so.6").malloc_trim
def hear(name, *_, **__):
    if name == "/jax/core/compile/backend_compile_duration":
        compiled.append(at[0])
jax.monitoring.register_event_duration_secs_listener(hear)
advance = loop.Meter.advance
def note(meter, done, *rest):
    advance(meter, done, *rest)
    at[0] = done
    if done % 20:
        return
    gc.collect()
    trim(0)
    [anonymous] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    memory.append(int(anonymous.split()[1]) / 2**10)
loop.Meter.advance = note
faulty.run(read_stage(Path(sys.argv[1])))
at[0] = -1
print("NOTED " + json.dumps({"memory": memory, "compiled": compiled}))
"""


@pytest.mark.slow
def test_memory_and_programs_of_a_long_run(tmp_path: Path) -> None:
    config = recipe(prepare(tmp_path), "grpo", "long", steps=STEPS, log_every=1, save_every=20, watch=Watch(), keep=Keep())
    (tmp_path / "long.yaml").write_text(dump(config))
    environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "long.yaml")]
    done = subprocess.run(command, env=environment | GIVEN_BACK, text=True, capture_output=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-4000:]
    noted = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("NOTED ")).removeprefix("NOTED "))
    late = [step for step in noted["compiled"] if 2 <= step < STEPS]
    memory = np.array(noted["memory"])[FROM // 20 - 1 :]
    x = np.arange(len(memory)) * 20.0
    slope, offset = np.polyfit(x, memory, 1)
    error = np.sqrt(((memory - slope * x - offset) ** 2).sum() / (len(x) - 2) / ((x - x.mean()) ** 2).sum())
    counts = {"compiled": len(noted["compiled"]), "compiled_after_step_2": len(late)}
    print(json.dumps({"slope_mib_a_step": slope, "error": error, "mib": noted["memory"]} | counts))
    assert late == [] and len(memory) == (STEPS - FROM) // 20 + 1
    assert slope + 2.1 * error < BOUND, "the slope's 95 % interval reaches above what is allowed"
