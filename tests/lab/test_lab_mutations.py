"""Five bugs planted on purpose: at the small budget each fails a check that the sound code passes. On request: half an hour.

What a bug does not touch is taken from the sound laboratory, so that each mutant trains only what learns in another way.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from planted import BUGS

from promedical_jax.lab.budget import Bench
from promedical_jax.lab.experiment import name
from promedical_jax.lab.recipe import LabConfig
from promedical_jax.lab.tables import TABLES

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
# The bug -> the table that sees it, the rows that learn with it, and how the check begins that fails.
CAUGHT = {
    "flipped_veto": ("T4", ("scalar",), "training by verdicts makes answers safer (scalar)"),
    "dropped_text": ("T1", ("explicit",), "the criterion’s text is read"),
    "skipped_calibration": ("T1", ("explicit",), "verdicts are calibrated"),
    "stale_sampler": ("T4", ("scalar", "lexicographic", "tiered"), "sampler and trainer have the same weights"),
    "shuffled_groups": ("T4", ("scalar", "lexicographic", "tiered"), "no better answer of a group has the lower advantage"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A laboratory of the sound code, whose checks all pass."""
    out = tmp_path_factory.mktemp("sound")
    for table in ("T1", "T4"):
        subprocess.run([sys.executable, "-m", "promedical_jax.cli", "lab", table, "--out", str(out)], check=True, capture_output=True)
        assert [one["says"] for one in json.loads((out / f"{table}.json").read_text())["checks"] if not one["passed"]] == []
    return out


def test_each_bug_has_its_check() -> None:
    assert CAUGHT.keys() == BUGS.keys()


@pytest.mark.parametrize("bug", CAUGHT)
def test_a_planted_bug_is_caught(bug: str, sound: Path, tmp_path: Path) -> None:
    table, rows, caught_by = CAUGHT[bug]
    out = tmp_path / "mutant"
    shutil.copytree(sound, out)
    config = LabConfig(table=table, budget="small")
    experiments = [row.experiment for row in TABLES[table](Bench(config)).rows if row.name in rows]
    assert len(experiments) == len(rows)
    for one in experiments:
        for seed in range(3):
            shutil.rmtree(out / name(one, seed))
    done = subprocess.run([sys.executable, str(HERE / "planted.py"), bug, table, str(out)], capture_output=True, text=True, check=True)
    failed = json.loads(done.stdout.splitlines()[-1])
    print(bug, failed)
    assert any(says.startswith(caught_by) for says in failed), failed
