"""Five bugs planted on purpose: at the small budget each fails a check that the sound code passes. On request: half an hour.

What a bug does not touch is taken from the sound laboratory, so that each mutant trains only what learns in another way.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promedical_jax.data import encode
from promedical_jax.lab.budget import Bench
from promedical_jax.lab.experiment import Judge, name
from promedical_jax.lab.recipe import LabConfig
from promedical_jax.lab.run import run
from promedical_jax.lab.tables import TABLES
from promedical_jax.reward.verdicts import UNCALIBRATED
from promedical_jax.rubric import ScalarReward, Scores
from promedical_jax.train import rewards, rm, rollouts

pytestmark = pytest.mark.slow


def config(table: str, out: Path, processes: int | None = 1) -> LabConfig:
    return LabConfig.model_validate({"table": table, "budget": "small", "out": out, "processes": processes})


def failed(table: str, out: Path, processes: int | None = 1) -> list[str]:
    """The checks of a table that do not pass."""
    [shown] = run(config(table, out, processes))
    return [one.check.says for one in shown.checks if not one.passed]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sound")
    assert failed("T1", out, None) == [] and failed("T4", out, None) == []
    return out


def flipped_veto(patch: pytest.MonkeyPatch) -> None:
    """A violation is rewarded as much as it should cost."""
    patch.setattr(ScalarReward, "of", lambda self, scores: (scores.s1 + self.alpha * scores.s2).clip(0, 1 + self.beta) + self.penalty * scores.s3)


def dropped_text(patch: pytest.MonkeyPatch) -> None:
    """Every criterion is read as the same empty turn."""
    tell = encode._tell
    patch.setattr(encode, "_tell", lambda text, tokenizer: tell("", tokenizer))


def skipped_calibration(patch: pytest.MonkeyPatch) -> None:
    """Scores are taken for log-odds as they are."""
    patch.setattr(rm, "calibrate", lambda fitted, wanted, kind: (UNCALIBRATED, []))


def stale_sampler(patch: pytest.MonkeyPatch) -> None:
    """The sampler keeps the weights of a run's first step."""
    roll_out, first = rollouts.roll_out, dict[int, Any]()

    def frozen(config: Any, setup: Any, model: Any, policy: Any, host: Any, number: int, waves: int) -> Any:
        import jax

        if number == 0:
            first[0] = jax.tree.map(lambda x: x.copy(), policy)
        return roll_out(config, setup, model, first[0], host, number, waves)

    patch.setattr(rollouts, "roll_out", frozen)


def shuffled_groups(patch: pytest.MonkeyPatch) -> None:
    """An answer is compared with its neighbours' siblings: each group takes every other member from the next case."""
    advantages_of = rewards.advantages_of

    def mixed(config: Any, scores: Scores | None, reward: np.ndarray) -> np.ndarray:
        def mix(values: np.ndarray) -> np.ndarray:
            values = values.copy()
            values[:, ::2] = np.roll(values[:, ::2], 1, axis=0)
            return values

        return advantages_of(config, scores and Scores(*(mix(getattr(scores, key)) for key in ("s1", "s2", "s3"))), mix(reward))

    patch.setattr(rewards, "advantages_of", mixed)


BUGS: list[tuple[Callable[[pytest.MonkeyPatch], None], str, tuple[str, ...], str]] = [
    (flipped_veto, "T4", ("scalar",), "training by verdicts makes answers safer (scalar)"),
    (dropped_text, "T1", ("explicit",), "the criterion’s text is read"),
    (skipped_calibration, "T1", ("explicit",), "verdicts are calibrated"),
    (stale_sampler, "T4", ("scalar", "lexicographic", "tiered"), "sampler and trainer have the same weights"),
    (shuffled_groups, "T4", ("scalar", "lexicographic", "tiered"), "no better answer of a group has the lower advantage"),
]


@pytest.mark.parametrize(("bug", "table", "rows", "caught_by"), BUGS, ids=lambda value: value.__name__ if callable(value) else None)
def test_a_planted_bug_is_caught(bug: Callable, table: str, rows: tuple[str, ...], caught_by: str, sound: Path, tmp_path: Path) -> None:
    out = tmp_path / "mutant"
    shutil.copytree(sound, out)
    one = TABLES[table](Bench(config(table, out)))
    for row in one.rows:
        if row.name in rows:
            for seed in range(3):
                shutil.rmtree(out / name(row.experiment, seed))
                assert isinstance(row.experiment, Judge) or (out / name(row.experiment.judge, seed)).exists()
    with pytest.MonkeyPatch.context() as patch:
        bug(patch)
        found = failed(table, out)
    print(json.dumps({bug.__name__: found}, ensure_ascii=False))
    assert any(says.startswith(caught_by) for says in found), found
