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
from promedical_jax.suites.known import SUITES
from promedical_jax.suites.recipe import Name, SuiteConfig
from promedical_jax.suites.report import Report, write
from promedical_jax.suites.suite import Marked, Suite
from promedical_jax.suites.tables import print_report

REPLIES = "replies.sqlite"
PATIENCE = 64  # questions in a row without any reply, after which an endpoint is taken to be down


def run(config: SuiteConfig) -> Report:
    """Asks, marks, writes and prints. Raises InputError for a file that is not the suite's, an endpoint that is missing or refuses, a budget that is spent."""
    suite = SUITES[config.suite]
    items = read_items(config.suite, config.data, config.harmless, config.items)
    check_endpoints(config, suite)
    with alone(config.out, "a suite"):
        marks = _likely(suite, items, config) if config.model else _asked(suite, items, config)
        report = Report(
            suite=config.suite, source=suite.source, data=config.data.name, answerer=_name(config.answerer, config.model) if suite.ask else None,
            judge=_name(config.judge) if suite.judge else None, items=len(marks), silent=sum(mark.reply is None for mark in marks) if suite.ask else 0,
            judgements=sum(len(mark.verdicts) for mark in marks), failed=sum(one is None for mark in marks for one in mark.verdicts),
            figures=suite.figures(marks),
        )  # fmt: skip
        if suite.also:
            suite.also(config.out, marks, report.figures, config.judge.model or "")
        write(config.out, marks, report)
    print_report(report, Console())
    return report


def read_items(name: Name, data: Path, harmless: Path | None = None, count: int | None = None) -> list[Any]:
    """The suite's items, checked; the first `count` of the file, and of those that are asked besides."""
    suite = SUITES[name]
    if harmless and not suite.beside:
        raise InputError(f"harmless: {name} asks nothing besides its file; leave harmless out, or choose the suite medsafetybench")
    found = list(suite.read(data))[:count]
    if not found:
        raise InputError(f"{data} holds no item of {suite.source.name}; give the file as its authors publish it")
    return found + list(suite.beside(harmless) if suite.beside else ())[:count]


def check_endpoints(config: SuiteConfig, suite: Suite) -> None:
    """Raises InputError where somebody is missing whom the suite needs, or is named whom it does not."""
    if config.model and not suite.likely:
        raise InputError(f"model: {config.suite} is not multiple choice with one right answer; leave model out, and give answerer.url and answerer.model")
    wanted = {"answerer": suite.ask is not None and not config.model, "judge": suite.judge is not None}
    for name, needed in wanted.items():
        if needed and not getattr(config, name).url:
            raise InputError(f"{name}.url: {config.suite} needs one to ask; give {name}.url and {name}.model, as in http://localhost:8000/v1")
        if not needed and getattr(config, name).url:
            raise InputError(f"{name}.url: {config.suite} asks no {name} here; leave {name} out")


def _asked(suite: Suite, items: Sequence[Any], config: SuiteConfig) -> list[Marked]:
    replies: list[Any] = [None] * len(items)
    if suite.ask:
        replies = _replies("answerer", config.answerer, [suite.ask(item) for item in items], config)
    verdicts: list[list[Any]] = [[] for _ in items]
    if suite.judge:
        judged = [list(suite.judge(item, reply)) if reply is not None or not suite.ask else [] for item, reply in zip(items, replies, strict=True)]
        said = iter(_replies("judge", config.judge, [ask for each in judged for ask in each], config))
        verdicts = [[next(said) for _ in each] for each in judged]
    return [suite.mark(item, reply, each) for item, reply, each in zip(items, replies, verdicts, strict=True)]


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


def _name(endpoint: Endpoint, model: Path | None = None) -> str:
    return f"{model} by log-likelihood" if model else f"{endpoint.model} at {endpoint.url}"
