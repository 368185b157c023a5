"""How far the questions to an endpoint are: a bar on a terminal, a line now and then elsewhere, with what was spent and the time that is left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 30.0  # seconds between lines


@contextmanager
def progress(title: str, spent: Callable[[], float], console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Gives what is to be told after each reply: how many questions were replied to or given up, and how many there are. spent: money, of all runs."""
    console = console or Console(stderr=True)
    began = said = time.monotonic()
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("spent {task.fields[spent]:.4g}"))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=None, spent=0.0)

        def tell(done: int, of: int) -> None:
            nonlocal said
            now = time.monotonic()
            if console.is_terminal:
                bar.update(task, completed=done, total=of, spent=spent())
            elif now - said > EVERY:
                said = now
                left = (now - began) / done * (of - done)
                console.print(f"  {title}: {done:,} of {of:,}, spent {spent():.4g}, {_duration(left)} left", highlight=False, soft_wrap=True)

        yield tell


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
