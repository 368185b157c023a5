"""N steps are k + (N - k), to the bit: parameters, optimizer, what the run remembers, figures, data order and model files, for each trainer."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from faulty import STAGES, STEPS, assert_equal, prepare, recipe, record, run, state_of

from promedical_jax.errors import Stopped
from promedical_jax.train import loop

# Where an epoch ends with a batch: of 20 cases by 8 after every fifth step, of the 14 that a reward model is not calibrated on after every seventh.
EPOCH = {stage: 7 if stage == "rm" else 5 for stage in STAGES}
PLACES = [(stage, step) for stage in STAGES
          for step in sorted([*random.Random(stage).sample([n for n in range(1, STEPS) if n != EPOCH[stage]], 5), EPOCH[stage]])]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("exact"))


@pytest.fixture(scope="module")
def whole(root: Path) -> dict[str, Any]:
    """What each stage comes to where nobody stops it, when a test first asks."""
    return {}


def stopped_at(config: Any, step: int, patch: pytest.MonkeyPatch) -> None:
    """Runs until SIGTERM comes in step `step`, which is finished and saved."""
    advance = loop.Meter.advance

    def told(meter: loop.Meter, done: int, *rest: Any) -> None:
        advance(meter, done, *rest)
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    patch.setattr(loop.Meter, "advance", told)
    with pytest.raises(Stopped, match=f"told to stop, and stopped after step {step} of {STEPS}, which is saved; the same command goes on from there"):
        run(config)
    patch.undo()


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "step"), PLACES)
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(stage: str, step: int, root: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if stage not in whole:
        config = recipe(root, stage, stage)
        run(config)
        whole[stage] = state_of(config.out)
    config = recipe(root, stage, f"{stage}-{step}")
    stopped_at(config, step, monkeypatch)
    assert record(config.out, step)["run"]["data"] == {"cases": step * config.batch}
    run(config)
    assert_equal(state_of(config.out), whole[stage])
