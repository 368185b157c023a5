"""The watch against reward hacking: when it ends a run, with which weights, and what it refuses to watch."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streams import Stream
from tiny import CONFIG

from promedical_jax.answering import Answered
from promedical_jax.clinic import build_tokenizer, make_cases
from promedical_jax.config import GrpoConfig
from promedical_jax.errors import InputError
from promedical_jax.model.sharding import make_mesh
from promedical_jax.model.transformer import FLOAT32
from promedical_jax.rubric import Scores, Verdict, write_cases
from promedical_jax.train import watch
from promedical_jax.train.export import early_end
from promedical_jax.train.loop import run_steps
from promedical_jax.train.optimizer import make_optimizer, start, update

STEPS, EVERY = 14, 2
CASES = make_cases(3, seed=1, answers=1)


def config(out: Path, **keys) -> GrpoConfig:
    given = {"watch": {"cases": out / "held_out.jsonl"} | keys}
    return GrpoConfig(out=out, cases="c", model="m", reward_model="r", steps=STEPS, log_every=1, save_every=EVERY, **given)


def run(out: Path, held_out: list[float | None], training: list[float], stop_at: int | None = None, **keys) -> tuple[float, list[dict]]:
    """A run whose one weight is the number of its steps, with the S1 that the judge gives at each look, and the training reward from look to look."""
    write_cases(out / "held_out.jsonl", CASES)
    wanted, mesh = config(out, **keys), make_mesh(devices=jax.devices()[:1])
    optimizer = make_optimizer(wanted.optimizer, STEPS)
    setup = SimpleNamespace(tokenizer=build_tokenizer(), mesh=mesh, compute=FLOAT32)
    cases = watch.watched_cases(wanted, setup.tokenizer, {"another"}, lambda _: [])

    def answered(policy, *_, **__):
        value = held_out[int(policy["w"]) // EVERY - 1]
        s1 = np.array([np.nan if value is None else value])
        return [Answered(CASES[0], ("Rest.",), (2,), ((Verdict.UNMET,) * len(CASES[0].rubric.criteria),), Scores(s1, 0 * s1, 0 * s1))]

    with jax.set_mesh(mesh), pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "answer_cases", answered)
        state, where = start({"w": np.zeros(())}, {"w": ()}, optimizer, mesh)
        watched = watch.Watch(wanted, setup, CONFIG, cases, lambda _: [])

        def advance(state, _, number):
            if number == stop_at:
                raise KeyboardInterrupt
            watched.hear({"reward": training[number // EVERY]} if training[number // EVERY] is not None else {})
            moved = update(state, {"w": jnp.float32(0)}, optimizer)
            return moved._replace(params={"w": state.params["w"] + 1}), {}

        beside = SimpleNamespace(begin=watched.begin, remember=watched.remember, look=watched.look, go_back=watched.outwitted)
        state = run_steps(wanted, "test", state, where, Stream(), advance, tokens=lambda _: 1.0, shown=(), beside=beside)
        watched.close()
    return float(state.params["w"]), [json.loads(line) for line in (out / "watch.jsonl").read_text().splitlines()]


FALLING, RISING = [0.5, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_a_policy_that_outwits_its_reward_model_ends_the_run_with_the_best_look_s_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight, rows = run(tmp_path, FALLING, RISING)
    assert weight == 2 * EVERY and len(rows) == 5  # the second look was the best, and three followed
    assert [json.loads(line)["texts"] for line in (tmp_path / "watched.jsonl").open()] == [["Rest."]] * 5
    assert [row["value"] for row in rows] == FALLING[:5] and [row["reward"] for row in rows] == RISING[:5]
    said = capsys.readouterr().err
    assert said.count("ends early: since step 4 the training reward rose above 0.2, and no look at the held-out cases was worth more than its 0.8") == 1
    assert early_end(tmp_path, config(tmp_path)) == 4 and early_end(tmp_path, config(tmp_path, patience=None)) is None  # what `promedical export` takes
    assert run(tmp_path, FALLING, RISING) == (weight, rows)  # going on with it ends it again


def test_of_equal_looks_the_latest_is_gone_back_to(tmp_path: Path) -> None:
    assert run(tmp_path, [0.5, 0.8, 0.8, 0.7, 0.6, 0.8, 0.7], RISING)[0] == 14  # the sixth is the latest of the best, and one followed
    weight, rows = run(tmp_path / "more", [0.5, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4], RISING)
    assert weight == 3 * EVERY and len(rows) == 6


def test_a_run_that_was_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", FALLING, RISING, stop_at=7)
    assert run(tmp_path / "killed", FALLING, RISING) == run(tmp_path / "straight", FALLING, RISING)


@pytest.mark.parametrize(("held_out", "training", "keys"), [
    (FALLING, RISING, {"patience": None}),
    (FALLING, RISING, {"patience": 6}),
    (FALLING, [0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1], {}),  # the training reward falls too: nobody is outwitted
    (RISING, RISING, {}),
    ([0.5, 0.6, 0.5, 0.5, 0.7, 0.6, 0.6], RISING, {}),  # a new best in time
    ([0.5, 0.8, None, None, 0.6, None, 0.3], RISING, {"patience": 3}),  # what the judge cannot tell is no look
    (FALLING, [0.1, None, 0.3, 0.4, 0.5, 0.6, 0.7], {}),  # the best look's training reward is not known
    (FALLING, [0.1, 0.2, None, None, None, None, None], {}),
])  # fmt: skip
def test_other_runs_go_on_to_their_end(held_out: list[float], training: list[float], keys: dict, tmp_path: Path) -> None:
    weight, rows = run(tmp_path, held_out, training, **keys)
    assert weight == STEPS and len(rows) == STEPS / EVERY


def test_what_cannot_be_watched_is_refused(tmp_path: Path) -> None:
    write_cases(tmp_path / "held_out.jsonl", CASES)
    tokenizer, ids = build_tokenizer(), {case.id for case in CASES}
    for wanted, training, judge, sentence in (
        (config(tmp_path), set(), None, "watch.judge is missing; name a reward model other than the training's"),
        (config(tmp_path, judge="r"), set(), None, "r is the training's own reward model"),
        (config(tmp_path, judge=tmp_path), set(), None, "not a reward model"),
        (config(tmp_path), ids, lambda _: [], "is among the training cases \\(3 of 3 are\\); watch held-out ones"),
    ):
        with pytest.raises(InputError, match=sentence):
            watch.watched_cases(wanted, tokenizer, training, judge)
    with pytest.raises(InputError, match="is the training's own reward model"):  # its adapter is the same one
        watch.watched_cases(config(tmp_path, judge="run/model").model_copy(update={"reward_model": Path("run/adapter")}), tokenizer, set(), None)
