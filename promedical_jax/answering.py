"""A policy's sampled answers on the host, and those to whole sets of cases, judged: what reports are made of, and what a run of GRPO looks at on its way."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from promedical_jax.data.batches import evaluation_batches, to_devices, to_host
from promedical_jax.data.encode import Encoded, Sizes, stop_token
from promedical_jax.model.transformer import FLOAT32, Compute, ModelConfig, Params
from promedical_jax.rollout import Rollout, sample
from promedical_jax.rubric import Case, Judge, Scores, Verdict, score_verdicts


class Sampled:
    """A rollout as the host sees it. It is fetched and decoded when this is first asked for, and once; every process asks at the same place."""

    def __init__(self, rollout: Rollout, tokenizer: Any):
        self.rollout, self._tokenizer = rollout, tokenizer

    @cached_property
    def fetched(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens [B, G, R], lengths [B, G], and which answers ended by themselves [B, G]."""
        tokens, lengths, finished = (to_host(x) for x in (self.rollout.tokens, self.rollout.lengths, self.rollout.finished))
        return tokens, lengths, finished

    @cached_property
    def tokens(self) -> list[list[list[int]]]:
        """The answers without their stop token."""
        tokens, lengths, finished = self.fetched
        return [[row[:end].tolist() for row, end in zip(group, ends, strict=True)] for group, ends in zip(tokens, lengths - finished, strict=True)]

    @cached_property
    def texts(self) -> list[list[str]]:
        return [[self._tokenizer.decode(row) for row in group] for group in self.tokens]


@dataclass(frozen=True)
class Answered:
    """One case with G sampled answers: their texts, lengths in tokens, verdicts in the rubric's order, and scores [G]."""

    case: Case
    texts: tuple[str, ...]
    lengths: tuple[int, ...]
    verdicts: tuple[tuple[Verdict, ...], ...]
    scores: Scores


def sample_cases(params: Params, config: ModelConfig, tokenizer: Any, cases: Sequence[Encoded], sizes: Sizes, *, answers: int, answer_tokens: int, batch: int,
                 seed: int = 0, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, compute: Compute = FLOAT32,
                 waves: int = 1) -> list[tuple[tuple[str, ...], tuple[int, ...]]]:  # fmt: skip
    """`answers` texts to each case, in the cases' order, and their lengths in tokens. The draws depend on (seed, case, sample), so two policies are compared
    on the same luck.

    `waves`: the parts of a batch that are sampled one after the other, for want of memory.
    """
    done: list[tuple[tuple[str, ...], tuple[int, ...]]] = []
    for indices, arrays in evaluation_batches(cases, sizes, batch):
        placed = to_devices({name: arrays[name] for name in ("prompt", "prompt_length", "case")})
        rollout = sample(params, config, placed["prompt"], placed["prompt_length"], jax.random.key(seed), placed["case"], answers=answers,
                         answer_tokens=answer_tokens, stop=stop_token(tokenizer), temperature=temperature, top_k=top_k, top_p=top_p, compute=compute,
                         waves=waves)  # fmt: skip
        sampled = Sampled(rollout, tokenizer)
        _, lengths, _ = sampled.fetched
        done += [(tuple(sampled.texts[row]), tuple(map(int, lengths[row]))) for row in range(len(indices))]
    return done


def answer_cases(params: Params, config: ModelConfig, tokenizer: Any, cases: Sequence[Encoded], sizes: Sizes, judge: Judge, **how: Any) -> list[Answered]:
    """What `sample_cases` says, judged; `how` is what that takes."""
    sampled = sample_cases(params, config, tokenizer, cases, sizes, **how)
    said = judge([(one.case, texts) for one, (texts, _) in zip(cases, sampled, strict=True)])
    return [
        Answered(one.case, texts, lengths, tuple(verdicts), score_verdicts(one.case.rubric.criteria, verdicts))
        for one, (texts, lengths), verdicts in zip(cases, sampled, said, strict=True)
    ]
