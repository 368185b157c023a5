"""README.md does what it says: each of its commands is run in a shell, its Python runs, and what it shows is what comes out.

The commands run from top to bottom as a reader would, in a folder that looks like the repository, with flags appended that make them small, and with
something smaller in the place of the chips, hosts and models that a test does not have. Each takes a process that compiles for half a minute: the first
sections' run by default, the others with `-m slow`, and by default it is looked at whether each command and flag is known.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from served import Server

from promedical_jax.bench import Report
from promedical_jax.cli import main
from promedical_jax.config import GrpoConfig, Mesh, QuickstartConfig, RmConfig, SftConfig, Stage
from promedical_jax.corpus.recipe import CorpusConfig
from promedical_jax.model.hf import known_config
from promedical_jax.plan.chips import CHIPS
from promedical_jax.quickstart import stages
from promedical_jax.recipe import keys, read_recipe
from promedical_jax.rubric import Case, read_cases
from promedical_jax.serve.recipe import ServeConfig
from promedical_jax.suites.known import SUITES
from promedical_jax.suites.medsafety import read_harmless
from tests.conftest import CACHE

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCHEMAS: dict[str, type[Stage]] = {"sft": SftConfig, "rm": RmConfig, "grpo": GrpoConfig}

# What makes a command small, by how it begins; the longest beginning counts. The clinic's stages are as small as the quickstart's, and compile once for both.
SMALL = {
    "promedical quickstart": "--train_cases 64 --held_out_cases 8 --sft_steps 4 --rm_steps 3 --grpo_steps 2",
    "promedical quickstart --seed": "--dry-run",
    "promedical doctor": "",
    "promedical data clinic": "--train 64 --held-out 8",
    "promedical data import": "",
    "promedical train sft": "--steps 4",
    "promedical train rm": "--steps 3",
    "promedical train grpo": "--steps 2",
    "promedical train dpo": "--steps 2",
    "promedical train ppo": "--steps 2",
    "promedical train rm --config configs/kqa": "--steps 1 --batch 2",
    "promedical train sft --cases runs/clinic": "--steps 2",
    "promedical corpus": "",
    "promedical review": "",
    "promedical export": "",
    "promedical import": "",
    "promedical plan": "",
    "promedical bench run": "",
    "promedical bench compare": "",
    "promedical bench run --suite medqa": "--items 3",
    "promedical bench build": "",
    "promedical bench run --suite promedical": "--items 4",
    "promedical bench run --suite promedical-policy": "--sampling.answers 2",
    "promedical bench runs/clinic/grpo": "--answers 2 --answer_tokens 8",
    "promedical bench runs/clinic/rm": "",
    "promedical bench runs/clinic/sft": "",
    "promedical bench runs/clinic/sft/model --best_of": "--answer_tokens 8",
    "promedical train rm --config configs/clinic_full": "--steps 2 --batch 4",
    "promedical score": "",
    "promedical serve": "--port 0 --slots 4 --longest 128",
    "promedical lab": "--budget smoke",
    "promedical ledger": "",
    "promedical follow": "",
}
# What stands in the place of what a test does not have, wherever a command names it: the TPU's compiler takes minutes for a model of eight billion parameters.
# Qwen/Qwen3-0.6B is in a cache of the hub's with the clinic's weights (see `hub`), but for its plan, which takes the sizes by that name from a table.
STAND_INS = {
    "--model Qwen/Qwen3-8B --stage grpo --topology v5p:2x2x2": "--model runs/clinic/cases/model --stage grpo --topology cpu:2",
    "--answers 8 --answer 1024": "--answers 2 --answer 16",
    "--prompt 1024": "--prompt 16",
    "10.0.0.1": "localhost",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of README.md: the heading it stands under, its language, its text."""

    heading: str
    language: str
    text: str


def _blocks() -> list[Block]:
    found, heading = [], ""
    for match in re.finditer(r"^## ([^\n]+)$|^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        heading = match[1] or heading
        if match[2]:
            found.append(Block(heading, match[2], match[3]))
    return found


BLOCKS = _blocks()
OURS = re.compile(r"(?:[A-Z_]+=\S+ )*promedical ")
COMMANDS = [(block.heading, line) for block in BLOCKS if block.language == "bash" for line in block.text.splitlines() if line.strip()]


def small(part: str) -> str:
    """One command of ours with the flags that make it small. Assignments of the environment before it stay."""
    bare = re.sub(r"^(?:[A-Z_]+=\S+ )*", "", part)
    beginning = max((known for known in SMALL if bare.startswith(known)), key=len, default=None)
    assert beginning is not None, f"README.md has the command '{bare}'; say in SMALL what makes it small"
    for ours, stand_in in STAND_INS.items():
        part = part.replace(ours, stand_in)
    return f"{part} {SMALL[beginning]}".strip()


class Shop:
    """A folder that looks like the repository, in which commands run as a reader runs them."""

    def __init__(self, folder: Path):
        self.folder = folder / "repository"
        for name in ("configs", "launch"):
            shutil.copytree(ROOT / name, self.folder / name)
        [example] = [block.text for block in BLOCKS if block.language == "json"]
        (self.folder / "mine.jsonl").write_text(json.dumps(json.loads(example)) + "\n")
        commands = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(CACHE),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
            "COLUMNS": "200",
        }
        self.environment = os.environ | commands

    def run(self, line: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(["bash", "-c", line], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == code, f"{line}\n{done.stdout}\n{done.stderr}"
        return done

    def read(self, heading: str) -> list[subprocess.CompletedProcess[str]]:
        """Runs our commands under a heading, made small, in order; those of pip and pytest are left to the continuous integration."""
        return [self.run(line) for line in self.lines(heading)]

    def lines(self, heading: str) -> list[str]:
        lines = [line for place, line in COMMANDS if place == heading]
        parts = [[small(part) for part in line.split(" && ") if OURS.match(part)] for line in lines]
        return [" && ".join(ours) for ours in parts if ours]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    if not shutil.which("bash") or not Path(sys.executable).with_name("promedical").exists():
        pytest.skip(f"needs bash, and the command promedical beside {sys.executable}; pip install -e . installs it")
    return Shop(tmp_path_factory.mktemp("readme"))


@pytest.fixture(scope="module")
def clinic(shop: Shop) -> Shop:
    """The shop after the clinic was trained on, stage by stage: later sections use what that leaves."""
    shop.read("Train on the clinic, stage by stage")
    return shop


@pytest.fixture(scope="module")
def hub(clinic: Shop) -> Shop:
    """The shop without a network, where HF's cache has the clinic's policy under the name Qwen/Qwen3-0.6B."""
    cache = clinic.folder.parent / "hub"
    model = cache / "models--Qwen--Qwen3-0.6B"
    shutil.copytree(clinic.folder / "runs" / "clinic" / "sft" / "model", model / "snapshots" / ("a" * 40))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a" * 40)
    clinic.environment |= {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    return clinic


@pytest.fixture(scope="module")
def real(shop: Shop, data: Path) -> Shop:
    """The shop with the real data where README.md says that it is."""
    (shop.folder.parent / "shared").mkdir(exist_ok=True)
    (shop.folder.parent / "shared" / "data").symlink_to(data.resolve(), target_is_directory=True)
    return shop


@pytest.mark.parametrize("line", [part for _, line in COMMANDS for part in line.split(" && ") if OURS.match(part)])
def test_every_command_and_flag_is_known(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Recipes are read and printed, with the keys that flags set; of the other commands the help has each flag."""
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(re.sub(r"^(?:[A-Z_]+=\S+ )*", "", line))[1:]
    command = list(itertools.takewhile(lambda word: not word.startswith("-") and "/" not in word and "." not in word, arguments))
    if {"--help", "--dry-run"} & set(arguments):
        arguments = [word for word in arguments if word not in ("--help", "--dry-run")]
    recipe = command[:1] in (["train"], ["doctor"], ["bench"], ["score"], ["quickstart"], ["lab"]) and command[:2] != ["bench", "compare"]
    if recipe and command not in (["train"], ["doctor"]):
        given = [word for word in arguments if word != "--print-config"]
        needed = ["--out", "o", "--cases", "c", "--model", "m", "--reward_model", "r"] if given == command and command[0] == "train" else []
        needed = [word for pair in zip(needed[::2], needed[1::2], strict=True) if pair[0] != "--reward_model" or command[1] in ("grpo", "ppo") for word in pair]
        assert main([*given, *needed, "--print-config"]) == 0, capsys.readouterr().err
    else:
        assert main([*command[:2], "--help"][-3:] if command[0] in ("data", "corpus", "review", "bench") else [command[0], "--help"]) == 0
        helped = capsys.readouterr().out
        assert [word for word in arguments if word.startswith("--") and word.split("=")[0] not in helped] == []


def test_every_section_with_commands_has_a_test() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [heading for heading, _ in COMMANDS if f'"{heading}"' not in source] == []


def test_installing_and_testing_are_what_the_continuous_integration_does() -> None:
    """Its lines, but for quietness and for naming the environment's own Python."""
    ci = [line.replace("python -m pip", "pip").replace(" --quiet", "") for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    [venv, run, test] = [line for heading, line in COMMANDS if heading == "Start here"]
    assert venv == "python3 -m venv .venv && source .venv/bin/activate" and any(" -m venv " in line for line in ci)
    assert run == "pip install -e . && promedical quickstart"
    assert [part for part in test.split(" && ") if part not in ci] == []
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"test"} <= set(re.findall(r"\.\[(\w+)\]", README)) <= extras.keys()


@pytest.mark.slow  # tests/lab runs the same by default
def test_the_laboratory_makes_a_table_and_its_page(shop: Shop) -> None:
    made, again = shop.read("The laboratory")
    assert "T1  Reward models" in made.stdout and "undecided" in made.stdout and "to train and measure" in made.stderr
    assert again.stdout == made.stdout and "to train and measure" not in again.stderr
    assert (shop.folder / "runs" / "lab" / "lab.html").exists() and (shop.folder / "runs" / "lab" / "T1.json").exists()


@pytest.mark.slow  # tests/quickstart runs the same by default
def test_the_quickstart_leaves_what_the_readme_says(shop: Shop) -> None:
    [first] = shop.read("Start here")
    said = [block.text for block in BLOCKS if block.heading == "Start here" and block.language == "text"]
    counts = {f"{QuickstartConfig().train_cases:,}": "64", f"{QuickstartConfig().held_out_cases:,}": "8"}
    for line in said[0].splitlines():
        for number, now in counts.items():
            line = line.replace(f" {number} ", f" {now} ")
        assert line in first.stderr

    out = shop.folder / QuickstartConfig().out
    section = README.split("## What the quickstart leaves behind")[1].split("\n## ")[0]
    files, figures = (re.findall(r"^\| (.+?) \|", part, re.MULTILINE) for part in section.split("The keys of `report.json`"))
    assert all((out / name).exists() for row in files for name in re.findall(r"`([^`]+)`", row))
    for stage in SCHEMAS:
        assert all((out / stage / name).exists() for name in ("recipe.yaml", "metrics.jsonl", "tensorboard", "checkpoints", "model"))
    report = json.loads((out / "report.json").read_text())
    named = {name for row in figures for name in re.findall(r"`([^`]+)`", row)}
    assert named == report.keys() == Report.model_fields.keys()
    assert all({"mean", "low", "high"} == report[policy][figure].keys() for policy in ("base", "aligned") for figure in ("s1", "s2", "safe", "length"))

    columns = re.search(r"A row of `ledger.jsonl`(.+?)Here", section, re.DOTALL)
    assert columns and set(re.findall(r"`(\w+)`", columns[1])) == json.loads((out / "ledger.jsonl").open().readline()).keys()

    [other] = shop.read("What the quickstart leaves behind")
    assert "seed_1" in other.stdout


def test_the_clinic_is_trained_stage_by_stage(clinic: Shop) -> None:
    runs = clinic.folder / "runs" / "clinic"
    assert all((runs / stage / "model" / "model.safetensors").exists() for stage in SCHEMAS)
    assert not (runs / "grpo_scalar").exists()


def test_a_harder_clinic_says_what_was_varied(shop: Shop) -> None:
    shop.read("A harder clinic")
    varied = json.loads((shop.folder / "runs" / "harder" / "cases" / "variety.json").read_text())
    assert (varied["levels"], varied["harmful"], varied["spurious"]["length"]) == ([1, 2, 3], 0.15, 0.8)


def test_a_changed_recipe_is_refused_and_allowed_as_the_readme_says(clinic: Shop) -> None:
    [line] = clinic.lines("Interrupt and resume")
    refused = clinic.run(line.replace(" --allow-change optimizer.final", ""), code=2).stderr
    assert "optimizer.final is 0.1 there and 0.2 here" in refused and "--allow-change optimizer.final" in refused and "--allow-change steps" not in refused
    clinic.run(line)
    assert json.loads((clinic.folder / "runs" / "clinic" / "sft" / "changes.jsonl").read_text()) == {"optimizer.final": ["0.1", "0.2"]}


def test_the_doctor_finds_nothing_wrong_with_the_clinic(clinic: Shop) -> None:
    for done in clinic.read("Is it wired right"):
        assert len(re.findall(r"passed|not applicable", done.stdout)) == 11 and "failed" not in done.stdout


def test_the_local_launcher_would_start_what_the_readme_says(shop: Shop) -> None:
    [line] = [line for heading, line in COMMANDS if line.startswith("launch/local.sh")]
    said = shop.run(line.replace("local.sh", "local.sh --dry-run")).stdout
    assert said.startswith("would start 2 processes") and "promedical train sft --config configs/clinic/sft.yaml --out runs/clinic/sft_2_processes" in said


@pytest.mark.parametrize(("stage", "expected"), list(zip(SCHEMAS, stages(QuickstartConfig(out=Path("runs/clinic"))), strict=True)))
def test_the_recipes_of_the_clinic_are_those_of_the_quickstart(stage: str, expected: Stage) -> None:
    assert read_recipe(SCHEMAS[stage], ROOT / "configs" / "clinic" / f"{stage}.yaml") == expected


def test_the_clinic_makes_as_many_cases_as_the_readme_says(clinic: Shop) -> None:
    listed = " ".join(clinic.run("promedical data clinic --help").stdout.split())
    assert "2,000 training cases and 192 held-out ones" in README and "[default: 2000]" in listed and "[default: 192]" in listed
    assert (QuickstartConfig().train_cases, QuickstartConfig().held_out_cases) == (2000, 192), "README says that both make the same cases"


def test_the_example_of_a_case_is_one_and_is_checked(clinic: Shop) -> None:
    [case] = read_cases(clinic.folder / "mine.jsonl")
    named = set(re.findall(r"`(\w+)`", README.split("- Optional:")[1].split("\n\n")[0])) - {"dimension", "source"}
    assert named | {"id", "instruction", "answers", "rubric", "verdicts"} == Case.model_fields.keys()
    assert {judgement.answer for judgement in case.verdicts} == {answer.id for answer in case.answers}
    [checked] = clinic.read("Your own cases")
    assert "1 cases" in checked.stdout and not (clinic.folder / "runs" / "mine").exists()


def test_a_fault_in_a_case_is_said_as_shown(clinic: Shop) -> None:
    [shown] = [block.text for block in BLOCKS if block.heading == "Your own cases" and block.language == "text"]
    mine = clinic.folder / "mine.jsonl"
    whole = mine.read_text()
    try:
        mine.write_text(whole.replace('"weight"', '"wieght"', 1))
        [command] = [line for heading, line in COMMANDS if heading == "Your own cases"]
        assert clinic.run(command, code=2).stderr == shown
    finally:
        mine.write_text(whole)


@pytest.mark.slow
def test_a_reward_model_learns_from_the_labels_of_kqa(real: Shop) -> None:
    [done] = real.read("A reward model from physicians' labels: K-QA")
    assert "reward model, held-out verdicts" in done.stdout
    assert json.loads((real.folder / "runs" / "kqa" / "rm" / "evaluation.json").read_text())["tiers"]
    held_out = read_cases(real.folder / "runs" / "kqa" / "rm" / "held_out.jsonl")
    labelled = [case for case in read_cases(real.folder / "runs" / "kqa" / "cases.jsonl") if case.verdicts]
    assert (len(held_out), len(labelled)) == (5, 30)  # as README.md says


@pytest.fixture(scope="module")
def benchmark(real: Shop) -> Shop:
    """The shop with HealthBench as cases."""
    real.read("HealthBench")
    return real


def test_healthbench_is_imported_and_says_never_to_train_on_it(benchmark: Shop) -> None:
    cases = read_cases(benchmark.folder / "runs" / "healthbench" / "cases.jsonl")
    assert cases and all(case.provenance["benchmark"] == "never train on it" for case in cases)


def test_questions_become_a_corpus(benchmark: Shop) -> None:
    sifted, why, cost = map(benchmark.run, benchmark.lines("A corpus from public questions")[:3])
    assert "near copy" in sifted.stdout and "waits for difficulty.url" in sifted.stdout and "questions" in sifted.stderr
    assert why.stdout.startswith("questions: ") and "sieve: kept" in why.stdout
    assert "difficulty, difficulty (Qwen/Qwen3-8B):" in cost.stdout and "spent so far 0" in cost.stdout


def test_our_server_as_it_is_started_there_has_room_for_what_a_corpus_asks() -> None:
    """The lines behind those need models that a test does not have."""
    vllm, ours, asks = [shlex.split(line) for heading, line in COMMANDS if heading == "A corpus from public questions"][3:]
    assert vllm[:2] == ["vllm", "serve"] and ours[:2] == ["promedical", "serve"] and asks[:4] == ["promedical", "corpus", "run", "--config"]
    recipe = read_recipe(CorpusConfig, ROOT / asks[4])
    flags = {name.removeprefix("--"): value for name, value in zip(ours[3::2], ours[4::2], strict=True)}
    server = read_recipe(ServeConfig, None, {"model": ours[2]} | flags)
    tasks = [recipe.difficulty, recipe.topic, recipe.rubric, *recipe.writers, *recipe.judges]
    assert server.longest >= 2 * max(task.max_tokens for task in tasks)
    mine = [task for task in tasks if task.url == f"http://localhost:{server.port}/v1"]
    assert recipe.rubric in mine and {task.model for task in mine} == {server.called} == {vllm[2]}
    assert max(task.concurrency for task in mine) <= server.slots + server.queue


@pytest.fixture(scope="module")
def reviewed(real: Shop) -> tuple[Shop, list[str]]:
    """The shop after a review, and what the first commands printed. Ada says yes to everything but the second criterion of the answer that is later
    in the alphabet, and Ben the same but for its first; both prefer A."""
    imported, sent, back, *_ = real.lines("Review by physicians")
    printed = [real.run(imported).stdout, real.run(sent).stdout]
    folder, exports = real.folder / "runs" / "review" / "answers", real.folder / "runs" / "review" / "exports"
    assert {path.name for path in folder.iterdir()} == {"sealed.json", *(f"{name}.{kind}" for name in ("ada", "ben") for kind in ("config.xml", "tasks.json"))}
    exports.mkdir()
    for name in ("ada", "ben"):
        rows = json.loads((folder / f"{name}.tasks.json").read_text())
        for row in rows:
            said = {f"{letter}_{n}": "met" for n in range(len(row["data"]["criteria"])) for letter in "ab"} | {"better_0": "a"}
            later = "ab"[row["data"]["b"] > row["data"]["a"]]
            said |= {f"{later}_1": "unmet"} | ({f"{later}_0": "unmet"} if name == "ben" else {})
            row["annotations"] = [{"id": 1, "result": [{"from_name": field, "value": {"choices": [value]}} for field, value in said.items()]}]
        (exports / f"{name}.json").write_text(json.dumps(rows))
    return real, [*printed, real.run(back).stdout]


def test_physicians_review_answers(reviewed: tuple[Shop, list[str]]) -> None:
    real, (imported, sent, back) = reviewed
    *_, agreed, adjudicated, rubrics = real.lines("Review by physicians")
    folder = real.folder / "runs" / "review" / "answers"
    assert "wrote runs/kqa/cases.jsonl" in imported
    assert re.findall(r"(\w+): (\d+) tasks", sent) == [("ada", "30"), ("ben", "30")]  # as many as have two answers
    assert "wrote runs/review/answers/settled.jsonl" in back
    assert "preferences" in real.run(agreed).stdout and json.loads((folder / "agreement.json").read_text())["verdicts"]["safety"]["units"] == 60
    assert "cleo: 30 tasks" in real.run(adjudicated).stdout and (folder / "adjudication" / "cleo.tasks.json").exists()
    assert "ben: 101 tasks" in real.run(rubrics).stdout


@pytest.mark.slow  # tests/suites has each of them
def test_suites_are_run_and_compared(real: Shop, hub: Shop, server: Server) -> None:
    """A server of this process's own answers with its model's name, and judges that what llama says is good."""

    def reply(_: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        fields = body.get("response_format", {}).get("json_schema", {}).get("schema", {}).get("properties", {})
        good = "Llama" in body["messages"][-1]["content"]
        said = json.dumps({name: "" if name == "why" else good for name in fields}) if fields else body["model"]
        return 200, json.dumps({"choices": [{"message": {"content": said}}]}), {}

    server.reply = reply
    checked, bench, safety, local, compare, *_ = real.lines("Suites")
    at = f" --answerer.url {server.url} --judge.url {server.url}"
    assert "300 items" in real.run(checked).stdout
    assert "harmless requests refused" in real.run(f"{safety}{at} --items 3").stdout
    assert "acc_norm" in hub.run(local).stdout
    for name in ("Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B-Instruct"):
        out = f"runs/suites/{'llama' if 'Llama' in name else 'qwen'}"
        assert "axis:accuracy" in real.run(f"{bench}{at} --items 4 --answerer.model {name} --out {out}").stdout
    real.run(compare)
    assert "Where they differ most" in (real.folder / "runs" / "suites" / "compare.html").read_text()


def test_a_bench_is_built_of_the_review_and_an_endpoint_measured_by_it(reviewed: tuple[Shop, list[str]], server: Server) -> None:
    """Of one answer's first criterion Ada says yes and Ben no, in 30 cases; on all others they agree."""
    real, _ = reviewed
    server.reply = lambda *_: (200, json.dumps({"choices": [{"message": {"content": json.dumps({"verdict": "met"})}}]}), {})
    build, run = real.lines("Suites")[5:7]
    assert "30 the physicians differ" in real.run(build).stdout
    done = real.run(f"{run} --judge.url {server.url}")
    assert "agreement with physicians: kappa" in done.stdout and "accuracy, calibrated" in done.stdout


@pytest.mark.slow
def test_judges_on_this_machine_and_policies_are_run_and_compared(reviewed: tuple[Shop, list[str]], hub: Shop) -> None:
    shop, _ = reviewed
    if not (shop.folder / "runs" / "bench").exists():
        shop.run(shop.lines("Suites")[5])
    pairs, zero_shot, base, aligned, compare = [hub.run(line).stdout for line in shop.lines("Suites")[7:]]
    assert "accuracy by verdict alone" in pairs and "asked yes or no" in zero_shot
    assert "the clinic's checker" in base and "against runs/suites/base: win rate" in aligned and "policies.html" in compare


def test_the_suites_of_the_readme_are_those_that_there_are() -> None:
    section = README.split("## Suites")[1].split("\n## ")[0]
    assert {name for row in re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)} - {"suite"} == SUITES.keys()
    assert f"{len(read_harmless(None))} of ours" in section


def test_tasks_for_other_harnesses_are_those_that_there_are() -> None:
    """tests/serve/test_serve_inspect.py and tests/live/test_lm_eval_tasks.py run some."""
    lines = [line for heading, line in COMMANDS if heading == "Suites from Inspect and lm-evaluation-harness"]
    inspected, given = (set(re.findall(pattern, "\n".join(lines))) for pattern in (r"promedical_jax/([\w-]+) ", r"-T (\w+)="))
    assert inspected == {"healthbench", "kqa"} <= SUITES.keys() and given == {"path"}
    section = README.split("## Suites from Inspect")[1].split("\n## ")[0]
    tasks = {yaml.stem for yaml in (ROOT / "promedical_jax" / "suites" / "lm_eval_tasks").glob("[a-z]*.yaml")}
    assert set(re.findall(r"promedical_(medqa|medmcqa|pubmedqa|\w+_generate)", section)) <= tasks
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["inspect_ai"]["promedical_jax"] == "promedical_jax.suites.inspect_tasks" and "bench" in project["optional-dependencies"]


@pytest.mark.slow
def test_models_are_judged(clinic: Shop) -> None:
    policy, judge, asked, chosen = clinic.read("Bench a model")
    assert re.search(r"8 cases, 8 answers", chosen.stdout), chosen.stdout
    assert "S1 proficiency" in policy.stdout and "majority" in judge.stdout and "other words: verdicts that stay" in judge.stdout
    assert "<svg" in (clinic.folder / "runs" / "clinic" / "rm.html").read_text() and "zero-shot" in asked.stdout


@pytest.mark.slow
def test_a_reward_model_is_trained_longer_scores_cases_and_leaves_a_ledger(clinic: Shop) -> None:
    trained, scored, looked = clinic.read("A reward model to be trusted")
    assert "held-out verdicts" in trained.stdout and "judged by reward-model-" in scored.stderr
    cases = read_cases(clinic.folder / "runs" / "clinic" / "scored.jsonl")
    assert all(len(case.verdicts) == 2 * len(case.answers) * len(case.rubric.criteria) for case in cases)  # the checker's and the model's
    assert "rows" in looked.stdout
    section = README.split("## A reward model to be trusted")[1].split("\n## ")[0]
    known = {key.name for key in keys(RmConfig)} | {key.name for key in keys(GrpoConfig)}
    assert {name for name in re.findall(r"`(?:--)?([a-z]+\.[a-z_0-9]+)[ `]", section) if not name.endswith("jsonl")} <= known


@pytest.mark.slow
def test_models_go_out_and_come_in(hub: Shop) -> None:
    hub.read("Models and weights")
    runs = hub.folder / "runs"
    exported, imported, trained = runs / "clinic" / "exported", runs / "qwen" / "exported", runs / "clinic" / "sft" / "model"
    assert json.loads((exported / "config.json").read_text())["dtype"] == "bfloat16"
    assert 0.45 < (exported / "model.safetensors").stat().st_size / (trained / "model.safetensors").stat().st_size < 0.55
    assert (imported / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert "base_model: Qwen/Qwen3-0.6B" in (imported / "README.md").read_text()


@pytest.mark.slow
def test_adapters_are_trained_and_gone_on_with(hub: Shop) -> None:
    hub.read("LoRA")
    for run in ("sft", "more"):
        out = hub.folder / "runs" / "qwen" / run
        fields = json.loads((out / "adapter" / "adapter_config.json").read_text())
        assert (fields["peft_type"], fields["r"], fields["base_model_name_or_path"]) == ("LORA", 16, "Qwen/Qwen3-0.6B")
        assert (out / "adapter" / "adapter_model.safetensors").exists() and (out / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_rewards_of_ones_own_and_the_watch(clinic: Shop) -> None:
    section = "Rewards of your own, and a watch over them"
    [function] = [line for heading, line in COMMANDS if heading == section and line.startswith("echo")]
    clinic.run(function)
    *_, followed = clinic.read(section)
    runs = clinic.folder / "runs" / "clinic"
    assert "rewards/numbered/mean" in (runs / "grpo_mine" / "metrics.jsonl").read_text() and "answers of 1 steps" in followed.stdout
    assert json.loads((runs / "grpo_watched" / "watch.jsonl").read_text())["step"] == 1 and (runs / "grpo_watched" / "case.html").exists()


@pytest.mark.slow
def test_what_grpo_is_compared_with_is_trained(clinic: Shop) -> None:
    clinic.read("What GRPO is compared with")
    runs = clinic.folder / "runs" / "clinic"
    assert all((runs / name / "model" / "model.safetensors").exists() for name in ("dpo", "ppo", "rm_implicit", "grpo_implicit"))
    assert "rewards/accuracies" in (runs / "dpo" / "metrics.jsonl").read_text()
    section = README.split("## Train on the clinic")[1].split("## What GRPO")[0]
    known = {key.name for key in keys(GrpoConfig)}
    assert set(re.findall(r"`--([a-z_]+(?:\.[a-z0-9_]+)?) [\w.]+`", section)) <= known and set(re.findall(r"`(alarms\.\w+)`", section)) <= known


@pytest.mark.slow
def test_a_stage_runs_on_many_simulated_devices(clinic: Shop) -> None:
    clinic.read("Many devices")
    assert (clinic.folder / "runs" / "clinic" / "sft_on_8" / "model" / "model.safetensors").exists()
    table = README.split("## Many devices")[1].split("\n\n")[2]
    named = re.findall(r"^\| `([\w.]+)`", table, re.MULTILINE)
    assert {name for name in named if name.startswith("mesh.")} == {f"mesh.{name}" for name in Mesh.model_fields}
    assert set(named) <= {key.name for key in keys(SftConfig)}


@pytest.mark.slow
def test_two_hosts_are_one_run(clinic: Shop) -> None:
    with socket.create_server(("localhost", 0)) as free:
        port = str(free.getsockname()[1])
    lines = [line.replace("8476", port) for line in clinic.lines("Several hosts")]
    hosts = [subprocess.Popen(["bash", "-c", line], cwd=clinic.folder, env=clinic.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
             for line in lines]  # fmt: skip
    try:
        said = [host.communicate(timeout=300) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], said
    assert "the trained model is in runs/clinic/sft_2_hosts/model" in said[0][0] and "the trained model" not in said[1][0]
    assert (clinic.folder / "runs" / "clinic" / "sft_2_hosts" / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_plan_says_what_the_readme_says(clinic: Shop) -> None:
    table, as_json = clinic.read("What it will cost")
    assert all(row in table.stdout for row in ("memory", "fits", "compiled in", "operations"))
    plan = json.loads(as_json.stdout)
    assert (plan["model"], plan["stage"], plan["devices"], plan["time"]) == ("Qwen/Qwen3-0.6B", "sft", 8, None)
    assert {"parameters", "optimizer", "temporaries", "peak", "hbm"} <= plan["gib"].keys() and plan["tflops"] > 0 and plan["collectives"]
    section = " ".join(README.split("## What it will cost")[1].split("\n## ")[0].split())
    listed = " ".join(clinic.run("promedical plan --help").stdout.split())
    stages, chips = re.findall(r"Stages are (.+?); chips are (.+?), for which", section)[0]
    assert set(re.findall(r"`(\w+)`", chips)) == CHIPS.keys() | {"cpu"} and all(stage in listed for stage in re.findall(r"`(\w+)`", stages))
    assert all(flag in listed for flag in re.findall(r"`(--\w+)`", section))


def test_a_model_is_served_until_it_is_told_to_end(clinic: Shop) -> None:
    [line] = clinic.lines("Serve a model")
    server = subprocess.Popen(["bash", "-c", f"exec {line}"], cwd=clinic.folder, env=clinic.environment, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        said = next(line for line in server.stderr if line.startswith("serving "))
        address = re.fullmatch(r"serving clinic at (http://127\.0\.0\.1:\d+)/v1\n", said)
        assert address
        [snippet] = [block.text for block in BLOCKS if block.heading == "Serve a model" and block.language == "python"]
        script = clinic.folder / "ask.py"
        script.write_text(snippet.replace("http://127.0.0.1:8000", address[1]))
        assert clinic.run(f"python {script}").stdout.strip()
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0 and server.stderr.read() == "ended\n"
    finally:
        server.kill()
    section = README.split("## Serve a model")[1].split("\n## ")[0]
    assert set(re.findall(r"`--(\w+)", section)) <= {key.name for key in keys(ServeConfig)}
    assert set(re.findall(r"`(/[\w/]+)", section)) | {"/v1/score"} <= {"/v1/score", "/v1/models", "/metrics", "/health"}


def test_models_that_the_readme_names_are_known() -> None:
    assert all(known_config(name).width for name in re.findall(r"(?:Qwen|meta-llama)/[\w.-]*\w", README))


# The one with datatrove asks models: tests/corpus/test_beyond.py runs it, and has some. The one with openai asks a server, which runs where it is tested above.
SNIPPETS = [number for number, block in enumerate(BLOCKS) if block.language == "python" and not re.search("datatrove|openai", block.text)]


@pytest.mark.parametrize("number", SNIPPETS, ids=[f"snippet {n}" for n in range(1, len(SNIPPETS) + 1)])
def test_the_python_runs_and_prints_what_is_shown(number: int, clinic: Shop, tmp_path: Path) -> None:
    script = tmp_path / "snippet.py"
    script.write_text(BLOCKS[number].text)
    printed = clinic.run(f"python {script}").stdout
    shown = BLOCKS[number + 1] if number + 1 < len(BLOCKS) else None
    if shown and shown.language == "text":
        assert printed == shown.text
    else:
        assert printed.strip()
