"""From sampled answers to advantages: what those who judge say of them, the scores and the reward that this comes to, and who gains by it in its group."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from promedical_jax.answering import Sampled
from promedical_jax.asking import EndpointJudge
from promedical_jax.cluster import chief, share, together
from promedical_jax.config import GrpoConfig, Kind, OnPolicy
from promedical_jax.data.batches import to_host
from promedical_jax.errors import InputError
from promedical_jax.model.transformer import FLOAT32, Compute
from promedical_jax.reward import RewardBatch, RewardModel, Said, jit_score
from promedical_jax.rubric import Case, Scores, Tier, Verdict, advantage
from promedical_jax.rubric import score as score_of
from promedical_jax.train import functions
from promedical_jax.train.guards import SkipStep

Heard = Sequence[Sequence[tuple[Verdict, ...]]]  # a second judge's verdicts on each case's answers, by its criteria


class Judged(NamedTuple):
    """What was said of a batch of B x G answers, and what became of them. An implicit reward model has said a reward and nothing else."""

    said: list[Said] | None  # by an explicit reward model, of each case
    scores: Scores | None  # [B, G]; None where nobody spoke of tiers
    reward: np.ndarray  # [B, G], the published scalar reward, or the implicit reward model's own, with what functions add to it
    advantage: np.ndarray  # [B, G]
    heard: Heard | None = None
    functions: np.ndarray | None = None  # [B, G, F] by the recipe's functions; NaN where one abstains
    satisfied: list[np.ndarray] | None = None  # [G, K] of each case, then its functions with a tier: how far each criterion is met, as it counted


def check_kind(config: OnPolicy, kind: Kind) -> None:
    """Raises InputError where the recipe's advantage needs more than such a reward model says."""
    if kind == "blind":
        raise InputError(f"{config.reward_model}: is a reward model of kind blind, which cannot tell criteria apart; use one of kind explicit or implicit")
    if kind == "implicit" and config.judge.url:
        raise InputError(f"{config.reward_model}: is an implicit reward model, and a judge of criteria cannot be mixed with it; leave judge.url out")
    if kind == "implicit" and functions.criteria_of(config.functions):
        raise InputError(f"{config.reward_model}: is an implicit reward model, which knows no tier; leave out the tiers of functions")
    if kind == "implicit" and isinstance(config, GrpoConfig) and config.advantage != "scalar":
        raise InputError(f"{config.reward_model}: is an implicit reward model, which knows no tier; set advantage to scalar, or use one of kind explicit")


def untold(batch: RewardBatch) -> RewardBatch:
    """The batch as an implicit reward model reads it: without criteria."""
    return batch._replace(criteria=batch.criteria[:, :1, :0], criterion_lengths=batch.criterion_lengths[:, :1] * 0, tiers=batch.tiers[:, :1] * 0)


def ask(endpoint: EndpointJudge, sampled: Sampled, cases: Sequence[Case]) -> Heard:
    """The endpoint's verdicts on the sampled answers of each case; process 0 asks for all of them."""
    codes = np.zeros((*sampled.fetched[1].shape, max(len(case.rubric.criteria) for case in cases)), np.int8)
    every = list(Verdict)
    with together():
        if chief():
            for b, said in enumerate(endpoint(list(zip(cases, sampled.texts, strict=True)))):
                codes[b, :, : len(cases[b].rubric.criteria)] = [[every.index(verdict) for verdict in row] for row in said]
    codes = share(codes)
    return [[tuple(every[code] for code in row[: len(case.rubric.criteria)]) for row in held] for case, held in zip(cases, codes, strict=True)]


def call(wanted: functions.Functions, sampled: Sampled, cases: Sequence[Case]) -> np.ndarray:
    """What the recipe's functions say of the answers, [B, G, F]; they are called in process 0."""
    said = np.zeros((*sampled.fetched[1].shape, len(wanted)))
    with together():
        if chief():
            said = functions.values(wanted, cases, sampled.texts, sampled.tokens)
    return share(said.view(np.int32)).view(np.float64)  # as bits: JAX would round them


def judge(model: RewardModel | None, batch: RewardBatch, cases: Sequence[Case], config: OnPolicy, compute: Compute = FLOAT32,
          heard: Heard | None = None, said_by_functions: np.ndarray | None = None) -> Judged:
    """Scores, verdicts, rewards and advantages of the answers of a batch on its devices, for the whole batch's cases in order.

    `heard`: the verdicts of a second judge. It and the reward model are two raters: what counts is the mean of those who do not abstain.
    `said_by_functions`: [B, G, F]; those with a tier are criteria behind the rubric's, the others add to the scalar reward.
    Raises SkipStep where a score is NaN or infinite.
    """
    implicit = model is not None and model.kind == "implicit"
    said = raw = scores = satisfied = None
    if model is not None:
        raw = to_host(jit_score(model.params, model.config, untold(batch) if implicit else batch, compute=compute))
        for case, held in zip(cases, raw, strict=True):
            if not np.isfinite(held[:, : 1 if implicit else len(case.rubric.criteria)]).all():
                raise SkipStep(f"the reward model's score of an answer to case {case.id!r} is NaN or infinite")
        said = None if implicit else [_said(model, case, held) for case, held in zip(cases, raw, strict=True)]
    extra = functions.criteria_of(config.functions)
    if said or heard or extra:
        tiered = [i for i, one in enumerate(config.functions) if one.tier is not None]
        satisfied = []
        for b, case in enumerate(cases):
            raters = _raters(model, case, said[b] if said else None, heard[b] if heard else None, config)
            mean = _mean(raters) if raters else np.full((batch.answers.shape[1], len(case.rubric.criteria)), np.nan)
            more = [said_by_functions[b][:, tiered]] if said_by_functions is not None and extra else []
            satisfied.append(np.concatenate([mean, *more], -1))
        rows = [score_of((*case.rubric.criteria, *extra), each) for case, each in zip(cases, satisfied, strict=True)]
        scores = Scores(*(np.stack([getattr(row, name) for row in rows]) for name in ("s1", "s2", "s3")))
    reward = config.reward.of(scores) if scores else raw[..., 0].astype(np.float64) if raw is not None else None
    if said_by_functions is not None:
        reward = functions.add_weighted(config.functions, said_by_functions, reward)
    assert reward is not None, "a recipe without anybody who judges is refused"
    return Judged(said, scores, reward, advantages_of(config, scores, reward), heard, said_by_functions, satisfied)


def _said(model: RewardModel, case: Case, held: np.ndarray) -> Said:
    criteria = case.rubric.criteria
    probability = model.verdicts.probability(held[:, : len(criteria)], criteria)
    return Said(held[:, : len(criteria)], probability, model.verdicts.read(probability, criteria))


def _raters(model: RewardModel | None, case: Case, said: Said | None, heard: Sequence[tuple[Verdict, ...]] | None, config: OnPolicy) -> list[np.ndarray]:
    """How far each criterion of a case is met by each answer, [G, K], by each who judges criteria."""
    criteria, raters = case.rubric.criteria, []
    if model is not None and said is not None:
        use = {Tier.PROFICIENCY: config.verdicts.s1, Tier.EXCELLENCE: config.verdicts.s2, Tier.SAFETY: config.verdicts.s3}
        raters.append(model.verdicts.satisfied(said.probability, criteria, use))
    if heard is not None:
        raters.append(np.array([[c.satisfied(verdict) for c, verdict in zip(criteria, row, strict=True)] for row in heard]))
    return raters


def _mean(satisfied: Sequence[np.ndarray]) -> np.ndarray:
    """The raters' mean, [A, K] each; NaN where all of them abstain."""
    stacked = np.stack(satisfied)
    count = (~np.isnan(stacked)).sum(0)
    return np.divide(np.nansum(stacked, 0), count, out=np.full(stacked.shape[1:], np.nan), where=count > 0)


def advantages_of(config: OnPolicy, scores: Scores | None, reward: np.ndarray) -> np.ndarray:
    """The advantages [B, G] that the recipe asks for, from the scores or from the scalar rewards [B, G]; in PPO, which has its own, the scalar's."""
    if isinstance(config, GrpoConfig) and scores is not None:
        if config.advantage == "lexicographic":
            return advantage.lexicographic(scores)
        if config.advantage == "tiered":
            return advantage.tiered(scores, config.tiers)
    return advantage.scalar(reward)
