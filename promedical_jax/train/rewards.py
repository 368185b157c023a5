"""From sampled answers to advantages: what the reward model says of them, the scores and the reward that this comes to, and who gains by it in its group."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from promedical_jax.cluster import chief, share, together
from promedical_jax.config import GrpoConfig, Kind, OnPolicy
from promedical_jax.data.batches import to_host
from promedical_jax.errors import InputError
from promedical_jax.model.transformer import FLOAT32, Compute
from promedical_jax.reward import RewardBatch, RewardModel, Said, jit_score
from promedical_jax.reward.endpoint import EndpointJudge
from promedical_jax.rollout import Rollout
from promedical_jax.rubric import Case, Scores, Tier, Verdict, advantage
from promedical_jax.rubric import score as score_of
from promedical_jax.train.guards import SkipStep


class Judged(NamedTuple):
    """The reward model's word on a batch of B x G answers, and what became of them. An implicit reward model has said a reward and nothing else."""

    said: list[Said] | None  # of each case
    scores: Scores | None  # [B, G]
    reward: np.ndarray  # [B, G], the published scalar reward, or the implicit reward model's own
    advantage: np.ndarray  # [B, G]
    heard: Sequence[Sequence[tuple[Verdict, ...]]] | None = None  # the second judge's verdicts on each case's answers, where there is one


def check_kind(config: OnPolicy, kind: Kind) -> None:
    """Raises InputError where the recipe's advantage needs more than such a reward model says."""
    if kind == "blind":
        raise InputError(f"{config.reward_model}: is a reward model of kind blind, which cannot tell criteria apart; use one of kind explicit or implicit")
    if kind == "implicit" and config.judge.url:
        raise InputError(f"{config.reward_model}: is an implicit reward model, and a judge of criteria cannot be mixed with it; leave judge.url out")
    if kind == "implicit" and isinstance(config, GrpoConfig) and config.advantage != "scalar":
        raise InputError(f"{config.reward_model}: is an implicit reward model, which knows no tier; set advantage to scalar, or use one of kind explicit")


def untold(batch: RewardBatch) -> RewardBatch:
    """The batch as an implicit reward model reads it: without criteria."""
    return batch._replace(criteria=batch.criteria[:, :1, :0], criterion_lengths=batch.criterion_lengths[:, :1] * 0, tiers=batch.tiers[:, :1] * 0)


def ask(endpoint: EndpointJudge, tokenizer: Any, rollout: Rollout, cases: Sequence[Case]) -> list[list[tuple[Verdict, ...]]]:
    """The endpoint's verdicts on the sampled answers of each case; process 0 asks for all of them."""
    tokens, lengths, finished = (to_host(x) for x in (rollout.tokens, rollout.lengths, rollout.finished))
    codes = np.zeros((*tokens.shape[:2], max(len(case.rubric.criteria) for case in cases)), np.int8)
    every = list(Verdict)
    with together():
        if chief():
            texts = texts_of(tokenizer, tokens, lengths - finished)
            for b, said in enumerate(endpoint(list(zip(cases, texts, strict=True)))):
                codes[b, :, : len(cases[b].rubric.criteria)] = [[every.index(verdict) for verdict in row] for row in said]
    codes = share(codes)
    return [[tuple(every[code] for code in row[: len(case.rubric.criteria)]) for row in held] for case, held in zip(cases, codes, strict=True)]


def texts_of(tokenizer: Any, tokens: np.ndarray, ends: np.ndarray) -> list[list[str]]:
    """The answers [B, G, R] as text, each up to its end [B, G]."""
    return [[tokenizer.decode(row[:end]) for row, end in zip(group, stops, strict=True)] for group, stops in zip(tokens, ends, strict=True)]


def judge(model: RewardModel, batch: RewardBatch, cases: Sequence[Case], config: OnPolicy, compute: Compute = FLOAT32,
          heard: Sequence[Sequence[tuple[Verdict, ...]]] | None = None) -> Judged:
    """Scores, verdicts, rewards and advantages of the answers of a batch on its devices, for the whole batch's cases in order.

    `heard`: the verdicts of a second judge. It and the reward model are two raters: what counts is the mean of those who do not abstain.
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
    said, rows = list[Said](), list[Scores]()
    for case, held in zip(cases, raw, strict=True):
        criteria = case.rubric.criteria
        probability = model.verdicts.probability(held[:, : len(criteria)], criteria)
        said.append(Said(held[:, : len(criteria)], probability, model.verdicts.read(probability, criteria)))
        satisfied = [model.verdicts.satisfied(probability, criteria, use)]
        if heard is not None:
            satisfied.append(np.array([[c.satisfied(verdict) for c, verdict in zip(criteria, row, strict=True)] for row in heard[len(rows)]]))
        rows.append(score_of(criteria, _mean(satisfied)))
    scores = Scores(*(np.stack([getattr(row, name) for row in rows]) for name in ("s1", "s2", "s3")))
    reward = config.reward.of(scores)
    return Judged(said, scores, reward, advantages_of(config, scores, reward), heard)


def _mean(satisfied: Sequence[np.ndarray]) -> np.ndarray:
    """The raters' mean, [A, K] each; NaN where all of them abstain."""
    stacked = np.stack(satisfied)
    count = (~np.isnan(stacked)).sum(0)
    return np.divide(np.nansum(stacked, 0), count, out=np.full(stacked.shape[1:], np.nan), where=count > 0)


def advantages_of(config: OnPolicy, scores: Scores, reward: np.ndarray) -> np.ndarray:
    """The advantages [B, G] that the recipe asks for, from the scores or from the scalar rewards [B, G]; in PPO, which has its own, the scalar's."""
    if isinstance(config, GrpoConfig) and config.advantage == "lexicographic":
        return advantage.lexicographic(scores)
    if isinstance(config, GrpoConfig) and config.advantage == "tiered":
        return advantage.tiered(scores, config.tiers)
    return advantage.scalar(reward)
