"""What the commands do. `cli` imports this file when a command is run or asked for its help; jax, datasets and transformers wait for the work itself."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from inspect import Parameter as Argument
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Group, Parameter
from cyclopts.validators import Number
from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.table import Column, Table

from promedical_jax.clinic.variety import Variety
from promedical_jax.config import (
    BenchConfig,
    DpoConfig,
    GrpoConfig,
    PpoConfig,
    QuickstartConfig,
    RmConfig,
    ScoreConfig,
    SftConfig,
    Stage,
)
from promedical_jax.corpus.recipe import CorpusConfig
from promedical_jax.errors import InputError, Stopped
from promedical_jax.lab.recipe import LabConfig
from promedical_jax.recipe import Key, dump, keys, read_recipe
from promedical_jax.review.recipe import ReviewConfig
from promedical_jax.rubric import Case, Tier, Verdict, write_cases
from promedical_jax.serve.recipe import ServeConfig
from promedical_jax.suites.recipe import BuildConfig, SuiteConfig

Recipe = Annotated[Path | None, Parameter(help="YAML recipe; the keys below are read from it, and flags have the last word")]
PrintConfig = Annotated[bool, Parameter(negative=(), show_default=False, help="print the whole recipe as YAML, and do nothing else")]
DryRun = Annotated[bool, Parameter(negative=(), show_default=False, help="check the recipe and the files it names, say what would be done, and write nothing")]
ResumeMode = Annotated[Literal["auto", "never"], Parameter(help="a run that is in the folder: auto goes on with it, never refuses")]
AllowChange = Annotated[list[str] | None, Parameter(negative=(), help="a key that may differ from the recipe of the run there; for more, give it again")]
Force = Annotated[bool, Parameter(negative=(), show_default=False, help="replace what exists")]
Dtype = Literal["float32", "bfloat16"]
Planned = Literal["sft", "rm", "score", "reference", "grpo", "rollout"]
Remat = Literal["none", "full", "attention", "offload"]
Count = Annotated[int, Parameter(validator=Number(gte=1))]
Seed = Annotated[int, Parameter(validator=Number(gte=0))]


# Commands that follow a recipe


def recipe_command(schema: type[BaseModel], module: str, show: Callable[[Any, Any], None] = lambda config, result: None, positional: str | None = None,
                   does: str = "run") -> Callable[..., None]:  # fmt: skip
    """A command that reads its recipe and calls `module`.`does`(config), then show(config, result). That of a training stage also takes --resume and
    --allow-change, which say what to do with a run that is there, and are no keys of its recipe.

    Each key of the schema becomes a parameter, so that cyclopts lists, completes and matches it; its value stays text until `read_recipe` checks it
    together with the file. The key `positional` may be given without its flag.
    """
    named = {key.name.replace(".", "__"): key for key in keys(schema)}
    resumes = issubclass(schema, Stage) and does == "run"
    stops = _stopping if issubclass(schema, Stage | QuickstartConfig) else nullcontext

    def command(*first: str, config: Recipe = None, print_config: PrintConfig = False, dry_run: DryRun = False, resume: ResumeMode = "auto",
                allow_change: AllowChange = None, **flags: str | None) -> None:  # fmt: skip
        given = {named[name].name: text for name, text in flags.items() if text is not None} | ({str(positional): first[0]} if first else {})
        chosen = read_recipe(schema, config, given)
        if print_config:
            print(dump(chosen), end="")
        elif dry_run:
            from promedical_jax.preview import preview

            preview(chosen, _resume(resume, allow_change) if resumes else None)
        else:
            with stops():
                show(chosen, getattr(import_module(module), does)(chosen, **({"resume": _resume(resume, allow_change)} if resumes else {})))

    kinds = {positional: Argument.POSITIONAL_OR_KEYWORD}
    arguments = [Argument(name, kinds.get(name, Argument.KEYWORD_ONLY), default=None, annotation=_flag(key)) for name, key in named.items()]
    switches = [argument for argument in signature(command).parameters.values() if argument.kind is Argument.KEYWORD_ONLY]
    switches = [argument for argument in switches if resumes or argument.name not in ("resume", "allow_change")]
    ordered = sorted([*switches, *arguments], key=lambda argument: argument.kind)  # stable: a positional one first, the others as they are
    setattr(command, "__signature__", Signature(ordered))  # noqa: B010
    return command


@contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM ends a training in good order: at once where nothing is to be finished, such as while it loads; in its steps the loop hears it. And so does the
    death of another process of the run."""
    from promedical_jax.cluster import survivors

    def stop(*_: object) -> None:
        raise Stopped("told to stop outside of its steps; what is written is whole, and the same command goes on with it")

    with survivors():
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def _resume(mode: Literal["auto", "never"], allow: Sequence[str] | None) -> Any:
    from promedical_jax.train.resume import Resume

    return Resume(mode, tuple(allow or ()))


def _flag(key: Key) -> Any:
    group = key.name.rpartition(".")[0]
    must = "" if key.default is not None else "[required, here or in the recipe]"
    return Annotated[
        str | None,
        Parameter(
            name=f"--{key.name}",
            metavar=key.allowed,
            help=f"{key.description} {must}".strip(),
            show_default=(lambda _: key.default) if key.default is not None else False,
            group=Group(f"Keys: {group}", help=key.group.split("\n\n")[0]) if group else "Keys",
        ),
    ]


def _show_model(config: Stage, result: Any) -> None:
    from promedical_jax.cluster import chief

    if chief():
        print(f"the trained model is in {config.out / 'model'}")


def _show_accuracy(config: RmConfig, held_out: Path | None) -> None:
    """The trained reward model on the held-out cases, where there are any: a table, and evaluation.json in the run folder."""
    if held_out:
        from promedical_jax.bench.run import run

        same = {"batch": config.batch, "dtype": config.dtype, "mesh": config.mesh, "shapes": config.shapes, "long": config.long}
        run(BenchConfig(model=config.out / "model", cases=held_out, out=config.out / "evaluation.json", report=config.out / "evaluation.html", **same))
    _show_model(config, held_out)


sft = recipe_command(SftConfig, "promedical_jax.train.sft", _show_model)
rm = recipe_command(RmConfig, "promedical_jax.train.rm", _show_accuracy)
dpo = recipe_command(DpoConfig, "promedical_jax.train.dpo", _show_model)
grpo = recipe_command(GrpoConfig, "promedical_jax.train.grpo", _show_model)
ppo = recipe_command(PpoConfig, "promedical_jax.train.ppo", _show_model)
doctor_sft, doctor_rm, doctor_dpo, doctor_grpo, doctor_ppo = (
    recipe_command(schema, "promedical_jax.train.examine", does="examine") for schema in (SftConfig, RmConfig, DpoConfig, GrpoConfig, PpoConfig)
)
RUN = "Measure a model behind an endpoint by a suite, by its official formula."
bench = App(name="bench")  # MODEL, or one of the commands below
bench.default(recipe_command(BenchConfig, "promedical_jax.bench.run", positional="model"))
bench.command(recipe_command(SuiteConfig, "promedical_jax.suites.run"), name="run", help=RUN)
BUILD = "Build ProMedical-Bench from cases that physicians judged: what they agree on, or what was adjudicated, and nothing that was trained on."
bench.command(recipe_command(BuildConfig, "promedical_jax.suites.build"), name="build", help=BUILD)


@bench.command(name="compare")
def bench_compare(
    *runs: Annotated[Path, Parameter(help="folders of two or more runs of one suite")],
    out: Annotated[Path, Parameter(help="page to write, .html")],
    force: Force = False,
) -> None:
    """Write a page that puts runs of one suite side by side: figures, paired differences, and the items where they differ most."""
    from promedical_jax.suites.compare_page import write_comparison

    if out.exists() and not force:
        raise InputError(f"{out} exists; give --force to replace it, or another --out")
    compared = write_comparison(runs, out)
    print(f"wrote {out}: {', '.join(run.name for run in compared)} on {compared[0].report.source.name}")


@bench.command(name="tasks-dir")
def bench_tasks_dir() -> None:
    """Print the folder of the suites' tasks for lm-evaluation-harness: lm_eval --include_path $(promedical bench tasks-dir)."""
    print(Path(__file__).parent / "suites" / "lm_eval_tasks")


score = recipe_command(ScoreConfig, "promedical_jax.scoring")
serve = recipe_command(ServeConfig, "promedical_jax.serve.run", positional="model")
quickstart = recipe_command(QuickstartConfig, "promedical_jax.quickstart")
lab = recipe_command(LabConfig, "promedical_jax.lab.run", positional="table")
corpus_run, corpus_status, corpus_cost = (recipe_command(CorpusConfig, "promedical_jax.corpus.pipeline", does=does) for does in ("run", "status", "cost"))
review_export, review_import, review_agreement, review_adjudicate = (
    recipe_command(ReviewConfig, f"promedical_jax.review.{module}") for module in ("export", "readback", "agreement", "adjudication")
)


def corpus_inspect(
    question: Annotated[str, Parameter(help="id of a question, such as medqa-17")],
    /,
    *,
    config: Annotated[Path, Parameter(help="the corpus's recipe")],
) -> None:
    """Say why a question is in the corpus or not, and who decided what, stage by stage."""
    from promedical_jax.corpus.pipeline import lineage

    for line in lineage(read_recipe(CorpusConfig, config), question):
        print(line)


# Ledgers


def ledger(
    path: Annotated[Path, Parameter(help="a ledger, .jsonl or .parquet: what `promedical score` or `promedical train grpo` wrote")],
    /,
    *,
    where: Annotated[list[str] | None, Parameter(negative=(), help="a condition, such as tier=safety or 'probability>0.9'; all given must hold")] = None,
    show: Annotated[int, Parameter(validator=Number(gte=0), help="rows to print")] = 20,
    out: Annotated[Path | None, Parameter(help="file for all rows found, .jsonl or .parquet")] = None,
    force: Force = False,
) -> None:
    """Print the rows of a ledger for which all conditions hold, how many there are, and write them elsewhere."""
    from promedical_jax.reward.ledger import print_rows, read_ledger, write_ledger

    if out is None:
        print_rows(read_ledger(path, where or ()), show, Console())
        return
    if out.exists() and not force:
        raise InputError(f"{out} exists; give --force to replace it, or another --out")
    print(f"wrote {out}: {write_ledger(out, read_ledger(path, where or ())):,} rows")


def follow(
    run: Annotated[Path, Parameter(help="folder of a run of `promedical train grpo` or `ppo`, finished or not")],
    /,
    *,
    case: Annotated[str | None, Parameter(help="id of a case that it answered; left out: one that it answered most often")] = None,
    out: Annotated[Path | None, Parameter(help="page to write; left out: case.html in the run's folder")] = None,
    force: Force = False,
) -> None:
    """Write a page that follows one case through a run: what was answered from time to time, and which criteria these answers met."""
    from promedical_jax.bench.follow import write_case_page

    page = out or run / "case.html"
    if page.exists() and not force:
        raise InputError(f"{page} exists; give --force to replace it, or another --out")
    print(f"wrote {page}: answers of {write_case_page(run, case, page)} steps")


# What it will cost


def plan(
    *,
    model: Annotated[str, Parameter(help="hub id of a known model (no download), or a folder with config.json")],
    stage: Annotated[Planned, Parameter(help="of GRPO's step: rollout samples, score judges, reference looks log-probs up, grpo updates")],
    topology: Annotated[str, Parameter(help="chip:shape, such as v5e:4x4, v5p:2x2x2, v6e:2x4, tpu7x:2x2x1, h100:1, or cpu:8")],
    prompt: Annotated[Count, Parameter(help="P, tokens of an instruction")] = 1024,
    answers: Annotated[Count, Parameter(help="G, answers of an instruction")] = 8,
    answer: Annotated[Count, Parameter(help="R, tokens of an answer")] = 1024,
    criteria: Annotated[Count, Parameter(help="K, criteria of an answer (rm and score)")] = 8,
    criterion: Annotated[Count, Parameter(help="C, tokens of a criterion (rm and score)")] = 48,
    batch: Annotated[Count | None, Parameter(help="cases a step, over all devices; left out: one for each part of the mesh that splits the batch")] = None,
    lora: Annotated[int, Parameter(validator=Number(gte=0), help="rank of adapters beside frozen weights; 0 trains all parameters")] = 0,
    shared: Annotated[bool, Parameter(negative=(), show_default=False, help="with --lora: the reward model is an adapter too, of the same base")] = False,
    remat: Annotated[Remat, Parameter(help="what the backward pass keeps of a layer")] = "full",
    weights: Annotated[Dtype, Parameter(help="what trained parameters are kept in")] = "float32",
    dtype: Annotated[Dtype, Parameter(help="what matrix products compute in")] = "bfloat16",
    tp: Annotated[Count, Parameter(help="devices that share heads, feed-forward and vocabulary")] = 1,
    slices: Annotated[Count, Parameter(name="--slice", help="groups of devices with a slow network between them")] = 1,
    json: Annotated[bool, Parameter(negative=(), show_default=False, help="print the plan as JSON")] = False,
) -> None:
    """Compile a stage for a topology, without having it, and print memory, time and traffic, and whether it fits."""
    from promedical_jax.plan.compile import Request, plan_stage
    from promedical_jax.plan.programs import Choices, Shapes
    from promedical_jax.plan.report import show

    if shared and not lora:
        raise InputError("--shared: only policies by LoRA leave the base as it is, for a reward model to share; give --lora RANK too, or leave --shared out")
    shapes = Shapes(batch or 0, prompt, answers, answer, criteria, criterion)
    done = plan_stage(Request(model, stage, topology, shapes, Choices(lora, remat, weights, dtype, shared), tp, slices))
    if json:
        print(done.model_dump_json(indent=2))
    else:
        show(done, Console())


# Models


def export(
    checkpoint: Annotated[Path, Parameter(help="a run's folder, or one that `promedical import` made")],
    /,
    *,
    out: Annotated[Path, Parameter(help="model folder to write: safetensors, config, tokenizer, card")],
    step: Annotated[int | None, Parameter(validator=Number(gte=0), help="which checkpoint; left out: the newest complete one")] = None,
    dtype: Annotated[Dtype | None, Parameter(help="of the weights; left out: as they are")] = None,
    shard_gib: Annotated[float, Parameter(validator=Number(gt=0), help="GiB of a file of weights at most")] = 4,
    scalar: Annotated[str | None, Parameter(help="of a reward model a classifier with one score: heads and weights, as in proficiency=1,safety=-2")] = None,
    force: Force = False,
) -> None:
    """Write a checkpoint as a model folder that transformers reads. The run may go on meanwhile: nothing of it is touched, and no accelerator is used."""
    _stay_on_the_host()
    from promedical_jax.train.export import export_checkpoint

    print(*export_checkpoint(checkpoint, out, step, dtype, shard_gib, force, scalar), sep="\n")


def import_model(
    source: Annotated[str, Parameter(name="MODEL", help="a model folder with safetensors, or a name on the hub such as Qwen/Qwen3-0.6B")],
    /,
    *,
    out: Annotated[Path, Parameter(help="checkpoint folder to write")],
    dtype: Annotated[Dtype | None, Parameter(help="of the weights; left out: the one that holds those of the files exactly")] = None,
    force: Force = False,
) -> None:
    """Make a checkpoint of a model folder or of a model on the hub. `promedical export` makes the same tensors of it again."""
    _stay_on_the_host()
    from promedical_jax.train.export import import_model

    print(*import_model(source, out, dtype, force), sep="\n")


def _stay_on_the_host() -> None:
    """Only moves arrays, and a run may hold this machine's accelerators: JAX looks at the CPU alone, unless it is told otherwise. Before jax is imported."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")


# Cases


def import_cases(
    source: Annotated[Literal["kqa", "healthbench"], Parameter(help="what PATH holds")],
    path: Annotated[Path, Parameter(help="the folder of K-QA, or HealthBench's .jsonl file or its folder")],
    /,
    *,
    out: Annotated[Path, Parameter(help="file of cases to write: .jsonl or .parquet")],
    force: Force = False,
) -> None:
    """Read a public source of rubrics into cases."""
    if out.exists() and not force:
        raise InputError(f"{out} exists; give --force to replace it, or another --out")
    from promedical_jax import corpus

    cases = corpus.import_kqa(path) if source == "kqa" else corpus.import_healthbench(path)
    write_cases(out, cases)
    print_summary({out: cases})


def _clinic_command() -> Callable[..., None]:
    """`promedical data clinic`, which takes the keys of a `Variety` beside its own flags."""
    named = {key.name.replace(".", "__"): key for key in keys(Variety)}

    def clinic(
        *,
        out: Annotated[Path, Parameter(help="folder to write: train.jsonl, held_out.jsonl and model/")],
        train: Annotated[Count, Parameter(help="training cases")] = 2000,
        held_out: Annotated[Count, Parameter(help="cases of other conditions in other words")] = 192,
        seed: Seed = 0,
        force: Force = False,
        config: Annotated[Path | None, Parameter(help="YAML of what is varied, such as a variety.json; the keys below are read from it")] = None,
        **flags: str | None,
    ) -> None:
        """Make cases of the simulated clinic, and a small untrained model with its tokenizer. Everything in them is invented.

        The keys say what is varied, and by how much; docs/clinic.md has an example of each. Without them it is the clinic of the quickstart.
        """
        variety = read_recipe(Variety, config, {named[name].name: text for name, text in flags.items() if text is not None})
        from promedical_jax.clinic.folder import HELD_OUT, MODEL, TRAIN, write_clinic

        made = write_clinic(out, train, held_out, seed, replace=force, variety=variety)
        print_summary({out / TRAIN: made[0], out / HELD_OUT: made[1]})
        print(f"wrote {out / MODEL}: an untrained model with its tokenizer")

    own = [argument for argument in signature(clinic).parameters.values() if argument.name != "flags"]
    varied = [Argument(name, Argument.KEYWORD_ONLY, default=None, annotation=_flag(key)) for name, key in named.items()]
    setattr(clinic, "__signature__", Signature([*own, *varied]))  # noqa: B010
    return clinic


clinic = _clinic_command()


def print_summary(files: dict[Path, Sequence[Case]]) -> None:
    """What files of cases hold, a column each."""
    rows = [_counts(cases) for cases in files.values()]
    table = Table("", *(Column(path.name, justify="right", overflow="fold") for path in files), box=box.SIMPLE_HEAD, pad_edge=False)
    for label in rows[0]:
        table.add_row(label, *(f"{row[label]:,}" for row in rows))
    Console().print(table)
    for path in files:
        print(f"wrote {path}")


def _counts(cases: Sequence[Case]) -> dict[str, int]:
    tiers = Counter(criterion.tier for case in cases for criterion in case.rubric.criteria)
    said = Counter(judgement.verdict for case in cases for judgement in case.verdicts)
    raters = {(judgement.rater, judgement.human) for case in cases for judgement in case.verdicts}
    return (
        {"cases": len(cases), "answers": sum(len(case.answers) for case in cases)}
        | {f"{tier} criteria": tiers[tier] for tier in Tier}
        | {"verdicts": said.total()}
        | {f"  {verdict}": said[verdict] for verdict in Verdict}
        | {"raters": len(raters), "  human": sum(human for _, human in raters)}
    )
