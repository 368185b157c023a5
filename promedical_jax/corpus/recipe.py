"""The recipe of a corpus: where questions come from, what is kept of them, and whom to ask for the rest."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from promedical_jax.config import Endpoint, Positive, Settings
from promedical_jax.corpus.sources import SOURCES, Source, own_source
from promedical_jax.recipe import suggestion

Level = Annotated[int, Field(ge=0, le=10)]


Likeness = Annotated[float, Field(ge=0.5, le=1)]  # below that likeness/letters.py misses too many
Cosine = Annotated[float, Field(gt=0, le=1)]


class Sieve(Settings):
    """What is asked of a question. Likeness is Jaccard's index of likeness/letters.py, and meaning a cosine in the space of `embedding`."""

    licences: tuple[str, ...] | None = Field(None, description="a list; a question under another one is taken out. null: any")
    languages: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="a list of ISO 639-1 codes; a question that is surely in another language is taken out. null: any"
    )
    shortest: Positive = Field(3, description="words")
    longest: Positive = Field(1000, description="words")
    near: Likeness = Field(0.7, description="likeness from which two questions are near copies")
    meaning: Cosine | None = Field(0.95, description="cosine from which two questions mean the same; null: any. 0.95 is for ngrams; a model's is another")
    benchmark: Likeness = Field(0.6, description="likeness to a benchmark's item from which a question is taken out")
    benchmark_meaning: Cosine | None = Field(0.95, description="cosine to a benchmark's item from which a question is taken out; null: any")


class Embedding(Settings):
    """How texts become vectors: for questions of the same meaning, and for the examples that who writes a rubric is shown."""

    by: Literal["ngrams", "static", "model"] = Field("ngrams", description="ngrams: words in any order; static: model2vec; model: as Qwen3-Embedding")
    model: Path | None = Field(None, description="folder or name on the hub, of a static model or a model")
    batch: Positive = Field(32, description="texts at a time, of a model")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="what a model computes in")

    @model_validator(mode="after")
    def _names_its_model(self) -> Self:
        if self.by == "ngrams" and self.model:
            raise ValueError("embedding.by ngrams has no use for embedding.model; leave it out, or give by: static or model")
        if self.by != "ngrams" and not self.model:
            raise ValueError(f"embedding.by {self.by} needs a model; name its folder as embedding.model")
        return self


class SourceRecipe(Settings):
    """A known source by its name, or one's own by the fields of its rows."""

    name: str = Field(description=f"one of {', '.join(SOURCES)}, or a new name")
    path: Path | None = Field(None, description="file or folder, as its authors publish it; null: from the hub")
    licence: str | None = Field(None, description="of one's own source")
    question: str | None = Field(None, description="field of one's own source that holds the question")
    reference: str | None = Field(None, description="field that holds its answer")
    key: str | None = Field(None, description="field that holds its id")

    @model_validator(mode="after")
    def _is_known_or_described(self) -> Self:
        if self.name not in SOURCES and (self.licence is None or self.question is None):
            raise ValueError(f"source {self.name!r} is not known; {suggestion(self.name, SOURCES)}, or give its licence and the field of its question")
        if self.name in SOURCES and (self.licence, self.question, self.reference, self.key) != (None,) * 4:
            raise ValueError(f"source {self.name!r} is known, and its fields with it; leave licence, question, reference and key out, or choose another name")
        return self

    def source(self) -> Source:
        if self.name in SOURCES:
            return SOURCES[self.name]
        assert self.licence and self.question
        return own_source(self.name, self.licence, self.question, self.reference, self.key)


class Suite(Settings):
    """A benchmark, of which no item may be in the corpus: a file of cases."""

    name: str
    path: Path


class Task(Endpoint):
    """Whom to ask, and by which prompt. Without a url the pipeline ends before this stage."""

    max_tokens: Positive = Field(1024, description="the longest reply")
    prompt: Path | None = Field(None, description="text file in the place of the prompt that comes with the stage")


class Writer(Task):
    """One of several who answer; the name stands for it in the cases."""

    name: str


class Judge(Endpoint):
    """One of several who judge, by the question that every judge behind an endpoint is asked (asking/judge.py)."""

    name: str


class Difficulty(Task):
    """How hard a question is, from 0 to 10; the paper keeps 5 to 9."""

    lowest: Level = 5
    highest: Level = 9


class RubricTask(Task):
    """Who writes the rubric, and from which approved ones he learns (corpus/exemplars.py)."""

    max_tokens: Positive = Field(2048, description="the longest reply")
    pool: Path | None = Field(None, description="file of approved cases, as `promedical review import` writes it; it need not be there yet")
    examples: Annotated[int, Field(ge=0)] = Field(3, description="approved rubrics of like questions that the writer is shown")


class Contrast(Task):
    """Who writes an answer that makes a mistake of the safety tier, where all are alike there: pairs of that tier are rare. Without a url nobody does."""


class Parts(Settings):
    """Shares of the cases, which sum to 1."""

    train: Annotated[float, Field(gt=0, lt=1)] = 0.8
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    bench: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _are_the_whole(self) -> Self:
        if abs(self.train + self.validation + self.bench - 1) > 1e-9:
            raise ValueError(f"train, validation and bench sum to {self.train + self.validation + self.bench:g}; they must sum to 1")
        return self


class CorpusConfig(Settings):
    """From questions of public sources to judged cases with rubrics, stage by stage; what a stage made is not made again."""

    out: Path = Field(description="folder for what each stage makes, all replies, and the cases")
    sources: tuple[SourceRecipe, ...] = Field(min_length=1, description="list of sources: {name: medqa, path: FILE}")
    suites: tuple[Suite, ...] = Field((), description="benchmarks whose items are taken out: {name: NAME, path: cases.jsonl}")
    sieve: Sieve = Sieve()
    embedding: Embedding = Embedding()
    difficulty: Difficulty = Difficulty()
    topic: Task = Task()
    writers: tuple[Writer, ...] = Field((), description="models that answer: {name: NAME, url: URL, model: MODEL}; three unlike ones, says the paper")
    rubric: RubricTask = RubricTask()
    judges: tuple[Judge, ...] = Field((), description="models that judge each answer by each criterion; several vote")
    contrast: Contrast = Contrast()
    parts: Parts = Parts()
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _names_are_told_apart(self) -> Self:
        for key in ("sources", "suites", "writers", "judges"):
            for name, count in Counter(one.name for one in getattr(self, key)).items():
                if count > 1:
                    raise ValueError(f"{key}: {count} are called {name!r}; give each a name of its own")
        if len(self.writers) == 1:
            raise ValueError("writers: one alone makes no pair of answers; name two at least, or none")
        people: tuple[Writer | Judge, ...] = (*self.writers, *self.judges)
        for one in people:
            if one.url is None:
                raise ValueError(f"{one.name!r} of writers and judges has no url; give url and model, or leave it out")
        if self.difficulty.lowest > self.difficulty.highest:
            raise ValueError("difficulty.lowest is above difficulty.highest, so that nothing is kept; exchange them")
        return self
