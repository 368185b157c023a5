"""The whole path: what it writes, how it goes on, and (slow) that it learns what it claims."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from promedical_jax.bench.parts import cell
from promedical_jax.bench.report import read_report
from promedical_jax.suites.compare import against, read_runs
from promedical_jax.suites.compare_page import page

TINY = ["--train_cases", "64", "--held_out_cases", "8", "--sft_steps", "4", "--rm_steps", "3", "--grpo_steps", "2"]


# Compiled functions are shared between the processes, as conftest.py shares them between tests.
ENVIRONMENT = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
QUICKLY = ENVIRONMENT | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}  # for few steps


def quickstart(out: Path, *flags: str, environment: dict[str, str] = QUICKLY) -> subprocess.CompletedProcess[str]:
    """In a process of its own with one device, as a user runs it."""
    command = [sys.executable, "-m", "promedical_jax.cli", "quickstart", "--out", str(out), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quickstart") / "run"
    done = quickstart(out, *TINY)
    assert done.returncode == 0, done.stderr
    assert "base" in done.stdout and "aligned" in done.stdout
    return out


def test_writes_what_it_promises(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    for policy in ("base", "aligned"):
        for figure in ("s1", "s2", "safe"):
            assert report[policy][figure].keys() == {"mean", "low", "high"}
            assert 0 <= report[policy][figure]["low"] <= report[policy][figure]["mean"] <= report[policy][figure]["high"] <= 1
    assert report["win_rate"].keys() == {"mean", "low", "high"}
    assert "<svg" in (finished / "report.html").read_text()
    assert (finished / "cases" / "held_out.jsonl").exists() and (finished / "grpo" / "model" / "model.safetensors").exists()
    for stage in ("sft", "rm", "grpo"):
        assert any((finished / stage / "checkpoints").iterdir())


def test_both_policies_are_runs_that_are_compared_and_have_the_reports_figures(finished: Path) -> None:
    """What `promedical bench compare` reads has the figures and intervals of report.json to the last bit, and its page shows them to all printed digits."""
    report, folders = read_report(finished / "report.json"), [finished / "bench" / name for name in ("base", "aligned")]
    base, aligned = read_runs(folders)
    names = {"safe": "safe answers", "s1": "S1 proficiency", "s2": "S2 excellence", "s3": "S3 violations", "length": "length, tokens"}
    html = page([base, aligned])
    for run, wanted in ((base, report.base), (aligned, report.aligned)):
        assert run.report.items == wanted.n_cases and sum(len(mark.reply) for mark in run.marks.values()) == wanted.n_answers  # type: ignore[arg-type]
        for theirs, ours in names.items():
            assert run.report.figures[ours].interval == getattr(wanted, theirs), ours
            shown = html[html.index(f"<td>{ours}<span>") :].split("</tr>")[0]
            assert cell(run.name, getattr(wanted, theirs), share=theirs in ("safe", "s1", "s2")) in shown
        assert run.report.judge == "the clinic's checker, which knows the truth"
    found = against(base, aligned)
    assert found and found.win_rate.interval == report.win_rate and cell("Win rate", report.win_rate) in html
    assert found.won + found.tied + found.lost == report.base.n_cases


@pytest.mark.slow
def test_a_run_by_the_command_samples_the_same_and_judges_the_same(finished: Path, tmp_path: Path) -> None:
    """Sampled anew by the recipe's answers and seed, the two runs are the quickstart's own, byte for byte."""
    for name, stage in (("base", "sft"), ("aligned", "grpo")):
        command = ["bench", "run", "--suite", "promedical-policy", "--data", str(finished / "cases" / "held_out.jsonl"), "--policy",
                   str(finished / stage / "model"), "--sampling.answers", "8", "--sampling.answer_tokens", "48", "--batch", "16"]  # fmt: skip
        whole = [sys.executable, "-m", "promedical_jax.cli", *command, "--out", str(tmp_path / name)]
        done = subprocess.run(whole, capture_output=True, text=True, check=False, env=QUICKLY)
        assert done.returncode == 0, done.stderr
        for file in ("items.jsonl", "report.json"):
            assert (tmp_path / name / file).read_bytes() == (finished / "bench" / name / file).read_bytes()


def test_ledger_has_a_row_for_each_rollout_and_criterion(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "ledger.jsonl").open()]
    cases = {case["id"]: case for case in map(json.loads, (finished / "cases" / "train.jsonl").open())}
    expected = {(step, case, sample) for step, case, sample in {(r["step"], r["case"], r["sample"]) for r in rows}}
    assert len(expected) == 2 * 16 * 8
    keys = [(r["step"], r["case"], r["sample"], r["criterion"]) for r in rows]
    assert len(keys) == len(set(keys)) == sum(len(cases[case]["rubric"]["criteria"]) for _, case, _ in expected)


def test_a_second_run_overwrites_nothing(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    again = quickstart(finished, *TINY)
    assert again.returncode == 0 and "nothing to do" in again.stderr
    other = quickstart(finished, *TINY, "--seed", "7")
    assert other.returncode == 2 and "another --out" in other.stderr
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}


def test_refuses_a_folder_with_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    refused = quickstart(tmp_path, *TINY)
    assert refused.returncode == 2 and "not empty" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_goes_on_where_it_was_interrupted(finished: Path, tmp_path: Path) -> None:
    """Killed between stages, the run ends with the uninterrupted run's figures: every draw is a function of the seed."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "promedical_jax.cli", "quickstart", "--out", str(out), *TINY]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=QUICKLY) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("4/5"):
                process.kill()
    resumed = quickstart(out, *TINY)
    assert resumed.returncode == 0 and "going on" in resumed.stderr
    ours, theirs = read_report(out / "report.json"), read_report(finished / "report.json")
    assert (ours.base, ours.aligned, ours.win_rate) == (theirs.base, theirs.aligned, theirs.win_rate)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learns_safety_without_losing_skill(seed: int, tmp_path: Path) -> None:
    """By the clinic's truth on held-out cases: 15 points more safe answers, S1 not below the base."""
    done = quickstart(tmp_path / "run", "--seed", str(seed), environment=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    report = read_report(tmp_path / "run" / "report.json")
    assert report.aligned.safe.mean >= report.base.safe.mean + 0.15
    assert report.aligned.s1.mean >= report.base.s1.mean
