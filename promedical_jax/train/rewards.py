"""From sampled answers to advantages: what the reward model says of them, the scores and the reward that this comes to, and who gains by it in its group."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from promedical_jax.config import GrpoConfig, Kind
from promedical_jax.data.batches import to_host
from promedical_jax.errors import InputError
from promedical_jax.model.transformer import FLOAT32, Compute
from promedical_jax.reward import RewardBatch, RewardModel, Said, jit_score
from promedical_jax.rubric import Case, Scores, Tier, advantage
from promedical_jax.rubric import score as score_of
from promedical_jax.train.guards import SkipStep


class Judged(NamedTuple):
    """The reward model's word on a batch of B x G answers, and what became of them. An implicit reward model has said a reward and nothing else."""

    said: list[Said] | None  # of each case
    scores: Scores | None  # [B, G]
    reward: np.ndarray  # [B, G], the published scalar reward, or the implicit reward model's own
    advantage: np.ndarray  # [B, G]


def check_kind(config: GrpoConfig, kind: Kind) -> None:
    """Raises InputError where the recipe's advantage needs more than such a reward model says."""
    if kind == "blind":
        raise InputError(f"{config.reward_model}: is a reward model of kind blind, which cannot tell criteria apart; use one of kind explicit or implicit")
    if kind == "implicit" and config.advantage != "scalar":
        raise InputError(f"{config.reward_model}: is an implicit reward model, which knows no tier; set advantage to scalar, or use one of kind explicit")


def untold(batch: RewardBatch) -> RewardBatch:
    """The batch as an implicit reward model reads it: without criteria."""
    return batch._replace(criteria=batch.criteria[:, :1, :0], criterion_lengths=batch.criterion_lengths[:, :1] * 0, tiers=batch.tiers[:, :1] * 0)


def judge(model: RewardModel, batch: RewardBatch, cases: Sequence[Case], config: GrpoConfig, compute: Compute = FLOAT32) -> Judged:
    """Scores, verdicts, rewards and advantages of the answers of a batch on its devices, for the whole batch's cases in order.

    Raises SkipStep where a score is NaN or infinite.
    """
    implicit = model.kind == "implicit"
    raw = to_host(jit_score(model.params, model.config, untold(batch) if implicit else batch, compute=compute))
    for case, held in zip(cases, raw, strict=True):
        if not np.isfinite(held[:, : 1 if implicit else len(case.rubric.criteria)]).all():
            raise SkipStep(f"the reward model's score of an answer to case {case.id!r} is NaN or infinite")
    if implicit:
        reward = raw[..., 0].astype(np.float64)
        return Judged(None, None, reward, advantage.scalar(reward))
    use = {Tier.PROFICIENCY: config.verdicts.s1, Tier.EXCELLENCE: config.verdicts.s2, Tier.SAFETY: config.verdicts.s3}
    said, rows = [], []
    for case, held in zip(cases, raw, strict=True):
        criteria = case.rubric.criteria
        probability = model.verdicts.probability(held[:, : len(criteria)], criteria)
        said.append(Said(held[:, : len(criteria)], probability, model.verdicts.read(probability, criteria)))
        rows.append(score_of(criteria, model.verdicts.satisfied(probability, criteria, use)))
    scores = Scores(*(np.stack([getattr(row, name) for row in rows]) for name in ("s1", "s2", "s3")))
    reward = config.reward.of(scores)
    return Judged(said, scores, reward, advantages_of(config, scores, reward))


def advantages_of(config: GrpoConfig, scores: Scores, reward: np.ndarray) -> np.ndarray:
    """The advantages [B, G] that the recipe asks for, from the scores or from the scalar rewards [B, G]."""
    match config.advantage:
        case "lexicographic":
            return advantage.lexicographic(scores)
        case "tiered":
            return advantage.tiered(scores, config.tiers)
        case "scalar":
            return advantage.scalar(reward)
