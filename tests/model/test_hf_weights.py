"""Weights in and out of HF's files: bit for bit, into every placement, each device its own part; and what is not whole is refused by name."""

import json
import math
import os
import socket
import subprocess
import sys
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import jax
import ml_dtypes
import numpy as np
import pytest
from huggingface_hub import errors
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import SingleDeviceSharding
from safetensors.numpy import load_file, save_file
from tiny import CONFIG, MESHES, policy

from promedical_jax.errors import InputError
from promedical_jax.model import hf, transformer
from promedical_jax.model.hf import names, reader, writer
from promedical_jax.model.sharding import make_mesh, shardings

TIED, PLAIN = replace(CONFIG, tied=True), replace(CONFIG, qk_norm=False)
CONFIGS = pytest.mark.parametrize("config", [CONFIG, TIED, PLAIN], ids=["untied", "tied", "without-qk-norm"])
Q = "model.layers.1.self_attn.q_proj.weight"


def same(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder of companions."""
    folder = tmp_path / "base"
    folder.mkdir()
    describe(folder, CONFIG)
    (folder / "tokenizer.json").write_text('{"ä": 1}')
    return folder


def describe(base: Path, config) -> None:
    (base / "config.json").write_text(json.dumps(hf.hf_config(config) | {"eos_token_id": [7, 9]}))


def export(folder: Path, base: Path, params=None, config=CONFIG, **options) -> Path:
    describe(base, config)
    hf.save(folder, policy(config) if params is None else params, config, base, **({"card": "# A model"} | options))
    return folder


def placed(config=CONFIG, mesh=(4, 2)):
    return shardings(make_mesh(*mesh), transformer.axes(config))


# Out and in


@CONFIGS
@pytest.mark.parametrize("shard_bytes", [2**30, 5000], ids=["one-file", "several"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_written_is_read_bit_for_bit(config, shard_bytes: int, dtype: str, base: Path, tmp_path: Path) -> None:
    params = jax.tree.map(lambda x: x.astype(dtype), policy(config))
    folder = export(tmp_path / "deep" / "model", base, params, config, shard_bytes=shard_bytes)
    loaded = hf.load(folder, config, dtype=dtype)
    same(loaded, params)
    assert all(x.dtype == dtype for x in jax.tree.leaves(loaded))
    files = sorted(folder.glob("*.safetensors"))
    tensors = {name: x for file in files for name, x in load_file(file).items()}  # the library finds the same
    same(tensors, hf.to_hf(params, config))
    assert ("lm_head.weight" in tensors) is not config.tied and ("model.layers.0.self_attn.q_norm.weight" in tensors) is config.qk_norm
    assert (len(files) == 1) is (shard_bytes == 2**30) and json.loads((folder / "config.json").read_text())["dtype"] == dtype


@pytest.mark.parametrize("mesh", MESHES)
@CONFIGS
def test_every_placement_holds_the_same_weights(config, mesh: tuple[int, int], base: Path, tmp_path: Path) -> None:
    folder, where = export(tmp_path / "model", base, config=config, shard_bytes=9000), placed(config, mesh)
    loaded = hf.load(folder, config, where)
    same(loaded, policy(config))
    for (path, x), wanted in zip(jax.tree.leaves_with_path(loaded), jax.tree.leaves(where), strict=True):
        assert x.sharding.is_equivalent_to(wanted, x.ndim), jax.tree_util.keystr(path)
    again = export(tmp_path / "again", base, loaded, config)
    whole = export(tmp_path / "whole", base, config=config)
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_mesh_around_the_caller_changes_nothing(base: Path, tmp_path: Path) -> None:
    with jax.set_mesh(make_mesh(4, 2)):
        folder = export(tmp_path / "model", base, hf.load(export(tmp_path / "first", base), CONFIG, placed()))
        loaded = hf.load(folder, CONFIG)
        assert not jax.sharding.get_abstract_mesh().empty
    same(loaded, policy())
    assert all(isinstance(x.sharding, SingleDeviceSharding) for x in jax.tree.leaves(loaded))


@pytest.mark.parametrize("stored", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_types_are_cast_once_and_to_the_nearest(stored, dtype: str, tmp_path: Path) -> None:
    tensors = {name: x.astype(stored) for name, x in hf.to_hf(policy(), CONFIG).items()}
    in_order = sorted(tensors)
    save_file({name: tensors[name] for name in in_order[:9]}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({name: tensors[name] for name in in_order[9:]}, tmp_path / "model-00002-of-00002.safetensors")
    wanted = hf.from_hf({name: x.astype(np.float32) for name, x in tensors.items()}, CONFIG, "half")
    loaded = hf.load(tmp_path, CONFIG, placed(), dtype)
    same(loaded, jax.tree.map(lambda x: x.astype(dtype), wanted))
    assert all(x.dtype == dtype for x in jax.tree.leaves(loaded))
    assert hf.stored_dtype(tmp_path) == ("bfloat16" if stored is ml_dtypes.bfloat16 else "float32")


def test_an_export_is_cast_to_the_type_that_is_asked_for(base: Path, tmp_path: Path) -> None:
    half = jax.tree.map(lambda x: x.astype("bfloat16"), policy())
    same(hf.load(export(tmp_path / "half", base, hf.load(export(tmp_path / "model", base), CONFIG), dtype="bfloat16"), CONFIG, dtype="bfloat16"), half)
    assert {x.dtype for x in load_file(tmp_path / "half" / "model.safetensors").values()} == {np.dtype("bfloat16")}
    same(hf.load(export(tmp_path / "wide", base, half, dtype="float32"), CONFIG), half)


@pytest.mark.parametrize("params", [policy() | {"adapters": {"q_a": np.ones((2, 16, 1))}}, policy(TIED), policy(PLAIN)], ids=["more", "less", "fewer-norms"])
def test_parameters_that_the_files_would_not_hold_are_refused(params, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are not in both the model and its parameters"):
        export(tmp_path / "model", base, params)
    assert not (tmp_path / "model").exists()


def test_a_tied_matrix_stored_twice_is_read(tmp_path: Path) -> None:
    tensors = hf.to_hf(policy(TIED), TIED)
    both = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    save_file(both, tmp_path / "model.safetensors")
    same(hf.load(tmp_path, TIED), policy(TIED))
    same(hf.from_hf(both, TIED, "model"), policy(TIED))
    save_file(tensors | {"lm_head.weight": np.zeros((3, 16), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"tensor lm_head\.weight has shape \[3, 16\]"):
        hf.load(tmp_path, TIED)


# Each device its own part


@st.composite
def parts(draw):
    leaf = draw(st.sampled_from(names.leaves(CONFIG)))
    bounds = [sorted(draw(st.tuples(*[st.integers(0, size)] * 2).filter(lambda pair: pair[0] != pair[1]))) for size in leaf.apart]
    return leaf, tuple(slice(*pair) if draw(st.booleans()) else slice(None) for pair in bounds)


@given(parts())
def test_any_part_of_a_leaf_is_cut_from_its_rows_and_columns(drawn) -> None:
    leaf, index = drawn
    tensor = np.arange(math.prod(leaf.shape)).reshape(leaf.hf_shape)
    np.testing.assert_array_equal(leaf.part(tensor.__getitem__, index), tensor.reshape(leaf.apart)[index])


@pytest.mark.parametrize("mesh", MESHES)
def test_devices_read_their_parts_and_no_byte_twice(mesh: tuple[int, int], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cut, seen = export(tmp_path / "model", base), reader._cut, Counter()

    def recorded(file: Path, name: str, ranges: names.Index) -> np.ndarray:
        block = np.zeros(shapes[name], int)
        block[ranges] = 1
        seen[name] += block
        return cut(file, name, ranges)

    shapes = {name: leaf.hf_shape for name, leaf, _ in names.tensors(CONFIG)}
    monkeypatch.setattr(reader, "_cut", recorded)
    hf.load(folder, CONFIG, placed(mesh=mesh))
    assert seen.keys() == shapes.keys() and all((block == 1).all() for block in seen.values())


@pytest.mark.parametrize("leaf", names.leaves(CONFIG), ids=lambda leaf: leaf.path[-1])
def test_a_process_reads_what_its_own_devices_hold(leaf: names.Leaf, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight devices, two are ours."""
    folder, cut, ours = export(tmp_path / "model", base), reader._cut, jax.devices()[2:4]
    where = reader._without_layers(names.get(placed(), leaf.path), leaf)
    tensor = hf.to_hf(policy(), CONFIG)[leaf.tensors[0]].reshape(leaf.apart)
    read_here, made = [], []

    class Ours:
        @staticmethod
        def addressable_devices_indices_map(shape):
            return {device: index for device, index in where.devices_indices_map(shape).items() if device in ours}

    monkeypatch.setattr(reader, "_cut", lambda *arguments: read_here.append(cut(*arguments)) or read_here[-1])
    monkeypatch.setattr(jax, "make_array_from_single_device_arrays", lambda shape, where, arrays: made.extend(arrays))
    reader._place(leaf, leaf.tensors[0], reader.headers(folder), Ours())
    parts = {device: tensor[index] for device, index in Ours.addressable_devices_indices_map(leaf.apart).items()}
    assert {next(iter(x.devices())) for x in made} == set(ours)
    for x in made:
        np.testing.assert_array_equal(x, parts[next(iter(x.devices()))])
    split = len(leaf.shape) > 1  # norms are everywhere
    assert sum(block.size for block in read_here) == (tensor.size // 4 if split else tensor.size)  # mesh (4, 2): devices 2 and 3 are a row of it


TWO_PROCESSES = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
from tiny import CONFIG
from promedical_jax.model import hf, transformer
from promedical_jax.model.hf import reader
from promedical_jax.model.sharding import make_mesh, shardings
folder = Path(sys.argv[3])
cut, size = reader._cut, []
reader._cut = lambda *arguments: size.append((x := cut(*arguments)).size) or x
params = hf.load(folder / "model", CONFIG, shardings(make_mesh(4, 2), transformer.axes(CONFIG)))
hf.save(folder / "again", params, CONFIG, folder / "base", card="# A model", shard_bytes=9000)
assert (folder / "again" / "config.json").exists()  # in both: none goes on before the folder stands
(folder / sys.argv[2]).write_text(str(sum(size)))
"""


def test_two_processes_read_half_each_and_write_one_folder(base: Path, tmp_path: Path) -> None:
    export(tmp_path / "model", base, shard_bytes=9000)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    path = os.pathsep.join(str(Path(__file__).parents[i]) for i in (1, 2))
    environment = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    run = [subprocess.Popen([sys.executable, "-c", TWO_PROCESSES, address, str(i), str(tmp_path)], env=environment) for i in range(2)]
    assert [process.wait(timeout=240) for process in run] == [0, 0]
    read_by = [int((tmp_path / str(i)).read_text()) for i in range(2)]
    whole = sum(x.size for x in jax.tree.leaves(policy()))
    replicated = sum(x.size for path, x in jax.tree.leaves_with_path(policy()) if "norm" in jax.tree_util.keystr(path))
    assert read_by == [(whole - replicated) // 2 + replicated] * 2
    files = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == files
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes(), name


# What a folder of weights holds


def test_files_and_index_are_as_the_hub_has_them(base: Path, tmp_path: Path) -> None:
    (base / "generation_config.json").write_text('{"temperature":0.6}')
    folder = export(tmp_path / "model", base, shard_bytes=5000, extra={"heads.bin": b"x"})
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert shards == [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)] and len(shards) > 3
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    held = {shard: load_file(folder / shard) for shard in shards}
    assert index["weight_map"] == {name: shard for shard in shards for name in held[shard]}
    sizes = {name: x.nbytes for tensors in held.values() for name, x in tensors.items()}
    assert index["metadata"] == {"total_parameters": sum(sizes.values()) // 4, "total_size": sum(sizes.values())}
    assert all(sum(x.nbytes for x in tensors.values()) <= 5000 or len(tensors) == 1 for tensors in held.values())
    others = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in (*shards, "model.safetensors.index.json", "config.json")}
    kept = {name: (base / name).read_bytes() for name in ("tokenizer.json", "generation_config.json")}
    assert others == kept | {"README.md": b"# A model", "heads.bin": b"x"}
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("base", "model")] == []


def test_generation_stops_where_the_config_says(base: Path, tmp_path: Path) -> None:
    assert json.loads((export(tmp_path / "model", base) / "generation_config.json").read_text()) == {"eos_token_id": [7, 9]}


def test_the_host_holds_one_tensor_at_a_time(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gather, alive, most = writer._gather, weakref.WeakSet(), []

    class Tensor(np.ndarray):
        __hash__ = object.__hash__

    def gathered(*arguments, **named):
        most.append(len(alive))
        alive.add(x := gather(*arguments, **named).view(Tensor))
        return x

    monkeypatch.setattr(writer, "_gather", gathered)
    export(tmp_path / "model", base)
    assert len(most) == len(names.tensors(CONFIG)) and max(most) == 1  # the one before, until its name is given to the next


def test_companions_are_kept_byte_for_byte(base: Path, tmp_path: Path) -> None:
    (base / "generation_config.json").write_bytes(b"{ }\r\n")
    (base / "LICENSE").write_text("free")
    (base / "merges.txt").write_text("of the model")
    (base / "model.safetensors").write_text("large")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tools.jinja").write_text("{{ x }}")
    hf.keep_companions(tmp_path / "run" / "base", base)
    listing = lambda folder: {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}  # noqa: E731
    kept = listing(tmp_path / "run" / "base")
    assert kept == {name: data for name, data in listing(base).items() if name != "model.safetensors"}
    other = tmp_path / "tokenizer"
    other.mkdir()
    (other / "tokenizer.json").write_text("another")
    (other / "config.json").write_text("of another model")
    hf.keep_companions(tmp_path / "run" / "base", base, other)
    mixed = listing(tmp_path / "run" / "base")
    assert mixed["tokenizer.json"] == b"another" and mixed["config.json"] == kept["config.json"] and mixed["LICENSE"] == b"free"
    assert not {"merges.txt", "additional_chat_templates/tools.jinja"} & mixed.keys()  # of the tokenizer that is not used
    before = os.stat(tmp_path / "run" / "base").st_ino
    hf.keep_companions(tmp_path / "run" / "base", base, other)
    assert os.stat(tmp_path / "run" / "base").st_ino == before  # the same again: an export that reads it meanwhile is not disturbed
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        hf.keep_companions(tmp_path / "run" / "base", tmp_path)


# What is not whole


def spoil(folder: Path, kind: str) -> str:
    """Spoils a checkpoint in several files and returns the sentence that it is refused with; {1} etc. are its files, in order."""
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    tensors = [load_file(file) for file in files]
    at = next(i for i, held in enumerate(tensors) if Q in held)

    def change(i: int, held: dict) -> None:
        save_file(held, files[i])

    def reindex(update) -> None:
        fields = json.loads(index.read_text())
        update(fields["weight_map"])
        index.write_text(json.dumps(fields))

    match kind:
        case "missing":
            change(at, {name: x for name, x in tensors[at].items() if name != Q})
            reindex(lambda names: names.pop(Q))
            return f"tensor {Q} is missing"
        case "missing from the file that the index names":
            change(at, {name: x for name, x in tensors[at].items() if name != Q})
            return f"{files[at]}: tensor {Q}, which model.safetensors.index.json says it holds, is missing"
        case "extra":
            change(0, tensors[0] | {"model.layers.0.self_attn.q_proj.bias": np.zeros(48)[:5].astype(np.float32)})
            return f"{files[0]}: unexpected tensor model.layers.0.self_attn.q_proj.bias"
        case "misshapen":
            change(at, tensors[at] | {Q: np.ascontiguousarray(tensors[at][Q].T)})
            return f"{files[at]}: tensor {Q} has shape [16, 48], and config.json asks for [48, 16]"
        case "truncated":
            data = files[at].read_bytes()
            start = 8 + int.from_bytes(data[:8], "little")
            ends = {name: held["data_offsets"][1] for name, held in json.loads(data[8:start]).items() if name != "__metadata__"}
            files[at].write_bytes(data[: start + ends[Q] - 1])
            return f"{files[at]}: truncated, tensor {Q} ends at byte {start + ends[Q]:,} of a file of {start + ends[Q] - 1:,}"
        case "truncated in the header":
            files[1].write_bytes(files[1].read_bytes()[:90])
            return f"{files[1]}: truncated in its header"
        case "empty":
            files[1].write_bytes(b"")
            return f"{files[1]}: not a safetensors file"
        case "another file":
            files[0].write_bytes(b"not a checkpoint")
            return f"{files[0]}: not a safetensors file"
        case "holes":
            data = files[0].read_bytes()
            start = 8 + int.from_bytes(data[:8], "little")
            fields = json.loads(data[8:start])
            fields[min(fields.keys() - {"__metadata__"})]["data_offsets"][0] += 4
            raw = json.dumps(fields).encode()
            files[0].write_bytes(len(raw).to_bytes(8, "little") + raw + data[start:])
            return f"{files[0]}: not a readable safetensors file"
        case "twice":
            change(0, tensors[0] | {Q: tensors[at][Q]})
            return f"{files[at]}: tensor {Q} is also in {files[0].name}"
        case "no file that the index names":
            files[at].unlink()
            return f"{index}: names {files[at].name} for tensor"
        case "no index":
            index.write_text('{"weights": {}}')
            return f"{index}: not an index of weights"
        case "an empty index":
            index.write_text('{"weight_map": {}}')
            return f"{index}: names no weights"
        case "fewer files than their names say":
            index.unlink()
            files[at].unlink()
            return f"{files[at].name} is missing, {len(files) - 1} of {len(files)} weight files are here"
        case "files of two checkpoints":
            index.unlink()
            save_file(tensors[0], folder / "model-00001-of-00002.safetensors")
            return "model-00002-of-00002.safetensors is missing"
        case "one file and several":
            save_file(tensors[0], folder / "model.safetensors")
            return f"{folder}: holds both model.safetensors and {files[0].name}"
        case "quantised":
            change(at, tensors[at] | {Q: tensors[at][Q].astype(ml_dtypes.float8_e4m3fn)})
            return f"{files[at]}: tensor {Q} is stored as F8_E4M3; quantised weights are not read"
        case "whole numbers":
            change(at, tensors[at] | {Q: tensors[at][Q].astype(np.int8)})
            return f"{files[at]}: tensor {Q} is stored as I8; quantised weights are not read"
    raise AssertionError(kind)


KINDS = ["missing", "missing from the file that the index names", "extra", "misshapen", "truncated", "truncated in the header", "empty", "another file",
         "holes", "twice", "no file that the index names", "no index", "an empty index", "fewer files than their names say", "files of two checkpoints",
         "one file and several", "quantised", "whole numbers"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_whole_is_refused_before_anything_is_read(kind: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export(tmp_path / "model", base, shard_bytes=9000)
    sentence = spoil(folder, kind)
    monkeypatch.setattr(reader, "_cut", lambda *_: pytest.fail("it reads"))
    with pytest.raises(InputError) as error:
        hf.load(folder, CONFIG, placed())
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_an_index_is_not_needed_where_all_files_are_there(base: Path, tmp_path: Path) -> None:
    folder = export(tmp_path / "model", base, shard_bytes=9000)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "heads.safetensors").write_bytes(hf.packed({"weight": np.ones(3)}))  # what is not a model's own weights is left alone
    same(hf.load(folder, CONFIG), policy())


def test_a_config_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    folder = export(tmp_path / "model", base)
    with pytest.raises(InputError, match=r"model\.safetensors: unexpected tensor model\.layers\.1\.\S+ and 10 more; config\.json does not describe"):
        hf.load(folder, replace(CONFIG, depth=1))
    with pytest.raises(InputError, match=r"tensor model\.layers\.2\.input_layernorm\.weight is missing \(10 more are, too\)"):
        hf.load(folder, replace(CONFIG, depth=3))
    with pytest.raises(InputError, match=r"unexpected tensor \S+q_norm\.weight and 3 more"):
        hf.load(folder, PLAIN)


def test_only_a_folder_without_any_weights_gives_none(tmp_path: Path) -> None:
    assert hf.load(tmp_path, CONFIG) is None and hf.stored_dtype(tmp_path) == "float32"
    (tmp_path / "tokenizer.json").write_text("{}")
    assert hf.load(tmp_path, CONFIG) is None
    for name, sentence in {"pytorch_model.bin": "only safetensors are read", "model-q4.gguf": "only safetensors are read",
                           "adapter_model.safetensors": "not a name of weights"}.items():  # fmt: skip
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=rf"{name}: {sentence}"):
            hf.load(tmp_path, CONFIG)
        (tmp_path / name).unlink()


# Whole or not at all


@pytest.mark.parametrize("when", ["weights", "companions", "config"])
def test_a_stopped_export_leaves_the_old_folder(when: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    place, name = {"weights": (writer, "_gather"), "companions": (writer, "companions"), "config": (writer, "write_files")}[when]

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, name, killed)
        with pytest.raises(KeyboardInterrupt):
            export(folder, base)
        assert not folder.exists()
    export(folder, base)  # what the stopped one left is no hindrance
    with monkeypatch.context() as patch:
        patch.setattr(place, name, killed)
        with pytest.raises(KeyboardInterrupt):
            export(folder, base, config=TIED)
    same(hf.load(folder, CONFIG), policy())
    export(folder, base, config=TIED)
    same(hf.load(folder, TIED), policy(TIED))
    assert sorted(os.listdir(tmp_path)) == ["base", "model"]


def test_what_a_killed_process_left_is_no_hindrance_and_no_model(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / f".model.{os.getpid()}.tmp"  # in a container every run has the same number
    with monkeypatch.context() as patch:
        order = []
        patch.setattr(Path, "write_bytes", lambda path, data: order.append(path.name))
        export(tmp_path / "model", base)
        assert order[-1] == "config.json" and "README.md" in order  # at no moment before the last is it a folder that loads
    left.mkdir()
    (left / "half").write_text("")
    same(hf.load(export(tmp_path / "model", base), CONFIG), policy())
    assert sorted(os.listdir(tmp_path)) == ["base", "model"] and not (tmp_path / "model" / "half").exists()


@pytest.mark.parametrize("failing", [0, 1])
def test_an_export_that_cannot_be_put_in_place_keeps_the_old_one(failing: int, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export(tmp_path / "model", base)
    replace_, calls = os.replace, []

    def fail_once(*paths) -> None:
        calls.append(paths)
        if len(calls) == failing + 1:
            raise OSError("disk")
        replace_(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail_once)
        with pytest.raises(OSError, match="disk"):
            export(folder, base, config=TIED)
    same(hf.load(folder, CONFIG), policy())
    assert sorted(os.listdir(tmp_path)) == ["base", "model"]


# In memory


def test_faulty_tensors_are_named() -> None:
    tensors = hf.to_hf(policy(), CONFIG)
    with pytest.raises(InputError, match=f"model: tensor {Q} is missing"):
        hf.from_hf({key: x for key, x in tensors.items() if key != Q}, CONFIG, "model")
    with pytest.raises(InputError, match=f"tensor {Q} has shape .*config.json asks for"):
        hf.from_hf(tensors | {Q: tensors[Q].T}, CONFIG, "model")
    with pytest.raises(InputError, match=r"unexpected tensor model\.layers\.0\.self_attn\.q_proj\.bias"):
        hf.from_hf(tensors | {"model.layers.0.self_attn.q_proj.bias": np.zeros(48)}, CONFIG, "model")
    with pytest.raises(InputError, match=r"tensor lm_head\.weight is missing"):
        hf.from_hf(hf.to_hf(policy(TIED), TIED), CONFIG, "model")


# The hub


@pytest.fixture
def hub(base: Path, monkeypatch: pytest.MonkeyPatch) -> list:
    """A hub with one model, and what was asked of it."""
    asked: list = []

    def snapshot_download(name: str, **options) -> str:
        asked.append((name, options["allow_patterns"]))
        return str(base)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_a_folder_is_itself_and_a_name_is_the_snapshot_of_the_hub(base: Path, hub: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hf.resolve(base) == base and hf.resolve(str(base)) == base
    monkeypatch.chdir(tmp_path)
    assert hf.resolve("base") == Path("base") and hub == []
    assert hf.resolve("Qwen/Qwen3-0.6B", weights=False) == base
    with pytest.raises(InputError, match=r"Qwen/Qwen3-0.6B: no safetensors on the hub, or only its config is in the cache"):
        hf.resolve("Qwen/Qwen3-0.6B")
    save_file({"x": np.zeros(1)}, base / "model.safetensors")
    assert hf.resolve(Path("Qwen/Qwen3-0.6B")) == base
    (base / "config.json").unlink()
    with pytest.raises(InputError, match=r"has no config\.json"):
        hf.resolve("Qwen/Qwen3-0.6B")
    assert {name for name, _ in hub} == {"Qwen/Qwen3-0.6B"}
    small, whole = hub[0][1], hub[1][1]
    assert not any("safetensors" in pattern for pattern in small) and {"config.json", "tokenizer.json", "chat_template.jinja"} <= set(small)
    assert set(whole) - set(small) == {"model*.safetensors", "model.safetensors.index.json", "heads.safetensors", "calibration.json"}


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "/no/such/folder", "-x/y", "a b/c", "../up", "org/"])
def test_what_is_no_folder_and_no_name_is_refused(name: str, hub: list) -> None:
    with pytest.raises(InputError, match="no such folder, and no name of the hub's either; give a folder"):
        hf.resolve(name)
    assert hub == []


def test_a_file_is_no_model(base: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: is a file, and a model is a folder"):
        hf.resolve(base / "config.json")


class Response:
    """What the hub's errors ask of a response."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.request = None


FAULTS = {
    errors.GatedRepoError: "accept it on https://huggingface.co/Qwen/Nothing, then log in with `hf auth login`",
    errors.RepositoryNotFoundError: "no such folder here, and no such model on the hub; mend the name, or `hf auth login`",
    errors.HFValidationError: "not a name of the hub's (why)",
    errors.LocalEntryNotFoundError: "the hub cannot be reached; mend the path",
    errors.HfHubHTTPError: "cannot be fetched from the hub (why)",
    errors.OfflineModeIsEnabled: "cannot be fetched from the hub (why)",
    ConnectionResetError: "cannot be fetched from the hub (why)",
}


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_what_the_hub_refuses_is_one_sentence(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, **_):
        raise kind("why\nand more", **({"response": Response()} if issubclass(kind, errors.HfHubHTTPError) else {}))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError) as error:
        hf.resolve("Qwen/Nothing")
    assert str(error.value).startswith("Qwen/Nothing: ") and FAULTS[kind] in str(error.value) and "\n" not in str(error.value)


def test_a_snapshot_in_the_cache_is_found_off_line(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the hub's own library, on a cache as it lays it."""
    from huggingface_hub import constants

    save_file({"x": np.zeros(1)}, base / "model.safetensors")
    cached = tmp_path / "cache" / "models--Qwen--Tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("a" * 40)
    (cached / "snapshots").mkdir()
    base.rename(cached / "snapshots" / ("a" * 40))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert hf.resolve("Qwen/Tiny") == cached / "snapshots" / ("a" * 40)
    with pytest.raises(InputError, match="the hub cannot be reached"):
        hf.resolve("Qwen/Other")
