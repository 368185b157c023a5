"""A policy on cases: its sampled answers, judged, and the figures made of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from promedical_jax.bench.intervals import Interval, bootstrap
from promedical_jax.bench.report import Example, ExampleAnswer, PolicyFigures
from promedical_jax.data.batches import evaluation_batches, to_devices, to_host
from promedical_jax.data.encode import Encoded, Sizes, stop_token
from promedical_jax.model.transformer import FLOAT32, Compute, ModelConfig, Params
from promedical_jax.rollout import sample
from promedical_jax.rubric import Case, Judge, Scores, Tier, Verdict, score_verdicts
from promedical_jax.rubric.scores import win_points


@dataclass(frozen=True)
class Answered:
    """One case with G sampled answers: their texts, lengths in tokens, verdicts in the rubric's order, and scores [G]."""

    case: Case
    texts: tuple[str, ...]
    lengths: tuple[int, ...]
    verdicts: tuple[tuple[Verdict, ...], ...]
    scores: Scores


def answer_cases(params: Params, config: ModelConfig, tokenizer: Any, cases: Sequence[Encoded], sizes: Sizes, judge: Judge, *, answers: int, answer_tokens: int,
                 batch: int, seed: int = 0, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, compute: Compute = FLOAT32) -> list[Answered]:
    """Samples `answers` of each case and judges them. The draws depend on (seed, case, sample), so two policies are compared on the same luck."""
    answered: list[tuple[Case, tuple[str, ...]]] = []
    token_counts: list[tuple[int, ...]] = []
    for indices, arrays in evaluation_batches(cases, sizes, batch):
        placed = to_devices({name: arrays[name] for name in ("prompt", "prompt_length", "case")})
        rollout = sample(params, config, placed["prompt"], placed["prompt_length"], jax.random.key(seed), placed["case"], answers=answers,
                         answer_tokens=answer_tokens, stop=stop_token(tokenizer), temperature=temperature, top_k=top_k, top_p=top_p, compute=compute)
        tokens, lengths, finished = (to_host(x) for x in (rollout.tokens, rollout.lengths, rollout.finished))
        for row, i in enumerate(indices):
            texts = tuple(tokenizer.decode(tokens[row, g, : lengths[row, g] - int(finished[row, g])]) for g in range(answers))
            answered.append((cases[i].case, texts))
            token_counts.append(tuple(map(int, lengths[row])))
    done = []
    for (case, texts), counts, said in zip(answered, token_counts, judge(answered), strict=True):
        done.append(Answered(case, texts, counts, tuple(said), score_verdicts(case.rubric.criteria, said)))
    return done


def chosen(answered: Sequence[Answered], choose: Callable[[Sequence[tuple[Case, Sequence[str]]]], list[int]]) -> list[Answered]:
    """Of each case the one answer that `choose` puts first: best-of-G."""
    picks = choose([(one.case, one.texts) for one in answered])
    return [
        Answered(one.case, one.texts[g : g + 1], one.lengths[g : g + 1], one.verdicts[g : g + 1], one.scores[g : g + 1])
        for one, g in zip(answered, picks, strict=True)
    ]


def figures(answered: Sequence[Answered]) -> PolicyFigures:
    """Means over cases of each case's mean over its answers, with 95 % bootstrap intervals over cases. S2 is the share of the bonus criteria met."""

    def bonus(one: Answered) -> float:
        available = sum(c.tier is Tier.EXCELLENCE for c in one.case.rubric.criteria)
        return float(one.scores.s2.mean() / available) if available else np.nan

    return PolicyFigures(
        s1=bootstrap([float(np.nanmean(one.scores.s1)) if one.scores.judged.any() else np.nan for one in answered]),
        s2=bootstrap([bonus(one) for one in answered]),
        safe=bootstrap([float(one.scores.clean.mean()) for one in answered]),
        length=bootstrap([float(np.mean(one.lengths)) for one in answered]),
        n_cases=len(answered),
        n_answers=sum(len(one.texts) for one in answered),
    )


def win_rate(ours: Sequence[Answered], theirs: Sequence[Answered]) -> Interval:
    """Share of pairs (our answer g, their answer g to the same case) that we win by the lexicographic order, ties counted half."""
    points = [win_points(a.scores, b.scores) for a, b in zip(ours, theirs, strict=True)]
    return bootstrap([float(np.nanmean(p)) if np.isfinite(p).any() else np.nan for p in points])


def examples(base: Sequence[Answered], aligned: Sequence[Answered], count: int) -> tuple[Example, ...]:
    """The first answers of both to cases spread over the set: chosen by position, not by outcome."""
    chosen = np.unique(np.linspace(0, len(base) - 1, min(count, len(base))).astype(int))
    return tuple(Example.of(base[i].case, _shown(base[i]), _shown(aligned[i]), base[i].verdicts[0], aligned[i].verdicts[0]) for i in chosen)


def _shown(one: Answered) -> ExampleAnswer:
    return ExampleAnswer(text=one.texts[0], s1=float(one.scores.s1[0]), s2=float(one.scores.s2[0]), s3=float(one.scores.s3[0]))
