"""`promedical export` and `promedical import`, through the command line: what comes out, and that a run which goes on is not touched."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml
from folders import save_policy
from safetensors.numpy import load_file
from tiny import CONFIG, policy, reward_params

from promedical_jax.cli import main
from promedical_jax.clinic import build_tokenizer, make_cases
from promedical_jax.config import GrpoConfig, Keep, Lora, Mesh, RmConfig, SftConfig, Stage
from promedical_jax.data.load import load_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.model import hf, lora, transformer
from promedical_jax.model.sharding import make_mesh, shardings
from promedical_jax.recipe import dump
from promedical_jax.reward import Verdicts
from promedical_jax.reward import axes as reward_axes
from promedical_jax.rubric import write_cases
from promedical_jax.train import checkpoint, export, sft
from promedical_jax.train.checkpoint import Checkpoints, read_parameters
from promedical_jax.train.optimizer import TrainState
from promedical_jax.train.scalar import padding_token

SPEAKING = replace(CONFIG, vocabulary=512)
LORA = Lora(rank=2, alpha=3.0, targets=("q", "down"))


def same(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def half(tree):
    return jax.tree.map(lambda x: x.astype("bfloat16"), tree)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder that training starts from."""
    folder = tmp_path / "start"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(hf.hf_config(CONFIG) | {"eos_token_id": 7}))
    (folder / "tokenizer.json").write_text('{"ä": 1}')
    (folder / "README.md").write_text("---\nbase_model: Qwen/Qwen3-0.6B\n---\n# A start\n")
    hf.save(folder / "whole", policy(), CONFIG, folder, card="")
    shutil.move(folder / "whole" / "model.safetensors", folder / "model.safetensors")
    shutil.rmtree(folder / "whole")
    return folder


def run(model: Path, stage: type[Stage] = SftConfig, saved: dict[int, Any] | None = None, **keys: Any) -> Path:
    """A run folder as training leaves it in the middle: `saved` are its states, of which the newest two are kept. On a mesh of its own."""
    out = model.parent / "run"
    extra = {"reward_model": model} if stage is GrpoConfig else {}
    recipe = stage(out=out, cases=Path("cases.jsonl"), model=model, steps=9, **extra, **keys)
    hf.keep_companions(out / "base", model)
    (out / "recipe.yaml").write_text(dump(recipe))
    with Checkpoints(out / "checkpoints", Keep()) as checkpoints:
        for step, state in (saved or {3: policy(), 6: policy(seed=5)}).items():
            state = state if isinstance(state, TrainState) else TrainState(state, (), {"mu": state}, np.int32(step))
            checkpoints.save(step, jax.tree.map(jax.numpy.asarray, state), {})
    return out


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}


def say(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err.removeprefix("error: ").rstrip()


def loaded(folder: Path, dtype: str = "float32"):
    return hf.load(folder, hf.read_config(folder), dtype=dtype)


# Export


def test_the_newest_checkpoint_becomes_a_model_folder(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = run(model), tmp_path / "deep" / "model"
    said = say(capsys, "export", folder, "--out", out)
    assert said == f"wrote {out}: step 6 of {folder}, 0.00 GB\n"
    same(loaded(out), policy(seed=5))
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    assert (out / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert json.loads((out / "config.json").read_text()) == json.loads((model / "config.json").read_text()) | {"dtype": "float32"}


def test_a_step_a_type_and_files_are_chosen(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = run(model), tmp_path / "model"
    say(capsys, "export", folder, "--out", out, "--step", 3, "--dtype", "bfloat16", "--shard-gib", 5000 / 2**30)
    same(loaded(out, "bfloat16"), half(policy()))
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 1 and json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_parameters_come_from_any_mesh(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    placed = jax.device_put(policy(seed=2), shardings(make_mesh(4, 2), transformer.axes(CONFIG)))
    say(capsys, "export", run(model, saved={1: placed}), "--out", tmp_path / "model")
    same(loaded(tmp_path / "model"), policy(seed=2))


def test_masters_are_what_float32_means(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(model, saved={2: TrainState(half(policy()), policy(), {"mu": policy()}, np.int32(2))}, weights="bfloat16")
    for dtype, wanted in {None: half(policy()), "bfloat16": half(policy()), "float32": policy()}.items():
        out = tmp_path / f"model-{dtype}"
        say(capsys, "export", folder, "--out", out, *(["--dtype", dtype] if dtype else []))
        same(loaded(out, "float32" if dtype == "float32" else "bfloat16"), wanted)


def test_the_optimizer_is_not_read(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(model)
    asked, load = [], checkpoint.ocp.load_checkpointables
    monkeypatch.setattr(checkpoint.ocp, "load_checkpointables", lambda path, abstract: asked.append(abstract) or load(path, abstract))
    export.export_checkpoint(folder, tmp_path / "model")
    assert [list(abstract["state"]) for abstract in asked] == [["params"]]


# While the run goes on


def test_a_run_that_goes_on_is_not_touched(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(model)
    for name in ("9.orbax-checkpoint-tmp", "9.orbax-checkpoint-tmp/state", ".hidden", "7-half"):  # what a save under way looks like
        (folder / "checkpoints" / name).mkdir()
    (folder / "checkpoints" / "9.orbax-checkpoint-tmp" / "state" / "part").write_text("half")
    before = listing(folder)
    say(capsys, "export", folder, "--out", tmp_path / "model")
    same(loaded(tmp_path / "model"), policy(seed=5))
    assert listing(folder) == before


def test_a_checkpoint_that_is_removed_meanwhile_is_given_up_for_a_newer_one(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(model) / "checkpoints"
    (folder / "6").rename(tmp_path / "newer")
    read, reads = checkpoint._parameters, []

    def removed_once_read(path: Path, *rest):
        reads.append(path.name)
        found = read(path, *rest)
        if len(reads) == 1:
            (tmp_path / "newer").rename(folder / "6")
            shutil.rmtree(folder / "3")
        return found

    monkeypatch.setattr(checkpoint, "_parameters", removed_once_read)
    params, step = read_parameters(folder)
    assert step == 6 and reads == ["3", "6"]
    same(params, policy(seed=5))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of Orbax's other reads, which nobody waits for then
def test_a_checkpoint_in_removal_never_gives_other_weights(model: Path, tmp_path: Path) -> None:
    """Whichever file of it is gone: it is read right, or it is not read."""
    folder = run(model, saved={1: policy()}) / "checkpoints"
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    faults = 0
    for file in files:
        again = tmp_path / "again"
        shutil.copytree(folder, again)
        (again / file).unlink()
        try:
            same(read_parameters(again)[0], policy())
        except InputError as error:
            assert "cannot be read" in str(error) and "\n" not in str(error)
            faults += 1
        shutil.rmtree(again)
    assert faults >= 3 and len(files) > faults


def test_one_that_keeps_vanishing_is_an_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(model) / "checkpoints"
    monkeypatch.setattr(checkpoint, "_parameters", lambda path, *_: (path / f"{time.monotonic_ns()}").write_text(""))
    with pytest.raises(InputError, match="each of 5 checkpoints was removed while it was read"):
        read_parameters(folder)


# Reward models


def test_a_reward_model_is_calibrated_at_its_end_alone(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = jax.device_put(reward_params(), shardings(make_mesh(2, 4), reward_axes(CONFIG)))
    folder = run(model, RmConfig, saved={6: params, 9: params})
    said = say(capsys, "export", folder, "--out", tmp_path / "early")
    assert said.splitlines()[1] == "its scores are not calibrated: `promedical train rm` does that after its last step, 9, so it cannot judge yet"
    same(loaded(tmp_path / "early"), reward_params()["backbone"])
    same(load_file(tmp_path / "early" / "heads.safetensors"), reward_params()["heads"])
    assert not (tmp_path / "early" / "calibration.json").exists()
    (folder / "model").mkdir()
    fitted = Verdicts().model_dump_json()
    (folder / "model" / "calibration.json").write_text(fitted)  # the run has finished
    assert "not calibrated" in say(capsys, "export", folder, "--out", tmp_path / "middle", "--step", 6)  # it was fitted to the last step's scores
    assert not (tmp_path / "middle" / "calibration.json").exists()
    assert "calibrated" not in say(capsys, "export", folder, "--out", tmp_path / "late")
    assert (tmp_path / "late" / "calibration.json").read_text() == fitted


def test_a_reward_model_comes_back_through_an_import(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(model, RmConfig, saved={9: reward_params()})
    (folder / "model").mkdir()
    (folder / "model" / "calibration.json").write_text(Verdicts().model_dump_json())
    say(capsys, "export", folder, "--out", tmp_path / "one")
    say(capsys, "import", tmp_path / "one", "--out", tmp_path / "saved")
    say(capsys, "export", tmp_path / "saved", "--out", tmp_path / "two")
    for name in ("model.safetensors", "heads.safetensors", "calibration.json", "config.json", "tokenizer.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
    (tmp_path / "one" / "heads.safetensors").write_bytes(hf.packed({"weight": np.zeros((2, 16))[:, :1], "bias": np.zeros(2)}).replace(b"F64", b"F32")[:8])
    assert "heads.safetensors" in refused(capsys, "import", tmp_path / "one", "--out", tmp_path / "other")
    (tmp_path / "one" / "heads.safetensors").write_bytes(hf.packed({"weight": np.zeros((2, 16), np.float32), "bias": np.zeros(2, np.float32)}))
    assert "config.json and calibration.json ask for" in refused(capsys, "import", tmp_path / "one", "--out", tmp_path / "other")


# A classifier with one score


@pytest.fixture
def speaking(tmp_path: Path) -> Path:
    """A model folder with the clinic's tokenizer, and its vocabulary."""
    save_policy(tmp_path / "speaking", policy(SPEAKING), SPEAKING, build_tokenizer())
    return tmp_path / "speaking"


def with_heads(count: int = 3) -> dict[str, Any]:
    params = reward_params(SPEAKING)
    return params | {"heads": {name: x[:count] for name, x in params["heads"].items()}}


def pads_with(folder: Path, token: str | None, **fields: Any) -> None:
    """Makes the tokenizer in a folder pad with this token."""
    path = folder / "tokenizer_config.json"
    kept = {name: value for name, value in json.loads(path.read_text()).items() if name != "pad_token"}
    path.write_text(json.dumps(kept | ({"pad_token": token} if token else {}) | fields))


def test_a_score_is_a_weighted_sum_of_heads(speaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = run(speaking, RmConfig, saved={4: with_heads()}), tmp_path / "model"
    said = say(capsys, "export", folder, "--out", out, "--scalar", "safety=-2, proficiency,excellence=0.25")
    heads = with_heads()["heads"]
    formula = "-2 x safety + 1 x proficiency + 0.25 x excellence"
    assert said.splitlines()[1:] == [f"its one score is {formula}, without the bias 0.05 and without a calibration"]  # -2 x 0.1 + 0.3 - 0.25 x 0.2
    found = load_file(out / "model.safetensors")
    causal = hf.to_hf(policy(SPEAKING), SPEAKING)
    assert found.keys() == causal.keys() - {"lm_head.weight"} | {"score.weight"} and "lm_head.weight" in causal
    for name in found.keys() & causal.keys():
        np.testing.assert_array_equal(found[name], causal[name])
    assert found["score.weight"].shape == (1, 16) and found["score.weight"].dtype == np.float32
    np.testing.assert_allclose(found["score.weight"][0], heads["weight"][0] + 0.25 * heads["weight"][1] - 2 * heads["weight"][2], rtol=1e-6, atol=1e-7)
    before, after = (json.loads((place / "config.json").read_text()) for place in (speaking, out))
    one_label = {"architectures": ["Qwen3ForSequenceClassification"], "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    assert after == before | one_label | {"pad_token_id": build_tokenizer().pad_token_id}
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["README.md", "model.safetensors", *(path.name for path in speaking.iterdir() if path.suffix in (".json", ".jinja") and "generation" not in path.name)]
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):  # its own padding token is another than its end-of-turn token
        assert (out / name).read_bytes() == (speaking / name).read_bytes()


def test_a_classifier_has_its_type_and_files(speaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = run(speaking, RmConfig, saved={4: with_heads()}), tmp_path / "model"
    say(capsys, "export", folder, "--out", out, "--scalar", "safety", "--dtype", "bfloat16", "--shard-gib", 20_000 / 2**30)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = {name: load_file(out / file) for name, file in index["weight_map"].items()}
    assert len(set(index["weight_map"].values())) > 1 and "lm_head.weight" not in files
    same(files["score.weight"]["score.weight"], half(with_heads()["heads"]["weight"][2:]))
    assert index["metadata"]["total_size"] == sum(files[name][name].nbytes for name in files)
    assert "architectures" in refused(capsys, "import", out, "--out", tmp_path / "saved")  # no causal model, and said so


def test_a_kind_is_known_by_its_recipe_its_calibration_or_its_heads(speaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds: dict[Any, tuple[int, str, str]] = {"blind": (3, "safety=1", "is told no criterion"), "implicit": (1, "implicit=1", "scores an answer as a whole")}
    for kind, (count, scalar, words) in kinds.items():
        folder = run(speaking, RmConfig, saved={9: with_heads(count)}, kind=kind)
        (folder / "model").mkdir()
        (folder / "model" / "calibration.json").write_text((Verdicts(kind=kind, tiers={}) if count == 1 else Verdicts(kind=kind)).model_dump_json())
        say(capsys, "export", folder, "--out", tmp_path / kind, "--scalar", scalar)
        assert words in (tmp_path / kind / "README.md").read_text() and not (tmp_path / kind / "calibration.json").exists()
        say(capsys, "export", folder, "--out", tmp_path / f"{kind}-whole")
        say(capsys, "import", tmp_path / f"{kind}-whole", "--out", tmp_path / f"{kind}-saved")
        say(capsys, "export", tmp_path / f"{kind}-saved", "--out", tmp_path / f"{kind}-again", "--scalar", scalar)
        assert words in (tmp_path / f"{kind}-again" / "README.md").read_text()
        assert (tmp_path / f"{kind}-again" / "model.safetensors").read_bytes() == (tmp_path / kind / "model.safetensors").read_bytes()
        (tmp_path / f"{kind}-saved" / "calibration.json").unlink()  # of three heads the explicit kind is the usual one
        say(capsys, "export", tmp_path / f"{kind}-saved", "--out", tmp_path / f"{kind}-bare", "--scalar", scalar)
        assert (words if count == 1 else "a criterion that it is told") in (tmp_path / f"{kind}-bare" / "README.md").read_text()
        shutil.rmtree(folder)
    (tmp_path / "blind-saved" / "calibration.json").write_text(Verdicts(kind="implicit", tiers={}).model_dump_json())
    arguments = ["export", tmp_path / "blind-saved", "--out", tmp_path / "other", "--scalar", "safety"]
    assert "heads is 3, and of the implicit kind, which calibration.json names, it is 1" in refused(capsys, *arguments)


def test_the_end_of_turn_never_pads(speaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (speaking / "special_tokens_map.json").write_text('{"pad_token": {"content": "<|im_end|>", "lstrip": false}}')
    for number, token in enumerate((None, "<|im_end|>")):
        pads_with(speaking, token, padding_side="left")
        out = tmp_path / f"model-{number}"
        said = say(capsys, "export", run(speaking, RmConfig, saved={4: with_heads()}), "--out", out, "--scalar", "safety")
        assert "<|pad|>, which no text holds, is its padding token, for the tokenizer " in said
        config = json.loads((out / "tokenizer_config.json").read_text())
        assert config == json.loads((speaking / "tokenizer_config.json").read_text()) | {"pad_token": "<|pad|>"}
        assert json.loads((out / "special_tokens_map.json").read_text()) == {"pad_token": "<|pad|>"}
        read = load_tokenizer(out, SPEAKING.vocabulary)
        assert read.pad_token_id == json.loads((out / "config.json").read_text())["pad_token_id"] == build_tokenizer().pad_token_id != read.eos_token_id
        assert read.encode("Take 40 mg.") == build_tokenizer().encode("Take 40 mg.") and "`<|pad|>` pads" in (out / "README.md").read_text()
        shutil.rmtree(speaking.parent / "run")


def test_what_pads_is_a_control_token_without_a_use() -> None:
    tokenizer = build_tokenizer()
    tokenizer.pad_token = None
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<|pad|>", "<|reserved_0|>", "<|reserved_1|>", "<|im_start|>")}
    assert padding_token(tokenizer, set(), 512) == "<|pad|>"
    assert padding_token(tokenizer, {ids["<|pad|>"]}, 512) == "<|reserved_0|>"  # generation may stop at it
    tokenizer.bos_token = "<|reserved_0|>"
    assert padding_token(tokenizer, {ids["<|pad|>"]}, 512) == "<|reserved_1|>"
    tokenizer.chat_template += "<|reserved_1|>"
    assert padding_token(tokenizer, {ids["<|pad|>"]}, 512) == "<|reserved_2|>"
    with pytest.raises(InputError, match="no other control token is free to pad with; add one"):
        padding_token(tokenizer, {ids["<|pad|>"]}, ids["<|reserved_0|>"])  # the model has no more tokens
    tokenizer.pad_token = "<|im_start|>"
    assert padding_token(tokenizer, set(), 512) == "<|im_start|>"  # its own, and none that is read


def test_the_card_of_a_classifier_says_what_it_reads(speaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = run(speaking, RmConfig, saved={4: with_heads()}), tmp_path / "model"
    say(capsys, "export", folder, "--out", out, "--scalar", "proficiency=1,excellence=0.1,safety=-2")
    _, front, body = (out / "README.md").read_text().split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["pipeline_tag"] == "text-classification" and {"rm", "reward-model"} <= set(fields["tags"])
    said = [
        "`1 x proficiency + 0.1 x excellence - 2 x safety`", "Their bias, 0.08", "No calibration comes with it", "step 4 of 9, so training was not finished",
        "then the criterion as the user's next turn", "`<|im_end|>` must be the last token", "AutoModelForSequenceClassification.from_pretrained",
    ]  # fmt: skip
    assert [words for words in said if words not in body] == []
    assert "AutoModelForCausalLM" not in body and "heads.safetensors" not in body
    compile(body.split("```python\n")[1].split("```")[0], "card", "exec")


def test_what_makes_no_classifier_is_one_sentence(speaking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = run(speaking, RmConfig, saved={4: with_heads()}), tmp_path / "out"
    export_as = partial(refused, capsys, "export", folder, "--out", out, "--scalar")
    names = "name proficiency, excellence, safety"
    assert export_as("saftey=1") == f"--scalar: 'saftey' is no head of a reward model; {names}, implicit, as in proficiency=1,safety=-2"
    for text in ("", "safety=1,", "1"):
        assert "is no head of a reward model" in export_as(text)
    for text in ("safety=", "safety=much", "safety=nan", "safety=inf", "safety=1e39", "safety=1=2"):
        assert export_as(text) == f"--scalar: the weight of safety is {text.partition('=')[2]!r}; give a number, such as 1, 0.1 or -2"
    assert export_as("safety=0,excellence=-0") == "--scalar: every weight is 0, and so would be every score; give a head another one"
    assert export_as("safety=1,safety=2") == "--scalar: safety is named twice; give it one weight"
    assert export_as("implicit=1") == f"--scalar: a reward model of the explicit kind has no head 'implicit'; {names}"
    shutil.rmtree(folder)
    run(speaking, RmConfig, saved={4: with_heads(1)}, kind="implicit")
    assert export_as("safety=1") == "--scalar: a reward model of the implicit kind has no head 'safety'; name implicit"
    shutil.rmtree(folder)
    run(speaking, RmConfig, saved={4: with_heads(1)}, kind="blind")
    assert f"{folder}: the number of its heads is 1, and of the blind kind, which recipe.yaml names, it is 3; the two do not" in export_as("safety=1")
    shutil.rmtree(folder)
    run(speaking, saved={4: policy(SPEAKING)})
    assert export_as("safety") == f"{folder}: holds no reward model, and --scalar is for one; give a run of `promedical train rm`, or leave --scalar out"
    shutil.rmtree(folder)
    run(speaking, RmConfig, saved={4: with_heads()})
    (folder / "base" / "tokenizer.json").unlink()
    assert "tokenizer.json: no such file, and a classifier has to know what pads" in export_as("safety")
    assert not out.exists()


# Adapters


@pytest.mark.parametrize("kind", [GrpoConfig, RmConfig])
def test_adapters_are_merged_into_the_weights_they_were_trained_on(kind: type[Stage], model: Path, tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(0)
    shapes = lora.shapes(CONFIG, LORA.rank, LORA.targets)
    adapters = {name: rng.normal(size=x.shape).astype(np.float32) for name, x in shapes.items()}
    trained = {"adapters": adapters}
    heads = reward_params()["heads"]
    folder = run(model, kind, saved={9: {"backbone": trained, "heads": heads} if kind is RmConfig else trained}, lora=LORA)
    say(capsys, "export", folder, "--out", tmp_path / "model")
    wanted = lora.merge(policy() | trained, replace(CONFIG, adapter_scale=1.5))
    found = loaded(tmp_path / "model")
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found, wanted)
    assert np.abs(found["layers"]["q"] - policy()["layers"]["q"]).max() > 0.1
    same(found["layers"]["k"], policy()["layers"]["k"])
    assert (tmp_path / "model" / "heads.safetensors").exists() is (kind is RmConfig)
    (model / "model.safetensors").unlink()
    assert "has no weights, and the adapters of" in refused(capsys, "export", folder, "--out", tmp_path / "again")
    (folder / "recipe.yaml").unlink()
    assert "put the run's recipe.yaml back" in refused(capsys, "export", folder, "--out", tmp_path / "again")


# The card


@pytest.mark.parametrize("kind", [SftConfig, RmConfig, GrpoConfig])
def test_the_card_says_what_the_weights_are(kind: type[Stage], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(model, kind, saved={4: reward_params() if kind is RmConfig else policy()})
    say(capsys, "export", folder, "--out", tmp_path / "model")
    text = (tmp_path / "model" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    stage = {SftConfig: "sft", RmConfig: "rm", GrpoConfig: "grpo"}[kind]
    fields = yaml.safe_load(front)
    assert fields["library_name"] == "transformers" and fields["base_model"] == "Qwen/Qwen3-0.6B" and stage in fields["tags"]
    assert ("pipeline_tag" in fields) is (kind is not RmConfig)
    assert f"`promedical train {stage}`" in body and "after step 4 of 9, so training was not finished" in body
    assert body.split("```yaml\n")[1].split("```")[0] == (folder / "recipe.yaml").read_text()
    recipe = export.read_stage(folder / "recipe.yaml")
    assert type(recipe) is kind and "step 9 of 9." in export.model_card(recipe)


def test_the_base_model_is_named_where_it_is_known(tmp_path: Path) -> None:
    assert export.base_model("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    assert export.base_model("/cache/models--meta-llama--Llama-3.1-8B/snapshots/abc") == "meta-llama/Llama-3.1-8B"
    assert export.base_model(tmp_path) is None
    (tmp_path / "README.md").write_text("base_model: in/text\n")
    assert export.base_model(tmp_path) is None


# Import


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_import_gives_the_same_tensors_bit_for_bit(dtype: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, saved = tmp_path / "one", tmp_path / "two", tmp_path / "saved"
    hf.save(one, policy(), CONFIG, model, card="", dtype=dtype, shard_bytes=9000)
    assert say(capsys, "import", one, "--out", saved) == f"wrote {saved}: {sum(x.size for x in jax.tree.leaves(policy())) / 1e9:.3g} G parameters of {one}\n"
    assert sorted(path.name for path in saved.iterdir()) == ["base", "checkpoints", "imported.json"]
    say(capsys, "export", saved, "--out", two, "--shard-gib", 9000 / 2**30)
    files = sorted(path.name for path in one.iterdir())
    assert [name for name in sorted(path.name for path in two.iterdir()) if name != "README.md"] == files and len(files) > 4
    for name in files:
        assert (two / name).read_bytes() == (one / name).read_bytes(), name
    assert f"The weights of `{one}`" in (two / "README.md").read_text()


def test_an_import_is_cast_where_it_is_asked_for(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say(capsys, "import", model, "--out", tmp_path / "saved", "--dtype", "bfloat16")
    params, step = read_parameters(tmp_path / "saved" / "checkpoints")
    assert step == 0
    same(params, half(policy()))


# What is refused


def test_what_cannot_be_exported_is_one_sentence(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = run(model), tmp_path / "model"
    assert refused(capsys, "export", tmp_path / "none", "--out", out).startswith(f"{tmp_path / 'none'}: no such folder; give the folder of a run")
    assert "holds no base" in refused(capsys, "export", model, "--out", out)
    assert refused(capsys, "export", folder, "--out", out, "--step", 4).endswith("holds no checkpoint of step 4; complete ones are 3, 6")
    assert "must be >= 0" in refused(capsys, "export", folder, "--out", out, "--step", -1)
    assert "must be > 0" in refused(capsys, "export", folder, "--out", out, "--shard-gib", 0)
    assert refused(capsys, "export", folder, "--out", folder / "model").endswith("is the run's own model; choose another --out")
    config = folder / "base" / "config.json"
    config.write_text(json.dumps(hf.hf_config(replace(CONFIG, feed_forward=32))))
    assert "['layers']['down'] has shape (2, 24, 16), and base/config.json asks for (2, 32, 16)" in refused(capsys, "export", folder, "--out", out)
    (folder / "checkpoints" / "6" / "state" / "_METADATA").write_text("{")
    assert f"{folder / 'checkpoints' / '6'}: cannot be read" in refused(capsys, "export", folder, "--out", out)
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    assert "holds no complete checkpoint yet" in refused(capsys, "export", folder, "--out", out)
    (folder / "recipe.yaml").write_text("steps: many")
    assert "no recipe that this version wrote" in refused(capsys, "export", folder, "--out", out)
    assert not out.exists()


def test_what_cannot_be_imported_is_one_sentence(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    out = tmp_path / "saved"
    assert "no such folder" in refused(capsys, "import", tmp_path / "none", "--out", out)
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-5])
    assert "truncated, tensor lm_head.weight ends at byte" in refused(capsys, "import", model, "--out", out)
    (model / "model.safetensors").unlink()
    assert "has no weights to import" in refused(capsys, "import", model, "--out", out)
    assert not out.exists()


def test_what_exists_is_replaced_only_by_force_and_only_what_it_was(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out, saved = run(model), tmp_path / "model", tmp_path / "saved"
    for command in (["export", folder, "--out", out], ["import", model, "--out", saved]):
        say(capsys, *command)
        before = listing(command[-1])
        assert refused(capsys, *command) == f"{command[-1]} exists; give --force to replace it, or another --out"
        assert listing(command[-1]) == before
        say(capsys, *command, "--force")
        assert listing(command[-1]) != before
        other = tmp_path / "precious"
        other.mkdir(exist_ok=True)
        (other / "thesis.txt").write_text("years of work")
        assert "--force replaces nothing else" in refused(capsys, *command[:-1], other, "--force")
        assert "--force replaces nothing else" in refused(capsys, *command[:-1], other / "thesis.txt", "--force")
        assert (other / "thesis.txt").read_text() == "years of work"
    say(capsys, "export", folder, "--out", out, "--force", "--step", 3)
    same(loaded(out), policy())


# Killed


KILLED = """
import sys, time
from pathlib import Path
from promedical_jax.cli import main
from promedical_jax.model.hf import writer
gather, done = writer._gather, []
def slow(*arguments, **named):
    done.append(1)
    if len(done) == 9:
        Path(sys.argv[3]).touch()
        time.sleep(600)
    return gather(*arguments, **named)
writer._gather = slow
main(["export", sys.argv[1], "--out", sys.argv[2]])
"""


def test_a_killed_export_leaves_nothing_that_loads(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out, signs = run(model), tmp_path / "out" / "model", tmp_path / "reached"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen([sys.executable, "-c", KILLED, folder, out, signs], env=environment)
    while not signs.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    left = list((tmp_path / "out").iterdir())
    assert len(left) == 1 and left[0].name.startswith(".")  # hidden, beside its place
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        hf.read_config(left[0])
    with pytest.raises(InputError, match="truncated"):
        hf.load(left[0], CONFIG)
    say(capsys, "export", folder, "--out", out)  # and is no hindrance
    same(loaded(out), policy(seed=5))


# A checkpoint as the model of a stage


@pytest.mark.slow
def test_a_stage_starts_from_an_imported_model_as_from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = build_tokenizer()
    config = replace(CONFIG, vocabulary=len(tokenizer))
    save_policy(tmp_path / "hf", policy(config), config, tokenizer)
    write_cases(tmp_path / "cases.jsonl", make_cases(8, seed=0, answers=1))
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "imported")]) == 0
    losses = {}
    for source in ("hf", "imported"):
        common = {"cases": tmp_path / "cases.jsonl", "steps": 2, "batch": 8, "log_every": 1, "mesh": Mesh(fsdp=4, tp=2)}
        sft.run(SftConfig(out=tmp_path / f"run-{source}", model=tmp_path / source, **common))
        losses[source] = [json.loads(line)["loss"] for line in (tmp_path / f"run-{source}" / "metrics.jsonl").read_text().splitlines()]
    assert losses["hf"] == losses["imported"] and len(losses["hf"]) == 2
    # A run's newest checkpoint is such a source too, and another model's is refused before training.
    out = tmp_path / "next"
    arguments = ["train", "sft", "--cases", tmp_path / "cases.jsonl", "--steps", "1", "--batch", "8", "--model"]
    assert main([*map(str, arguments), str(tmp_path / "run-hf"), "--out", str(out)]) == 0
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[0])["loss"] < losses["hf"][0]
    capsys.readouterr()
    fields = json.loads((tmp_path / "imported" / "base" / "config.json").read_text())
    (tmp_path / "imported" / "base" / "config.json").write_text(json.dumps(fields | {"intermediate_size": 32}))
    assert main([*map(str, arguments), str(tmp_path / "imported"), "--out", str(tmp_path / "other")]) == 2
    assert "has shape" in capsys.readouterr().err and not (tmp_path / "other").exists()


@pytest.mark.slow
def test_adapters_on_an_imported_model_are_exported_with_its_weights(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    config = replace(CONFIG, vocabulary=len(tokenizer))
    save_policy(tmp_path / "hf", policy(config), config, tokenizer)
    write_cases(tmp_path / "cases.jsonl", make_cases(8, seed=0, answers=1))
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "imported")]) == 0
    sft.run(SftConfig(out=tmp_path / "run", model=tmp_path / "imported", cases=tmp_path / "cases.jsonl", steps=1, batch=8, lora=LORA))
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    exported, trained = (load_file(tmp_path / folder / "model.safetensors") for folder in ("out", "run/model"))
    assert exported.keys() == trained.keys()
    for name, tensor in trained.items():
        np.testing.assert_allclose(exported[name], tensor, rtol=1e-6, atol=1e-7)
