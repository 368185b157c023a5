"""`promedical bench`: one trained model on cases it has not seen."""

from pathlib import Path

import jax
from rich.console import Console

from promedical_jax.atomic import replacing
from promedical_jax.bench.policy import answer_cases, figures, reward_model_judge
from promedical_jax.bench.report import PolicyFigures, RewardModelFigures
from promedical_jax.bench.reward_model import evaluate
from promedical_jax.bench.tables import print_accuracy, print_policy
from promedical_jax.clinic import truth
from promedical_jax.cluster import chief, join
from promedical_jax.config import BenchConfig
from promedical_jax.data.encode import measure
from promedical_jax.data.load import answers_only, encode_file, load_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.model import hf, transformer
from promedical_jax.model.sharding import make_mesh, shardings
from promedical_jax.model.transformer import Compute
from promedical_jax.reward import is_reward_model, load_reward_model
from promedical_jax.selfcheck import check_tree


def run(config: BenchConfig) -> PolicyFigures | RewardModelFigures:
    """Prints the figures of a policy or a reward model, whichever the folder holds, and writes them to `out` where it is given."""
    join()
    console = Console(quiet=not chief())
    result: PolicyFigures | RewardModelFigures
    with jax.set_mesh(make_mesh(config.mesh.fsdp, config.mesh.tp, config.mesh.slice)):
        folder = hf.resolve(config.model)
        if is_reward_model(folder):
            result = _reward_model(config, folder)
            print_accuracy(result, console)
        else:
            result = _policy(config, folder)
            print_policy(result, console)
    if config.out and chief():
        with replacing(config.out) as file:
            file.write_text(result.model_dump_json(indent=2) + "\n")
    return result


def _reward_model(config: BenchConfig, folder: Path) -> RewardModelFigures:
    if config.judge:
        raise InputError(f"--judge: {config.model} is a reward model, and raters' verdicts judge it; leave --judge out")
    model = load_reward_model(folder, jax.sharding.get_mesh(), config.dtype)
    cases = answers_only(encode_file(config.cases, load_tokenizer(folder, model.config.vocabulary)), config.cases, judged=True)
    check_tree("the reward model", model.params["backbone"], model.config, Compute(config.dtype))
    return evaluate(model, cases, measure(cases, config.shapes, str(config.cases)), config.batch, Compute(config.dtype))


def _policy(config: BenchConfig, folder: Path) -> PolicyFigures:
    model = hf.read_config(folder)
    tokenizer = load_tokenizer(folder, model.vocabulary)
    cases = encode_file(config.cases, tokenizer)
    compute = Compute(config.dtype)
    if config.judge:
        judge_folder = hf.resolve(config.judge)
        judge_model = load_reward_model(judge_folder, jax.sharding.get_mesh(), config.dtype)
        check_tree("the judge", judge_model.params["backbone"], judge_model.config, compute)
        judge = reward_model_judge(judge_model, load_tokenizer(judge_folder, judge_model.config.vocabulary), config.batch, compute)
    elif all("clinic" in case.case.provenance for case in cases):
        judge = truth
    else:
        raise InputError(f"{config.cases}: these are not the clinic's cases, whose truth is known; name a reward model with --judge")
    weights = hf.load(folder, model, shardings(jax.sharding.get_mesh(), transformer.axes(model)), config.dtype)
    if weights is None:
        raise InputError(f"{config.model}: no weights; give the folder of a trained model")
    check_tree("the policy", weights, model, compute, samples=True)
    answered = answer_cases(weights, model, tokenizer, cases, measure(cases, config.shapes, str(config.cases)), judge, answers=config.answers,
                            answer_tokens=config.answer_tokens, batch=config.batch, seed=config.seed, temperature=config.temperature,
                            top_k=config.top_k, top_p=config.top_p, compute=compute)
    return figures(answered)
