"""The recipe of a run of a suite: which one, its file, who answers and who judges."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from promedical_jax.config import Endpoint, Positive, Settings

Name = Literal[
    "healthbench", "healthbench-hard", "healthbench-consensus", "healthbench-meta", "kqa", "medec", "medfact", "medqa", "medmcqa", "pubmedqa", "medsafetybench",
    "chidrug", "rewardbench2", "medical-rewardbench", "ultramedical-preference", "promedical-pointwise", "promedical-pairwise",
]  # fmt: skip


class Answerer(Endpoint):
    """The model that is measured, behind an OpenAI-compatible endpoint."""

    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(300.0, description="seconds for one reply")
    retries: Annotated[int, Field(ge=0)] = Field(3, description="further tries for a question without a sound reply; then it abstains")
    max_tokens: Positive = Field(2048, description="the longest reply")


class Grader(Endpoint):
    """The model that judges the replies; of preferences and of human verdicts, the model that is measured."""

    max_tokens: Positive = Field(512, description="the longest reply")


class SuiteConfig(Settings):
    """One suite, from its official file to its official figures. A run that is killed goes on where it was, and asks nothing twice."""

    suite: Name = Field(description="which suite; see README.md for what each needs")
    data: Path = Field(description="its file or folder, as its authors publish it")
    out: Path = Field(description="folder for items.jsonl, report.json and all replies")
    harmless: Path | None = Field(None, description="of medsafetybench: harmless requests in the place of ours, .jsonl with `request`")
    items: Positive | None = Field(None, description="only so many items, from the first; null: all")
    answerer: Answerer = Answerer()
    judge: Grader = Grader()
    model: Path | None = Field(None, description="model folder that answers multiple choice by log-likelihood, in the place of `answerer`")
    batch: Positive = Field(8, description="items at a time, with `model`")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="what `model` computes in")

    @model_validator(mode="after")
    def _one_answers(self) -> Self:
        if self.model and self.answerer.url:
            raise ValueError("model and answerer.url are both given, and one of them answers; leave the other out")
        return self
