"""`promedical bench run`: a suite's items to the answerer, its replies to the judge, and both to items.jsonl and report.json.

Every reply is in one SQLite file of `out` before it is used, and the figures depend on the replies alone: a run that is killed and started again asks only what
was not replied, and ends with the same bytes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from promedical_jax.asking import Ask, Asker
from promedical_jax.config import Endpoint
from promedical_jax.corpus.pipeline import alone
from promedical_jax.corpus.progress import progress
from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Case
from promedical_jax.suites.compare import Run, against
from promedical_jax.suites.judges import Named, open_named, the_checker
from promedical_jax.suites.known import SUITES
from promedical_jax.suites.policy import Spoken
from promedical_jax.suites.recipe import Name, SuiteConfig
from promedical_jax.suites.report import Report, read_run, write
from promedical_jax.suites.suite import Marked, Suite
from promedical_jax.suites.tables import print_report

REPLIES = "replies.sqlite"
PATIENCE = 64  # questions in a row without any reply, after which an endpoint is taken to be down


def run(config: SuiteConfig) -> Report:
    """Asks, marks, writes and prints. Raises InputError for a file that is not the suite's, an endpoint that is missing or refuses, a budget that is spent."""
    suite = SUITES[config.suite]
    base, items = read_base(config, suite), read_items(config.suite, config.data, config.harmless, config.items)
    check_endpoints(config, suite, items)
    with alone(config.out, "a suite"):
        judge = _judge(config, suite, items)
        if base:
            check_base(base, items, judge)
        marks = _likely(suite, items, config) if config.model else _asked(suite, items, config, judge)
        said = None
        if suite.calibrate and config.calibration.share:
            marks, said = suite.calibrate(marks, config.calibration)
        report = Report(
            suite=config.suite, source=suite.of(config.data) if suite.of else suite.source, data=config.data.name,
            answerer=_name(config.answerer, config.model, config.policy) if suite.ask else None, answerer_version=_version(config.policy),
            judge=judge and judge.name, judge_version=judge and judge.version, judge_calibration=judge and judge.calibration, calibration=said,
            items=len(marks), silent=sum(mark.reply is None for mark in marks) if suite.ask else 0,
            judgements=sum(len(mark.verdicts) for mark in marks), failed=sum(one is None for mark in marks for one in mark.verdicts),
            figures=suite.figures(marks),
        )  # fmt: skip
        if base:
            report = report.model_copy(update={"against": against(base, Run("this run", report, {mark.id: mark for mark in marks}))})
        if suite.also:
            suite.also(config.out, marks, report.figures, config.judge.model or "")
        write(config.out, marks, report)
    print_report(report, Console())
    return report


def read_base(config: SuiteConfig, suite: Suite) -> Run | None:
    """The run to be compared with. Raises InputError where the suite has no order of answers, and for a run of another suite."""
    if config.base is None:
        return None
    if not suite.points:
        raise InputError(f"base: {config.suite} has no order of two answers; leave base out, and use `promedical bench compare`")
    report, marks = read_run(config.base)
    if report.suite != config.suite:
        raise InputError(f"base: {config.base} is a run of {report.suite}; give one of {config.suite}")
    return Run(str(config.base), report, {mark.id: mark for mark in marks})


def check_base(base: Run, items: Sequence[Case], judge: Named | None) -> None:
    """Before anybody is asked. Raises InputError for a base that somebody else judged, or that has none of these cases."""
    theirs = (base.report.judge, base.report.judge_version)
    if judge is None or theirs != (judge.name, judge.version):
        names = [f"{name} (version {version or 'not said'})" for name, version in (theirs, (judge.name, judge.version) if judge else (None, None))]
        raise InputError(f"base: {base.name} was judged by {names[0]}, and this run would be by {names[1]}; let one judge judge both")
    if not base.marks.keys() & {item.id for item in items}:
        raise InputError(f"base: {base.name} has no item in common with this run; compare runs on the same data")


def read_items(name: Name, data: Path, harmless: Path | None = None, count: int | None = None) -> list[Any]:
    """The suite's items, checked; the first `count` of the file, and of those that are asked besides."""
    suite = SUITES[name]
    if harmless and not suite.beside:
        raise InputError(f"harmless: {name} asks nothing besides its file; leave harmless out, or choose the suite medsafetybench")
    found = list(suite.read(data))[:count]
    if not found:
        raise InputError(f"{data} holds no item of {suite.source.name}; give the file as its authors publish it")
    return found + list(suite.beside(harmless) if suite.beside else ())[:count]


def check_endpoints(config: SuiteConfig, suite: Suite, items: Sequence[Any]) -> None:
    """Raises InputError where somebody is missing whom the suite needs, or is named whom it does not."""
    if config.model and not suite.likely:
        raise InputError(f"model: {config.suite} is not multiple choice with one right answer; leave model out, and give answerer.url and answerer.model")
    if config.policy and not suite.samples:
        raise InputError(f"policy: {config.suite} asks its answerer behind an endpoint; start one with `promedical serve`, and give answerer.url")
    if config.reward_model and not suite.by:
        raise InputError(f"reward_model: {config.suite} has no verdicts for a reward model to give; leave it out, and give judge.url and judge.model")
    here = config.reward_model is not None or _of_the_clinic(suite, items)
    wanted = {"answerer": suite.ask is not None and not (config.model or config.policy), "judge": suite.judge is not None and not here}
    also = {"answerer": ", or policy, a model's folder" if suite.samples else "", "judge": ", or reward_model, a folder" if suite.by else ""}
    for name, needed in wanted.items():
        if needed and not getattr(config, name).url:
            raise InputError(f"{name}.url: {config.suite} needs one to ask; give {name}.url and {name}.model, as in http://localhost:8000/v1{also[name]}")
        if getattr(config, name).url and not needed and not (name == "judge" and suite.judge):
            raise InputError(f"{name}.url: {config.suite} asks no {name} here; leave {name} out")


def _of_the_clinic(suite: Suite, items: Sequence[Any]) -> bool:
    """Whether the truth is known of whatever is answered, and nobody else is needed to judge it."""
    return suite.samples and all("clinic" in item.provenance for item in items)


def _judge(config: SuiteConfig, suite: Suite, items: Sequence[Any]) -> Named | None:
    """Who judges, if anybody does."""
    if config.reward_model:
        return open_named(config.reward_model, config.zero_shot, config.batch, config.dtype)
    if _of_the_clinic(suite, items) and not config.judge.url:
        return the_checker()
    return Named(_name(config.judge), None, "none: its verdicts as they are") if suite.judge else None


def _asked(suite: Suite, items: Sequence[Any], config: SuiteConfig, judge: Named | None) -> list[Marked]:
    replies: list[Any] = [None] * len(items)
    if config.policy:
        replies = _sampled(items, config)
    elif suite.ask:
        replies = _replies("answerer", config.answerer, [suite.ask(item) for item in items], config)
    if judge and judge.judge:
        assert suite.by
        return suite.by(judge.judge, items, replies)
    verdicts: list[list[Any]] = [[] for _ in items]
    if suite.judge:
        judged = [list(suite.judge(item, reply)) if reply is not None or not suite.ask else [] for item, reply in zip(items, replies, strict=True)]
        said = iter(_replies("judge", config.judge, [ask for each in judged for ask in each], config))
        verdicts = [[next(said) for _ in each] for each in judged]
    return [suite.mark(item, reply, each) for item, reply, each in zip(items, replies, verdicts, strict=True)]


def _sampled(cases: Sequence[Case], config: SuiteConfig) -> list[Spoken]:
    from promedical_jax.bench.local import sample_folder

    assert config.policy
    how = config.sampling.model_dump()
    return [Spoken(*each) for each in sample_folder(config.policy, cases, config.shapes, str(config.data), config.batch, config.dtype, **how)]


def _replies(where: str, endpoint: Endpoint, asks: Sequence[Ask], config: SuiteConfig) -> list[BaseModel | None]:
    at = endpoint if endpoint.cache else endpoint.model_copy(update={"cache": config.out / REPLIES})
    asker = Asker(at, where, patience=PATIENCE)
    with progress(f"{where} ({endpoint.model})", asker.spent) as tell:
        replies = asker(asks, tell)
    counts = ", ".join(f"{count:,} {name}" for name, count in sorted(asker.counts.items()) if count)
    Console(stderr=True).print(f"{where} ({endpoint.model}): {counts}; spent {asker.spent():.4g}", soft_wrap=True, highlight=False)
    return replies


def _likely(suite: Suite, items: Sequence[Any], config: SuiteConfig) -> list[Marked]:
    from promedical_jax.bench.likelihood import open_likelihood

    assert config.model and suite.likely and suite.mark_likely
    questions = [suite.likely(item) for item in items]
    scored = open_likelihood(config.model, config.batch, config.dtype)([(one.context, one.options) for one in questions])
    return [suite.mark_likely(item, each) for item, each in zip(items, scored, strict=True)]


def _name(endpoint: Endpoint, model: Path | None = None, policy: Path | None = None) -> str:
    return f"{model} by log-likelihood" if model else f"policy {policy}" if policy else f"{endpoint.model} at {endpoint.url}"


def _version(folder: Path | None) -> str | None:
    """What tells this model from another one in a folder of its name."""
    if folder is None:
        return None
    from promedical_jax.bench.local import hash_of

    return hash_of(folder)[:12]
