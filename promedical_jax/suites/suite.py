"""What a suite is: items of an official file, what is asked about them and of whom, and the figures that its paper defines.

A suite is a record of functions. The runner (run.py) asks the answerer what `ask` says, the judge what `judge` says of the replies, has each item marked, and
the figures are made of the marks alone: what is in items.jsonl is enough to make report.json again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, Field, JsonValue

from promedical_jax.asking import Ask, about
from promedical_jax.bench.intervals import Interval
from promedical_jax.rubric.case import Message, Polarity, Record, Text
from promedical_jax.suites.judges import LocalJudge
from promedical_jax.suites.recipe import Apart

T = TypeVar("T")


class Source(Record):
    """Where a suite comes from. `scoring` says whose formula the figures are, and what of it is ours."""

    name: Text
    about: Text
    licence: Text
    url: Text
    paper: Text
    version: Text
    scoring: Text


class Line(Record):
    """What a verdict is of, as pages show it. group: its tier, or whatever the suite has."""

    text: Text
    group: str = ""
    polarity: Polarity = Polarity.REQUIRED
    weight: float | None = None


class Marked(Record):
    """One item after the run: a line of items.jsonl.

    reply: what was replied, None where nothing sound came. verdicts: what the judge said of it, in the order of the questions to it, None where it failed.
    score: the item's own, None where it abstains. parts: the numbers that the figures are made of. unit: what is drawn at random for the intervals, the item
    itself or the case that it shares with others. groups: of which figures apart it is counted. beliefs: the judge's score and probabilities, where it is them
    that are measured. instruction and criteria: what pages show beside; of several answers each is judged by all criteria.
    """

    id: Text
    unit: Text
    groups: tuple[str, ...] = ()
    reply: JsonValue = None
    verdicts: tuple[JsonValue, ...] = ()
    score: float | None = None
    parts: dict[str, float | None] = Field(default_factory=dict)
    beliefs: dict[str, float | None] = Field(default_factory=dict)
    instruction: tuple[Message, ...] = ()
    criteria: tuple[Line, ...] = ()


class Figure(Record):
    """A figure with its 95 % interval; null where there was nothing to measure. `n`: the items it is of. `share`: in [0, 1], and shown in per cent."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    share: bool = True

    @property
    def interval(self) -> Interval:
        return Interval(*(float("nan") if value is None else value for value in (self.mean, self.low, self.high)))


Figures = dict[str, Figure]


@dataclass(frozen=True)
class Likely:
    """An item of multiple choice as log-likelihoods judge it: with which of the texts does a model continue the context? `gold`: the right one's index."""

    context: str
    options: tuple[str, ...]
    gold: int


@dataclass(frozen=True)
class Suite(Generic[T]):
    """ask: what the answerer is asked; None: the answers are in the file. judge: what the judge is asked of a reply; None: nobody judges.
    beside: reads the items that are asked besides, of a file or of ours. likely: the item for `model` in the place of an answerer, and what marks it then.
    also: writes the figures of a judge, by its name, in the form that others read. by: marks by a judge on this machine, such as a reward model, of items and
    replies. samples: the answerer may be a policy on this machine, which is sampled. calibrate: fits the judge's probabilities to some of the marks, and
    says how in words. points: how far the second of two marks of an item wins against the first, in [0, 1]. of: what a file itself says of its source.

    `read` raises InputError, naming the first record that is not of the suite's form.
    """

    source: Source
    read: Callable[[Path], Sequence[T]]
    mark: Callable[[T, Any, Sequence[Any]], Marked]
    figures: Callable[[Sequence[Marked]], Figures]
    ask: Callable[[T], Ask] | None = None
    judge: Callable[[T, Any], Sequence[Ask]] | None = None
    beside: Callable[[Path | None], Sequence[T]] | None = None
    likely: Callable[[T], Likely] | None = None
    mark_likely: Callable[[T, Sequence[float]], Marked] | None = None
    also: Callable[[Path, Sequence[Marked], Figures, str], None] | None = None
    by: Callable[[LocalJudge, Sequence[T], Sequence[Any]], list[Marked]] | None = None
    samples: bool = False
    calibrate: Callable[[Sequence[Marked], Apart], tuple[list[Marked], str]] | None = None
    points: Callable[[Marked, Marked], float | None] | None = None
    of: Callable[[Path], Source] | None = None


def asked(task: str, material: dict[str, Any], form: type[BaseModel]) -> Ask:
    return Ask(about(task, material), form)


def said(reply: BaseModel | None) -> JsonValue:
    """A reply as items.jsonl keeps it."""
    return None if reply is None else reply.model_dump(mode="json")


def questions(suite: Suite, item: Any) -> Sequence[Ask]:
    """What the measured model is asked about an item; of a suite without an answerer that is the judge."""
    if suite.ask:
        return [suite.ask(item)]
    assert suite.judge
    return suite.judge(item, None)


def unheard(suite: Suite, item: Any) -> Marked:
    """The mark of an item to which nobody said anything: its id, before anybody is asked."""
    return suite.mark(item, None, [] if suite.ask else [None] * len(questions(suite, item)))
