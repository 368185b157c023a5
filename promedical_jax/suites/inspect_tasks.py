"""The suites as tasks of Inspect (inspect_ai): `inspect eval promedical_jax/healthbench -T path=... --model ... --model-role grader=...`.

One adapter for every suite. The measured model is asked what the suite asks, by whatever model, solver or agent Inspect is given; the model in the role
`grader` is asked what the suite asks a judge; items are marked and figures made by the suite's own functions, so that they are those of `promedical bench run`.
Of a suite without an answerer the judge is measured, and no grader is asked. A reply that is not what was asked for is mended as often as there, and then
abstains; an endpoint that fails is Inspect's matter, which tries again, or ends the run and keeps what there is.
"""

import json
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from inspect_ai import Task, task
from inspect_ai._util.error import PrerequisiteError  # Inspect shows it as a sentence, and has no public name for it
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    ResponseSchema,
    get_model,
)
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.util import collect, json_schema
from pydantic import BaseModel, ValidationError

from promedical_jax.asking import Ask, Messages, Plain, again, read_reply
from promedical_jax.errors import InputError
from promedical_jax.suites.known import SUITES
from promedical_jax.suites.recipe import Answerer, Grader, Name
from promedical_jax.suites.run import read_items
from promedical_jax.suites.suite import Marked, questions, unheard

GRADER = "grader"
SAID_FOR_IT = ("model_length", "content_filter")  # Inspect puts the endpoint's complaint where the reply would be
TURNS = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


@lru_cache(maxsize=1)
def _items(name: Name, path: str, harmless: str | None) -> dict[str, tuple[int, Any]]:
    """By id, in the order of the file. Kept for solver and scorer of the task that was made last."""
    try:
        items = read_items(name, Path(path), Path(harmless) if harmless else None)
    except InputError as error:
        raise PrerequisiteError(f"error: {error}") from None
    return {unheard(SUITES[name], item).id: (place, item) for place, item in enumerate(items)}


async def _asked(model: Model, ask: Ask, retries: int, config: GenerateConfig) -> tuple[ModelOutput, BaseModel | None]:
    """What was said last, and the sound reply that it is, if it is one."""
    messages, output = ask.messages, ModelOutput()
    if ask.form is not Plain:
        config = config.merge(GenerateConfig(response_schema=ResponseSchema(name=ask.form.__name__.lower(), json_schema=json_schema(ask.form), strict=True)))
    for _ in range(retries + 1):
        output = await model.generate(_as_turns(messages), config=config)
        if output.stop_reason in SAID_FOR_IT:
            break
        try:
            return output, read_reply(output.completion, ask.form)
        except ValidationError as error:
            messages = again(ask, output.completion, error)
    return output, None


def _sound(choice: ChatCompletionChoice, ask: Ask) -> BaseModel | None:
    try:
        return None if choice.stop_reason in SAID_FOR_IT else read_reply(choice.message.text, ask.form)
    except ValidationError:
        return None


def _as_turns(messages: Messages) -> list[ChatMessage]:
    return [TURNS[message["role"]](content=message["content"]) for message in messages]


@solver
def suite_replies(suite: Name, path: str, harmless: str | None = None, retries: int = 3) -> Solver:
    """Asks the measured model; its output has a choice for each question that it was asked."""
    chosen, items = SUITES[suite], _items(suite, path, harmless)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        if chosen.ask and chosen.judge:
            get_model(role=GRADER, required=True)  # before anybody is asked
        asks = questions(chosen, items[str(state.sample_id)][1])
        outputs = [output for output, _ in await collect(*(_asked(get_model(), ask, retries, GenerateConfig()) for ask in asks))]
        state.output = outputs[0].model_copy(update={"choices": [choice for output in outputs for choice in output.choices[:1]]})
        state.messages = [turn for ask, output in zip(asks, outputs, strict=True) for turn in (*_as_turns(ask.messages), output.message)]
        return state

    return solve


@metric(scores="unreduced")
def suite_figures() -> Metric:
    """The suite's figures, each with the ends of its 95 % interval and the number of items that it is of, and what failed."""

    def measured(scores: list[SampleScore]) -> Value:
        found = sorted((each.score.metadata or {} for each in scores), key=lambda one: one["place"])  # on which the bootstrap's draws depend
        marks = [read_mark(one) for one in found]
        figures = SUITES[found[0]["suite"]].figures(marks) if found else {}
        rows: dict[str, float | None] = {}
        for name, figure in figures.items():
            rows |= {name: figure.mean, f"{name}, low": figure.low, f"{name}, high": figure.high, f"{name}, n": float(figure.n)}
        rows["judgements"] = float(sum(len(mark.verdicts) for mark in marks))
        rows["judgements failed"] = float(sum(one is None for mark in marks for one in mark.verdicts))
        return {name: value for name, value in rows.items() if value is not None and math.isfinite(value)}

    return measured


@scorer(metrics=[suite_figures()])
def suite_marks(suite: Name, path: str, harmless: str | None = None, retries: int = 3) -> Scorer:
    """Asks the grader, and marks. The mark, a line of items.jsonl, is in the score's metadata; an item that abstains has the score null."""
    chosen, items = SUITES[suite], _items(suite, path, harmless)
    config = GenerateConfig(temperature=0, max_tokens=Grader().max_tokens)

    async def score(state: TaskState, target: Target) -> Score:
        place, item = items[str(state.sample_id)]
        asks = questions(chosen, item)
        heard = [_sound(state.output.choices[number], ask) if number < len(state.output.choices) else None for number, ask in enumerate(asks)]
        reply, verdicts = (heard[0], []) if chosen.ask else (None, heard)
        if chosen.ask and chosen.judge and reply is not None:
            grader = get_model(role=GRADER, required=True, config=config)
            verdicts = [verdict for _, verdict in await collect(*(_asked(grader, ask, retries, GenerateConfig()) for ask in chosen.judge(item, reply)))]
        mark = chosen.mark(item, reply, verdicts)
        reason = None
        if mark.score is None and None in heard:
            reason = "invalid_response_format"
        elif mark.score is None and None in verdicts:
            reason = "grader_failed"
        said = [f"{number}. {json.dumps(one, ensure_ascii=False) if one is not None else 'nothing sound'}" for number, one in enumerate(mark.verdicts, start=1)]
        return Score(
            value={"score": mark.score}, answer=state.output.completion, explanation="\n".join(said) or None, reason=reason,
            metadata={"suite": suite, "place": place, "mark": mark.model_dump(mode="json")},
        )  # fmt: skip

    return score


def read_mark(metadata: dict[str, Any]) -> Marked:
    """Of a score in a log."""
    return Marked.model_validate_json(json.dumps(metadata["mark"]))


def _task(name: Name) -> Callable[..., Task]:
    def made(path: str, harmless: str | None = None, retries: int = Answerer().retries) -> Task:
        """`path`: the suite's file or folder, as its authors publish it. `harmless`: of medsafetybench. `retries`: further tries for a sound reply."""
        _items.cache_clear()  # files may have changed since another task was made
        suite, given = SUITES[name], (name, str(path), None if harmless is None else str(harmless), retries)
        samples = [Sample(_as_turns(questions(suite, item)[0].messages), id=key) for key, (_, item) in _items(*given[:3]).items()]
        return Task(
            dataset=MemoryDataset(samples, name=Path(path).name), solver=suite_replies(*given), scorer=suite_marks(*given),
            config=GenerateConfig(temperature=0, max_tokens=(Answerer() if suite.ask else Grader()).max_tokens),
            description=suite.source.about, metadata=suite.source.model_dump(mode="json"),
        )  # fmt: skip

    return task(name=name)(made)


TASKS = {name: _task(name) for name in SUITES}
