"""The command line as a user meets it: exit codes, sentences, what is printed, and that an error writes nothing."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from promedical_jax import __version__
from promedical_jax.cli import main
from promedical_jax.config import DpoConfig, GrpoConfig, PpoConfig, QuickstartConfig, RmConfig, SftConfig, Stage
from promedical_jax.corpus.recipe import CorpusConfig
from promedical_jax.errors import InputError
from promedical_jax.recipe import dump, keys, read_recipe
from promedical_jax.review.recipe import ReviewConfig
from promedical_jax.suites.recipe import BuildConfig, SuiteConfig
from promedical_jax.train.resume import Resume

STAGES: dict[str, type[Stage]] = {"sft": SftConfig, "rm": RmConfig, "grpo": GrpoConfig}
SCHEMAS: dict[str, type[Stage]] = STAGES | {"dpo": DpoConfig, "ppo": PpoConfig}
NEAREST = "did you mean '--optimizer.learning_rate'?"
NEEDED = ["--out", "runs/a", "--cases", "a.jsonl", "--model", "m"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configs that stand-ins of the stages were run with."""
    seen: list[Any] = []
    for name in ("promedical_jax.train.sft", "promedical_jax.train.rm", "promedical_jax.train.grpo", "promedical_jax.quickstart"):
        module = ModuleType(name)
        setattr(module, "run", lambda config, **_: seen.append(config))  # noqa: B010
        monkeypatch.setitem(sys.modules, name, module)
    return seen


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The sentence of a command that is refused: alone on stderr, nothing on stdout, nothing written."""
    before = sorted(Path().rglob("*"))
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and sorted(Path().rglob("*")) == before
    assert err.startswith("error: ") and err.count("\n") == 1
    return err.removeprefix("error: ").rstrip("\n")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert __version__ in printed(capsys, "--version")
    listed = printed(capsys, "--help")
    assert all(command in listed for command in ("quickstart", "train", "data"))
    assert all(command in printed(capsys, "train", "--help") for command in STAGES)


@pytest.mark.parametrize(("stage", "schema"), STAGES.items())
def test_the_help_of_a_stage_lists_every_key_with_type_default_and_description(stage: str, schema: type[Stage], capsys: pytest.CaptureFixture[str]) -> None:
    listed = " ".join(printed(capsys, "train", stage, "--help").replace("│", " ").split())
    for key in keys(schema):
        assert f"--{key.name} {key.allowed}" in listed
        assert " ".join(key.description.replace("`", "").split()) in listed
        assert key.default is None or f"[default: {key.default}]" in listed


@pytest.mark.parametrize(
    "flags",
    [
        ["--steps", "7", "--optimizer.learning_rate", "1e-3", "--mesh.fsdp", "-1"],
        ["--steps=7", "--optimizer.learning_rate=1e-3", "--mesh.fsdp=-1"],
        ["--optimizer.learning-rate=1e-3", "--steps", "7"],
    ],
)
def test_flags_are_written_in_each_usual_way(flags: list[str], runs: list[Any]) -> None:
    assert main(["train", "sft", *NEEDED, *flags]) == 0
    assert runs == [read_recipe(SftConfig, None, {"out": "runs/a", "cases": "a.jsonl", "model": "m", "steps": "7", "optimizer.learning_rate": "1e-3"})]


def test_flags_have_the_last_word_over_the_recipe(runs: list[Any]) -> None:
    Path("r.yaml").write_text("out: a\ncases: b\nmodel: c\nsteps: 5\nheld_out: d\noptimizer: {warmup: 2, clip: 3}")
    assert main(["train", "rm", "--config", "r.yaml", "--steps", "6", "--held_out", "null", "--optimizer.clip", "4"]) == 0
    config = runs[0]
    assert (config.steps, config.held_out, config.optimizer.warmup, config.optimizer.clip) == (6, None, 2, 4.0)


def test_every_stage_and_the_quickstart_run_their_own_config(runs: list[Any]) -> None:
    extra = {"grpo": ["--reward_model", "r"]}
    assert all(main(["train", stage, *NEEDED, *extra.get(stage, [])]) == 0 for stage in STAGES)
    assert main(["quickstart", "--out", "q", "--seed", "3"]) == 0
    assert [type(config) for config in runs] == [*STAGES.values(), QuickstartConfig]
    assert (runs[-1].out, runs[-1].seed) == (Path("q"), 3)


def test_a_printed_recipe_reads_back_and_nothing_is_run(runs: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "train", "grpo", *NEEDED, "--reward_model", "r", "--kl", "0.5", "--print-config")
    Path("r.yaml").write_text(text)
    assert yaml.safe_load(text)["kl"] == 0.5
    assert printed(capsys, "train", "grpo", "--config", "r.yaml", "--print_config") == text
    assert runs == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["trian"],
            (
                "unknown command 'trian'; did you mean 'train'? "
                "(quickstart, train, bench, score, serve, ledger, follow, lab, plan, export, import, doctor, data, corpus, review)"
            ),
        ),
        (["train", "ssft"], "unknown command 'ssft'; did you mean 'sft'? (sft, rm, grpo, ppo, dpo)"),
        (["train", "sft"], "keys out, cases, model are missing; give --out, --cases, --model, or a recipe that has them by --config"),
        (["train", "rm", "--optimizer.learnig_rate", "1"], "unknown flag '--optimizer.learnig_rate' of promedical train rm; " + NEAREST),
        (["train", "rm", "--learning-rate=1"], "unknown flag '--learning-rate' of promedical train rm; " + NEAREST),
        (["train", "sft", "--confg", "x"], "unknown flag '--confg' of promedical train sft; did you mean '--config'?"),
        (["train", "sft", "--steps"], "--steps needs a value; allowed: integer > 0"),
        (["train", "sft", "--steps", "--dry-run"], "--steps needs a value; allowed: integer > 0"),
        (["train", "sft", "--steps", "1", "--steps", "2"], "--steps is given twice; keep one"),
        (["train", "sft", "steps"], "promedical train sft has no use for 'steps'; a value follows its flag, as in --key value"),
        (["train", "sft", *NEEDED, "--steps", "many"], "--steps is 'many'; allowed: integer > 0"),
        (["train", "sft", *NEEDED, "--optimizer.b1=1"], "--optimizer.b1 is '1'; allowed: number >= 0 and < 1"),
        (["train", "sft", "--out="], "--out is empty; allowed: path"),
        (["train", "sft", "--config", "nope.yaml"], "nope.yaml: no such file; give --config the path of a YAML recipe"),
        (["quickstart", "--sed", "1"], "unknown flag '--sed' of promedical quickstart; did you mean '--seed'?"),
        (["data", "import", "kqa", "x"], "--out is missing; see promedical data import --help"),
        (["data", "import", "kqb", "x", "--out", "y.jsonl"], 'invalid value "kqb" for SOURCE; choose from: "kqa", "healthbench"; did you mean "kqa"'),
        (["data", "clinic", "--out", "x", "--train", "0"], 'invalid value "0" for --train; must be >= 1'),
    ],
)
def test_mistakes_are_refused_in_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], runs: list[Any]) -> None:
    assert refused(capsys, *arguments) == sentence
    assert runs == []


def test_an_unknown_key_of_a_recipe_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str], runs: list[Any]) -> None:
    Path("x.yaml").write_text("optimizer:\n  learnig_rate: 1\n")
    assert refused(capsys, "train", "rm", "--config", "x.yaml") == "x.yaml: unknown key 'optimizer.learnig_rate'; did you mean 'optimizer.learning_rate'?"


def test_input_errors_of_a_run_end_it_with_a_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, runs: list[Any]) -> None:
    def run(config: SftConfig, **_: Any) -> None:
        raise InputError("a.jsonl, line 3: not valid JSON; mend it")

    monkeypatch.setattr(sys.modules["promedical_jax.train.sft"], "run", run)
    assert refused(capsys, "train", "sft", *NEEDED) == "a.jsonl, line 3: not valid JSON; mend it"


def test_ctrl_c_ends_with_130_and_a_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, runs: list[Any]) -> None:
    def run(config: SftConfig, **_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sys.modules["promedical_jax.train.sft"], "run", run)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has it ignored
    try:
        assert main(["train", "sft", *NEEDED]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "Traceback" not in (err := capsys.readouterr().err) and "last checkpoint" in err


def test_sigterm_ends_a_training_with_75_and_a_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, runs: list[Any]) -> None:
    monkeypatch.setattr(sys.modules["promedical_jax.train.sft"], "run", lambda config, **_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["train", "sft", *NEEDED]) == 75 and signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "stopped: told to stop outside of its steps; what is written is whole, and the same command goes on with it\n"


def test_what_to_do_with_a_run_that_is_there_is_no_key_of_the_recipe(monkeypatch: pytest.MonkeyPatch, runs: list[Any]) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys.modules["promedical_jax.train.sft"], "run", lambda config, resume: told.append(resume))
    assert main(["train", "sft", *NEEDED]) == 0
    assert main(["train", "sft", *NEEDED, "--resume", "never", "--allow-change", "steps", "--allow-change", "mesh.tp"]) == 0
    assert told == [Resume(), Resume("never", ("steps", "mesh.tp"))]
    assert main(["train", "sft", *NEEDED, "--resume", "perhaps"]) == 2 and main(["bench", "m", "--cases", "c", "--resume", "auto"]) == 2


def test_our_own_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, runs: list[Any]) -> None:
    def run(config: SftConfig, **_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sys.modules["promedical_jax.train.sft"], "run", run)
    with pytest.raises(ZeroDivisionError):
        main(["train", "sft", *NEEDED])


@pytest.mark.parametrize("line", ["--help", "--version", "train rm --help", "data clinic --help", "quickstart --print-config"])
def test_help_imports_nothing_heavy(line: str) -> None:
    code = (
        "import json, sys; from promedical_jax.cli import main; code = main(sys.argv[1:]);"
        "print(json.dumps(sorted({'jax', 'flax', 'datasets', 'transformers', 'pandas', 'grain', 'scipy'} & set(sys.modules))), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True, text=True, check=True)
    assert json.loads(done.stderr) == []


def test_the_installed_command_is_this_one() -> None:
    command = Path(sys.executable).with_name("promedical")
    if not command.exists():
        pytest.skip(f"the package is not installed beside {sys.executable}; pip install -e . installs the command")
    done = subprocess.run([command, "train", "sft"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: keys out")


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml")), ids=lambda file: f"{file.parent.name}-{file.name}")
def test_the_recipes_of_the_repository_are_sound(file: Path) -> None:
    """By their folder, or by the stage that their name starts with, with what they leave to the user given."""
    by_folder = {"corpus": CorpusConfig, "review": ReviewConfig, "bench": SuiteConfig}
    by_name = {"build.yaml": BuildConfig}
    schema = by_name.get(file.name) or by_folder.get(file.parent.name) or next(SCHEMAS[stage] for stage in SCHEMAS if file.name.startswith(stage))
    given = yaml.safe_load(file.read_text()) or {}
    config = read_recipe(schema, file, {key.name: "here" for key in keys(schema) if key.default is None and key.name not in given})
    assert dump(config)
