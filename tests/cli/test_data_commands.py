"""`promedical data`, and --dry-run on the files that it makes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from promedical_jax.cli import main
from promedical_jax.reward import UNCALIBRATED, Verdicts
from promedical_jax.rubric import Tier, read_cases, write_cases


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "clinic"
    assert run("data", "clinic", "--out", folder, "--train", 12, "--held-out", 5, "--seed", 3) == 0
    return folder


def test_the_clinic_holds_cases_and_a_model_that_fit_together(clinic: Path) -> None:
    from promedical_jax.data.load import load_tokenizer
    from promedical_jax.model.hf import read_config

    train, held_out = read_cases(clinic / "train.jsonl"), read_cases(clinic / "held_out.jsonl")
    assert (len(train), len(held_out)) == (12, 5)
    assert not {case.id for case in train} & {case.id for case in held_out}
    model = read_config(clinic / "model")
    tokenizer = load_tokenizer(clinic / "model", model.vocabulary)
    fields = json.loads((clinic / "model" / "config.json").read_text())
    assert (len(tokenizer), model.vocabulary) == (512, 512)
    assert (fields["eos_token_id"], fields["pad_token_id"]) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    text = train[0].answers[0].text
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert sorted(path.name for path in clinic.parent.iterdir()) == ["clinic"]


def test_the_clinic_is_a_function_of_its_seed(clinic: Path, tmp_path: Path) -> None:
    assert run("data", "clinic", "--out", tmp_path / "same", "--train", 12, "--held-out", 5, "--seed", 3) == 0
    assert run("data", "clinic", "--out", tmp_path / "other", "--train", 12, "--held-out", 5, "--seed", 4) == 0
    for name in ("train.jsonl", "held_out.jsonl", "model/tokenizer.json", "model/config.json"):
        assert (tmp_path / "same" / name).read_bytes() == (clinic / name).read_bytes()
    assert (tmp_path / "other" / "train.jsonl").read_bytes() != (clinic / "train.jsonl").read_bytes()


def test_the_clinic_replaces_only_when_forced_and_leaves_other_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--out", tmp_path, "--train", 2, "--held-out", 1]
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "held_out.jsonl").write_text("old")
    assert run("data", "clinic", *flags) == 2
    assert "held_out.jsonl exists; give --force to replace it" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held_out.jsonl", "notes.txt"]
    assert run("data", "clinic", *flags, "--force") == 0
    assert run("data", "clinic", *flags, "--force") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held_out.jsonl", "held_out_paraphrased.jsonl", "model", "notes.txt", "train.jsonl"]
    assert len(read_cases(tmp_path / "held_out.jsonl")) == 1


def test_the_folder_at_hand_is_a_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run("data", "clinic", "--out", ".", "--train", 1, "--held-out", 1) == 0
    assert sorted(path.name for path in tmp_path.rglob("*.jsonl")) == ["held_out.jsonl", "held_out_paraphrased.jsonl", "train.jsonl"]
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run("data", "clinic", "--out", tmp_path / "file" / "clinic", "--train", 1, "--held-out", 1) == 2
    assert capsys.readouterr().err.startswith("error: ")


VARIED = ["--train", 6, "--held-out", 3, "--levels", "[1, 3]", "--harmful", "0.5", "--spurious.length", "0.8", "--raters", "[{name: ann, safety: 0.9}]"]


def test_what_is_varied_is_written_beside_the_cases_and_is_a_recipe_for_the_same(tmp_path: Path) -> None:
    from promedical_jax.clinic import make_cases
    from promedical_jax.clinic.variety import Rater, Spurious, Variety

    assert run("data", "clinic", "--out", tmp_path / "a", *VARIED) == 0
    variety = Variety(levels=(1, 3), harmful=0.5, spurious=Spurious(length=0.8), raters=(Rater(name="ann", safety=0.9),))
    assert read_cases(tmp_path / "a" / "train.jsonl") == make_cases(6, 0, variety=variety)
    assert read_cases(tmp_path / "a" / "held_out.jsonl") == make_cases(3, 0, held_out=True, variety=variety)
    assert json.loads((tmp_path / "a" / "model" / "config.json").read_text())["vocab_size"] == 768
    assert run("data", "clinic", "--out", tmp_path / "b", "--train", 6, "--held-out", 3, "--config", tmp_path / "a" / "variety.json") == 0
    for name in ("train.jsonl", "held_out_paraphrased.jsonl", "variety.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    # A plain clinic in its place leaves no variety behind that was not its own.
    assert run("data", "clinic", "--out", tmp_path / "b", "--train", 1, "--held-out", 1) == 2
    assert run("data", "clinic", "--out", tmp_path / "b", "--train", 1, "--held-out", 1, "--force") == 0
    assert not (tmp_path / "b" / "variety.json").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--turns", "2"], "--turns is '2'; allowed: number >= 0 and <= 1"),
        (["--levels", "[7]"], "--levels: levels is [7]; give one or more of 1, 2, 3, 4, each once"),
        (["--turn", "1"], "unknown flag '--turn' of promedical data clinic; did you mean '--turns'?"),
        (["--specialties", "[magic]"], "'magic', which the clinic does not have; choose of infections, neurology, digestion, circulation"),
        (["--alarming", "0.7", "--harmful", "0.7"], "more than all cases; lower one of them"),
        (["--raters", "[{name: ann, safety: 2}]"], "--raters: 'safety' of number 1 is 2"),
    ],
)
def test_what_cannot_be_varied_is_a_sentence(flags: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "clinic", "--out", tmp_path / "x", *flags) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "x").exists()


def dry(clinic: Path, stage: str, out: Path, *more: object) -> int:
    return run("train", stage, "--out", out, "--cases", clinic / "train.jsonl", "--model", clinic / "model", *more, "--dry-run")


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry(clinic, "rm", tmp_path / "run", "--held_out", clinic / "held_out.jsonl", "--steps", 3, "--batch", 4) == 0
    said = capsys.readouterr().out
    wanted = ("nothing was written", "12 cases", "1 of these for calibration", "5 cases", "2 layers", "random weights", "3 of 4 cases, 1.1 x", "a new run")
    assert all(text in said for text in wanted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--shapes.answer", 8], "set shapes.answer to"),
        (["--batch", 13], "11 cases are left to train on, fewer than a batch of 13; lower --batch or add cases"),
        (["--held_out", "nope.jsonl"], "nope.jsonl"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would_refuse(flags: list[Any], sentence: str, clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry(clinic, "rm", tmp_path / "run", *flags) == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_refuses_cases_that_do_not_parse_and_folders_without_a_model(clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.jsonl").write_text("{}\n{\n")
    flags = ["--out", tmp_path / "run", "--dry-run"]
    assert run("train", "sft", *flags, "--cases", tmp_path / "bad.jsonl", "--model", clinic / "model") == 2
    assert "bad.jsonl, line 1" in capsys.readouterr().err
    assert run("train", "sft", *flags, "--cases", clinic / "train.jsonl", "--model", tmp_path) == 2
    assert "config.json" in capsys.readouterr().err
    assert dry(clinic, "grpo", tmp_path / "run", "--reward_model", "no") == 2
    assert "no: no such folder" in capsys.readouterr().err


def test_a_dry_run_refuses_the_folder_of_another_recipe(clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("steps: 1")
    assert dry(clinic, "sft", tmp_path / "run") == 2
    assert "holds a sft run of another recipe" in (said := capsys.readouterr().err) and "steps is 1 there and" in said


def test_a_dry_run_of_a_stage_that_learns_from_answers_asks_for_answers(clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = [case.model_copy(update={"answers": (), "verdicts": ()}) for case in read_cases(clinic / "train.jsonl")]
    write_cases(tmp_path / "bare.jsonl", bare)
    flags = ["--out", tmp_path / "run", "--cases", tmp_path / "bare.jsonl", "--model", clinic / "model", "--dry-run"]
    assert run("train", "sft", *flags) == 2
    assert "answers" in capsys.readouterr().err
    assert run("train", "grpo", *flags, "--reward_model", clinic / "model") == 2
    assert "not a reward model" in capsys.readouterr().err
    assert run("score", "--model", clinic / "model", "--cases", clinic / "held_out.jsonl", "--out", tmp_path / "scored.jsonl", "--dry-run") == 2
    assert "not a reward model" in capsys.readouterr().err
    shutil.copytree(clinic / "model", tmp_path / "reward")
    for name in ("heads.safetensors", "calibration.json", "model.safetensors"):
        assert run("train", "grpo", *flags, "--reward_model", tmp_path / "reward") == 2
        assert "not a reward model" in capsys.readouterr().err
        (tmp_path / "reward" / name).write_text(UNCALIBRATED.model_dump_json() if name == "calibration.json" else "")
    assert run("train", "grpo", *flags, "--reward_model", tmp_path / "reward") == 0
    (tmp_path / "reward" / "calibration.json").write_text(Verdicts(kind="implicit", tiers={}).model_dump_json())
    capsys.readouterr()
    assert run("train", "grpo", *flags, "--reward_model", tmp_path / "reward") == 2
    assert "knows no tier; set advantage to scalar" in capsys.readouterr().err
    for stage, more in (("grpo", ["--advantage", "scalar"]), ("ppo", [])):
        assert run("train", stage, *flags, "--reward_model", tmp_path / "reward", *more) == 0


def test_a_trained_reward_model_is_judged_on_the_held_out_cases(
    clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the training, which leaves a reward model of random weights."""
    import jax
    from folders import save_reward_model

    from promedical_jax.config import RmConfig
    from promedical_jax.data.load import load_tokenizer
    from promedical_jax.model import hf, transformer
    from promedical_jax.model.heads import init_heads
    from promedical_jax.reward import UNCALIBRATED, RewardModel
    from promedical_jax.train import rm

    def train(config: RmConfig, **_: object) -> Path | None:
        model = hf.read_config(config.model)
        params = {"backbone": transformer.init(model, jax.random.key(0)), "heads": init_heads(3, model.width, jax.random.key(1))}
        (config.out).mkdir()
        trained = RewardModel(params, model, UNCALIBRATED)
        save_reward_model(config.out / "model", trained, load_tokenizer(config.model, model.vocabulary))
        return config.held_out

    monkeypatch.setattr(rm, "run", train)
    out, held_out = tmp_path / "rm", clinic / "held_out.jsonl"
    assert run("train", "rm", "--out", out, "--cases", clinic / "train.jsonl", "--model", clinic / "model", "--held_out", held_out) == 0
    said = capsys.readouterr().out
    assert "held-out verdicts" in said and f"the trained model is in {out / 'model'}" in said
    tiers = json.loads((out / "evaluation.json").read_text())["tiers"]
    assert sum(tier["count"] for tier in tiers.values()) == sum(len(case.verdicts) for case in read_cases(held_out))


def test_an_import_writes_cases_and_sums_them_up(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "kqa.jsonl"
    assert run("data", "import", "kqa", data / "kqa", "--out", out) == 0
    said = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.strip()}
    cases = read_cases(out)
    criteria = [criterion.tier for case in cases for criterion in case.rubric.criteria]
    assert said["cases"] == str(len(cases)) and said["verdicts"] == str(sum(len(case.verdicts) for case in cases))
    assert [said[tier] for tier in Tier] == [str(criteria.count(tier)) for tier in Tier]
    assert said["wrote"] == str(out)
    before = out.read_bytes()
    assert run("data", "import", "kqa", data / "kqa", "--out", out) == 2
    assert "give --force to replace it" in capsys.readouterr().err and out.read_bytes() == before
    assert run("data", "import", "kqa", data / "kqa", "--out", out, "--force") == 0


def test_an_import_reads_and_writes_the_other_formats(data: Path, tmp_path: Path) -> None:
    assert run("data", "import", "healthbench", data / "healthbench", "--out", tmp_path / "bench.parquet") == 0
    assert len(read_cases(tmp_path / "bench.parquet")) == 300


def test_a_failed_import_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source, path in (("kqa", tmp_path), ("healthbench", tmp_path / "none.jsonl")):
        assert run("data", "import", source, path, "--out", tmp_path / "out.jsonl") == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []
