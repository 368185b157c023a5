"""What a run says of itself: metrics.jsonl and TensorBoard, JSONL ledgers, and progress with tokens/s and time left."""

import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from promedical_jax.atomic import replacing
from promedical_jax.cluster import chief


class Lines:
    """A JSONL file of rows with a `step`, appended to as the run goes. Opening it for step n drops rows from step n on: a killed run's rows past its
    last checkpoint will be made again. Only process 0 writes."""

    def __init__(self, path: Path, step: int):
        if not chief():
            path = Path(os.devnull)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            with replacing(path) as part, path.open() as old, part.open("w") as new:
                for line in old:
                    if line.endswith("\n") and json.loads(line)["step"] < step:
                        new.write(line)
        self._file: IO[str] = path.open("a")

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            self._file.write(json.dumps(row, allow_nan=False) + "\n")

    def flush(self) -> None:
        self._file.flush()
        if self._file.name != os.devnull:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class Metrics:
    """Metrics of one stage to `folder`/metrics.jsonl and to TensorBoard files beside it."""

    def __init__(self, folder: Path, step: int):
        from tensorboardX import SummaryWriter

        self._lines = Lines(folder / "metrics.jsonl", step)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step, write_to_disk=chief())

    def write(self, step: int, values: dict[str, float]) -> None:
        """`step` counts from 0; values are floats by name, TRL's names where TRL has one."""
        self._lines.write([{"step": step} | {name: value if math.isfinite(value) else None for name, value in values.items()}])  # JSON has no NaN
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._lines.close()
        self._board.close()


class Meter:
    """Progress of one stage: a live bar on a terminal, a line every few seconds elsewhere; steps, tokens/s, the newest figures, time left.
    Only process 0 shows it."""

    def __init__(self, title: str, steps: int, done: int, console: Console | None = None, every: float = 10.0):
        self._console = console or Console(stderr=True, quiet=not chief())
        self._steps, self._first, self._title, self._every = steps, done, title, every
        self._begin: float | None = None  # set by the first step: compiling is not speed
        self._tokens, self._note, self._said = 0.0, "", time.monotonic()
        columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(title, total=steps, completed=done, note="compiling")

    def __enter__(self) -> Self:
        self._bar.start()
        if not self._console.is_terminal:
            self._console.print(f"{self._title}: step {self._first} of {self._steps}, compiling")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def advance(self, done: int, tokens: float, values: dict[str, float] | None = None) -> None:
        """After step `done` (counted from 1) of `tokens` tokens; `values` are shown where given."""
        now = time.monotonic()
        if values:
            self._note = "  ".join(f"{name} {value:.3g}" for name, value in values.items())
        if self._begin is None:
            self._begin, self._first = now, done
        else:
            self._tokens += tokens
        speed = self._tokens / max(now - self._begin, 1e-9)
        note = "  ".join(part for part in (f"{speed:,.0f} tokens/s" if self._tokens else "", self._note) if part)
        self._bar.update(self._task, completed=done, note=note)
        if not self._console.is_terminal and (now - self._said > self._every or done == self._steps):
            self._said = now
            left = (now - self._begin) / max(done - self._first, 1) * (self._steps - done)
            self._console.print(f"{self._title}: step {done} of {self._steps}, {note}, {left:.0f} s left", highlight=False, soft_wrap=True)
