"""What the commands do. `cli` imports this file when a command is run or asked for its help; jax, datasets and transformers wait for the work itself."""

from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import Parameter as Argument
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from cyclopts.validators import Number
from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.table import Column, Table

from promedical_jax.config import BenchConfig, GrpoConfig, QuickstartConfig, RmConfig, SftConfig, Stage
from promedical_jax.errors import InputError
from promedical_jax.recipe import Key, dump, keys, read_recipe
from promedical_jax.rubric import Case, Tier, Verdict, write_cases

Recipe = Annotated[Path | None, Parameter(help="YAML recipe; the keys below are read from it, and flags have the last word")]
PrintConfig = Annotated[bool, Parameter(negative=(), show_default=False, help="print the whole recipe as YAML, and do nothing else")]
DryRun = Annotated[bool, Parameter(negative=(), show_default=False, help="check the recipe and the files it names, say what would be done, and write nothing")]
Force = Annotated[bool, Parameter(negative=(), show_default=False, help="replace what exists")]
Count = Annotated[int, Parameter(validator=Number(gte=1))]
Seed = Annotated[int, Parameter(validator=Number(gte=0))]


# Commands that follow a recipe


def recipe_command(schema: type[BaseModel], module: str, show: Callable[[Any, Any], None], positional: str | None = None) -> Callable[..., None]:
    """A command that reads its recipe and calls `module`.run(config), then show(config, result).

    Each key of the schema becomes a parameter, so that cyclopts lists, completes and matches it; its value stays text until `read_recipe` checks it
    together with the file. The key `positional` may be given without its flag.
    """
    named = {key.name.replace(".", "__"): key for key in keys(schema)}

    def command(*first: str, config: Recipe = None, print_config: PrintConfig = False, dry_run: DryRun = False, **flags: str | None) -> None:
        given = {named[name].name: text for name, text in flags.items() if text is not None} | ({str(positional): first[0]} if first else {})
        chosen = read_recipe(schema, config, given)
        if print_config:
            print(dump(chosen), end="")
        elif dry_run:
            preview(chosen)
        else:
            show(chosen, import_module(module).run(chosen))

    kinds = {positional: Argument.POSITIONAL_OR_KEYWORD}
    arguments = [Argument(name, kinds.get(name, Argument.KEYWORD_ONLY), default=None, annotation=_flag(key)) for name, key in named.items()]
    switches = [argument for argument in signature(command).parameters.values() if argument.kind is Argument.KEYWORD_ONLY]
    ordered = sorted([*switches, *arguments], key=lambda argument: argument.kind)  # stable: a positional one first, the others as they are
    setattr(command, "__signature__", Signature(ordered))  # noqa: B010
    return command


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
    print(f"the trained model is in {config.out / 'model'}")


def _show_accuracy(config: RmConfig, held_out: Path | None) -> None:
    """The trained reward model on the held-out cases, where there are any: a table, and evaluation.json in the run folder."""
    if held_out:
        from promedical_jax.bench.run import run

        same = {"batch": config.batch, "dtype": config.dtype, "mesh": config.mesh, "shapes": config.shapes}
        run(BenchConfig(model=config.out / "model", cases=held_out, out=config.out / "evaluation.json", **same))
    _show_model(config, held_out)


sft = recipe_command(SftConfig, "promedical_jax.train.sft", _show_model)
rm = recipe_command(RmConfig, "promedical_jax.train.rm", _show_accuracy)
grpo = recipe_command(GrpoConfig, "promedical_jax.train.grpo", _show_model)
bench = recipe_command(BenchConfig, "promedical_jax.bench.run", lambda config, result: None, positional="model")
quickstart = recipe_command(QuickstartConfig, "promedical_jax.quickstart", lambda config, result: None)


# --dry-run


def preview(config: BaseModel) -> None:
    """Reads the files that a recipe names, as the run will, and prints what the run would do. Touches no device and writes nothing."""
    if isinstance(config, Stage):
        lines = _preview_stage(config)
    elif isinstance(config, BenchConfig):
        lines = _preview_bench(config)
    else:
        lines = {name: str(value) for name, value in config if not isinstance(value, BaseModel)}
    width = max(map(len, lines))
    print("dry run: the recipe is sound, nothing was written")
    for name, text in lines.items():
        print(f"  {name:{width}}  {text}")


def _preview_bench(config: BenchConfig) -> dict[str, str]:
    from promedical_jax.data.load import encode_file, load_tokenizer
    from promedical_jax.model import hf

    model = hf.read_config(config.model)
    cases = encode_file(config.cases, load_tokenizer(config.model, model.vocabulary))
    judge = {"judge": f"{config.judge}: Qwen3 of width {hf.read_config(config.judge).width}"} if config.judge else {}
    return {"model": f"{config.model}: Qwen3, {model.depth} layers of width {model.width}", "cases": f"{config.cases}: {len(cases):,} cases"} | judge


def _preview_stage(config: Stage) -> dict[str, str]:
    from promedical_jax.data.encode import measure
    from promedical_jax.data.load import answers_only, encode_file, load_tokenizer
    from promedical_jax.model import hf

    recipe = config.out / "recipe.yaml"
    if recipe.exists() and recipe.read_text() != dump(config):
        raise InputError(f"{config.out} holds a run of another recipe (see {recipe}); choose another --out")
    lines = {}
    tokenizers = {}
    for name in ("model", "reward_model"):
        folder = getattr(config, name, None)
        if folder is not None:
            model = hf.read_config(folder)
            tokenizers[name] = load_tokenizer((config.tokenizer if name == "model" else None) or folder, model.vocabulary)
            if name == "reward_model" and not (folder / "heads.safetensors").is_file():
                raise InputError(f"{folder} holds no reward model; give the folder that `promedical train rm` wrote")
            weights = "its weights" if any(folder.glob("*.safetensors")) else "random weights"
            lines[name] = f"{folder}: Qwen3, {model.depth} layers of width {model.width}, {model.vocabulary:,} tokens, {weights}"
    for name in ("cases", "held_out"):
        path = getattr(config, name, None)
        if path is not None:
            cases = encode_file(path, tokenizers["model"])
            if not isinstance(config, GrpoConfig):  # which samples its answers itself
                cases = answers_only(cases, path, judged=isinstance(config, RmConfig))
            if name == "cases" and len(cases) < config.batch:
                raise InputError(f"{path}: {len(cases)} cases are fewer than a batch of {config.batch}; lower --batch or add cases")
            sizes = measure(cases, config.shapes, str(path))
            fits = f"prompt {sizes.prompt}, answer {sizes.answer}, criterion {sizes.criterion} tokens"
            lines[name] = f"{path}: {len(cases):,} cases, up to {sizes.answers} answers and {sizes.criteria} criteria each; {fits}"
            if name == "cases":
                lines["steps"] = f"{config.steps:,} of {config.batch} cases, {config.steps * config.batch / len(cases):.2g} x the data"
    return lines | {"out": f"{config.out}: {'would go on from its last checkpoint' if recipe.exists() else 'a new run'}"}


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


def clinic(
    *,
    out: Annotated[Path, Parameter(help="folder to write: train.jsonl, held_out.jsonl and model/")],
    train: Annotated[Count, Parameter(help="training cases")] = 2000,
    held_out: Annotated[Count, Parameter(help="cases of other conditions in other words")] = 192,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Make cases of the simulated clinic, and a small untrained model with its tokenizer. Everything in them is invented."""
    from promedical_jax.clinic.folder import HELD_OUT, MODEL, TRAIN, write_clinic

    made = write_clinic(out, train, held_out, seed, replace=force)
    print_summary({out / TRAIN: made[0], out / HELD_OUT: made[1]})
    print(f"wrote {out / MODEL}: an untrained model with its tokenizer")


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
