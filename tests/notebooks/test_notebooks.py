"""The notebooks run from top to bottom at small sizes, and are committed without what they said."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import jax
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them run, in their order: the second one finds what the first one trained."""
    return tmp_path_factory.mktemp("notebooks")


def ran(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The outputs of each code cell."""
    monkeypatch.setenv("PROMEDICAL_SMALL", "1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    book = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(place)}}).execute()
    return [cell.outputs for cell in book.cells if cell.cell_type == "code"]


def shown(outputs: list[Any], kind: str) -> str:
    [found] = [output.data[kind] for output in outputs if output.output_type == "execute_result"]
    return found


def test_there_are_three_and_each_is_named_in_the_readme() -> None:
    readme = (FOLDER.parent / "README.md").read_text()
    assert [book.stem for book in BOOKS] == ["01_quickstart", "02_score_your_answers", "03_plan_a_pod"]
    assert all(f"notebooks/{book.name}" in readme for book in BOOKS)


@pytest.mark.parametrize("file", BOOKS, ids=lambda file: file.stem)
def test_it_is_committed_as_it_was_written(file: Path) -> None:
    book = nbformat.read(file, 4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code) and "pip install" in code[0].source
    assert not re.search(r"/(?:home|work|tmp|root|Users)/", file.read_text())


def test_the_quickstart(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, table, page, ledger = ran("01_quickstart", place, monkeypatch)
    report = json.loads((place / "runs" / "quickstart" / "report.json").read_text())
    rows = [line.split("|") for line in shown(table, "text/markdown").splitlines()[2:]]
    assert [float(row[3].split("%")[0]) for row in rows] == [round(100 * report["aligned"][name]["mean"], 1) for name in ("safe", "s1", "s2")]
    assert "&lt;svg" in shown(page, "text/html") and re.search(r"\| (?:met|unmet|abstain) \|$", shown(ledger, "text/markdown"))


def test_scoring(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, table, scores, rows = ran("02_score_your_answers", place, monkeypatch)
    said = [line.split("|")[2:4] for line in shown(table, "text/markdown").splitlines()[2:]]
    assert len(said) == 5 and all(re.fullmatch(r" (met|unmet|abstain), \d+% ?", cell) for row in said for cell in row)
    assert re.match(r"S1 \[.* S2 \[.* S3 \[.* best: (good|harmful)", scores[-1].text)
    assert "probability" in shown(rows, "text/plain")


def test_planning(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, plans, moved = ran("03_plan_a_pod", place, monkeypatch)
    assert re.search(r"cpu:8: fits.*\d+\.\d of \d+\.\d GiB a chip", shown(plans, "text/html"), re.DOTALL) and "all-gather" in shown(moved, "text/markdown")
