"""Five bugs, and a laboratory that has one: python planted.py BUG TABLE OUT prints which checks fail, as JSON.

In a process of its own, with the devices that users have, and no test beside it that would see the bug.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from promedical_jax.data import encode
from promedical_jax.lab.recipe import LabConfig
from promedical_jax.lab.run import run
from promedical_jax.reward.verdicts import UNCALIBRATED
from promedical_jax.rubric import ScalarReward, Scores
from promedical_jax.train import rewards, rm, rollouts


def flipped_veto() -> None:
    """A violation is rewarded as much as it should cost."""
    ScalarReward.of = lambda self, scores: (scores.s1 + self.alpha * scores.s2).clip(0, 1 + self.beta) + self.penalty * scores.s3


def dropped_text() -> None:
    """Every criterion is read as the same empty turn."""
    tell = encode._tell
    encode._tell = lambda text, tokenizer: tell("", tokenizer)


def skipped_calibration() -> None:
    """Scores are taken for log-odds as they are."""
    rm.calibrate = lambda fitted, wanted, kind: (UNCALIBRATED, [])


def stale_sampler() -> None:
    """The sampler keeps the weights of a run's first step."""
    roll_out, first = rollouts.roll_out, {}

    def frozen(config: Any, setup: Any, model: Any, policy: Any, host: Any, number: int, waves: int) -> Any:
        if number == 0:
            first[0] = jax.tree.map(lambda x: x.copy(), policy)
        return roll_out(config, setup, model, first[0], host, number, waves)

    rollouts.roll_out = frozen


def shuffled_groups() -> None:
    """Every other answer is compared with the siblings of the next case's."""
    advantages_of = rewards.advantages_of

    def mixed(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[:, ::2] = np.roll(values[:, ::2], 1, axis=0)
        return values

    def wrong(config: Any, scores: Scores | None, reward: np.ndarray) -> np.ndarray:
        return advantages_of(config, scores and Scores(mixed(scores.s1), mixed(scores.s2), mixed(scores.s3)), mixed(reward))

    rewards.advantages_of = wrong


BUGS = {bug.__name__: bug for bug in (flipped_veto, dropped_text, skipped_calibration, stale_sampler, shuffled_groups)}


if __name__ == "__main__":
    bug, table, out = sys.argv[1:]
    BUGS[bug]()
    [shown] = run(LabConfig.model_validate({"table": table, "budget": "small", "out": Path(out), "processes": 1}))
    print(json.dumps([one.check.says for one in shown.checks if not one.passed]))
