"""A reward model on held-out cases: are its calibrated verdicts those of the raters?"""

from collections.abc import Sequence

import numpy as np

from promedical_jax.bench.report import RewardModelFigures
from promedical_jax.data.encode import Encoded, Sizes
from promedical_jax.model.transformer import FLOAT32, Compute
from promedical_jax.reward import TIERS, RewardModel, score_cases


def evaluate(model: RewardModel, cases: Sequence[Encoded], sizes: Sizes, batch: int, compute: Compute = FLOAT32) -> RewardModelFigures:
    """Accuracy per tier against the raters' majority; split votes have none and are left out. Runs on the current mesh, where the model's parameters are."""
    scores, tiers, labels = score_cases(model.params, model.config, cases, sizes, batch, compute)
    met = model.calibration.probability(scores, tiers) > 0.5
    counted = ~np.isnan(labels) & (labels != 0.5)
    case, _, criterion = np.nonzero(counted)
    names = [cases[int(i)].case.id for i in case]
    return RewardModelFigures.of(names, [TIERS[t] for t in tiers[case, criterion]], labels[counted] > 0.5, met[counted])
