"""What Qwen3-8B costs on four TPU topologies, stage by stage, the tree beside its flat variant, and all that a run of GRPO does on one topology.

    python -m benchmarks.plan                      # all of them, more than an hour on two cores
    python -m benchmarks.plan sft:v6e              # some of them, by stage and chip
    python -m benchmarks.plan grpo rollout:flat    # a stage everywhere; the flat variants of a stage
    python -m benchmarks.plan grpo:lora            # GRPO's update with policy, reference and reward model on one base

Prints one JSON line a plan, then a table of all that stand in benchmarks/results/plan.json, where each plan replaces the one of the same command and the
others stay. No TPU is needed: the compiler's own memory and cycle estimates are read. Nothing here was run on a TPU.

A flat variant is the same answers with a row each, instruction and answer: 64 rows of one answer in the place of 8 instructions of 8 answers. Each plan is
`promedical plan` in a fresh process, and counts what else the run holds: in `lora` policy and reward model are adapters of one base, which is the reference;
in `full` all parameters are trained, and reference and reward model are models of their own.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "plan.json"
MODEL = "Qwen/Qwen3-8B"
TOPOLOGIES = ("v5e:4x4", "v5p:2x2x2", "v6e:2x4", "tpu7x:2x2x1")
SHAPES = {
    "sft": "--answers 1",
    "rm": "--answers 2 --criteria 8 --criterion 48",
    "reference": "--answers 8",
    "grpo": "--answers 8",
    "rollout": "--answers 8 --tp 8",
}
BATCHES = {  # cases over all devices, in the order of TOPOLOGIES
    "sft": (32, 64, 32, 32),
    "rm": (16, 32, 16, 32),
    "reference": (16, 16, 8, 8),
    "grpo": (16, 16, 8, 8),
    "rollout": (16, 64, 16, 64),
}
PAIRS = {  # stage and topology: shapes of the tree, and of the same answers with a row each
    ("grpo", "v5p:2x2x2"): ("--batch 8 --answers 8", "--batch 64 --answers 1"),
    ("rollout", "v6e:2x4"): ("--batch 64 --prompt 2048 --answers 16 --tp 8", "--batch 1024 --prompt 2048 --answers 1 --tp 8"),
}
RUNS = {  # variant and topology: what its four programs have in common, and the tensor parallelism of the rollout
    ("lora", "v6e:2x2"): ("--lora 16 --shared --batch 8 --prompt 512 --answers 8 --answer 1024", 4),
    ("lora", "h100:1"): ("--lora 16 --shared --batch 4 --prompt 512 --answers 8 --answer 1024", 1),
    ("full", "v5p:4x4x2"): ("--batch 32 --prompt 512 --answers 8 --answer 1024", 8),
}


@dataclass(frozen=True)
class Row:
    stage: str
    topology: str
    shapes: str
    variant: str = "tree"

    @property
    def command(self) -> str:
        return f"promedical plan --model {MODEL} --stage {self.stage} --topology {self.topology} {self.shapes} --json"

    def asked(self, words: list[str]) -> bool:
        """Whether one of "stage", "stage:chip", "stage:variant" or the three together names this row; no words name all."""
        names = {self.stage, self.topology.split(":")[0], self.variant}
        return not words or any(word.split(":")[0] == self.stage and set(word.split(":")) <= names for word in words)


def rows() -> list[Row]:
    alone = [Row(stage, topology, f"--batch {BATCHES[stage][i]} {shapes}") for stage, shapes in SHAPES.items() for i, topology in enumerate(TOPOLOGIES)]
    whole = [
        Row(stage, topology, shapes + (f" --tp {tp}" if stage == "rollout" else ""), variant)
        for (variant, topology), (shapes, tp) in RUNS.items() for stage in ("rollout", "score", "reference", "grpo")
    ]  # fmt: skip
    return alone + whole + [Row(*where, shapes, variant) for where, pair in PAIRS.items() for shapes, variant in zip(pair, ("tree", "flat"), strict=True)]


def run(row: Row) -> dict:
    done = subprocess.run([sys.executable, "-m", "promedical_jax.cli", *row.command.split()[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{row.command}\n{done.stderr}")
    return {"command": row.command, "variant": row.variant} | json.loads(done.stdout)


def table(plans: list[dict]) -> Table:
    shown = Table(*("stage", "topology", "mesh", "batch", "tokens/device", "temp GiB", "GiB of", "fits", "compile s", "Mcycles", "step s", "floor s"),
                  "tokens/s/device", "MFU")  # fmt: skip
    for plan in plans:
        gib, time = plan["gib"], plan["time"] or {}
        mesh = " x ".join(f"{name} {size}" for name, size in plan["mesh"].items() if size > 1)
        temporaries = "" if gib["temporaries"] is None else f"{gib['temporaries']:.1f}"
        memory, tokens = f"{gib['peak']:.1f} of {gib['hbm']:.1f}", f"{plan['tokens'] // plan['devices']:,}"
        figures = [f"{time['mcycles']:,.0f}", f"{time['estimate']:.2f}", f"{time['floor']:.2f}", f"{time['tokens_per_second_per_device']:,.0f}",
                   f"{time['mfu']:.0%}"] if time else [""] * 5  # fmt: skip
        name = plan["stage"] if plan["variant"] == "tree" else f"{plan['stage']}, {plan['variant']}"
        batch = f"{plan['batch']} x {plan['shapes']['answers']}" + (f", {plan['waves']} waves" if plan["waves"] > 1 else "")
        fits = "yes" if plan["fits"] else "no"
        shown.add_row(name, plan["topology"], mesh, batch, tokens, temporaries, memory, fits, f"{plan['compile_s']:.0f}", *figures)
    return shown


def main() -> None:
    words = sys.argv[1:]
    chosen = [row for row in rows() if row.asked(words)]
    if not chosen:
        raise SystemExit(f"none of {', '.join(words)} is planned; write sft:v5e, grpo:flat or score:lora, with the stages and chips above")
    for row in chosen:
        plan = run(row)
        print(json.dumps(plan), flush=True)
        kept = {old["command"]: old for old in json.loads(RESULTS.read_text())["plans"]} | {row.command: plan}
        plans = [kept[row.command] for row in rows() if row.command in kept]
        RESULTS.write_text(json.dumps({"command": "python -m benchmarks.plan", "plans": plans}, indent=1) + "\n")
    Console(width=180).print(table(json.loads(RESULTS.read_text())["plans"]))


if __name__ == "__main__":
    main()
