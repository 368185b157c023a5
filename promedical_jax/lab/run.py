"""`promedical lab`: makes what the tables ask for, and says what they show."""

import fcntl
import json
import os
import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from promedical_jax.atomic import replacing
from promedical_jax.errors import InputError
from promedical_jax.lab.budget import Bench
from promedical_jax.lab.code import fingerprint
from promedical_jax.lab.experiment import CURVES, FIGURES, in_order, is_made, name
from promedical_jax.lab.findings import check, judge
from promedical_jax.lab.page import write_page
from promedical_jax.lab.recipe import LabConfig
from promedical_jax.lab.report import Made, Shown, as_json, print_table
from promedical_jax.lab.tables import TABLES, Table
from promedical_jax.lab.workers import cores, make_all


class Plan(NamedTuple):
    """What a laboratory would do. `kinds`: how many of each kind are to be trained and measured; `there`: how many are already."""

    tables: list[str]
    seeds: int
    kinds: Counter[str]
    there: int


def _tables(config: LabConfig, bench: Bench) -> list[Table]:
    return [make(bench) for key, make in TABLES.items() if config.table in (key, "all")]


def planned(config: LabConfig) -> Plan:
    bench = Bench(config)
    tables = _tables(config, bench)
    every = [(one, seed) for one in in_order([row.experiment for table in tables for row in table.rows]) for seed in range(bench.seeds)]
    left = [one for one, seed in every if not is_made(one, seed, config.out)]
    return Plan([table.name for table in tables], bench.seeds, Counter(type(one).__name__.lower() for one in left), len(every) - len(left))


def run(config: LabConfig) -> list[Shown]:
    """Makes what is missing for the tables, prints them, and writes <table>.json and lab.html into `out`. Raises InputError where a training failed, where
    another laboratory is at work in `out`, and with `render` where something is missing."""
    bench, console = Bench(config), Console(stderr=True)
    tables = _tables(config, bench)
    seeds = list(range(bench.seeds))
    wanted = list({name(row.experiment, 0): row.experiment for table in tables for row in table.rows}.values())
    with _alone(config.out):
        if config.render:
            missing = [name(one, seed) for one in wanted for seed in seeds if not is_made(one, seed, config.out)]
            if missing:
                count = f"{len(missing)} of {len(wanted) * len(seeds)} are not made yet, such as {missing[0]}"
                raise InputError(f"{config.out}: {count}; leave --render out to make them")
        else:
            say = lambda text: console.print(text, soft_wrap=True, highlight=False)  # noqa: E731
            make_all(wanted, seeds, config.out, config.processes or _processes(), say)
        shown = [_show(table, seeds, config) for table in tables]
        for one in shown:
            print_table(one, Console())
            with replacing(config.out / f"{one.table.name}.json") as file:
                file.write_text(json.dumps(as_json(one), indent=2) + "\n", encoding="utf-8")
        write_page(config.out / "lab.html", shown)
    failed = [f"{one.table.name}: {each.check.says}" for one in shown for each in one.checks if not each.passed]
    console.print(f"page: {config.out / 'lab.html'}", soft_wrap=True, highlight=False)
    if failed:
        console.print(f"{len(failed)} of the checks of our own code did not pass: {'; '.join(failed)}", soft_wrap=True, highlight=False)
    return shown


def _show(table: Table, seeds: Sequence[int], config: LabConfig) -> Shown:
    kept = _read(table, seeds, config.out)
    figures = {row: {seed: one["figures"] for seed, one in held.items()} for row, held in kept.items()}
    made = [one for held in kept.values() for one in held.values()]
    drawn = [row for row in table.rows if row.name in table.curves]
    curves = {row.name: [json.loads((config.out / name(row.experiment, seed) / CURVES).read_text()) for seed in seeds] for row in drawn}
    about = Made(
        command=f"promedical lab {table.name} --budget {config.budget}" + ("" if config.seeds is None else f" --seeds {config.seeds}"),
        seeds=len(seeds),
        budget=config.budget,
        versions={"python": platform.python_version()} | {one: version(one) for one in ("promedical-jax", "jax", "flax", "optax")},
        machine=f"{os.cpu_count()} cores, {platform.machine()}",
        seconds=round(sum(one["seconds"] for one in made), 1),
        other_code=sum(one["code"] != fingerprint() for one in made),
        measured=len(made),
    )
    return Shown(table, figures, judge(table, figures), check(table, figures), curves, about)


def _read(table: Table, seeds: Sequence[int], out: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Row -> seed -> what figures.json holds."""
    kept: dict[str, dict[int, dict[str, Any]]] = {}
    for row in table.rows:
        kept[row.name] = {}
        for seed in seeds:
            file = out / name(row.experiment, seed) / FIGURES
            try:
                one = json.loads(file.read_text(encoding="utf-8"))
                kept[row.name][seed] = {key: one[key] for key in ("figures", "seconds", "code")}
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(f"{file}: cannot be read ({error}); delete it, and it is measured again") from None
    return kept


def _processes() -> int:
    """A worker a core; where there is an accelerator, one."""
    import jax

    return len(cores()) if jax.default_backend() == "cpu" else 1


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two at work in one folder would write into the same runs."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / "lock").open("w")
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror or error}); choose another --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{out}: another laboratory is at work there; wait for it, or choose another --out") from None
        yield
