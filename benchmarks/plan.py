"""What Qwen3-8B costs on four TPU topologies, stage by stage: `promedical plan`, each in a fresh process, at a batch that fits.

    python -m benchmarks.plan            # all sixteen, about twenty minutes on two cores
    python -m benchmarks.plan sft:v6e    # some of them, by stage and chip

Prints one JSON line a plan, then a table, and writes benchmarks/results/plan.json when all of them were asked for. No TPU is needed: the compiler's own
memory and cycle estimates are read. Nothing here was run on a TPU.
"""

import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "plan.json"
MODEL = "Qwen/Qwen3-8B"
TOPOLOGIES = ("v5e:4x4", "v5p:2x2x2", "v6e:2x4", "tpu7x:2x2x1")
SHAPES = {
    "sft": ["--answers", "1"],
    "rm": ["--answers", "2", "--criteria", "8", "--criterion", "48"],
    "grpo": ["--answers", "8"],
    "rollout": ["--answers", "8", "--tp", "8"],
}
BATCHES = {  # cases over all devices, in the order of TOPOLOGIES
    "sft": (32, 64, 32, 32),
    "rm": (16, 32, 16, 32),
    "grpo": (16, 16, 8, 8),
    "rollout": (16, 64, 16, 64),
}
SHORTER = {("grpo", "v5e:4x4"): ["--answer", "512"]}  # 16 GiB do not hold a group of eight answers of 1,024 tokens


def command(stage: str, topology: str) -> list[str]:
    batch = BATCHES[stage][TOPOLOGIES.index(topology)]
    shapes = [*SHAPES[stage], *SHORTER.get((stage, topology), [])]
    return ["plan", "--model", MODEL, "--stage", stage, "--topology", topology, "--batch", str(batch), *shapes, "--json"]


def run(stage: str, topology: str) -> dict:
    line = command(stage, topology)
    done = subprocess.run([sys.executable, "-m", "promedical_jax.cli", *line], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"promedical {' '.join(line)}\n{done.stderr}")
    return {"command": f"promedical {' '.join(line)}"} | json.loads(done.stdout)


def table(plans: list[dict]) -> Table:
    shown = Table(*("stage", "topology", "mesh", "batch", "tokens/device", "GiB of", "fits", "compile s", "step s", "floor s", "tokens/s/device", "MFU"))
    for plan in plans:
        gib, time = plan["gib"], plan["time"] or {}
        mesh = " x ".join(f"{name} {size}" for name, size in plan["mesh"].items() if size > 1)
        figures = [f"{time[name]:,.2f}" if name in time else "" for name in ("estimate", "floor")]
        speed = [f"{time['tokens_per_second_per_device']:,.0f}", f"{time['mfu']:.0%}"] if time else ["", ""]
        memory, tokens = f"{gib['peak']:.1f} of {gib['hbm']:.1f}", f"{plan['tokens'] // plan['devices']:,}"
        fits = "yes" if plan["fits"] else "no"
        shown.add_row(plan["stage"], plan["topology"], mesh, str(plan["batch"]), tokens, memory, fits, f"{plan['compile_s']:.0f}", *figures, *speed)
    return shown


def main() -> None:
    asked = sys.argv[1:]
    chosen = [(stage, topology) for stage in SHAPES for topology in TOPOLOGIES if not asked or f"{stage}:{topology.split(':')[0]}" in asked]
    if not chosen:
        raise SystemExit(f"none of {', '.join(asked)} is a stage and chip; write sft:v5e, with {', '.join(SHAPES)} and v5e, v5p, v6e, tpu7x")
    plans = []
    for stage, topology in chosen:
        plans.append(run(stage, topology))
        print(json.dumps(plans[-1]), flush=True)
    Console(width=160).print(table(plans))
    if not asked:
        RESULTS.write_text(json.dumps({"command": "python -m benchmarks.plan", "plans": plans}, indent=1) + "\n")


if __name__ == "__main__":
    main()
