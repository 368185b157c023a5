"""Multiple choice by log-likelihood: how likely does a local model find each option as the continuation of its question?

As lm-evaluation-harness tokenises and sums: an option stands behind a blank, question and option are tokenised together, and what lies behind as many tokens
as the question has alone is the option's; the sum of its log-probabilities is the option's log-likelihood. A question is computed once for all its options.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from promedical_jax.data.batches import to_devices, to_host
from promedical_jax.data.encode import pad, step_up
from promedical_jax.data.load import load_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.model import hf, transformer
from promedical_jax.model.sharding import make_mesh, shardings, shared_evenly
from promedical_jax.model.transformer import Compute, Dtype, ModelConfig, Params
from promedical_jax.selfcheck import check_tree
from promedical_jax.train.policy import AnswerBatch, frozen_log_probs

Asked = tuple[str, Sequence[str]]  # a question, whose text ends without a blank, and its options
LEAST = 8  # tokens of a static size


@dataclass(frozen=True)
class Likelihood:
    """A language model with its tokenizer, on a mesh; `batch` questions at a time, or the next number that the mesh divides."""

    params: Params
    config: ModelConfig
    tokenizer: Any
    mesh: jax.sharding.Mesh
    batch: int = 8
    compute: Compute = transformer.FLOAT32

    def __call__(self, asked: Sequence[Asked]) -> list[list[float]]:
        """The log-likelihood of each question's options, in nats. Raises InputError for an option without a token of its own, and for numbers that are none."""
        encoded = [self._encode(number, context, options) for number, (context, options) in enumerate(asked, start=1)]
        found: list[list[float]] = [[] for _ in encoded]
        with jax.set_mesh(self.mesh):
            for rows in self._batches(encoded):
                sums = self._sums([encoded[row] for row in rows])
                for row, values in zip(rows, sums, strict=False):  # the last batch is filled up
                    found[row] = values[: len(encoded[row][1])].tolist()
        for number, values in enumerate(found, start=1):
            if not np.isfinite(values).all():
                raise InputError(f"question {number}: a log-likelihood is no finite number; the model's weights are damaged, or too large for its type")
        return found

    def _encode(self, number: int, context: str, options: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        alone = self.tokenizer.encode(context)
        behind = [self.tokenizer.encode(f"{context} {option}")[len(alone) :] for option in options]
        if not all(behind):
            raise InputError(f"question {number}: option {behind.index([]) + 1} has no token of its own behind the question; write the option out")
        return alone, behind

    def _batches(self, encoded: Sequence[tuple[list[int], list[list[int]]]]) -> Iterator[list[int]]:
        """Questions of like length together, so that little is padding and few shapes are compiled."""
        order = sorted(range(len(encoded)), key=lambda row: len(encoded[row][0]))
        size = shared_evenly(self.batch, self.mesh)
        yield from (order[start : start + size] for start in range(0, len(order), size))

    def _sums(self, rows: Sequence[tuple[list[int], list[list[int]]]]) -> np.ndarray:
        """[batch, options]."""
        filled = [*rows, *[rows[-1]] * (shared_evenly(self.batch, self.mesh) - len(rows))]
        options, longest = max(len(each) for _, each in filled), max(len(one) for _, each in filled for one in each)
        prompt, prompt_length = pad([context for context, _ in filled], len(filled), step_up(max(LEAST, *(len(context) for context, _ in filled))))
        answers, lengths = (np.stack(x) for x in zip(*(pad(each, options, step_up(max(LEAST, longest))) for _, each in filled), strict=True))
        arrays = to_devices({"prompt": prompt, "prompt_length": prompt_length, "answers": answers, "answer_lengths": lengths})
        return to_host(frozen_log_probs(self.params, self.config, AnswerBatch(**arrays), compute=self.compute)).astype(np.float64).sum(-1)


def open_likelihood(folder: str | Path, batch: int = 8, dtype: Dtype = "float32", mesh: jax.sharding.Mesh | None = None) -> Likelihood:
    """The model in a folder, or of this name on the hub, on all devices that there are. Raises InputError for a folder without weights."""
    folder, mesh = hf.resolve(Path(folder)), mesh or make_mesh()
    config = hf.read_config(folder)
    tokenizer = load_tokenizer(folder, config.vocabulary)
    with jax.set_mesh(mesh):
        params = hf.load_trained(folder, config, shardings(mesh, transformer.axes(config)), dtype)
        check_tree("the model", params, config, Compute(dtype))
    return Likelihood(params, config, tokenizer, mesh, batch, Compute(dtype))
