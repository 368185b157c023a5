"""Whose a run folder is: which differences of a recipe matter, how they are named, and which are allowed."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
import yaml

from promedical_jax.config import DpoConfig, GrpoConfig, Keep, Lora, Mesh, Optimizer, PpoConfig, RewardFunction, RmConfig, SftConfig, Stage
from promedical_jax.errors import InputError
from promedical_jax.recipe import Change, changes, dump, keys
from promedical_jax.train.checkpoint import write_parameters
from promedical_jax.train.inputs import READ, digests
from promedical_jax.train.resume import AUTO, Resume, claim, finished


def config(out: Path, schema: type[Stage] = SftConfig, **keys: Any) -> Any:
    return schema(out=out, cases=Path("c.jsonl"), model=Path("m"), **keys)


def trained(wanted: Stage) -> None:
    (wanted.out / "model").mkdir()
    (wanted.out / "model" / "config.json").write_text("{}")


def test_a_new_folder_is_nobody_s_and_a_claimed_one_ours(tmp_path: Path) -> None:
    ours = config(tmp_path / "run")
    assert not finished(ours, "sft") and not ours.out.exists()  # looking writes nothing
    claim(ours)
    assert not finished(ours, "sft") and (ours.out / "recipe.yaml").read_text() == dump(ours)
    trained(ours)
    assert finished(ours, "sft")


@pytest.mark.parametrize(("change", "sentence"), [
    ({"steps": 6}, "steps is 100 there and 6 here; choose another --out, or go on with the changes by --allow-change steps"),
    ({"seed": 1, "optimizer": Optimizer(final=1.0)}, ("seed is 0 there and 1 here, optimizer.final is 0.1 there and 1.0 here; choose another --out, or go on"
     " with the changes by --allow-change seed --allow-change optimizer.final")),
    ({"row": 512}, "row is null there and 512 here"),
    ({"lora": Lora(targets=("q",))}, "lora.targets is [q, k, v, o, gate, up, down] there and [q] here"),
])  # fmt: skip
def test_another_recipe_is_refused_by_the_keys_that_differ(change: dict, sentence: str, tmp_path: Path) -> None:
    claim(config(tmp_path))
    with pytest.raises(InputError) as refused:
        finished(config(tmp_path, **change), "sft", Resume(allow=("mesh", "log_every")))
    assert f"{tmp_path}: holds a sft run of another recipe ({tmp_path / 'recipe.yaml'}): {sentence}" in str(refused.value)


@pytest.mark.parametrize("change", [{"mesh": Mesh(fsdp=2, tp=2)}, {"keep": Keep(last=5, every=10)}], ids=str)
def test_devices_and_what_is_kept_may_differ(change: dict, tmp_path: Path) -> None:
    claim(config(tmp_path))
    trained(config(tmp_path))
    assert finished(config(tmp_path, **change), "sft")
    claim(config(tmp_path, **change))
    assert not (tmp_path / "changes.jsonl").exists() and (tmp_path / "recipe.yaml").read_text() == dump(config(tmp_path, **change))


def test_a_folder_that_was_moved_is_the_same_run(tmp_path: Path) -> None:
    claim(config(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    assert not finished(config(tmp_path / "there"), "sft")


def test_named_keys_may_change_and_the_run_goes_on(tmp_path: Path) -> None:
    claim(config(tmp_path))
    trained(config(tmp_path))
    longer = config(tmp_path, steps=200, optimizer=Optimizer(warmup=3))
    with pytest.raises(InputError, match=r"optimizer.warmup is 0 there and 3 here; choose another --out, or go on with the changes by --allow-change opt"):
        finished(longer, "sft", Resume(allow=("steps",)))
    assert not finished(longer, "sft", Resume(allow=("steps", "optimizer"))) and (tmp_path / "model").exists()
    claim(longer)
    assert not (tmp_path / "model").exists() and (tmp_path / "model.before" / "config.json").exists()
    assert json.loads((tmp_path / "changes.jsonl").read_text()) == {"steps": ["100", "200"], "optimizer.warmup": ["0", "3"]}
    assert not finished(longer, "sft")  # killed, and started again without or with the flags
    assert not finished(longer, "sft", Resume(allow=("steps", "optimizer")))
    trained(longer)
    assert finished(longer, "sft")


def test_what_a_killed_process_left_half_made_is_removed(tmp_path: Path) -> None:
    claim(config(tmp_path))
    (tmp_path / ".model.77.tmp").mkdir()
    (tmp_path / ".model.77.tmp" / "model.safetensors").write_text("half")
    (tmp_path / ".recipe.yaml.77.tmp").write_text("half")
    claim(config(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inputs.json", "recipe.yaml"]


def test_cases_that_were_changed_meanwhile_are_noticed(tmp_path: Path) -> None:
    """The position in the data is a number: in another file it would be another place."""
    ours = config(tmp_path / "run").model_copy(update={"cases": tmp_path / "c.jsonl"})
    ours.cases.write_text("one\ntwo\n")
    claim(ours)
    assert not finished(ours, "sft")
    ours.cases.write_text("one\ntwo\nthree\n")
    with pytest.raises(InputError, match=r"c\.jsonl: is not what it was when the run in .*/run began; put it back, choose another --out, or give --allow-"):
        finished(ours, "sft")
    assert not finished(ours, "sft", Resume(allow=("cases",)))
    claim(ours)
    assert not finished(ours, "sft")


def test_each_path_that_a_stage_reads_is_looked_at() -> None:
    """A new key that names a file belongs in READ, or here beside what a run writes itself."""
    for schema in (SftConfig, RmConfig, DpoConfig, GrpoConfig, PpoConfig):
        paths = {key.name for key in keys(schema) if "path" in key.allowed}
        assert paths - set(READ) <= {"out", "judge.cache"}, schema


@pytest.fixture
def inputs(tmp_path: Path) -> GrpoConfig:
    """A run that began with a policy, a reward model of two files, and an adapter to start from."""
    for name, file in (("policy", "model.safetensors"), ("judge", "model-00001-of-00001.safetensors"), ("judge", "heads.safetensors"),
                       ("adapter", "adapter_model.safetensors")):  # fmt: skip
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / file).write_bytes(bytes(range(256)))
    ours = config(tmp_path / "run", GrpoConfig, reward_model=tmp_path / "judge", lora=Lora(start=tmp_path / "adapter"))
    ours = ours.model_copy(update={"model": tmp_path / "policy"})
    claim(ours)
    return ours


@pytest.mark.parametrize(("file", "key"), [
    ("policy/model.safetensors", "model"), ("policy/config.json", "model"), ("judge/heads.safetensors", "reward_model"),
    ("judge/model-00001-of-00001.safetensors", "reward_model"), ("adapter/adapter_model.safetensors", "lora.start"), ("judge/calibration.json", "reward_model"),
])  # fmt: skip
def test_models_that_were_changed_in_place_are_noticed(file: str, key: str, inputs: GrpoConfig) -> None:
    """The run would go on against another reference or be rewarded by another judge."""
    path = inputs.out.parent / file
    assert not finished(inputs, "grpo")
    before = path.read_bytes() if path.exists() else b""
    path.write_bytes(before[:-1] + b"?")
    with pytest.raises(InputError, match=rf"{path.parent}: is not what it was when the run in .*/run began; .* or give --allow-change {key}$"):
        finished(inputs, "grpo")
    assert not finished(inputs, "grpo", Resume(allow=(key,)))
    claim(inputs)  # with it from now on
    assert not finished(inputs, "grpo")


def test_a_model_card_or_a_folder_that_is_gone_are_no_change(inputs: GrpoConfig) -> None:
    (inputs.out.parent / "policy" / "README.md").write_text("Words.")
    (inputs.out.parent / "judge").rename(inputs.out.parent / "moved")  # whoever reads it will say so; a finished run needs it no more
    assert not finished(inputs, "grpo")


def test_of_large_weights_their_length_and_pieces_are_looked_at(inputs: GrpoConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promedical_jax.train.inputs.PIECE", 8)
    monkeypatch.setattr("promedical_jax.train.inputs.PIECES", 5)
    weights = inputs.out.parent / "policy" / "model.safetensors"
    claim(inputs)
    before = digests(inputs)
    for place in (0, 62, 255):  # of the first piece, of the second, of the last
        changed = bytearray(range(256))
        changed[place] ^= 1
        weights.write_bytes(changed)
        assert digests(inputs) != before
    weights.write_bytes(bytes(range(256)) + b"x")
    assert digests(inputs) != before
    weights.write_bytes(bytes(range(256)))
    assert digests(inputs) == before


def test_a_checkpoint_folder_is_known_by_its_newest_record(tmp_path: Path) -> None:
    model = tmp_path / "imported"
    (model / "base").mkdir(parents=True)
    (model / "base" / "config.json").write_text("{}")
    ours = config(tmp_path / "run").model_copy(update={"model": model})
    write_parameters(model / "checkpoints", 1, {"w": jnp.ones(4)})
    claim(ours)
    assert not finished(ours, "sft")
    write_parameters(model / "checkpoints", 2, {"w": jnp.full(4, 2.0)})
    with pytest.raises(InputError, match="imported: is not what it was"):
        finished(ours, "sft")
    shutil.rmtree(model / "checkpoints")
    (model / "checkpoints").mkdir()
    with pytest.raises(InputError, match="imported: is not what it was"):
        finished(ours, "sft")


def test_fewer_steps_than_were_done_are_refused(tmp_path: Path) -> None:
    claim(config(tmp_path))
    (tmp_path / "checkpoints" / "9").mkdir(parents=True)
    with pytest.raises(InputError, match="its checkpoint of step 9 is past steps, which is 5; raise steps, or choose another --out"):
        finished(config(tmp_path, steps=5), "sft", Resume(allow=("steps",)))


def test_never_refuses_whatever_is_there(tmp_path: Path) -> None:
    never = Resume("never")
    assert not finished(config(tmp_path), "sft", never)
    claim(config(tmp_path))
    with pytest.raises(InputError, match="holds a run, and --resume is never; choose another --out, or leave --resume out to go on with it"):
        finished(config(tmp_path), "sft", never)


def test_a_key_that_is_none_is_not_allowed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--allow-change learning_rat: no such key; did you mean 'optimizer.learning_rate'"):
        finished(config(tmp_path), "sft", Resume(allow=("learning_rat",)))


@pytest.mark.parametrize("text", ["beta: 0.1\n", "{", "- a\n"])
def test_a_recipe_of_another_stage_or_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(InputError, match="holds a run of another stage than sft, or of another version"):
        finished(config(tmp_path), "sft", AUTO)
    assert not finished(config(tmp_path / "other", DpoConfig), "dpo")


def test_a_recipe_from_before_a_key_was_there_has_its_default(tmp_path: Path) -> None:
    """Recipes outlive versions: what an older one did not know is what it did."""
    values = yaml.safe_load(dump(config(tmp_path)))
    del values["keep"], values["optimizer"]["final"]
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(values))
    assert changes(tmp_path / "old.yaml", config(tmp_path)) == []
    assert changes(tmp_path / "old.yaml", config(tmp_path, optimizer=Optimizer(final=0.5))) == [Change("optimizer.final", "0.1", "0.5")]


def test_lists_of_settings_are_compared_as_wholes(tmp_path: Path) -> None:
    one = config(tmp_path, GrpoConfig, functions=(RewardFunction(function="a:b", tier="proficiency"),))
    (tmp_path / "recipe.yaml").write_text(dump(one))
    assert changes(tmp_path / "recipe.yaml", one) == []
    other = one.model_copy(update={"functions": (RewardFunction(function="a:c", tier="proficiency"),)})
    assert [change.key for change in changes(tmp_path / "recipe.yaml", other)] == ["functions"]
