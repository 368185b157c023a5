"""What saving in the background costs a run: GRPO on the simulated clinic, saved every 20 steps, beside the same steps without.

    python -m benchmarks.saving --pairs 8

One run of the clinic's recipe (batch 16, 8 answers of up to 48 tokens; the models have learned for one step). After every 20 steps a checkpoint is due; every
second one is left out, with all that belongs to it. A block is what follows a due checkpoint: the call itself, which waits for the copy to the host, and 20
steps, during which the files are written. Prints one JSON line: medians of a block with and without, and of what each pair of neighbours differs by, in percent
of the block without, by the clock and by the processor time of the whole process, which a busy machine changes less; and the seconds for which the call holds
the steps up, in percent of 20 steps.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

EVERY = 20


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8, help="blocks of 20 steps with a save, and as many without")
    parser.add_argument("--every", type=int, default=EVERY, help="steps from one checkpoint to the next")
    parser.add_argument("--out", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    import jax

    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), given.pairs, given.every)
    result = {
        "benchmark": "saving",
        "command": f"python -m benchmarks.saving --pairs {given.pairs} --every {given.every}",
        **figures,
        "machine": {"device": jax.devices()[0].device_kind, "cpus": len(os.sched_getaffinity(0)), "processor": platform.machine(), "load": os.getloadavg()[0]},
        "versions": {name: version(name) for name in ("promedical-jax", "jax", "orbax-checkpoint")},
    }
    print(json.dumps(result))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


def measure(folder: Path, pairs: int, every: int) -> dict[str, Any]:
    from promedical_jax.clinic.folder import write_clinic
    from promedical_jax.config import QuickstartConfig
    from promedical_jax.quickstart import stages
    from promedical_jax.train import grpo, rm, rollouts, sft
    from promedical_jax.train.checkpoint import Checkpoints
    from promedical_jax.train.metrics import Meter

    write_clinic(folder / "cases", 200, 8, 0)
    start, judge, align = stages(QuickstartConfig(out=folder))
    sft.run(start.model_copy(update={"steps": 1}))
    rm.run(judge.model_copy(update={"steps": 1}))
    steps = every * (2 * pairs + 2)  # the first two blocks compile
    marks: dict[int, float] = {}
    spent: dict[int, float] = {}  # of processor time, by all threads
    held: list[float] = []
    remember, save, advance = rollouts.Rollouts.remember, Checkpoints.save, Meter.advance
    began = [0.0]

    def is_saved(done: int) -> bool:
        return done // every % 2 == 0

    def note(meter: Any, done: int, *rest: Any) -> None:
        advance(meter, done, *rest)
        marks[done] = began[0] = time.perf_counter()
        spent[done] = time.process_time()

    def remembered(self: Any) -> Any:
        return remember(self) if is_saved(max(marks)) else None

    def saved(self: Any, done: int, *rest: Any) -> None:
        if is_saved(done):
            save(self, done, *rest)
            held.append(time.perf_counter() - began[0])

    with patch.object(rollouts.Rollouts, "remember", remembered), patch.object(Checkpoints, "save", saved), patch.object(Meter, "advance", note):
        grpo.run(align.model_copy(update={"steps": steps, "save_every": every, "log_every": every}))
    newest = max((align.out / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime)
    size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())

    def blocks(clock: dict[int, float], wanted: bool) -> list[float]:
        return [clock[done + every] - clock[done] for done in range(2 * every, steps, every) if is_saved(done) is wanted]

    def cost(clock: dict[int, float]) -> float:
        return round(100 * statistics.median(a / b - 1 for a, b in zip(blocks(clock, True), blocks(clock, False), strict=True)), 2)

    with_save, without = blocks(marks, True), blocks(marks, False)
    step = statistics.median(without) / every
    return {
        "every_steps": every,
        "seconds_per_step": round(step, 4),
        "block_without_s": round(statistics.median(without), 3),
        "block_with_s": round(statistics.median(with_save), 3),
        "cost_percent": cost(marks),
        "processor_cost_percent": cost(spent),
        "call_s": round(statistics.median(held[1:]), 4),
        "call_percent": round(100 * statistics.median(held[1:]) / (every * step), 2),
        "checkpoint_mb": round(size / 1e6, 2),
        "blocks_with_s": [round(seconds, 2) for seconds in with_save],
        "blocks_without_s": [round(seconds, 2) for seconds in without],
        "blocks_with_processor_s": [round(seconds, 2) for seconds in blocks(spent, True)],
        "blocks_without_processor_s": [round(seconds, 2) for seconds in blocks(spent, False)],
    }


if __name__ == "__main__":
    main()
