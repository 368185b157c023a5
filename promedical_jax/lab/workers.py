"""Trainings side by side: each worker is a process of its own on a core of its own, for a model this small gains nothing from a second one.

What the stages say goes to a file beside the experiment; here a line says what is done.
"""

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from threading import Thread
from typing import NamedTuple, Self

from promedical_jax.errors import InputError
from promedical_jax.lab.experiment import Base, Experiment, in_order, is_made, name, needs

LOG = "log.txt"
FORGET_AFTER = 8  # experiments: a process that keeps every program it compiled runs out of pieces of memory
_made = 0
Say = Callable[[str], None]


def make_all(wanted: Sequence[Experiment], seeds: Sequence[int], out: Path, processes: int, say: Say) -> None:
    """Makes what is not done yet, each as soon as what it needs is there. Raises InputError where one failed, when the others that are under way have ended."""
    tasks = [Task(one, seed) for seed in seeds for one in in_order(wanted)]
    waiting = {name(*task): task for task in tasks if not is_made(*task, out)}
    if not waiting:
        return
    kinds = Counter(type(task.experiment).__name__.lower() for task in waiting.values())
    say(f"{len(waiting)} to train and measure: {', '.join(f'{count} of kind {kind}' for kind, count in kinds.items())}")
    began, total, failed = time.monotonic(), len(waiting), list[str]()

    def following() -> Task | None:
        """Of those that need nothing which is still to come: a base first, for which all others of its seed wait; then what trains by another program than
        those under way, so that one of them compiles it and the others find it."""
        ready = (task for task in waiting.values() if not any(name(need, task.seed) in left for need in needs(task.experiment)))
        kinds = {type(task.experiment) for task in running.values()}
        return min(ready, key=lambda task: (not isinstance(task.experiment, Base), type(task.experiment) in kinds), default=None)

    left, running = set(waiting), dict[Future[str | None], Task]()
    with _pool(min(processes, total)) as pool:
        while waiting or running:
            while not failed and len(running) < processes and (task := following()):
                del waiting[name(task.experiment, task.seed)]
                running[pool.submit(_make, task.experiment, task.seed, out)] = task
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                folder = name(task.experiment, task.seed)
                left.discard(folder)
                try:
                    fault = future.result()
                except BrokenProcessPool:
                    fault = "a worker was killed, for want of memory perhaps; give fewer --processes"
                failed += [f"{folder}: {fault}"] if fault else []
                say(f"  {total - len(left)} of {total}, after {time.monotonic() - began:.0f} s: {folder}{' failed' if fault else ''}")
    if failed:
        raise InputError(f"{failed[0]}; the same command goes on with the rest")


class Task(NamedTuple):
    experiment: Experiment
    seed: int


class Here:
    """The place of a pool where one training at a time is wanted: this process. Nothing is started that a debugger or a test could not see into."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[..., str | None], *given: object) -> Future[str | None]:
        future: Future[str | None] = Future()
        future.set_result(work(*given))
        return future


def _pool(processes: int) -> Here | ProcessPoolExecutor:
    if processes == 1:
        return Here()
    spawn = multiprocessing.get_context("spawn")
    shares = spawn.Queue()
    for i in range(processes):
        shares.put(cores()[i::processes])
    return ProcessPoolExecutor(processes, mp_context=spawn, initializer=_settle, initargs=(shares,))


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _settle(shares: "multiprocessing.Queue[list[int]]") -> None:
    """A worker's first acts, before JAX counts the cores: it keeps to its share of them, where the system can hold it to that, and ends with its laboratory,
    however that ends: what is trained on would meet the next laboratory's in the same folder."""
    Thread(target=_end_with_the_laboratory, daemon=True).start()
    mine = shares.get()
    if mine and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, mine)


def _end_with_the_laboratory() -> None:
    laboratory = multiprocessing.parent_process()
    assert laboratory
    laboratory.join()
    os._exit(1)


def _make(one: Experiment, seed: int, out: Path) -> str | None:
    """Makes it; returns what went wrong, as a sentence."""
    global _made
    import jax

    from promedical_jax.lab.make import make

    jax.config.update("jax_compilation_cache_dir", str((out / "compiled").resolve()))  # all experiments run the same few programs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    folder = out / name(one, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            make(one, seed, out)
        except InputError as error:
            return str(error)
        except Exception:
            import traceback

            traceback.print_exc(file=log)
            return f"an error that is ours, in the last lines of {folder / LOG}"
        finally:
            _made += 1
            if _made % FORGET_AFTER == 0:
                jax.clear_caches()
    return None
