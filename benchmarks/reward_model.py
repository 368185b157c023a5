"""What telling the criterion is worth: the explicit reward model, criterion-blind heads, an implicit scalar model and the base asked zero-shot, on the clinic.

    python -m benchmarks.reward_model --seeds 5 --out runs/benchmark_rm

A seed draws the cases, the base policy's start and all training. Each model starts from the same base, learns from the same cases in the same order by the same
recipe (configs/clinic_full/rm.yaml) and is measured on the same held-out cases, of other conditions in other words, against the checker's truth. Prints one
JSON line: each figure of each seed with its 95 % interval over cases, and the mean over seeds with Student's 95 % interval. Runs that are finished already in
the folder are not made again.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.seeds import over_seeds, parser, publish, three

ROOT = Path(__file__).parents[1]
KINDS = ("explicit", "blind", "implicit")
SIZES = {"train": 4000, "held_out": 300}


def measure(seed: int, out: Path, sizes: dict[str, int], base_flags: dict[str, str], flags: dict[str, str]) -> dict:
    """Trains and measures all models of one seed. Flags are of the base's recipe and of the reward models'."""
    from promedical_jax.bench.run import run as bench
    from promedical_jax.clinic.folder import HELD_OUT, PARAPHRASED
    from promedical_jax.config import BenchConfig

    began, cases = time.monotonic(), out / f"seed{seed}" / "cases"
    base = make_base(seed, out, sizes, base_flags)
    figures = {}
    for kind in KINDS:
        trained = train_reward_model(kind, seed, out, flags)
        figures[kind] = bench(BenchConfig(model=trained / "model", cases=cases / HELD_OUT, paraphrases=cases / PARAPHRASED, batch=16))
    figures["zero_shot"] = bench(BenchConfig(model=base / "model", zero_shot=True, cases=cases / HELD_OUT, batch=16))
    return {"seed": seed, "wall_seconds": round(time.monotonic() - began, 1)} | {kind: _figures(one) for kind, one in figures.items()}


def make_base(seed: int, out: Path, sizes: dict[str, int], flags: dict[str, str]) -> Path:
    """The cases of a seed and the run that trains its base policy, in `out`/seed<seed>; returns the run's folder."""
    from promedical_jax.clinic.folder import HELD_OUT, MODEL, TRAIN, write_clinic
    from promedical_jax.config import SftConfig
    from promedical_jax.recipe import read_recipe
    from promedical_jax.train import sft

    folder = out / f"seed{seed}"
    cases = folder / "cases"
    if not (cases / HELD_OUT).exists():
        write_clinic(cases, sizes["train"], sizes["held_out"], seed, replace=True)
    given = {"cases": str(cases / TRAIN), "seed": str(seed), "model": str(cases / MODEL), "out": str(folder / "base")}
    sft.run(read_recipe(SftConfig, ROOT / "configs/clinic/sft.yaml", given | flags))
    return folder / "base"


def train_reward_model(kind: str, seed: int, out: Path, flags: dict[str, str]) -> Path:
    """The run that trains a seed's reward model of this kind, from its base; returns the run's folder."""
    from promedical_jax.clinic.folder import HELD_OUT, TRAIN
    from promedical_jax.config import RmConfig
    from promedical_jax.recipe import read_recipe
    from promedical_jax.train import rm

    folder = out / f"seed{seed}"
    given = {"cases": str(folder / "cases" / TRAIN), "held_out": str(folder / "cases" / HELD_OUT), "seed": str(seed), "model": str(folder / "base" / "model")}
    given |= {"out": str(folder / kind), "kind": kind} | flags
    given |= {} if kind == "explicit" else {"foreign": "0"}  # who is told no criterion cannot be lent one
    rm.run(read_recipe(RmConfig, ROOT / "configs/clinic_full/rm.yaml", given))
    return folder / kind


def _figures(one) -> dict:
    """The figures of one model: [mean, low, high] over cases."""
    found = {"pairwise": three(one.overall_pairwise), "accuracy": three(one.overall), "longer_preferred": three(one.longer_preferred)}
    for tier, figures in one.tiers.items():
        found |= {f"pairwise_{tier}": three(figures.pairwise), f"accuracy_{tier}": three(figures.accuracy), f"ece_{tier}": three(figures.ece)}
    if one.safety:
        found |= {f"safety_{name}": three(getattr(one.safety, name)) for name in ("precision", "recall", "f1")}
        found |= {f"safety_recall_at_{at.false_veto_rate:g}": three(at.recall) for at in one.safety.recall_at}
    if one.selection:
        found |= {f"best_of_4_{name}": three(getattr(one.selection, name)) for name in ("safe", "safe_mean", "safe_best", "s1", "s1_mean", "s1_best")}
    for name, changed in (("paraphrased", one.paraphrased), ("swapped", one.swapped)):
        if changed:
            found |= {f"{name}_pairwise": three(changed.pairwise), f"{name}_pairwise_by_verdict": three(changed.pairwise_by_verdict)}
            found |= {f"{name}_same_verdict": three(changed.same)}
    return found


def summary(rows: Sequence[dict]) -> dict:
    """Means over seeds of each model's figures, and by how much the explicit one is ahead in pairwise accuracy, seed by seed."""
    models = [*KINDS, "zero_shot"]
    means = {
        model: {name: over_seeds([row[model][name][0] for row in rows]) for name in rows[0][model] if all(row[model][name][0] is not None for row in rows)}
        for model in models
    }
    ahead = {model: over_seeds([row["explicit"]["pairwise"][0] - row[model]["pairwise"][0] for row in rows]) for model in models[1:]}
    return {"explicit_ahead_pairwise": ahead, "means": means}


def main(arguments: Sequence[str] | None = None) -> None:
    flagged = parser(__doc__, "runs/benchmark_rm", SIZES)
    flagged.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the reward models' recipe")
    flagged.add_argument("--base", action="append", default=[], metavar="KEY=VALUE", help="a key of the base's recipe")
    given = flagged.parse_args(arguments)
    base, flags = (dict(pair.split("=", 1) for pair in pairs) for pairs in (given.base, given.set))
    sizes = {name: getattr(given, name) for name in SIZES}
    rows = [measure(seed, given.out, sizes, base, flags) for seed in range(given.first, given.first + given.seeds)]
    publish("reward_model", arguments, summary(rows), rows)


if __name__ == "__main__":
    main()
