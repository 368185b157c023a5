"""The whole path on the simulated clinic: cases -> supervised start -> reward model -> GRPO -> report, judged by the clinic's truth on held-out cases."""

import platform
import time
from importlib.metadata import version
from pathlib import Path

import jax
from rich.console import Console

from promedical_jax.answering import Answered, answer_cases
from promedical_jax.bench.html import write_report
from promedical_jax.bench.policy import examples, figures, win_rate
from promedical_jax.bench.report import Report, read_report
from promedical_jax.bench.reward_model import evaluate
from promedical_jax.bench.tables import print_accuracy, print_report
from promedical_jax.clinic import foreign, truth
from promedical_jax.clinic.folder import HELD_OUT, MODEL, TRAIN, write_clinic
from promedical_jax.cluster import join
from promedical_jax.config import GrpoConfig, Optimizer, QuickstartConfig, RmConfig, SftConfig, Shapes
from promedical_jax.data.encode import measure
from promedical_jax.data.load import encode_file, load_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.model import hf, transformer
from promedical_jax.model.sharding import make_mesh, shardings
from promedical_jax.model.transformer import Compute
from promedical_jax.recipe import changes, dump
from promedical_jax.reward import judge_of, load_reward_model
from promedical_jax.reward.folder import model_hash
from promedical_jax.selfcheck import check_tree
from promedical_jax.suites.judges import the_checker
from promedical_jax.suites.policy import Spoken, keep
from promedical_jax.train import grpo, rm, sft

SHAPES = Shapes(prompt=56, answer=48, criterion=16)  # what every case of the clinic fits


def stages(config: QuickstartConfig) -> tuple[SftConfig, RmConfig, GrpoConfig]:
    """The recipes of the three stages; configs/clinic holds the same ones for `promedical train`."""
    cases = config.out / "cases"
    common = {"cases": cases / TRAIN, "seed": config.seed, "shapes": SHAPES}
    start = SftConfig(
        out=config.out / "sft", model=cases / MODEL, steps=config.sft_steps, batch=16, save_every=100,
        optimizer=Optimizer(learning_rate=3e-3, warmup=20, weight_decay=0.01), **common,
    )  # fmt: skip
    judge = RmConfig(
        out=config.out / "rm", model=start.out / "model", steps=config.rm_steps, batch=8, save_every=100, held_out=cases / HELD_OUT,
        optimizer=Optimizer(learning_rate=1.5e-3, warmup=20, weight_decay=0.01), **common,
    )  # fmt: skip
    align = GrpoConfig(
        out=config.out / "grpo", model=start.out / "model", reward_model=judge.out / "model", steps=config.grpo_steps, batch=16, save_every=20, log_every=2,
        answer_tokens=48, kl=0.02, optimizer=Optimizer(learning_rate=5e-4, warmup=5, final=0.3), **common,
    )  # fmt: skip
    return start, judge, align


def run(config: QuickstartConfig) -> Report:
    """Runs what is not done yet and prints the final table. Writes cases/, sft/, rm/, grpo/, bench/, ledger.jsonl, report.json and report.html under `out`.

    Raises InputError if another recipe's run is there: nothing is overwritten.
    """
    began = time.monotonic()
    join()
    if jax.process_count() > 1:
        raise InputError("quickstart runs in one process; start it on one host, or the stages one by one on all")
    console = Console(stderr=True)
    resumed = _claim(config)
    if (config.out / "report.json").exists():
        report = read_report(config.out / "report.json")
        console.print(f"{config.out} holds this run, finished; nothing to do. Another --seed and --out make another one.", soft_wrap=True)
        _show(config, report)
        return report
    if resumed:
        console.print(f"{config.out} holds this run, unfinished; going on with it", soft_wrap=True)
    if not (config.out / "cases" / HELD_OUT).exists():
        write_clinic(config.out / "cases", config.train_cases, config.held_out_cases, config.seed, replace=True)
    console.print(f"1/5 cases: {config.train_cases:,} to train on, {config.held_out_cases:,} held out, of other conditions in other words")
    start, judge, align = stages(config)
    console.print("2/5 supervised start: imitate answers of mixed quality")
    sft.run(start)
    console.print("3/5 reward model: learn the verdict on each criterion")
    rm.run(judge)
    console.print("4/5 GRPO: improve the answers by the reward model's verdicts, with the veto kept")
    grpo.run(align, truth)
    console.print("5/5 report: both policies on the held-out cases, judged by the clinic's checker")
    report = _report(config, start, judge, align, began, resumed)
    (config.out / "ledger.jsonl").write_bytes((align.out / "ledger.jsonl").read_bytes())
    write_report(config.out, report)
    _show(config, report)
    return report


def _claim(config: QuickstartConfig) -> bool:
    """Whether this recipe's run is in `out` already."""
    marker, recipe = config.out / "recipe.yaml", dump(config)
    if marker.exists():
        found = [change for change in changes(marker, config) if change.key != "out"]
        if found:
            what = ", ".join(f"{one.key} is {one.old} there and {one.new} here" for one in found)
            raise InputError(f"{config.out} holds a run of another recipe ({marker}): {what}; choose another --out")
        return True
    if config.out.exists() and not config.out.is_dir():
        raise InputError(f"{config.out} is a file; choose another --out")
    if config.out.exists() and any(config.out.iterdir()):
        raise InputError(f"{config.out} is not empty and holds no quickstart; choose another --out")
    config.out.mkdir(parents=True, exist_ok=True)
    marker.write_text(recipe)
    return False


def _report(config: QuickstartConfig, start: SftConfig, judge: RmConfig, align: GrpoConfig, began: float, resumed: bool) -> Report:
    """Both policies and the reward model on the held-out cases."""
    console = Console(stderr=True)
    model = hf.read_config(start.out / "model")
    tokenizer = load_tokenizer(start.out / "model", model.vocabulary)
    cases = encode_file(config.out / "cases" / HELD_OUT, tokenizer)
    sizes = measure(cases, SHAPES, HELD_OUT)
    with jax.set_mesh(make_mesh()):
        where = shardings(jax.sharding.get_mesh(), transformer.axes(model))

        def answered(folder: Path) -> list[Answered]:
            console.print(f"report: the model in {folder} answers {len(cases)} cases, {align.answers} times each", soft_wrap=True)
            params = hf.load(folder, model, where)
            assert params is not None, "the stages wrote it"
            check_tree("the policy", params, model, samples=True)
            return answer_cases(params, model, tokenizer, cases, sizes, truth, answers=align.answers, answer_tokens=align.answer_tokens, batch=align.batch)

        base, aligned = answered(start.out / "model"), answered(align.out / "model")
        for name, held, stage in (("base", base, start), ("aligned", aligned, align)):
            spoken = [Spoken(one.texts, one.lengths) for one in held]
            folder = stage.out / "model"
            keep(config.out / "bench" / name, [one.case for one in held], spoken, the_checker(), HELD_OUT, folder, model_hash(folder)[:12])
        console.print("report: the reward model judges the cases' own answers")
        reward_model = load_reward_model(judge.out / "model", jax.sharding.get_mesh())
        check_tree("the reward model", reward_model.params["backbone"], reward_model.config)
        accuracy = evaluate(judge_of(reward_model, tokenizer, jax.sharding.get_mesh(), judge.batch, Compute()), cases, foreign=foreign)
        parameters = sum(x.size for x in jax.tree.leaves(transformer.shapes(model)))
    notes = ("The run was interrupted and went on; the wall time is that of its last part.",) if resumed else ()
    return Report(
        seed=config.seed,
        command=f"promedical quickstart --out {config.out} --seed {config.seed}",
        versions={"python": platform.python_version()} | {name: version(name) for name in ("promedical-jax", "jax", "flax", "optax", "grain")},
        wall_seconds=round(time.monotonic() - began, 1),
        model=f"Qwen3, {parameters / 1e6:.1f} M parameters, trained from random weights",
        cases={"train": config.train_cases, "held_out": config.held_out_cases},
        base=figures(base),
        aligned=figures(aligned),
        win_rate=win_rate(aligned, base),
        reward_model=accuracy,
        examples=examples(base, aligned, 6),
        judge="the clinic's checker, which knows the truth",
        notes=notes,
    )


def _show(config: QuickstartConfig, report: Report) -> None:
    console = Console()
    print_accuracy(report.reward_model, console)
    print_report(report, console)
    runs = " ".join(str(config.out / "bench" / name) for name in ("base", "aligned"))
    console.print(f"the two policies side by side: promedical bench compare {runs} --out {config.out / 'compare.html'}", soft_wrap=True)
    console.print(f"report: {config.out / 'report.html'}   every rollout and criterion: {config.out / 'ledger.jsonl'}", soft_wrap=True)
