"""A reward model at work on cases: what it says of each answer and criterion, and what that comes to.

    from promedical_jax.reward import open_judge

    judge = open_judge("runs/clinic/rm/model")
    [said] = judge([case])  # said.verdicts, said.probability, said.score: a row an answer
    [scores] = judge.scores([case])  # scores.s1, scores.s2, scores.s3 of each answer
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from promedical_jax.config import Shapes
from promedical_jax.data.encode import Encoded, Sizes, encode, measure, step_up
from promedical_jax.data.load import load_tokenizer
from promedical_jax.data.long import cut
from promedical_jax.errors import InputError
from promedical_jax.model import hf
from promedical_jax.model.sharding import make_mesh, shared_evenly
from promedical_jax.model.transformer import FLOAT32, Compute, Dtype
from promedical_jax.reward.folder import RewardModel, load_reward_model
from promedical_jax.reward.scores import score_cases
from promedical_jax.reward.verdicts import Use
from promedical_jax.rubric import Case, Scores, Tier, Verdict, best
from promedical_jax.rubric import score as score_of

Texts = Sequence[Sequence[str]]
Uses = Mapping[Tier, Use]
HARD: Uses = MappingProxyType({})
SOFT_SKILL: Uses = {Tier.PROFICIENCY: "soft", Tier.EXCELLENCE: "soft"}  # answers of equal verdicts are told apart by how sure the model is
AS_THEY_ARE = Shapes()


class Said(NamedTuple):
    """The word of a reward model on the A answers of one case, on each of its K criteria."""

    score: np.ndarray  # [A, K]
    probability: np.ndarray  # [A, K] that the criterion's text holds
    verdicts: list[tuple[Verdict, ...]]


@dataclass(frozen=True)
class RewardJudge:
    """A reward model with its tokenizer, on a mesh; `batch` cases at a time, or the next number that the mesh divides."""

    model: RewardModel
    encode: Callable[..., Encoded]  # (case, texts or None) -> tokens as this model reads them
    mesh: jax.sharding.Mesh
    batch: int = 8
    compute: Compute = FLOAT32
    shapes: Shapes = AS_THEY_ARE  # what is longer is cut to this
    zero_shot: bool = False

    @property
    def name(self) -> str:
        """What it is, in a word."""
        return "zero-shot" if self.zero_shot else self.model.kind

    def read(self, case: Case, texts: Sequence[str] | None = None) -> Encoded:
        """A case, with its own answers or these, as the model reads it."""
        return cut(self.encode(case, texts), self.shapes)

    def __call__(self, cases: Sequence[Case], texts: Texts | None = None) -> list[Said]:
        """What it says of the cases' own answers, or of `texts`, those of each case. Raises InputError for a model that is told no criterion."""
        if self.model.kind == "implicit":
            raise InputError("an implicit reward model has no verdicts, for it is told no criterion; use one of another kind")
        return self.said([self.read(case, own) for case, own in zip(cases, [None] * len(cases) if texts is None else texts, strict=True)])

    def said(self, cases: Sequence[Encoded]) -> list[Said]:
        """The same of encoded cases."""
        done = []
        for case, held in zip(cases, self.raw(cases), strict=True):
            probability = self.model.verdicts.probability(held, case.case.rubric.criteria)
            done.append(Said(held, probability, self.model.verdicts.read(probability, case.case.rubric.criteria)))
        return done

    def raw(self, cases: Sequence[Encoded]) -> list[np.ndarray]:
        """Raw scores [A, K] of each case; K is 1 where the model is told no criterion and has one head. Raises InputError where one is no finite number."""
        if not cases:
            return []
        sizes = roomy(measure(cases, AS_THEY_ARE, "cases"))
        with jax.set_mesh(self.mesh):
            batch = shared_evenly(min(self.batch, step_up(len(cases))), self.mesh)  # a few cases are not filled up to a whole batch
            done = list(score_cases(self.model.params, self.model.config, cases, sizes, batch, self.compute))
        for case, scores in zip(cases, done, strict=True):
            if not np.isfinite(scores).all():
                raise InputError(f"case {case.case.id!r}: a score of the reward model is no finite number; its weights are damaged, or too large for its type")
        return done

    def scores(self, cases: Sequence[Case], texts: Texts | None = None, use: Uses = HARD) -> list[Scores]:
        """S1, S2, S3 [A] of each case's answers: of verdicts, or of probabilities in the tiers whose `use` is soft."""
        said = self(cases, texts)
        rows = [(case.rubric.criteria, one.probability) for case, one in zip(cases, said, strict=True)]
        return [score_of(criteria, self.model.verdicts.satisfied(p, criteria, use)) for criteria, p in rows]

    def best(self, answered: Sequence[tuple[Case, Sequence[str]]]) -> list[int]:
        """Which of each case's texts it puts first: by its verdicts on safety, then by how sure it is of the rest; the implicit kind by its one score."""
        if self.model.kind == "implicit":
            return [int(scores[:, 0].argmax()) for scores in self.raw([self.read(case, texts) for case, texts in answered])]
        return [best(one) for one in self.scores([case for case, _ in answered], [texts for _, texts in answered], SOFT_SKILL)]

    def verdicts(self, answered: Sequence[tuple[Case, Sequence[str]]]) -> list[list[tuple[Verdict, ...]]]:
        """As a `rubric.Judge`."""
        return [one.verdicts for one in self([case for case, _ in answered], [texts for _, texts in answered])]


def open_judge(folder: str | Path, *, batch: int = 8, dtype: Dtype = "float32", mesh: jax.sharding.Mesh | None = None) -> RewardJudge:
    """The reward model in a folder, or of this name on the hub, on all devices that there are. Raises InputError for what is none."""
    folder = hf.resolve(Path(folder))
    mesh = mesh or make_mesh()
    with jax.set_mesh(mesh):
        model = load_reward_model(folder, mesh, dtype)
    tokenizer = load_tokenizer(folder, model.config.vocabulary)
    return judge_of(model, tokenizer, mesh, batch, Compute(dtype))


def judge_of(model: RewardModel, tokenizer: Any, mesh: jax.sharding.Mesh, batch: int, compute: Compute, shapes: Shapes = AS_THEY_ARE) -> RewardJudge:
    """The same of a model that is loaded already."""
    return RewardJudge(model, lambda case, texts=None: encode(case, tokenizer, texts, model.kind), mesh, batch, compute, shapes)


def roomy(sizes: Sizes) -> Sizes:
    """Sizes rounded up, each by itself."""
    return Sizes(*(step_up(n) for n in (sizes.prompt, sizes.answers, sizes.answer, sizes.criteria, sizes.criterion)))
