import json
import os
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from safetensors.flax import save_file
from tiny import CONFIG, policy

from promedical_jax.errors import InputError
from promedical_jax.model import hf, transformer

TIED = replace(CONFIG, tied=True)


class Tokenizer:
    """What `hf.save` asks of a tokenizer."""

    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


def same(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["untied", "tied"])
def test_save_and_load_are_bit_equal(config, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "model"
    hf.save(folder, policy(config), config, Tokenizer(), {"more.bin": b"x"})
    assert hf.read_config(folder) == config
    same(hf.load(folder, config), policy(config))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "more.bin", "tokenizer.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    names = safetensors.numpy.load_file(folder / "model.safetensors")
    assert ("lm_head.weight" in names) is not config.tied
    same(hf.load(folder, config).keys(), transformer.axes(config).keys())


def test_a_sharded_checkpoint_of_half_precision_is_read(tmp_path: Path) -> None:
    tensors = hf.to_hf(policy(), CONFIG)
    half = {name: jax.numpy.asarray(x, jax.numpy.bfloat16) for name, x in tensors.items()}
    names = sorted(half)
    save_file({name: half[name] for name in names[:9]}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({name: half[name] for name in names[9:]}, tmp_path / "model-00002-of-00002.safetensors")
    loaded = hf.load(tmp_path, CONFIG)
    same(loaded, hf.from_hf({name: np.asarray(x, np.float32) for name, x in half.items()}, CONFIG, "half"))
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(loaded))


def test_a_tied_matrix_stored_twice_is_read(tmp_path: Path) -> None:
    tensors = hf.to_hf(policy(TIED), TIED)
    same(hf.from_hf(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}, TIED, "model"), policy(TIED))


def test_a_folder_without_weights_gives_none(tmp_path: Path) -> None:
    assert hf.load(tmp_path, CONFIG) is None


def test_faulty_checkpoints_name_the_tensor(tmp_path: Path) -> None:
    tensors = hf.to_hf(policy(), CONFIG)
    name = "model.layers.1.self_attn.q_proj.weight"
    with pytest.raises(InputError, match=f"model: tensor {name} is missing"):
        hf.from_hf({key: x for key, x in tensors.items() if key != name}, CONFIG, "model")
    with pytest.raises(InputError, match=f"tensor {name} has shape .*config.json asks for"):
        hf.from_hf(tensors | {name: tensors[name].T}, CONFIG, "model")
    with pytest.raises(InputError, match=r"unexpected tensors model\.layers\.0\.self_attn\.q_proj\.bias"):
        hf.from_hf(tensors | {"model.layers.0.self_attn.q_proj.bias": np.zeros(48)}, CONFIG, "model")
    with pytest.raises(InputError, match=r"unexpected tensors lm_head\.weight|model\.layers\.1"):
        hf.from_hf(tensors, replace(CONFIG, depth=1), "model")
    with pytest.raises(InputError, match=r"tensor lm_head\.weight is missing"):
        hf.from_hf(hf.to_hf(policy(TIED), TIED), CONFIG, "model")
    (tmp_path / "model.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"model\.safetensors: not a readable safetensors file"):
        hf.load(tmp_path, CONFIG)


def test_the_caller_keeps_his_tensors() -> None:
    tensors = hf.to_hf(policy(), CONFIG)
    names = set(tensors)
    hf.from_hf(tensors, CONFIG, "model")
    assert set(tensors) == names


@pytest.mark.parametrize("when", ["weights", "tokenizer", "config"])
def test_a_killed_export_leaves_no_half_folder(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"

    def killed(*_, **__):
        raise KeyboardInterrupt

    def export(config) -> None:
        hf.save(folder, policy(config), config, Tokenizer())

    with monkeypatch.context() as patch:
        match when:
            case "weights":
                patch.setattr(safetensors.numpy, "save_file", killed)
            case "tokenizer":
                patch.setattr(Tokenizer, "save_pretrained", killed)
            case "config":
                patch.setattr(json, "dumps", killed)
        with pytest.raises(KeyboardInterrupt):
            export(CONFIG)
        assert not folder.exists()
    export(CONFIG)  # the rest of the killed one is no hindrance
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with monkeypatch.context() as patch:
        patch.setattr(safetensors.numpy, "save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            export(TIED)
    same(hf.load(folder, hf.read_config(folder)), policy(CONFIG))  # the old one is whole
    export(TIED)
    same(hf.load(folder, hf.read_config(folder)), policy(TIED))
    assert os.listdir(tmp_path) == ["model"]


def test_what_a_killed_process_left_is_no_hindrance(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    left = tmp_path / f".model.{os.getpid()}.tmp"  # in a container every run has the same number
    left.mkdir()
    (left / "half").write_text("")
    hf.save(folder, policy(), CONFIG, Tokenizer())
    same(hf.load(folder, CONFIG), policy())
    assert os.listdir(tmp_path) == ["model"] and not (folder / "half").exists()


@pytest.mark.parametrize("failing", [0, 1])
def test_an_export_that_cannot_be_put_in_place_keeps_the_old_one(failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    hf.save(folder, policy(), CONFIG, Tokenizer())
    replace_, calls = os.replace, []

    def fail_once(*paths) -> None:
        calls.append(paths)
        if len(calls) == failing + 1:
            raise OSError("disk")
        replace_(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail_once)
        with pytest.raises(OSError, match="disk"):
            hf.save(folder, policy(TIED), TIED, Tokenizer())
    same(hf.load(folder, CONFIG), policy())
    assert os.listdir(tmp_path) == ["model"]
