"""The recipe of a run of a suite: which one, its file, who answers and who judges."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from promedical_jax.config import Endpoint, Positive, Rate, Settings, Shapes

Name = Literal[
    "healthbench", "healthbench-hard", "healthbench-consensus", "healthbench-meta", "kqa", "medec", "medfact", "medqa", "medmcqa", "pubmedqa", "medsafetybench",
    "chidrug", "rewardbench2", "medical-rewardbench", "ultramedical-preference", "promedical-pointwise", "promedical-pairwise",
    "promedical-policy",
]  # fmt: skip


class Answerer(Endpoint):
    """The model that is measured, behind an OpenAI-compatible endpoint."""

    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(300.0, description="seconds for one reply")
    retries: Annotated[int, Field(ge=0)] = Field(3, description="further tries for a question without a sound reply; then it abstains")
    max_tokens: Positive = Field(2048, description="the longest reply")


class Grader(Endpoint):
    """The model that judges the replies; of preferences and of human verdicts, the model that is measured."""

    max_tokens: Positive = Field(512, description="the longest reply")


class Apart(Settings):
    """Cases kept apart to calibrate the judge of promedical-pointwise on: figures `raw` and `calibrated`, side by side, are of the other cases alone."""

    share: Annotated[float, Field(ge=0, lt=1)] = Field(0.2, description="of the cases; 0: nothing is calibrated")
    method: Literal["platt", "isotonic", "temperature"] = Field("platt", description="from what the judge says to a probability, tier by tier")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of which cases")


class Sampling(Settings):
    """How `policy` is sampled. The draws are a function of seed, case and sample: two policies are compared on the same luck."""

    answers: Positive = Field(4, description="answers to each case")
    answer_tokens: Positive = Field(256, description="the longest answer")
    temperature: Rate = Field(1.0, description="0 takes the most likely token")
    top_k: Annotated[int, Field(ge=0)] = Field(0, description="sample among the k most likely tokens; 0: among all")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="sample among the fewest most likely tokens with this mass together")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


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
    policy: Path | None = Field(None, description="model folder that is sampled in the place of `answerer`, of promedical-policy")
    reward_model: Path | None = Field(None, description="folder of a reward model that judges in the place of `judge`, of the promedical suites")
    zero_shot: bool = Field(False, description="take reward_model for a language model, and its log-odds of yes for its scores: the base model as judge")
    base: Path | None = Field(None, description="folder of a finished run of this suite: win rate and differences against it, with a paired test")
    sampling: Sampling = Sampling()
    calibration: Apart = Apart()
    batch: Positive = Field(8, description="items at a time, with a model on this machine")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="what a model on this machine computes in")
    shapes: Shapes = Shapes()

    @model_validator(mode="after")
    def _one_answers_and_one_judges(self) -> Self:
        given = [name for name, there in (("model", self.model), ("policy", self.policy), ("answerer.url", self.answerer.url)) if there]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given, and one of them answers; leave the other{'s' if len(given) > 2 else ''} out")
        if self.reward_model and self.judge.url:
            raise ValueError("reward_model and judge.url are both given, and one of them judges; leave the other out")
        if self.zero_shot and not self.reward_model:
            raise ValueError("zero_shot says how reward_model is asked; give reward_model, the folder of a language model, or leave zero_shot out")
        return self


class BuildConfig(Settings):
    """ProMedical-Bench, built from cases that physicians judged double blind: what they agree on, or what was adjudicated, and nothing that was trained on."""

    cases: Path = Field(description="cases with the physicians' verdicts, as `promedical review import` writes reviewed.jsonl")
    out: Path = Field(description="folder for the bench, which appears whole or not at all")
    name: str = Field("ProMedical-Bench", min_length=1, description="what it is called in reports")
    physicians: tuple[str, ...] = Field((), description="whose verdicts count, as of the review that was double blind; empty: those of all humans")
    adjudicator: str | None = Field(None, description="the physician whose word settles what the others differ on; null: what they differ on is left out")
    raters: Annotated[int, Field(ge=2)] = Field(2, description="physicians, without the adjudicator, who must have said met or unmet")
    licence: str | None = Field(None, min_length=1, description="of cases whose provenance has none; null: such a case is refused")
    train: tuple[Path, ...] = Field((), description="files of cases that are trained on: a case whose instruction is there, or nearly, is left out")
    likeness: Annotated[float, Field(ge=0.5, le=1)] = Field(0.6, description="Jaccard's index of letters from which two instructions are near copies")
    meaning: Annotated[float, Field(gt=0, le=1)] | None = Field(0.95, description="cosine of their words, in any order, from which they are too; null: any")
    force: bool = Field(False, description="replace what exists")
