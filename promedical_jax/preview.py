"""What `--dry-run` says: the files that a recipe names are read as the run will read them, no device is touched and nothing is written."""

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from promedical_jax.config import BenchConfig, DpoConfig, OnPolicy, RmConfig, ScoreConfig, Stage
from promedical_jax.corpus.recipe import CorpusConfig
from promedical_jax.errors import InputError
from promedical_jax.lab.recipe import LabConfig
from promedical_jax.review.recipe import ReviewConfig
from promedical_jax.serve.recipe import ServeConfig
from promedical_jax.suites.recipe import BuildConfig, SuiteConfig


def preview(config: BaseModel, resume: Any = None) -> None:
    """Reads the files that a recipe names, as the run will, and prints what the run would do. Touches no device and writes nothing. `resume`: of a training
    stage, how it is to take a run that is there."""
    if isinstance(config, Stage):
        lines = _preview_stage(config, resume)
    elif isinstance(config, BenchConfig | ScoreConfig):
        lines = _preview_bench(config)
    elif isinstance(config, CorpusConfig):
        lines = _preview_corpus(config)
    elif isinstance(config, ServeConfig):
        lines = _preview_serve(config)
    elif isinstance(config, ReviewConfig):
        lines = _preview_review(config)
    elif isinstance(config, SuiteConfig):
        lines = _preview_suite(config)
    elif isinstance(config, LabConfig):
        lines = _preview_lab(config)
    elif isinstance(config, BuildConfig):
        lines = _preview_build(config)
    else:
        lines = {name: str(value) for name, value in config if not isinstance(value, BaseModel)}
    width = max(map(len, lines))
    print("dry run: the recipe is sound, nothing was written")
    for name, text in lines.items():
        print(f"  {name:{width}}  {text}")


def _preview_bench(config: BenchConfig | ScoreConfig) -> dict[str, str]:
    from promedical_jax.data.load import encode_file, load_tokenizer
    from promedical_jax.model import hf
    from promedical_jax.reward import check_reward_model

    folder = hf.resolve(config.model, weights=False)
    if isinstance(config, ScoreConfig) and folder == config.model:  # one on the hub is looked at when it is fetched
        check_reward_model(folder)
    model = hf.read_config(folder)
    cases = encode_file(config.cases, load_tokenizer(folder, model.vocabulary))
    judge = {}
    if isinstance(config, BenchConfig) and config.judge:
        judge = {"judge": f"{config.judge}: width {hf.read_config(hf.resolve(config.judge, weights=False)).width}"}
    return {"model": f"{config.model}: {model.depth} layers of width {model.width}", "cases": f"{config.cases}: {len(cases):,} cases"} | judge


def _preview_lab(config: LabConfig) -> dict[str, str]:
    from promedical_jax.lab.run import planned

    plan = planned(config)
    kinds = ", ".join(f"{count} of kind {kind}" for kind, count in plan.kinds.items())
    return {"tables": ", ".join(plan.tables), "seeds": str(plan.seeds), "to train": f"{kinds or 'nothing'}; {plan.there} are there", "out": str(config.out)}


def _preview_serve(config: ServeConfig) -> dict[str, str]:
    """Reads configs and tokenizer; the port is left alone."""
    from promedical_jax.data.load import load_tokenizer
    from promedical_jax.model import hf
    from promedical_jax.reward import check_reward_model

    config.secret()
    folder = hf.resolve(config.model, weights=False)
    model = hf.read_config(folder)
    load_tokenizer(hf.resolve(config.tokenizer, weights=False) if config.tokenizer else folder, model.vocabulary)
    if config.reward_model and config.reward_model.is_dir():  # one on the hub is looked at when it is fetched
        check_reward_model(config.reward_model)
    return {
        "model": f"{config.model}: {model.depth} layers of width {model.width}, called {config.called}",
        "address": f"{config.host}, port {config.port}, {f'with the key in {config.key}' if config.key else 'without a key'}",
        "slots": f"{config.slots} of {config.longest} tokens: {config.slots * config.longest * _token_bytes(config, model) / 2**30:.2f} GiB of keys and values",
        "reward_model": str(config.reward_model),
    }


def _token_bytes(config: ServeConfig, model: Any) -> int:
    return 2 * model.depth * model.kv_heads * model.head * {"float32": 4, "bfloat16": 2}[config.dtype]


def _preview_corpus(config: CorpusConfig) -> dict[str, str]:
    """Reads the sources' bytes and the prompts."""
    from promedical_jax.corpus.pipeline import plan

    to_do = lambda stage: f"would wait for {stage.missing}" if stage.missing else "would be made"  # noqa: E731
    return {step.stage.name: f"is in {step.file}" if step.done else to_do(step.stage) for step in plan(config)}


def _preview_review(config: ReviewConfig) -> dict[str, str]:
    """What an export would send, or that there is one; nobody is asked."""
    from promedical_jax.review.export import folder_of, planned
    from promedical_jax.review.seal import FILE, read_key
    from promedical_jax.rubric import read_cases

    cases, folder = read_cases(config.cases), folder_of(config)
    if exists := (folder / FILE).exists():
        tasks = Counter(task.physician for task in read_key(folder).key.tasks)
    else:
        tasks = Counter(one.physician for one in planned(config, cases))
    where = config.studio.url or "files"
    return {
        "cases": f"{config.cases}: {len(cases):,} cases",
        "out": f"{folder}: {'has an export' if exists else f'an export to {where} would go out'}",
    } | {name: f"{count:,} tasks" for name, count in tasks.items()}


def _preview_suite(config: SuiteConfig) -> dict[str, str]:
    """Reads the suite's file; nobody is asked."""
    from promedical_jax.suites.known import SUITES
    from promedical_jax.suites.run import check_endpoints, read_base, read_items

    suite, items = SUITES[config.suite], read_items(config.suite, config.data, config.harmless, config.items)
    check_endpoints(config, suite, items)
    read_base(config, suite)
    local = {}
    if config.model:
        from promedical_jax.model import hf

        model = hf.read_config(hf.resolve(config.model, weights=False))
        local = {"model": f"{config.model}: {model.depth} layers of width {model.width}"}
    source = suite.of(config.data) if suite.of else suite.source
    return {
        "suite": f"{source.name}: {source.about}",
        "data": f"{config.data}: {len(items):,} items",
        "licence": f"{source.licence}, {source.url}, {source.version}",
        "scoring": source.scoring,
    } | local


def _preview_build(config: BuildConfig) -> dict[str, str]:
    """Builds in memory."""
    from promedical_jax.suites.build import select

    cases, how, left = select(config)
    return {
        "cases": f"{config.cases}: {len(cases):,} would be kept, with {len(how):,} verdicts",
        "left out": ", ".join(f"{count:,} {reason}" for reason, count in Counter(one.reason for one in left).most_common()) or "nothing",
        "out": f"{config.out}: {'is replaced' if config.force and config.out.exists() else 'exists, give force' if config.out.exists() else 'a new folder'}",
    }


def _preview_stage(config: Stage, resume: Any) -> dict[str, str]:
    from promedical_jax.data.encode import measure
    from promedical_jax.data.load import answers_only, encode_file, load_tokenizer, preferences_only
    from promedical_jax.data.long import sentence
    from promedical_jax.model import hf
    from promedical_jax.reward import check_reward_model
    from promedical_jax.reward.folder import read_verdicts
    from promedical_jax.train.checkpoint import steps
    from promedical_jax.train.functions import find_functions
    from promedical_jax.train.resume import AUTO, look
    from promedical_jax.train.rewards import check_kind
    from promedical_jax.train.rm_data import split
    from promedical_jax.train.rollouts import check_shares
    from promedical_jax.train.source import find
    from promedical_jax.train.watch import watched_cases

    lines: dict[str, str] = {}
    tokenizers: dict[str, Any] = {}
    for name in ("model", "reward_model"):
        folder: Path | None = getattr(config, name, None)
        if isinstance(config, OnPolicy) and folder is not None and name == "reward_model" and hf.is_adapter(folder):
            check_shares(config, folder, hf.read_config(find(config.model, weights=False).folder))
            check_kind(config, read_verdicts(folder).kind)
            lines[name] = f"{folder}: an adapter, which shares the weights of {config.model}"
        elif folder is not None:
            given, source = folder, find(folder, weights=False)
            folder = source.folder
            model = hf.read_config(folder)
            tokenizer = hf.resolve(config.tokenizer, weights=False) if config.tokenizer and name == "model" else folder
            tokenizers[name] = load_tokenizer(tokenizer, model.vocabulary)
            if name == "reward_model" and given == folder:  # one on the hub is looked at when it is fetched
                check_reward_model(folder)
                if isinstance(config, OnPolicy):
                    check_kind(config, read_verdicts(folder).kind)
            weights = "its weights" if source.has_weights() or given != folder else "random weights"
            lines[name] = f"{given}: {model.depth} layers of width {model.width}, {model.vocabulary:,} tokens, {weights}"
    if isinstance(config, OnPolicy) and config.functions:
        lines["functions"] = ", ".join(one.function for one, _ in find_functions(config.functions))
    if isinstance(config, RmConfig):
        data = split(config, tokenizers["model"])
        config, cases, sizes = data.config, data.train, data.sizes
        total = len(cases) + len(data.apart) + len(data.held_out if data.kept else ())
        lines["kept apart"] = f"{len(data.apart):,} of these for calibration" + (f", {len(data.held_out):,} held out" if data.kept else "")
        if config.held_out:
            lines["held_out"] = f"{config.held_out}: {len(data.held_out):,} cases"
        if data.too_long:
            lines["too long"] = "; ".join(sentence(over, count, str(path), config.long.action, None) for path, count, over in data.too_long)
    else:
        preferring = isinstance(config, DpoConfig)
        cases = encode_file(config.cases, tokenizers["model"], "implicit" if preferring else "explicit")
        if not isinstance(config, OnPolicy):  # which samples its answers itself
            cases = preferences_only(cases, config.cases) if preferring else answers_only(cases, config.cases)
        total, sizes = len(cases), measure(cases, config.shapes, str(config.cases))
        if total < config.batch:
            raise InputError(f"{config.cases}: {total} cases are fewer than a batch of {config.batch}; lower --batch or add cases")
    if isinstance(config, OnPolicy) and config.watch.cases:
        watched = watched_cases(config, tokenizers["model"], {case.case.id for case in cases}, None)
        lines["watch"] = f"{config.watch.cases}: {len(watched):,} held-out cases, judged by {config.watch.judge}"
    fits = f"prompt {sizes.prompt}, answer {sizes.answer}, criterion {sizes.criterion} tokens"
    lines["cases"] = f"{config.cases}: {total:,} cases, up to {sizes.answers} answers and {sizes.criteria} criteria each; {fits}"
    lines["steps"] = f"{config.steps:,} of {config.batch} cases, {config.steps * config.batch / len(cases):.2g} x the data"
    done, saved = look(config, type(config).__name__.removesuffix("Config").lower(), resume or AUTO), steps(config.out / "checkpoints")
    begun = f"would go on from its checkpoint of step {saved[-1]:,}" if saved else "a new run"
    return lines | {"out": f"{config.out}: {'finished, nothing would be done' if done else begun}"}
