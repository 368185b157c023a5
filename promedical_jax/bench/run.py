"""`promedical bench`: one trained model on cases it has not seen."""

from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console

from promedical_jax.answering import answer_cases
from promedical_jax.atomic import replacing
from promedical_jax.bench.policy import chosen, figures
from promedical_jax.bench.report import PolicyFigures
from promedical_jax.bench.reward_figures import RewardModelFigures
from promedical_jax.bench.reward_model import evaluate
from promedical_jax.bench.reward_page import write_reward_page
from promedical_jax.bench.tables import print_accuracy, print_policy
from promedical_jax.clinic import foreign, truth
from promedical_jax.cluster import chief, join
from promedical_jax.config import BenchConfig, Shapes
from promedical_jax.data import long
from promedical_jax.data.encode import Encoded, measure
from promedical_jax.data.foreign import general_texts
from promedical_jax.data.load import encode_file, judged_only, load_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.model import hf, transformer
from promedical_jax.model.sharding import make_mesh, shardings
from promedical_jax.model.transformer import Compute
from promedical_jax.reward import RewardJudge, is_reward_model, judge_of, load_reward_model
from promedical_jax.reward.zero_shot import open_zero_shot
from promedical_jax.rubric import read_cases
from promedical_jax.selfcheck import check_tree


def run(config: BenchConfig) -> PolicyFigures | RewardModelFigures:
    """Prints the figures of a policy or a reward model, whichever the folder holds, and writes them to `out` and `report` where these are given."""
    join()
    console = Console(quiet=not chief())
    result: PolicyFigures | RewardModelFigures
    with jax.set_mesh(make_mesh(config.mesh.fsdp, config.mesh.tp, config.mesh.slice)):
        folder = hf.resolve(config.model)
        if config.zero_shot or is_reward_model(folder):
            result = _reward_model(config, folder)
            print_accuracy(result, console)
            if config.report and chief():
                write_reward_page(config.report, result, f"Reward model {config.model}{' asked zero-shot' if config.zero_shot else ''}")
        else:
            result = _policy(config, folder)
            print_policy(result, console)
    if config.out and chief():
        with replacing(config.out) as file:
            file.write_text(result.model_dump_json(indent=2) + "\n")
    return result


def _reward_model(config: BenchConfig, folder: Path) -> RewardModelFigures:
    for key in ("judge", "best_of"):
        if getattr(config, key):
            raise InputError(f"--{key}: {config.model} is a reward model, and raters' verdicts judge it; leave --{key} out")
    mesh, compute, shapes = jax.sharding.get_mesh(), Compute(config.dtype), config.shapes if config.long.cut else Shapes()
    if config.zero_shot:
        judge = open_zero_shot(folder, mesh, config.batch, config.dtype, shapes)
    else:
        model = load_reward_model(folder, mesh, config.dtype)
        judge = judge_of(model, load_tokenizer(folder, model.config.vocabulary), mesh, config.batch, compute, shapes)
    every = judged_only([judge.encode(case) for case in read_cases(config.cases)], config.cases)
    cases, over = long.fit(every, config.shapes, config.long, str(config.cases))
    if not cases:
        raise InputError(f"{config.cases}: each of the {len(every)} cases is too long, and none is left to measure; raise shapes, or set long.cut")
    if over:
        Console(stderr=True, quiet=not chief()).print(long.sentence(over, len(every), str(config.cases), config.long.action, None), soft_wrap=True)
    check_tree("the reward model", judge.model.params["backbone"], judge.model.config, compute)
    paraphrases = read_cases(config.paraphrases) if config.paraphrases else None
    general = general_texts([case.case for case in cases])
    return evaluate(judge, cases, paraphrases, foreign if _of_the_clinic(cases) else lambda _, criterion, __: criterion.text not in general)


def _of_the_clinic(cases: Sequence[Encoded]) -> bool:
    return all("clinic" in case.case.provenance for case in cases)


def _policy(config: BenchConfig, folder: Path) -> PolicyFigures:
    for key in ("report", "paraphrases"):
        if getattr(config, key):
            raise InputError(f"--{key}: {config.model} is a policy, and this is for a reward model; leave --{key} out")
    model = hf.read_config(folder)
    tokenizer = load_tokenizer(folder, model.vocabulary)
    cases = encode_file(config.cases, tokenizer)
    compute = Compute(config.dtype)
    if config.judge:
        judge = _open(config, config.judge, "the judge").verdicts
    elif _of_the_clinic(cases):
        judge = truth
    else:
        raise InputError(f"{config.cases}: these are not the clinic's cases, whose truth is known; name a reward model with --judge")
    weights = hf.load_trained(folder, model, shardings(jax.sharding.get_mesh(), transformer.axes(model)), config.dtype)
    check_tree("the policy", weights, model, compute, samples=True)
    answered = answer_cases(weights, model, tokenizer, cases, measure(cases, config.shapes, str(config.cases)), judge, answers=config.answers,
                            answer_tokens=config.answer_tokens, batch=config.batch, seed=config.seed, temperature=config.temperature,
                            top_k=config.top_k, top_p=config.top_p, compute=compute)
    if config.best_of:
        answered = chosen(answered, _open(config, config.best_of, "the model that chooses").best)
    return figures(answered)


def _open(config: BenchConfig, name: Path, what: str) -> RewardJudge:
    folder = hf.resolve(name)
    model = load_reward_model(folder, jax.sharding.get_mesh(), config.dtype)
    check_tree(what, model.params["backbone"], model.config, Compute(config.dtype))
    return judge_of(model, load_tokenizer(folder, model.config.vocabulary), jax.sharding.get_mesh(), config.batch, Compute(config.dtype))
