"""Numbers that are none: they do not reach the weights, are counted, and stop the run with a sentence that names the first of them."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streams import Stream
from tiny import CONFIG

from promedical_jax.config import Alarms as Wanted
from promedical_jax.config import GrpoConfig, Optimizer, SftConfig
from promedical_jax.errors import InputError
from promedical_jax.model.sharding import make_mesh
from promedical_jax.reward import UNCALIBRATED, RewardModel
from promedical_jax.rubric import Case
from promedical_jax.train import rewards
from promedical_jax.train.guards import ENTROPY, GAP, KL, Alarms, SkipStep, sound_update
from promedical_jax.train.loop import run_steps
from promedical_jax.train.optimizer import make_optimizer, start

PARAMS = {"layers": {"q": np.ones((2, 3), np.float32), "norm": np.ones(3, np.float32)}, "embed": np.ones((4, 3), np.float32)}
AXES = {"layers": {"q": (None, None), "norm": (None,)}, "embed": (None, None)}
BAD = {"embed": 1, "layers.norm": 2, "layers.q": 3}  # in the order in which jax has them, after the loss


def gradients(bad: str | None, value: float):
    made = {"layers": {"q": jnp.full((2, 3), 0.1), "norm": jnp.full(3, 0.2)}, "embed": jnp.full((4, 3), 0.3)}
    return jax.tree.map_with_path(lambda path, x: x.at[0].set(value) if jax.tree_util.keystr(path, simple=True, separator=".") == bad else x, made)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize(("bad", "value", "loss"), [("embed", np.nan, 1.0), ("layers.norm", np.inf, 1.0), ("layers.q", -np.inf, 1.0), (None, 0.0, np.nan)])
def test_a_step_with_one_leaves_everything_as_it_was(bad: str | None, value: float, loss: float, weights: str) -> None:
    mesh = make_mesh(devices=jax.devices()[:1])
    optimizer = make_optimizer(Optimizer(learning_rate=0.1), 10)
    with jax.set_mesh(mesh):
        state, _ = start(PARAMS, AXES, optimizer, mesh, weights)
        step = jax.jit(lambda state, given, loss: sound_update(state, given, optimizer, loss))
        state, fine = step(state, gradients(None, 0.0), jnp.float32(1.0))
        after, about = step(state, gradients(bad, value), jnp.float32(loss))
        onwards, again = step(after, gradients(None, 0.0), jnp.float32(1.0))
        straight, _ = step(state, gradients(None, 0.0), jnp.float32(1.0))
    assert (fine["skipped"], about["skipped"], again["skipped"]) == (0, 1, 0) and about["culprit"] == BAD.get(bad, 0)
    assert np.isclose(fine["grad_norm"], np.sqrt(6 * 0.01 + 3 * 0.04 + 12 * 0.09), rtol=1e-5)
    for x, y in ((after, state), (onwards, straight)):
        jax.tree.map(np.testing.assert_array_equal, x, y)
    assert int(state.step) == int(after.step) == 1 and not np.array_equal(state.params["embed"], PARAMS["embed"])


def run(out: Path, faults: dict[int, str], steps: int = 8, stop_at: int | None = None, **keys) -> list[dict]:
    """A run in which some steps, from 0, have a fault: of the loss, of the gradient of a parameter, or one that the stage says itself."""
    config = SftConfig(out=out, cases=Path("c"), model=Path("m"), steps=steps, **{"log_every": 2, "save_every": 100} | keys)
    mesh = make_mesh(devices=jax.devices()[:1])
    optimizer = make_optimizer(config.optimizer, steps)
    with jax.set_mesh(mesh):
        state, where = start(PARAMS, AXES, optimizer, mesh)
        step = jax.jit(lambda state, given, loss: sound_update(state, given, optimizer, loss))

        def advance(state, _, number):
            if number == stop_at:
                raise KeyboardInterrupt
            fault = faults.get(number)
            if fault == "score":
                raise SkipStep("the reward model's score of an answer to case 'c-3' is NaN or infinite")
            loss = jnp.float32(np.nan if fault == "loss" else 1.0)
            state, about = step(state, gradients(fault, np.nan), loss)
            return state, about | {"loss": loss}

        run_steps(config, "test", state, where, Stream(), advance, tokens=lambda _: 1.0, shown=("loss",))
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_skipped_steps_are_counted_and_the_run_goes_on(tmp_path: Path) -> None:
    rows = run(tmp_path, {1: "loss", 2: "embed", 5: "score"})
    assert [row["skipped"] for row in rows] == [1, 1, 1, 0]
    assert rows[0]["loss"] is None and rows[-1]["loss"] == 1.0 and not any("culprit" in row for row in rows)


@pytest.mark.parametrize(("faults", "sentence"), [
    ({1: "loss", 2: "embed", 3: "layers.q"}, "3 steps in a row were skipped, for at step 2 the loss is NaN or infinite"),
    ({0: "loss", 2: "layers.q", 3: "loss", 4: "loss"}, "3 steps in a row were skipped, for at step 3 the gradient of layers.q is NaN or infinite"),
    ({3: "score", 4: "loss", 5: "score"}, "for at step 4 the reward model's score of an answer to case 'c-3' is NaN or infinite"),
])  # fmt: skip
def test_too_many_in_a_row_stop_it_and_name_the_first(faults: dict[int, str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as stopped:
        run(tmp_path, faults, max_skips=3)
    assert sentence in str(stopped.value) and str(tmp_path) in str(stopped.value) and "max_skips" in str(stopped.value)
    run(tmp_path / "patient", faults, max_skips=4)


@pytest.mark.parametrize("stop_at", [3, 4, 5])
def test_a_run_that_was_killed_counts_skipped_steps_as_if_it_had_not_been(stop_at: int, tmp_path: Path) -> None:
    """Saved at each step, looked at every second one: a checkpoint may lie between a skipped step and the row that counts it, or in the middle of a series."""
    faults, keys = {2: "score", 3: "loss", 4: "embed", 6: "loss"}, {"save_every": 1, "max_skips": 4}
    straight = run(tmp_path / "straight", faults, **keys)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", faults, stop_at=stop_at, **keys)
    assert run(tmp_path / "killed", faults, **keys) == straight and [row["skipped"] for row in straight] == [0, 2, 1, 1]
    said = []
    for name, stops in (("stopped", (None,)), ("both", (stop_at, None))):
        for stop in stops:
            with pytest.raises((KeyboardInterrupt, InputError)) as end:
                run(tmp_path / name, faults, stop_at=stop, save_every=1, max_skips=3)
        said.append(str(end.value).partition(": ")[2])
    assert said[0] == said[1] and "3 steps in a row were skipped, for at step 3 the reward model's score" in said[0]


def test_a_score_that_is_no_number_skips_the_step_of_grpo(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case.model_validate({
        "id": "c-3", "instruction": [{"role": "user", "content": "?"}],
        "rubric": {"criteria": [{"id": "p", "text": "P.", "tier": "proficiency", "weight": 1.0}]},
    })  # fmt: skip
    config = GrpoConfig(out="o", cases="c", model="m", reward_model="r")
    for value, sound in ((np.nan, False), (np.inf, False), (1.0, True)):
        monkeypatch.setattr(rewards, "jit_score", lambda *_, value=value, **__: np.array([[[0.5, np.nan], [value, np.nan]]]))  # the second column is padding
        given = RewardModel({}, CONFIG, UNCALIBRATED), SimpleNamespace(tiers=None), [case], config
        if sound:
            assert rewards.judge(*given).advantage.shape == (1, 2)
        else:
            with pytest.raises(SkipStep, match="case 'c-3' is NaN or infinite"):
                rewards.judge(*given)


def test_alarms_are_said_when_they_begin_and_when_they_end(capsys: pytest.CaptureFixture[str]) -> None:
    config = GrpoConfig(out="o", cases="c", model="m", reward_model="r", alarms=Wanted(kl=0.5, entropy=0.1))
    alarms = Alarms(config)
    seen = [alarms.hear(n, {GAP: gap, KL: kl, ENTROPY: entropy})["alarms"]
            for n, (gap, kl, entropy) in enumerate([(1e-6, 0.1, 1.0), (1e-3, 0.6, 1.0), (1e-3, 0.7, 0.05), (1e-6, 0.2, 0.05)], 1)]  # fmt: skip
    said = [line for line in capsys.readouterr().err.splitlines() if line]
    assert seen == [0, 2, 3, 1]
    assert [line.split(":")[0] for line in said] == ["alarm at step 2", "alarm at step 2", "alarm at step 3", "step 4", "step 4"]
    assert "0.001 apart, more than 0.0001" in said[0] and "0.6 nats a token from its start" in said[1] and "0.05 nats a token, less than 0.1" in said[2]
    assert "kl is 0.2, within 0.5 again" in said[4]


def test_an_alarm_that_was_on_is_not_said_again_after_a_restart(capsys: pytest.CaptureFixture[str]) -> None:
    config = GrpoConfig(out="o", cases="c", model="m", reward_model="r")
    alarms = Alarms(config)
    alarms.hear(1, {GAP: 1.0, KL: 0.1})
    again = Alarms(config)
    again.begin(json.loads(json.dumps(alarms.remember())))
    assert again.hear(2, {GAP: 1.0, KL: 0.1})["alarms"] == 1 and again.hear(3, {GAP: 1e-6, KL: 0.1})["alarms"] == 0
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["alarm at step 1", "step 3"]


def test_the_gap_that_is_allowed_is_that_of_the_type(capsys: pytest.CaptureFixture[str]) -> None:
    of = {"out": "o", "cases": "c", "model": "m", "reward_model": "r"}
    assert Alarms(GrpoConfig(**of, dtype="bfloat16")).hear(1, {GAP: 0.01})["alarms"] == 0
    assert Alarms(GrpoConfig(**of, dtype="bfloat16", alarms=Wanted(gap=0.001))).hear(1, {GAP: 0.01})["alarms"] == 1
    assert Alarms(GrpoConfig(**of, alarms=Wanted(kl=None))).hear(1, {GAP: 1e-5, KL: 99.0})["alarms"] == 0
    assert capsys.readouterr().err.count("alarm") == 1
