"""What a run says of itself: metrics.jsonl and TensorBoard, JSONL ledgers, and progress with tokens/s and time left."""

import json
import math
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from promedical_jax.cluster import chief


class Lines:
    """A JSONL file of rows, appended to as the run goes on from `position`, the bytes that a checkpoint remembers of it. What stands behind them is cut off: a
    killed run's rows past its last checkpoint will be made again. Where rows before it are gone, it says so. Only process 0 writes."""

    def __init__(self, path: Path, position: int = 0):
        if not chief():
            path = Path(os.devnull)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file: IO[bytes] = path.open("ab")
        if chief():
            whole = os.path.getsize(path)
            os.truncate(path, position if whole >= position else _end_of_rows(path))
            if whole < position:
                said = f"{path}: {position - whole:,} bytes of rows are missing that it had when the checkpoint was saved; the run goes on without them"
                Console(stderr=True).print(said, soft_wrap=True, highlight=False)

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        with _named(self._path):
            for row in rows:
                self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")

    def flush(self) -> int:
        """Puts all rows on the disk; returns the position behind them."""
        if not chief():
            return 0
        with _named(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        with _named(self._path):
            self._file.close()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Python does not say in which file there was no room."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _end_of_rows(path: Path) -> int:
    """Where the last whole row ends."""
    return path.read_bytes().rfind(b"\n") + 1


class Metrics:
    """Metrics of one stage to `folder`/metrics.jsonl and to TensorBoard files beside it, from `step` on; `position`: of the former's rows before it."""

    def __init__(self, folder: Path, step: int, position: int = 0):
        from tensorboardX import SummaryWriter

        self._lines = Lines(folder / "metrics.jsonl", position)
        self._before, self._folder = threading.excepthook, folder
        threading.excepthook = self._hear
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step, write_to_disk=chief())

    def write(self, step: int, values: dict[str, float]) -> None:
        """`step` counts from 0; values are floats by name, TRL's names where TRL has one."""
        self._lines.write([{"step": step} | {name: value if math.isfinite(value) else None for name, value in values.items()}])  # JSON has no NaN
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def flush(self) -> int:
        """Puts all rows on the disk; returns the position behind those of metrics.jsonl."""
        return self._lines.flush()

    def close(self) -> None:
        try:
            self._lines.close()
        finally:
            self._close_board()
            threading.excepthook = self._before

    def _close_board(self) -> None:
        try:
            self._board.close()
        except OSError:
            if self._board.file_writer:  # it left its thread and would try again at the exit, both with tracebacks
                writer = self._board.file_writer.event_writer
                writer._closed = True
                writer._worker.stop()

    def _hear(self, fault: threading.ExceptHookArgs) -> None:
        """Where tensorboardX's own thread finds no room, a sentence in the place of its traceback."""
        if not isinstance(fault.exc_value, OSError) or type(fault.thread).__module__.partition(".")[0] != "tensorboardX":
            self._before(fault)
            return
        said = f"{self._folder / 'tensorboard'}: {fault.exc_value.strerror}; nothing more is written there"
        Console(stderr=True).print(said, soft_wrap=True, highlight=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        except OSError:
            if kind is None:
                raise


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
