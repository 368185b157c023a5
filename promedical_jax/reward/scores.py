"""Scores on the tree: r(x, y, c) of instruction x, answer y and criterion c, for all criteria and answers of a case in one pass.

ProMedical's explicit criteria injection: the criterion's text follows the answer in the sequence, and the score is read at its last token by the head
of its tier. What it is compared with takes the same path: where no criterion is told, heads read the answer's own last token.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from promedical_jax.data.batches import evaluation_batches, to_devices, to_host
from promedical_jax.data.encode import Encoded, Sizes
from promedical_jax.model import transformer
from promedical_jax.model.heads import HEADS_AXES, head_scores
from promedical_jax.model.layout import Rows, assemble, last_states, last_valid, nodes_of, place, tree
from promedical_jax.model.sharding import reshape
from promedical_jax.model.transformer import FLOAT32, Compute, ModelConfig, Params
from promedical_jax.rubric import Tier

TIERS = tuple(Tier)  # the order of the heads


class RewardBatch(NamedTuple):
    """B cases of A answers and K criteria, padded on the right; a padding answer or criterion has length 0."""

    prompt: jax.Array  # [B, P]
    prompt_length: jax.Array  # [B]
    answers: jax.Array  # [B, A, R]
    answer_lengths: jax.Array  # [B, A]
    criteria: jax.Array  # [B, K, C] tokens of each criterion's text in its template; C is 0 where no criterion is told
    criterion_lengths: jax.Array  # [B, K]
    tiers: jax.Array  # [B, K] the head that reads each criterion: of the explicit and blind kinds an index into TIERS
    rows: Rows | None = None  # the same cases packed into shared rows, and only what is wanted of them: then only these are computed


def axes(config: ModelConfig) -> Params:
    """The names of the axes of the parameters {"backbone": of a Qwen3, "heads": one a tier}."""
    return {"backbone": transformer.axes(config), "heads": HEADS_AXES}


def score(params: Params, config: ModelConfig, batch: RewardBatch, compute: Compute = FLOAT32) -> jax.Array:
    """Raw scores r(x, y, c), float32 [B, A, K]: comparable between answers on one criterion (Bradley-Terry), a log-odds after calibration. In all of a case's
    answers and criteria each token is computed once. A criterion, answer or packed node that is not there has some number that means nothing."""
    (p,), (a, r), (b, k, c) = batch.prompt.shape[1:], batch.answers.shape[1:], batch.criteria.shape
    sizes, level = ((p, r, c), 2) if c else ((p, r), 1)  # where scores are read
    if batch.rows is None:
        criteria = jnp.broadcast_to(batch.criteria[:, None], (b, a, k, c))
        lengths = [batch.prompt_length, batch.answer_lengths, reshape(jnp.broadcast_to(batch.criterion_lengths[:, None], (b, a, k)), (b, a * k))]
        layout = tree(p, (a, r), (k, c) if c else None)
        nodes = [batch.prompt, batch.answers, criteria]
        hidden = transformer.forward(params["backbone"], config, assemble(layout, nodes[: level + 1], lengths[: level + 1]), layout, compute)
        states = last_valid(nodes_of(hidden, layout, level), lengths[level])
    else:
        layout = batch.rows.layout(sizes)
        hidden = transformer.forward(params["backbone"], config, place(layout, batch.rows), layout, compute)
        states = last_states(hidden, layout, batch.rows, level)
    if not c:  # each head that is asked for reads the answer's one state
        states = reshape(jnp.broadcast_to(states[:, :, None], (b, a, k, config.width)), (b, a * k, config.width), back=1)
    tiers = reshape(jnp.broadcast_to(batch.tiers[:, None], (b, a, k)), (b, a * k))
    return reshape(head_scores(params["heads"], states, tiers), (b, a, k))


jit_score = jax.jit(score, static_argnames=("config", "compute"))


def score_cases(params: Params, config: ModelConfig, cases: Sequence[Encoded], sizes: Sizes, batch: int, compute: Compute = FLOAT32) -> Iterator[np.ndarray]:
    """Raw scores [A, K] of each case's own answers and criteria, in the order of the cases, so many cases at a time."""
    for indices, arrays in evaluation_batches(cases, sizes, batch):
        inputs = RewardBatch(**to_devices({name: arrays[name] for name in RewardBatch._fields if name != "rows"}))
        scores = to_host(jit_score(params, config, inputs, compute=compute))
        for row, i in enumerate(indices):
            yield scores[row, : len(cases[i].answers), : len(cases[i].heads)]
