"""Training a reward model on criterion pairs: ours, on each case as one tree, beside TRL's RewardTrainer on the criterion-expanded set.

    python -m venv trl && trl/bin/pip install torch numpy trl
    python -m benchmarks.rm_train --peer trl/bin/python --out rm_train.json

The work: `--pairs` pairs (an instruction, two of its answers, one criterion on which they differ), each trained on once by the same Bradley-Terry loss, with
AdamW in float32, by models of the same size from random weights. A case has all its answers and criteria; TRL is given each pair as two sequences of
instruction, answer and criterion. Ragged lengths up to those asked for; nothing is cut. Both run at the fastest settings that we found. Ours is what
`promedical train rm` runs, Grain loader and all, with `remat: attention` and two cases a batch, 28 pairs, whose activations stay near a CPU's cores; an
accelerator wants a larger `--batch`, and `--row` packs its rows. TRL's are in benchmarks/peers/trl_reward.py, which also says how its matrix products reach
their full speed on a processor that MKL does not know: `--peer` may be a script that sets that and calls the Python. First steps, which compile, count for
neither. Prints one JSON line: pairs a second of both, the medians of `--times` runs that take turns.
"""

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks import sizes

SHAPES = {"pairs": 2000, "prompt": 192, "answers": 3, "answer": 128, "criteria": 7, "criterion": 24}
WARM = 4  # steps of ours that compile or warm up; the peer's script has its own


def make_cases(given: Any) -> list[Any]:
    """Encoded cases of random tokens with `--pairs` pairs among them; one rater, who judges every answer on every criterion."""
    import numpy as np

    from promedical_jax.data.encode import Encoded
    from promedical_jax.rubric import Answer, Case, Criterion, Judgement, Message, Rubric, Tier, Verdict
    from promedical_jax.rubric.labels import labels_of

    rng = np.random.default_rng(given.seed)
    ids = lambda longest, shortest: rng.integers(0, given.vocab, rng.integers(shortest, longest + 1)).tolist()  # noqa: E731
    cases: list[Any] = []
    a, k, left = given.answers, given.criteria, given.pairs
    rubric = Rubric(criteria=tuple(Criterion(id=f"c{i}", text="C.", tier=Tier.PROFICIENCY, weight=1 / k) for i in range(k)))
    while left:
        met = np.stack([rng.permutation([1, *[0] * (a - 1)]) if a < 4 else rng.permutation([1, 1, *[0] * (a - 2)]) for _ in range(k)], 1)
        kept = 0
        for column in range(k):  # the last case has fewer criteria that were judged, so that the pairs come out even
            here = int(met[:, column].sum() * (a - met[:, column].sum()))
            kept, left = (kept + 1, left - here) if here <= left else (kept, left)
        if not kept:
            raise SystemExit(f"--pairs {given.pairs} is no sum of the pairs of criteria with {a} answers; choose another number")
        verdicts = tuple(
            Judgement(answer=f"a{i}", criterion=f"c{j}", verdict=Verdict.MET if met[i, j] else Verdict.UNMET, rater="r") for i in range(a) for j in range(kept)
        )
        answers = tuple(Answer(id=f"a{i}", text="A.") for i in range(a))
        case = Case(id=f"case-{len(cases)}", instruction=(Message(role="user", content="?"),), answers=answers, rubric=rubric, verdicts=verdicts)
        cases.append(Encoded(case, ids(given.prompt, given.prompt // 2), [ids(given.answer, given.answer // 2) for _ in range(a)],
                             [ids(given.criterion, given.criterion // 2) for _ in range(k)], [0] * k, labels_of(case)))  # fmt: skip
    return cases


def expanded(cases: Sequence[Any]) -> dict[str, Any]:
    """Each pair as two sequences, padded: what TRL is given."""
    import numpy as np

    rows: dict[str, list[list[int]]] = {"chosen": [], "rejected": []}
    for case in cases:
        for k, criterion in enumerate(case.criteria):
            for i, j in combinations(range(len(case.answers)), 2):
                wins = case.labels.wins[i, j, k] - case.labels.wins[j, i, k]
                if wins:
                    for side, answer in zip(rows, (i, j) if wins > 0 else (j, i), strict=True):
                        rows[side].append([*case.prompt, *case.answers[answer], *criterion])
    longest = max(len(row) for side in rows.values() for row in side)
    padded = {side: np.array([row + [0] * (longest - len(row)) for row in each], np.int32) for side, each in rows.items()}
    return padded | {f"{side}_length": np.array([len(row) for row in each], np.int32) for side, each in rows.items()}


def ours(cases: Sequence[Any], given: Any) -> dict[str, float]:
    """One epoch: pairs a second after the first steps, and the tokens of the trees."""
    import jax

    from promedical_jax.config import Optimizer, RmConfig, Shapes
    from promedical_jax.data.batches import to_devices, training_batches
    from promedical_jax.data.encode import measure
    from promedical_jax.data.rows import judged_lengths, packer
    from promedical_jax.model import transformer
    from promedical_jax.model.heads import HEADS_AXES, init_heads
    from promedical_jax.model.sharding import make_mesh
    from promedical_jax.model.transformer import Compute
    from promedical_jax.reward import RewardBatch
    from promedical_jax.train.optimizer import make_optimizer, start
    from promedical_jax.train.rm import make_step

    nowhere = Path()
    config = RmConfig(out=nowhere, cases=nowhere, model=nowhere, verdict_weight=0.0, batch=given.batch, optimizer=Optimizer(learning_rate=1e-5))
    model, mesh = sizes.model(given), make_mesh(devices=jax.devices()[:1])
    pack = packer(cases, judged_lengths, given.row or None, 1, "the benchmark's cases")
    batches = training_batches(cases, measure(cases, Shapes(), "cases"), given.batch, given.seed, "cases", pack)
    steps = len(cases) // given.batch
    with jax.set_mesh(mesh):
        optimizer = make_optimizer(config.optimizer, steps)
        params = {"backbone": sizes.weights(model, given), "heads": init_heads(3, model.width, jax.random.key(1))}
        state, where = start(params, {"backbone": transformer.axes(model), "heads": HEADS_AXES}, optimizer, mesh)
        step = make_step(config, model, Compute(given.dtype, "attention"), optimizer, where)
        seen, marks, fill = [], [], []
        for _ in range(steps):
            batch: dict[str, Any] = next(batches)
            placed = to_devices({name: batch[name] for name in (*RewardBatch._fields, "labels")})
            labels = placed.pop("labels")
            state, metrics = step(state, {}, RewardBatch(**placed), labels)
            jax.block_until_ready(metrics)
            seen.append(float(batch["labels"].wins.sum()))
            fill.append(float(batch["fill"]))
            marks.append(time.perf_counter())
    if steps <= WARM + 1:
        raise SystemExit(f"{len(cases)} cases are {steps} steps of {given.batch}; ask for more --pairs or a smaller --batch")
    seconds = marks[-1] - marks[WARM - 1]
    tokens = sum(len(c.prompt) + sum(map(len, c.answers)) + len(c.answers) * sum(map(len, c.criteria)) for c in cases)
    return {"pairs_per_second": sum(seen[WARM:]) / seconds, "tokens": float(tokens), "fill": statistics.mean(fill), "loss": float(metrics["loss"])}


def theirs(folder: Path, given: Any) -> dict[str, Any]:
    command = [str(given.peer), str(Path(__file__).parent / "peers" / "trl_reward.py"), "--data", str(folder / "pairs.npz"), "--model", str(folder / "model")]
    done = subprocess.run([*command, "--out", str(folder / "trl"), "--batch", str(given.peer_batch)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{given.peer}: TRL failed\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    given = sizes.parse(__doc__, arguments, {"peer": "python of an environment with TRL; left out: ours alone"}, **SHAPES, batch=2, row=0, peer_batch=8)
    import numpy as np

    from promedical_jax.model import hf

    cases = make_cases(given)
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        pairs = expanded(cases)
        np.savez(folder / "pairs.npz", **pairs)
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text(json.dumps(hf.hf_config(sizes.model(given))))
        for _ in range(given.times):
            runs["ours"].append(ours(cases, given))
            if given.peer:
                runs["theirs"].append(theirs(folder, given))
    rate = {who: statistics.median(run["pairs_per_second"] for run in each) for who, each in runs.items() if each}
    flat = int(pairs["chosen_length"].sum() + pairs["rejected_length"].sum())
    figures = {
        "pairs_per_second": round(rate["ours"], 2),
        "pairs_per_second_of_each_run": [round(run["pairs_per_second"], 2) for run in runs["ours"]],
        "fill": round(runs["ours"][0]["fill"], 3),
        "token_ratio": round(flat / runs["ours"][0]["tokens"], 2),
    }
    if given.peer:
        figures |= {
            "trl_pairs_per_second": round(rate["theirs"], 2),
            "trl_pairs_per_second_of_each_run": [round(run["pairs_per_second"], 2) for run in runs["theirs"]],
            "speedup": round(rate["ours"] / rate["theirs"], 2),
            "trl": {name: runs["theirs"][0][name] for name in ("settings", "versions", "fill", "matmul_gflops", "step_s", "machine")},
        }
    sizes.publish("rm_train", figures, given, [*SHAPES, "batch", "row", "peer_batch"])


if __name__ == "__main__":
    main()
