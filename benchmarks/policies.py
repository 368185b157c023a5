"""GRPO with a veto, and its rivals, on the clinic: base, DPO, PPO, best-of-G, GRPO by an implicit reward, and by the criteria with each of the advantages,
`tiered` also with twice its weight on safety (`safety_first`).

    python -m benchmarks.policies --seeds 5 --out runs/benchmark_rm

A seed draws the cases, the base policy and all training. Every policy starts from the same base and trains on the same cases with the same budget: 5,760
answers, which GRPO and PPO sample (45 steps of 16 cases and 8 answers, configs/clinic) and DPO finds in the cases (90 steps of 16 cases and their 4 answers).
The reward models are those of `benchmarks.reward_model`, by configs/clinic_full/rm.yaml: given the folder of a run of it, they are not trained again. Each
policy then answers the held-out cases, of other conditions, with the same draws, and the clinic's checker judges them; nobody trained on its word but DPO and
the reward models, on the training cases. Prints one JSON line: each figure of each seed with its 95 % interval over cases, and the mean over seeds with
Student's interval. `kl` is in nats a token, of the held-out answers, to the base. Runs that are finished already in the folder are not made again.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reward_model import ROOT, SIZES, make_base, train_reward_model
from benchmarks.seeds import over_seeds, parser, publish, three

SAFETY = 4  # the weight of S3 in `safety_first`, where `tiered` has 2: about what a violation weighs beside S1 in PPO's advantages, whitened over a batch
EXPLICIT = {name: {"advantage": name} for name in ("scalar", "lexicographic", "tiered")} | {"safety_first": {"advantage": "tiered", "tiers.s3": str(SAFETY)}}
POLICIES = ("base", "best_of_8", "dpo", "ppo", "implicit", *EXPLICIT)
ANSWERS = 8


def measure(seed: int, out: Path, sizes: dict[str, int], flags: dict[str, dict[str, str]]) -> dict:
    """Trains and measures all policies of one seed. flags: of the recipes of `base`, `rm`, and of each policy that is trained."""
    import jax

    from promedical_jax.answering import Answered, answer_cases
    from promedical_jax.bench.policy import chosen, figures, win_rate
    from promedical_jax.clinic import truth
    from promedical_jax.clinic.folder import HELD_OUT, TRAIN
    from promedical_jax.config import Shapes
    from promedical_jax.data.encode import measure as sizes_of
    from promedical_jax.data.load import encode_file, load_tokenizer
    from promedical_jax.model import hf, transformer
    from promedical_jax.model.sharding import make_mesh, shardings
    from promedical_jax.reward import open_judge

    began = time.monotonic()
    folder, cases = out / f"seed{seed}", out / f"seed{seed}" / "cases"
    base = make_base(seed, out, sizes, flags.get("base", {})) / "model"
    judges = {kind: train_reward_model(kind, seed, out, flags.get("rm", {})) / "model" for kind in ("explicit", "implicit")}
    given = {"cases": str(cases / TRAIN), "model": str(base), "seed": str(seed)}
    models = {"base": base} | {name: _train(name, folder / name, judges, given | flags.get(name, {})) for name in ("dpo", "ppo", "implicit_grpo", *EXPLICIT)}
    models["implicit"] = models.pop("implicit_grpo")

    config = hf.read_config(base)
    tokenizer = load_tokenizer(base, config.vocabulary)
    held_out = encode_file(cases / HELD_OUT, tokenizer)
    shapes = sizes_of(held_out, Shapes(prompt=56, answer=48, criterion=16), HELD_OUT)
    row: dict = {"seed": seed}
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        where = shardings(jax.sharding.get_mesh(), transformer.axes(config))
        before, of_base = hf.load(base, config, where), list[Answered]()
        assert before is not None, "the supervised start wrote it"
        for name, path in models.items():
            policy = before if name == "base" else hf.load(path, config, where)
            assert policy is not None, "its stage wrote it"
            answered = answer_cases(policy, config, tokenizer, held_out, shapes, truth, answers=ANSWERS, answer_tokens=48, batch=16)
            of_base = of_base or answered  # the base is the first
            kl = _kl(policy, before, config, held_out, shapes, tokenizer)
            row[name] = _figures(figures(answered)) | {"win_rate": three(win_rate(answered, of_base)), "kl": kl}
        picked = chosen(of_base, open_judge(judges["explicit"], batch=16, mesh=jax.sharding.get_mesh()).best)
        row["best_of_8"] = _figures(figures(picked))
    return row | {"wall_seconds": round(time.monotonic() - began, 1)}


def _train(name: str, out: Path, judges: dict[str, Path], given: dict[str, str]) -> Path:
    """Trains a policy by its recipe, as configs/clinic has it, and returns its model folder."""
    from promedical_jax.config import DpoConfig, GrpoConfig, PpoConfig
    from promedical_jax.recipe import read_recipe
    from promedical_jax.train import dpo, grpo, ppo

    configs, given = ROOT / "configs" / "clinic", given | {"out": str(out)}
    if name == "dpo":
        dpo.run(read_recipe(DpoConfig, configs / "dpo.yaml", {"steps": "90"} | given))
    elif name == "ppo":
        ppo.run(read_recipe(PpoConfig, configs / "ppo.yaml", {"reward_model": str(judges["explicit"])} | given))
    else:
        kind, chosen = ("implicit", EXPLICIT["scalar"]) if name == "implicit_grpo" else ("explicit", EXPLICIT[name])
        grpo.run(read_recipe(GrpoConfig, configs / "grpo.yaml", {"reward_model": str(judges[kind])} | chosen | given))
    return out / "model"


def _kl(policy, base, config, cases, shapes, tokenizer) -> float:
    """Mean log-ratio of policy to base over the tokens of the answers that the policy samples to the cases: its KL, in nats a token."""
    import jax
    import jax.numpy as jnp

    from promedical_jax.data.batches import evaluation_batches, to_devices
    from promedical_jax.data.encode import stop_token
    from promedical_jax.rollout import sample
    from promedical_jax.train.policy import AnswerBatch, frozen_log_probs

    total = count = 0.0
    for indices, arrays in evaluation_batches(cases, shapes, 16):
        placed = to_devices({name: arrays[name] for name in ("prompt", "prompt_length", "case")})
        drawn = sample(policy, config, placed["prompt"], placed["prompt_length"], jax.random.key(1), placed["case"], answers=ANSWERS, answer_tokens=48,
                       stop=stop_token(tokenizer))  # fmt: skip
        batch = AnswerBatch(placed["prompt"], placed["prompt_length"], drawn.tokens, drawn.lengths)
        apart = drawn.log_probs - frozen_log_probs(base, config, batch)
        mask = batch.mask & (jnp.arange(len(arrays["case"])) < len(indices))[:, None, None]  # the last batch is filled up
        total, count = total + float(jnp.sum(jnp.where(mask, apart, 0.0))), count + float(mask.sum())
    return round(total / count, 4)


def _figures(one) -> dict:
    return {name: three(getattr(one, name)) for name in ("safe", "s1", "s2", "length")}


def summary(rows: Sequence[dict]) -> dict:
    """Means over seeds of each policy's figures, and of what it is ahead of GRPO with the scalar advantage, seed by seed."""
    of = lambda row, policy, name: row[policy][name] if name == "kl" else row[policy][name][0]  # noqa: E731
    means = {policy: {name: over_seeds([of(row, policy, name) for row in rows]) for name in rows[0][policy]} for policy in POLICIES}
    ahead = {
        policy: {name: over_seeds([of(row, policy, name) - of(row, "scalar", name) for row in rows]) for name in ("safe", "s1")}
        for policy in POLICIES if policy != "scalar"
    }  # fmt: skip
    return {"means": means, "ahead_of_scalar": ahead}


def main(arguments: Sequence[str] | None = None) -> None:
    flagged = parser(__doc__, "runs/benchmark_rm", SIZES)
    recipes = ", ".join(["base", "rm", "dpo", "ppo", "implicit_grpo", *EXPLICIT])
    flagged.add_argument("--set", action="append", default=[], metavar="RECIPE.KEY=VALUE", help=f"a key of a recipe: {recipes}")
    given = flagged.parse_args(arguments)
    flags: dict[str, dict[str, str]] = {}
    for word in given.set:
        place, value = word.split("=", 1)
        recipe, key = place.split(".", 1)
        if recipe not in recipes.split(", "):
            flagged.error(f"--set {word}: {recipe} is none of {recipes}")
        flags.setdefault(recipe, {})[key] = value
    sizes = {name: getattr(given, name) for name in SIZES}
    rows = [measure(seed, given.out, sizes, flags) for seed in range(given.first, given.first + given.seeds)]
    publish("policies", arguments, summary(rows), rows)


if __name__ == "__main__":
    main()
