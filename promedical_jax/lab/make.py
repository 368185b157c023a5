"""An experiment at work: trained by the same stages as everything else, then measured against the clinic's truth. What is there is not made again."""

import json
import time
from math import isfinite
from pathlib import Path
from typing import Any

from promedical_jax.answering import Answered
from promedical_jax.atomic import replacing
from promedical_jax.bench.local import sample_folder
from promedical_jax.clinic import Variety, make_cases, truth
from promedical_jax.clinic.folder import HELD_OUT, MODEL, SIZES, TRAIN, write_clinic, write_model
from promedical_jax.config import DpoConfig, GrpoConfig, PpoConfig, RmConfig, SftConfig, Shapes
from promedical_jax.lab.code import fingerprint
from promedical_jax.lab.experiment import CURVES, FIGURES, WHOLE, Base, Cases, Cut, Experiment, Judge, Policy, cut_cases, is_made, name
from promedical_jax.lab.measure import BATCH, of_policy, of_reward_model, of_training
from promedical_jax.recipe import read_recipe
from promedical_jax.rubric import read_cases, score_verdicts, write_cases
from promedical_jax.rubric.case import Case, Verdict

ANSWERS = "answers.jsonl"
SAMPLED = 4  # answers to each held-out case


def make(experiment: Experiment, seed: int, out: Path) -> None:
    """Trains and measures it, from what it needs, which is there; leaves figures.json in its folder when all is done, and goes on where it was interrupted."""
    folder = out / name(experiment, seed)
    if is_made(experiment, seed, out):
        return
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "experiment.json") as file:
        file.write_text(experiment.model_dump_json(indent=2) + "\n")
    if isinstance(experiment, Base):
        figures = _base(experiment, seed, folder)
    elif isinstance(experiment, Judge):
        figures = _judge(experiment, seed, folder, out)
    else:
        figures = _policy(experiment, seed, folder, out)
    figures = {key: value for key, value in figures.items() if isfinite(value)}  # what there was nothing to measure of has no figure
    with replacing(folder / FIGURES) as file:
        file.write_text(json.dumps({"code": fingerprint(), "seconds": round(time.monotonic() - began, 1), "figures": figures}, indent=2) + "\n")


def _base(base: Base, seed: int, folder: Path) -> dict[str, float]:
    from promedical_jax.train import sft

    cases = folder / "cases"
    if not (cases / HELD_OUT).exists():
        variety = base.cases.variety
        write_clinic(cases, base.cases.train, base.cases.held_out, seed, replace=True, variety=variety)
        heads = max(1, base.width // SIZES["head"])
        write_model(cases / MODEL, variety, {"width": base.width, "depth": base.depth, "kv_heads": heads, "feed_forward": 2 * base.width})
    given = {"cases": str(cases / TRAIN), "model": str(cases / MODEL), "out": str(folder / "run"), "seed": str(seed)}
    sft.run(read_recipe(SftConfig, None, given | base.recipe))
    return of_policy(answers(folder, folder / "run" / "model", cases / HELD_OUT, base.recipe), None)


def _judge(judge: Judge, seed: int, folder: Path, out: Path) -> dict[str, float]:
    from promedical_jax.train import rm

    base = out / name(judge.base, seed)
    model = base / "run" / "model"
    if judge.kind != "zero_shot":
        train = _train(judge.base.cases, judge.taught or judge.base.cases, judge.cut, seed, base, folder)
        given = {"cases": str(train), "model": str(model), "out": str(folder / "run"), "seed": str(seed), "kind": judge.kind}
        rm.run(read_recipe(RmConfig, None, given | judge.recipe))
        model = folder / "run" / "model"
    marks = judge.taught.variety.spurious.correlations(held_out=False) if judge.taught else {}
    if not marks:
        return of_reward_model(model, base / "cases" / HELD_OUT, judge.kind)
    assert judge.taught
    figures: dict[str, float] = {}
    for prefix, correlation in (("", 0.0), ("correlated_", next(iter(marks.values())))):  # marks by chance, and as in training
        file = folder / f"{prefix}{HELD_OUT}"
        if not file.exists():
            write_cases(file, make_cases(judge.taught.held_out, seed, held_out=True, variety=_with_marks(judge.taught.variety, correlation)))
        figures |= {f"{prefix}{key}": value for key, value in of_reward_model(model, file, judge.kind).items()}
    return figures


def _with_marks(variety: Variety, held_out: float) -> Variety:
    return variety.model_copy(update={"spurious": variety.spurious.model_copy(update={"held_out": held_out})})


def _policy(policy: Policy, seed: int, folder: Path, out: Path) -> dict[str, float]:
    from promedical_jax.train import dpo, grpo, ppo

    base = out / name(policy.base, seed)
    train = _train(policy.base.cases, policy.base.cases, policy.cut, seed, base, folder)
    given = {"cases": str(train), "model": str(base / "run" / "model"), "out": str(folder / "run"), "seed": str(seed), "log_every": "1"}
    if policy.judge:
        given["reward_model"] = str(out / name(policy.judge, seed) / "run" / "model")
    if policy.stage == "dpo":
        dpo.run(read_recipe(DpoConfig, None, given | policy.recipe))
    elif policy.stage == "ppo":
        ppo.run(read_recipe(PpoConfig, None, given | policy.recipe), truth)
    else:
        grpo.run(read_recipe(GrpoConfig, None, given | policy.recipe), truth)
    held_out = base / "cases" / HELD_OUT
    answered = answers(folder, folder / "run" / "model", held_out, policy.base.recipe)
    figures, curves = of_training(folder / "run", policy)
    with replacing(folder / CURVES) as file:
        file.write_text(json.dumps(curves) + "\n")
    return of_policy(answered, answers(base, base / "run" / "model", held_out, policy.base.recipe)) | figures


def _train(first: Cases, taught: Cases, cut: Cut, seed: int, base: Path, folder: Path) -> Path:
    """The file of training cases: the base's, or one of its own in `folder` where these are others or cut."""
    if taught == first and cut == WHOLE:
        return base / "cases" / TRAIN
    if not (folder / TRAIN).exists():
        cases = read_cases(base / "cases" / TRAIN) if taught == first else make_cases(taught.train, seed, variety=taught.variety)
        write_cases(folder / TRAIN, cut_cases(cases, cut))
    return folder / TRAIN


def answers(folder: Path, model: Path, held_out: Path, recipe: dict[str, str]) -> list[Answered]:
    """The policy's answers to the held-out cases, judged by the truth; kept in `folder`, and read from there the next time."""
    cases = read_cases(held_out)
    if not (folder / ANSWERS).exists():
        shapes = Shapes(**{key: int(recipe[f"shapes.{key}"]) for key in ("prompt", "answer", "criterion")})
        sampled = sample_folder(model, cases, shapes, str(held_out), BATCH, "float32", answers=SAMPLED, answer_tokens=int(recipe["shapes.answer"]))
        said = truth([(case, texts) for case, (texts, _) in zip(cases, sampled, strict=True)])
        with replacing(folder / ANSWERS) as file, file.open("w", encoding="utf-8") as lines:
            for case, (texts, lengths), verdicts in zip(cases, sampled, said, strict=True):
                lines.write(json.dumps({"case": case.id, "texts": texts, "lengths": lengths, "verdicts": verdicts}) + "\n")
    rows = [json.loads(line) for line in (folder / ANSWERS).read_text(encoding="utf-8").splitlines()]
    return [_answered(case, row) for case, row in zip(cases, rows, strict=True)]


def _answered(case: Case, row: dict[str, Any]) -> Answered:
    said = tuple(tuple(map(Verdict, verdicts)) for verdicts in row["verdicts"])
    return Answered(case, tuple(row["texts"]), tuple(row["lengths"]), said, score_verdicts(case.rubric.criteria, said))
