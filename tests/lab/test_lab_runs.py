"""A laboratory from the command to its page, at a budget that shows whether it runs and nothing more."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from watching import children, until

from promedical_jax.cli import main
from promedical_jax.errors import InputError
from promedical_jax.lab import make as making
from promedical_jax.lab.budget import Bench
from promedical_jax.lab.experiment import name
from promedical_jax.lab.make import make
from promedical_jax.lab.recipe import LabConfig
from promedical_jax.lab.run import run
from promedical_jax.lab.tables import TABLES
from promedical_jax.lab.workers import make_all


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of T1, made by the command in this process."""
    out = tmp_path_factory.mktemp("lab")
    assert main(["lab", "T1", "--budget", "smoke", "--out", str(out), "--processes", "1"]) == 0
    return out


def folders(out: Path) -> dict[str, float]:
    return {str(file.parent.relative_to(out)): file.stat().st_mtime_ns for file in out.glob("seed*/*/figures.json")}


def test_a_table_is_made_of_what_it_needs(lab: Path) -> None:
    table = TABLES["T1"](Bench(LabConfig(table="T1", budget="smoke")))
    assert set(folders(lab)) == {name(row.experiment, 0) for row in table.rows} | {name(table.rows[0].experiment.base, 0)}
    kept = json.loads((lab / "T1.json").read_text())
    assert [row["name"] for row in kept["rows"]] == [row.name for row in table.rows]
    explicit = kept["rows"][0]
    assert explicit["paper"]["pairwise"] == 86.55 and 0 <= explicit["figures"]["pairwise"][0] <= 1
    assert explicit["figures"]["pairwise"][1:] == [None, None], "one seed has no interval"
    assert explicit["seeds"]["0"]["pairwise"] == pytest.approx(explicit["figures"]["pairwise"][0], abs=1e-6)
    assert {claim["verdict"] for claim in kept["claims"]} == {"undecided"}
    assert kept["made"]["other_code"] == 0 and kept["made"]["seeds"] == 1


def test_the_page_says_what_the_figures_are_and_loads_nothing(lab: Path) -> None:
    page = (lab / "lab.html").read_text()
    kept = json.loads((lab / "T1.json").read_text())
    for row in kept["rows"]:
        assert row["name"] in page
        assert f"{100 * row['figures']['pairwise'][0]:.1f}" in page
    assert "86.5" in page or "86.6" in page
    assert page.count(">undecided<") == len(kept["claims"])
    assert not re.search(r"<script|https?://|src=|@import", page.replace("http-equiv", ""))


def test_again_nothing_is_trained(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = folders(lab)
    assert main(["lab", "T1", "--budget", "smoke", "--out", str(lab)]) == 0
    assert main(["lab", "T1", "--budget", "smoke", "--out", str(lab), "--render", "true"]) == 0
    said = capsys.readouterr()
    assert folders(lab) == before and "to train and measure" not in said.err
    assert said.out.count("T1  Reward models") == 2 and "paper 86.5" in said.out.replace("86.6", "86.5") and "undecided" in said.out


def test_a_dry_run_says_what_is_there_and_what_is_missing(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(lab.rglob("*"))
    assert main(["lab", "T2", "--budget", "smoke", "--out", str(lab), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "1 of kind judge; 4 are there" in said and sorted(lab.rglob("*")) == before


def test_what_is_missing_is_named_where_nothing_may_be_trained(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "T2", "--budget", "smoke", "--out", str(lab), "--render", "true"]) == 2
    assert "1 of 4 are not made yet, such as seed0/judge-" in capsys.readouterr().err


def test_a_damaged_figure_is_named(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = next(lab.glob("seed0/judge-*/figures.json"))
    whole = file.read_text()
    file.write_text(whole[:20])
    try:
        assert main(["lab", "T1", "--budget", "smoke", "--out", str(lab), "--render", "true"]) == 2
        assert f"{file}: cannot be read" in capsys.readouterr().err
    finally:
        file.write_text(whole)


def test_figures_of_another_state_of_the_code_are_told_apart(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promedical_jax.lab.run.fingerprint", lambda: "another")
    [shown] = run(LabConfig(table="T1", budget="smoke", out=lab, render=True))
    assert shown.made.other_code == shown.made.measured == 4
    assert "were made by another state of the code" in (lab / "lab.html").read_text()
    monkeypatch.undo()
    run(LabConfig(table="T1", budget="smoke", out=lab, render=True))
    assert "another state" not in (lab / "lab.html").read_text().lower()


def test_a_policy_is_trained_on_a_judge_that_is_there_and_measured_by_the_truth(lab: Path) -> None:
    bench, before = Bench(LabConfig(table="T4", budget="smoke")), folders(lab)
    policy = bench.grpo(bench.judge(), "tiered")
    make(policy, 0, lab)
    assert {key: value for key, value in folders(lab).items() if key in before} == before
    kept = json.loads((lab / name(policy, 0) / "figures.json").read_text())["figures"]
    assert {"safe", "s1", "s2", "overall", "win", "over_refusal", "kl", "gap", "hacked"} <= kept.keys()
    assert kept.get("misordered", 0) == 0 and kept["gap"] < 1e-4 and 0 <= kept["win"] <= 1
    curves = json.loads((lab / name(policy, 0) / "curves.json").read_text())
    assert curves["step"] == [0, 1] and len(curves["true_safe"]) == 2
    answers = [json.loads(line) for line in (lab / name(policy, 0) / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 8 and all(len(row["texts"]) == 4 for row in answers)


def test_a_fault_is_a_sentence_and_the_rest_is_kept(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(LabConfig(table="T1", budget="smoke"))
    made = []

    def breaks(experiment: object, seed: int, folder: Path) -> dict[str, float]:
        made.append(seed)
        raise ZeroDivisionError if seed else InputError("the disk is full; make room")

    monkeypatch.setattr(making, "_base", breaks)
    with pytest.raises(InputError, match=r"seed0/base-\w+: the disk is full; make room; the same command goes on"):
        make_all([bench.base()], [0], tmp_path, 1, lambda said: None)
    with pytest.raises(InputError, match="an error that is ours, in the last lines of"):
        make_all([bench.base()], [1], tmp_path, 1, lambda said: None)
    assert "ZeroDivisionError" in (tmp_path / name(bench.base(), 1) / "log.txt").read_text()
    assert not list(tmp_path.rglob("figures.json")) and made == [0, 1]


def test_two_do_not_work_in_one_folder(lab: Path) -> None:
    import fcntl

    with (lab / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another laboratory is at work there"):
            run(LabConfig(table="T1", budget="smoke", out=lab, render=True))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="sees a process's children in /proc")
def test_workers_end_with_a_laboratory_that_is_killed(tmp_path: Path) -> None:
    """Else they would train on, into the folders of the laboratory that is started after it."""
    command = [sys.executable, "-m", "promedical_jax.cli", "lab", "T1", "--budget", "smoke", "--out", str(tmp_path / "lab"), "--processes", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as laboratory:
        until(lambda: list(tmp_path.glob("lab/seed0/*/log.txt")), 60)  # a worker is at work
        workers = children(laboratory)
        assert workers and any(map(runs, workers))
        laboratory.kill()
    until(lambda: not any(map(runs, workers)), 60)


def runs(pid: int) -> bool:
    """Whether the process is there and has not ended; its state stands behind its name, in brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("table", ["T3", "T4", "T5", "T6"])
def test_every_table_runs(table: str, lab: Path) -> None:
    assert main(["lab", table, "--budget", "smoke", "--out", str(lab), "--processes", "2"]) == 0
    assert f'id="{table}"' in (lab / "lab.html").read_text()
