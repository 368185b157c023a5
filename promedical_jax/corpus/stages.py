"""What each stage of the corpus does: who is asked what about each draft, and what becomes of the replies. When, and with which files, is pipeline.py's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from promedical_jax.asking import SYSTEM, Ask, Reply, question, verdict_of
from promedical_jax.config import Endpoint
from promedical_jax.corpus.asked import Answered, Difficulty, Lines, Topic, asked, conversation, prompt, with_mistake, with_reference
from promedical_jax.corpus.exemplars import examples, read_pool
from promedical_jax.corpus.pairs import missing_mistake
from promedical_jax.corpus.question import Question
from promedical_jax.corpus.recipe import CorpusConfig, Task
from promedical_jax.corpus.sieve import Dropped, sieve
from promedical_jax.corpus.sources import read_source
from promedical_jax.corpus.space import space_of
from promedical_jax.corpus.taxonomy import Category, Specialty
from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Answer, Case, Judgement, Record, Rubric
from promedical_jax.rubric.files import read_cases

LEAST_ANSWERS = 2  # below that there is no pair


class Draft(Record):
    """A question on its way to a case."""

    question: Question
    difficulty: int | None = None
    category: Category | None = None
    specialty: Specialty | None = None
    answers: tuple[Answer, ...] = ()
    rubric: Rubric | None = None
    verdicts: tuple[Judgement, ...] = ()

    def case(self) -> Case:
        assert self.rubric is not None
        about = {"source": self.question.source, "licence": self.question.licence} | self.question.provenance
        return Case(id=self.question.id, instruction=self.question.instruction, answers=self.answers, rubric=self.rubric, verdicts=self.verdicts,
                    difficulty=self.difficulty, category=self.category, specialty=self.specialty, provenance=about)  # fmt: skip


Made = tuple[list[Draft], list[Dropped]]
Replies = list[list[BaseModel | None]]  # of each who was asked, in the order of the asks


@dataclass(frozen=True)
class Stage:
    """`told`: what of the recipe its outcome depends on. A stage works by itself (`work`), or asks: `whom`, by their places in the recipe, each the `asks`, and
    then makes something of the replies (`take`). `missing`: the key without which it cannot."""

    name: str
    told: Any
    work: Callable[[list[Draft]], Made] | None = None
    whom: tuple[tuple[str, Endpoint], ...] = ()
    asks: Callable[[list[Draft], int], list[Ask]] | None = None  # of who stands at a place in `whom`
    take: Callable[[list[Draft], Replies], Made] | None = None
    missing: str | None = None


def stages(config: CorpusConfig, digest: Callable[[Path | None], str]) -> list[Stage]:
    """In their order. digest: of what a file of the recipe holds, for `told`."""
    of_sources, of_suites = ([digest(one.path) for one in each] for each in (config.sources, config.suites))
    told_sieve = [config.sieve.model_dump(), _space(config), [suite.name for suite in config.suites], of_suites]
    made = [
        Stage("questions", [[one.model_dump(mode="json", exclude={"path"}) for one in config.sources], of_sources], lambda _: _read(config)),
        Stage("sieve", told_sieve, lambda drafts: _sieve(drafts, config)),
        _single("difficulty", config.difficulty, Difficulty, conversation, lambda drafts, said: _graded(drafts, said, config),
                [config.difficulty.lowest, config.difficulty.highest]),
        _single("topic", config.topic, Topic, conversation, _placed),
        _answers(config),
        _rubric(config, digest),
        _verdicts(config, "verdicts"),
    ]  # fmt: skip
    return made if config.contrast.url is None else [*made, _contrast(config), _verdicts(config, "contrast-verdicts")]


def _single(name: str, task: Task, form: type, material: Callable[[Question], dict], take: Callable[[list[Draft], list[Any]], Made], told: Any = None) -> Stage:
    text = prompt(name, task.prompt)  # read once: what is hashed is what is asked
    asks = lambda drafts, _: [asked(one.question, text, form, material) for one in drafts]  # noqa: E731
    return Stage(name, [_identity(task), text, told], whom=((name, task),), asks=asks,
                 take=lambda drafts, said: take(drafts, said[0]), missing=None if task.url else f"{name}.url")  # fmt: skip


def _answers(config: CorpusConfig) -> Stage:
    texts = [prompt("answer", writer.prompt) for writer in config.writers]
    told = [[writer.name, _identity(writer), text] for writer, text in zip(config.writers, texts, strict=True)]
    whom = tuple((f"writers[{i}]", writer) for i, writer in enumerate(config.writers))
    return Stage("answers", told, whom=whom, asks=lambda drafts, place: [asked(one.question, texts[place], Answered, conversation) for one in drafts],
                 take=lambda drafts, said: _answered(drafts, said, config), missing=None if whom else "writers")  # fmt: skip


def _rubric(config: CorpusConfig, digest: Callable[[Path | None], str]) -> Stage:
    """Who has an approved rubric of his own is not asked for one."""
    task = config.rubric
    text, pool = prompt("rubric", task.prompt), read_pool(task.pool)
    approved = {case.id: case.rubric for case in pool}
    told = [_identity(task), text, [digest(task.pool), task.examples, _space(config)] if approved else None]

    def asks(drafts: list[Draft], _: int) -> list[Ask]:
        questions = [draft.question for draft in drafts if draft.question.id not in approved]
        shown = examples(questions, pool, task.examples, space_of(config.embedding)) if pool else [[]] * len(questions)
        return [asked(one, text, Lines, partial(with_reference, examples=near)) for one, near in zip(questions, shown, strict=True)]

    def take(drafts: list[Draft], said: Replies) -> Made:
        replies = iter(said[0])
        return _told(drafts, [approved.get(draft.question.id) or next(replies) for draft in drafts],
                     lambda reply: {"rubric": reply.rubric() if isinstance(reply, Lines) else reply})  # fmt: skip

    return Stage("rubric", told, whom=(("rubric", task),), asks=asks, take=take, missing=None if task.url else "rubric.url")


def _verdicts(config: CorpusConfig, name: str) -> Stage:
    """Of the answers that nobody has judged."""
    told = [SYSTEM, *([judge.name, _identity(judge)] for judge in config.judges)]
    whom = tuple((f"judges[{i}]", judge) for i, judge in enumerate(config.judges))
    return Stage(name, told, whom=whom, asks=lambda drafts, _: [ask for draft in drafts for ask in _judging(draft)],
                 take=lambda drafts, said: _judged(drafts, said, config), missing=None if whom else "judges")  # fmt: skip


def _contrast(config: CorpusConfig) -> Stage:
    """One more answer where all are alike in the safety tier, which has a mistake that none of them has. Who gets no reply stays as it is."""
    task, text = config.contrast, prompt("contrast", config.contrast.prompt)

    def asks(drafts: list[Draft], _: int) -> list[Ask]:
        mistakes = ((draft.question, missing_mistake(draft.case(), config.seed)) for draft in drafts)
        return [asked(one, text, Answered, partial(with_mistake, mistake=mistake)) for one, mistake in mistakes if mistake]

    def take(drafts: list[Draft], said: Replies) -> Made:
        replies, kept = iter(said[0]), list[Draft]()
        for draft in drafts:
            reply = next(replies) if missing_mistake(draft.case(), config.seed) else None
            more = (Answer(id="contrast", text=reply.answer, source=task.model),) if isinstance(reply, Answered) else ()
            kept.append(draft.model_copy(update={"answers": draft.answers + more}))
        return kept, []

    return Stage("contrast", [_identity(task), text, config.seed], whom=(("contrast", task),), asks=asks, take=take)


def _identity(task: Endpoint) -> Any:
    """What a reply depends on beside the question. Not how fast one asks, nor what it costs."""
    return [task.url, task.model, task.max_tokens]


def _space(config: CorpusConfig) -> Any:
    return config.embedding.model_dump(mode="json", exclude={"batch"})


def _no_reply(draft: Draft) -> Dropped:
    return Dropped(id=draft.question.id, reason="no reply", because="whoever was asked gave no sound reply")


# Stage by stage


def _read(config: CorpusConfig) -> Made:
    drafts, seen = list[Draft](), set[str]()
    for source in config.sources:
        for one in read_source(source.source(), source.path):
            if one.id in seen:
                raise InputError(f"source {source.name}: the id {one.id!r} is that of another source's question; give one of the two another name")
            seen.add(one.id)
            drafts.append(Draft(question=one))
    return drafts, []


def _sieve(drafts: list[Draft], config: CorpusConfig) -> Made:
    texts = {suite.name: [Question.text_of(case.instruction) for case in read_cases(suite.path)] for suite in config.suites}
    kept, dropped = sieve([draft.question for draft in drafts], config.sieve, texts, space_of(config.embedding))
    return [Draft(question=one) for one in kept], dropped


def _graded(drafts: list[Draft], said: list[Difficulty | None], config: CorpusConfig) -> Made:
    kept, dropped = list[Draft](), list[Dropped]()
    for draft, reply in zip(drafts, said, strict=True):
        if reply is None:
            dropped.append(_no_reply(draft))
        elif config.difficulty.lowest <= reply.difficulty <= config.difficulty.highest:
            kept.append(draft.model_copy(update={"difficulty": reply.difficulty}))
        else:
            dropped.append(Dropped(id=draft.question.id, reason="difficulty", because=f"difficulty {reply.difficulty}"))
    return kept, dropped


def _placed(drafts: list[Draft], said: list[Topic | None]) -> Made:
    return _told(drafts, said, lambda reply: {"category": reply.category, "specialty": reply.specialty})


def _told(drafts: list[Draft], said: Sequence[Any], update: Callable[[Any], dict[str, Any]]) -> Made:
    """The drafts with what was replied of each; without a reply a draft is dropped."""
    pairs = list(zip(drafts, said, strict=True))
    return [draft.model_copy(update=update(reply)) for draft, reply in pairs if reply], [_no_reply(draft) for draft, reply in pairs if not reply]


def _answered(drafts: list[Draft], said: Replies, config: CorpusConfig) -> Made:
    """A writer who gave no reply is missing among the answers; a question with too few of them is dropped."""
    kept, dropped = list[Draft](), list[Dropped]()
    for draft, replies in zip(drafts, zip(*said, strict=True), strict=True):
        answers = tuple(
            Answer(id=writer.name, text=reply.answer, source=writer.model)
            for writer, reply in zip(config.writers, replies, strict=True)
            if isinstance(reply, Answered)
        )
        if len(answers) < LEAST_ANSWERS:
            dropped.append(_no_reply(draft))
        else:
            kept.append(draft.model_copy(update={"answers": answers}))
    return kept, dropped


def _judging(draft: Draft) -> list[Ask]:
    """By answer, then by criterion."""
    case = draft.case()
    return [Ask(question(case, answer.text, criterion), Reply) for answer in _unjudged(case) for criterion in case.rubric.criteria]


def _unjudged(case: Case) -> list[Answer]:
    judged = {judgement.answer for judgement in case.verdicts}
    return [answer for answer in case.answers if answer.id not in judged]


def _judged(drafts: list[Draft], said: Replies, config: CorpusConfig) -> Made:
    """A judge who gave no reply abstains."""
    after = [iter(replies) for replies in said]
    kept = []
    for draft in drafts:
        case = draft.case()
        verdicts = tuple(
            Judgement(answer=answer.id, criterion=criterion.id, rater=judge.name, verdict=verdict_of(next(replies)))
            for judge, replies in zip(config.judges, after, strict=True)
            for answer in _unjudged(case)
            for criterion in case.rubric.criteria
        )
        kept.append(draft.model_copy(update={"verdicts": case.verdicts + verdicts}))
    return kept, []
