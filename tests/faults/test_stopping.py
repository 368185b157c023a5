"""SIGTERM in the middle of a run: the step is finished and saved, the exit code known, and the run goes on as if nobody had stopped it."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from streams import Stream

from promedical_jax.cli import main
from promedical_jax.config import SftConfig
from promedical_jax.errors import Stopped
from promedical_jax.model.sharding import make_mesh
from promedical_jax.train import sft
from promedical_jax.train.checkpoint import steps
from promedical_jax.train.guards import SkipStep
from promedical_jax.train.loop import run_steps
from promedical_jax.train.optimizer import make_optimizer, start, update


class Books:
    """Remembers what it was shown, and looks at each checkpoint but those of a notice."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.looks: list[int] = []

    def begin(self, remembered: Any) -> None:
        self.seen, self.looks = (list(one) for one in remembered or ([], []))

    def remember(self) -> Any:
        return [self.seen, self.looks]

    def look(self, policy: Any, done: int) -> float | None:
        self.looks.append(done)
        return float(done)

    def go_back(self) -> int | None:
        return None


def run(out: Path, told: int | None = None) -> tuple[list[float], Books, list[dict]]:
    """A run of nine steps, each moved by the data's position, of which two are skipped; `told`: the step, from 0, in which SIGTERM comes."""
    config = SftConfig(out=out, cases=Path("c"), model=Path("m"), steps=9, log_every=2, save_every=4)
    mesh, books, stream = make_mesh(devices=jax.devices()[:1]), Books(), Stream()
    optimizer = make_optimizer(config.optimizer, 9)
    with jax.set_mesh(mesh):
        state, where = start({"w": np.zeros(3, np.float32)}, {"w": (None,)}, optimizer, mesh)

        def advance(state: Any, _: Any, number: int) -> Any:
            if number == told:
                os.kill(os.getpid(), signal.SIGTERM)
            if number in (3, 4):
                raise SkipStep("nothing to learn from")
            books.seen.append(stream.taken)
            return update(state, {"w": jnp.full(3, float(stream.taken))}, optimizer), {"loss": float(number)}

        state = run_steps(config, "test", state, where, stream, advance, tokens=lambda _: 1.0, shown=(), beside=books)
    return np.asarray(state.params["w"]).tolist(), books, [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("told", [0, 2, 3, 4, 7])
def test_a_step_under_way_is_finished_and_saved(told: int, tmp_path: Path) -> None:
    weights, books, rows = run(tmp_path / "straight")
    with pytest.raises(Stopped) as end:
        run(tmp_path / "stopped", told)
    done = told + 1
    assert str(end.value) == f"{tmp_path / 'stopped'}: told to stop, and stopped after step {done} of 9, which is saved; the same command goes on from there"
    assert steps(tmp_path / "stopped" / "checkpoints")[-1] == done and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    again, gone_on, more = run(tmp_path / "stopped")
    assert (again, more, gone_on.seen, gone_on.looks) == (weights, rows, books.seen, books.looks)
    assert books.looks == [4, 8, 9] and [row["skipped"] for row in rows] == [0, 1, 1, 0, 0]


def test_in_the_last_step_there_is_nothing_to_stop(tmp_path: Path) -> None:
    assert run(tmp_path / "late", told=8)[0] == run(tmp_path / "straight")[0]


def test_a_run_that_is_told_before_its_first_step_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes while the books are opened."""
    monkeypatch.setattr(Books, "begin", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="told to stop, and stopped before its first step; the same command goes on from there"):
        run(tmp_path)
    assert steps(tmp_path / "checkpoints") == []


def test_the_command_ends_with_75_and_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sft, "run", lambda *_, **__: run(tmp_path, told=2))
    assert main(["train", "sft", "--out", str(tmp_path), "--cases", "c", "--model", "m"]) == 75
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"stopped: {tmp_path}: told to stop, and stopped after step 3 of 9, which is saved; the same")


def test_a_thread_leaves_the_signals_to_who_has_them(tmp_path: Path) -> None:
    ended: list[Any] = []
    thread = threading.Thread(target=lambda: ended.append(run(tmp_path)[0]))
    thread.start()
    thread.join()
    assert ended == [run(tmp_path / "straight")[0]]
