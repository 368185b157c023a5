"""The quickstart over several seeds: what each gained by the clinic's truth, the mean over seeds with a 95 % interval, and the wall time.

    python -m benchmarks.quickstart --seeds 5 --out runs/benchmark

Prints one JSON line. Runs that are finished already in the folder are read and not made again.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.seeds import over_seeds, publish
from promedical_jax.bench.report import Report, read_report


def row(report: Report) -> dict[str, float]:
    return {
        "seed": report.seed,
        "safe_base": round(report.base.safe.mean, 4),
        "safe_aligned": round(report.aligned.safe.mean, 4),
        "s1_base": round(report.base.s1.mean, 4),
        "s1_aligned": round(report.aligned.s1.mean, 4),
        "s2_base": round(report.base.s2.mean, 4),
        "s2_aligned": round(report.aligned.s2.mean, 4),
        "win_rate": round(report.win_rate.mean, 4),
        "reward_model_accuracy": round(report.reward_model.overall.mean, 4),
        "wall_seconds": report.wall_seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seeds):
        folder = arguments.out / f"seed{seed}"
        subprocess.run([sys.executable, "-m", "promedical_jax.cli", "quickstart", "--out", str(folder), "--seed", str(seed)], check=True, stdout=sys.stderr)
        rows.append(row(read_report(folder / "report.json")))
    gains = {name: over_seeds([r[f"{name}_aligned"] - r[f"{name}_base"] for r in rows]) for name in ("safe", "s1", "s2")}
    found = {"gain": gains, "win_rate": over_seeds([r["win_rate"] for r in rows]), "wall_seconds": over_seeds([r["wall_seconds"] for r in rows])}
    publish("quickstart", None, found, rows)


if __name__ == "__main__":
    main()
