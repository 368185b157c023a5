"""PEFT's adapter folders: what goldens/make_peft.py had PEFT write gives its logits, what we write we read, and what we cannot do is refused by name."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from safetensors.flax import save_file as save_flax
from tiny import CONFIG, close

from promedical_jax.errors import InputError
from promedical_jax.model import hf, lora, sharding, transformer
from promedical_jax.model.hf.peft import AdapterConfig, load_adapter, read_adapter_config, save_adapter
from promedical_jax.model.layout import assemble, tree
from promedical_jax.model.lora import TARGETS

GOLDENS = Path(__file__).parents[1] / "goldens"
WRITTEN = {  # by PEFT: what its config.json says, and its adapters' targets
    "peft_all": (AdapterConfig(3, 5 / 3**0.5, TARGETS, "a/base"), TARGETS),
    "peft_pattern": (AdapterConfig(2, 3.5, None, "a/base"), ("q", "o", "down")),
}
Q, DOWN = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight", "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"


def base_of(name: str, folder: Path):
    """The model that a golden adapter belongs to, with token ids and the logits of both."""
    stored = dict(np.load(GOLDENS / name / "golden.npz"))
    (folder / "config.json").write_text(str(stored.pop("config")))
    config, ids, logits = hf.read_config(folder), stored.pop("ids"), stored.pop("logits")
    return hf.from_hf({key.removeprefix("weight/"): x for key, x in stored.items()}, config, name), config, ids, logits


@pytest.fixture
def config(tmp_path_factory) -> transformer.ModelConfig:
    """Of the base of peft_all."""
    return base_of("peft_all", tmp_path_factory.mktemp("base"))[1]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A copy of what PEFT wrote, to be spoilt."""
    return Path(shutil.copytree(GOLDENS / "peft_all", tmp_path / "adapter"))


@partial(jax.jit, static_argnums=1)
def logits_of(params, config, ids):
    layout = tree(ids.shape[1])
    hidden = transformer.forward(params, config, assemble(layout, [ids[:, None]], [jnp.full((ids.shape[0], 1), ids.shape[1])]), layout)
    return hidden @ transformer.unembedding(params).T


def adapters_of(config=CONFIG, targets=TARGETS, rank: int = 3, seed: int = 0) -> lora.Adapters:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=x.shape).astype(np.float32) for name, x in lora.shapes(config, rank, targets).items()}


def same(one, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def fields_of(folder: Path) -> dict:
    return json.loads((folder / "adapter_config.json").read_text())


def spoil(folder: Path, **fields) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps(fields_of(folder) | fields))
    return folder


def test_the_goldens_are_small_and_span_what_peft_writes() -> None:
    assert sum(file.stat().st_size for name in WRITTEN for file in (GOLDENS / name).iterdir()) < 60_000
    assert isinstance(fields_of(GOLDENS / "peft_pattern")["target_modules"], str) and isinstance(fields_of(GOLDENS / "peft_all")["target_modules"], list)


@pytest.mark.parametrize("name", WRITTEN)
def test_logits_equal_those_of_peft(name: str, tmp_path: Path) -> None:
    params, config, ids, wanted = base_of(name, tmp_path)
    about, targets = WRITTEN[name]
    adapters, scale = load_adapter(GOLDENS / name, config)
    assert read_adapter_config(GOLDENS / name) == about and scale == about.scale and config.qk_norm == (name == "peft_all")
    assert adapters.keys() == lora.axes(targets).keys() and all(x.dtype == np.float32 for x in adapters.values())
    whole, config = lora.join(params, {"adapters": adapters}), replace(config, adapter_scale=scale)
    close(logits_of(whole, config, ids), wanted, 1e-5)
    close(logits_of(lora.merge(whole, config), config, ids), wanted, 1e-5)
    wrong = replace(config, adapter_scale=1.01 * scale)  # would be seen
    assert np.abs(logits_of(whole, wrong, ids) - wanted).max() > 1e-4 * np.abs(wanted).max()


def test_what_peft_wrote_and_we_write_again_is_the_same(tmp_path: Path) -> None:
    for name, (about, targets) in WRITTEN.items():
        _, config, _, _ = base_of(name, tmp_path)
        adapters, scale = load_adapter(GOLDENS / name, config)
        save_adapter(tmp_path / name, adapters, replace(config, adapter_scale=scale), "somewhere/base")
        theirs, ours = ({key: x.astype(np.float32) for key, x in read(folder / name).items()} for folder in (GOLDENS, tmp_path))
        assert ours.keys() == theirs.keys()
        same(ours, theirs)
        again = read_adapter_config(tmp_path / name)
        assert np.isclose(again.scale, about.scale, rtol=1e-15) and again.base_model == "somewhere/base" and again.targets == targets


def read(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("targets", [TARGETS, ("up",), ("v", "q"), ("o", "k", "gate", "down")], ids=lambda targets: "-".join(targets))
def test_save_and_load_are_bit_equal(targets, tmp_path: Path) -> None:
    folder, config = tmp_path / "deep" / "adapter", replace(CONFIG, adapter_scale=2 / 3)
    save_adapter(folder, adapters_of(targets=targets), config, "Qwen/Qwen3-8B", "# A card\nwith ümlauts")
    adapters, scale = load_adapter(folder, CONFIG)
    assert scale == 2 / 3 and adapters.keys() == adapters_of(targets=targets).keys()
    same(adapters, adapters_of(targets=targets))
    assert sorted(os.listdir(folder)) == ["README.md", "adapter_config.json", "adapter_model.safetensors"] and os.listdir(folder.parent) == ["adapter"]
    assert (folder / "README.md").read_text(encoding="utf-8") == "# A card\nwith ümlauts"
    modules = {name: f"{'mlp' if name in ('gate', 'up', 'down') else 'self_attn'}.{name}_proj" for name in targets}
    wanted = {f"base_model.model.model.layers.{i}.{module}.lora_{half}.weight" for i in range(2) for module in modules.values() for half in "AB"}
    assert read(folder).keys() == wanted
    fields = fields_of(folder)
    assert fields["target_modules"] == sorted(module.rpartition(".")[2] for module in modules.values())
    assert (fields["peft_type"], fields["task_type"], fields["r"], fields["lora_alpha"], fields["bias"]) == ("LORA", "CAUSAL_LM", 3, 2, "none")
    assert type(fields["lora_alpha"]) is int and fields["base_model_name_or_path"] == "Qwen/Qwen3-8B" and fields["inference_mode"] is True


@pytest.mark.parametrize(("rank", "scale", "alpha"), [(8, 2.0, 16), (3, 1 / 3, 1), (7, 5 / 7, 5), (49, 1 / 49, 1), (2, 0.15, 0.3), (1, 1e-3, 0.001)])
def test_the_scale_comes_back(rank: int, scale: float, alpha: float, tmp_path: Path) -> None:
    save_adapter(tmp_path / "adapter", adapters_of(targets=["k"], rank=rank), replace(CONFIG, adapter_scale=scale), "base")
    assert fields_of(tmp_path / "adapter")["lora_alpha"] == alpha and load_adapter(tmp_path / "adapter", CONFIG)[1] == scale
    assert not (tmp_path / "adapter" / "README.md").exists()


def test_a_matrix_of_peft_is_transposed_and_flat(tmp_path: Path) -> None:
    adapters = adapters_of()
    save_adapter(tmp_path / "adapter", adapters, CONFIG, "base")
    tensors = read(tmp_path / "adapter")
    name = "base_model.model.model.layers.1.self_attn.{}_proj.lora_{}.weight"
    for head in range(CONFIG.kv_heads * CONFIG.query_heads):  # HF's heads: those of a KV head stand together
        rows, place = slice(head * CONFIG.head, (head + 1) * CONFIG.head), divmod(head, CONFIG.query_heads)
        same(tensors[name.format("q", "B")][rows], adapters["q_b"][1][:, *place].T)
        same(tensors[name.format("o", "A")][:, rows], adapters["o_a"][1][*place].T)
    same(tensors[name.format("o", "B")], adapters["o_b"][1].T)
    assert tensors[name.format("q", "A")].shape == (3, CONFIG.width)


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_read_as_float32(kind, written: Path, config) -> None:
    half = {name: jnp.asarray(x, kind) for name, x in read(written).items()}
    save_flax(half, written / "adapter_model.safetensors")
    loaded, _ = load_adapter(written, config)
    wanted, _ = load_adapter(GOLDENS / "peft_all", config)
    assert all(x.dtype == np.float32 for x in loaded.values())
    same(loaded, {name: np.asarray(jnp.asarray(x, kind), np.float32) for name, x in wanted.items()})


@pytest.mark.parametrize(("fsdp", "tp"), [(4, 2), (2, 4)])
def test_to_and_from_a_mesh(fsdp: int, tp: int, tmp_path: Path) -> None:
    mesh = sharding.make_mesh(fsdp, tp)
    where = sharding.shardings(mesh, lora.axes(TARGETS))  # of more than the folder holds
    with jax.set_mesh(mesh):
        host = adapters_of(targets=("q", "o", "up"))
        save_adapter(tmp_path / "adapter", jax.device_put(host, {name: where[name] for name in host}), CONFIG, "base")
        placed, _ = load_adapter(tmp_path / "adapter", CONFIG, where)
    same(placed, host)
    assert all(x.sharding == where[name] for name, x in placed.items())
    assert {shard.data.shape for shard in placed["q_a"].addressable_shards} == {(2, CONFIG.width // fsdp, 3)}


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    save_adapter(tmp_path / "adapter", adapters_of(), CONFIG, "base")
    assert os.listdir(tmp_path) == []


PROCESS = """
import sys
from pathlib import Path
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from test_peft import CONFIG, TARGETS, adapters_of, load_adapter, lora, save_adapter, sharding
mesh, folder = sharding.make_mesh(2, 2), Path(sys.argv[3])
where = sharding.shardings(mesh, lora.axes(TARGETS))
host = adapters_of()
with jax.set_mesh(mesh):
    placed = {name: jax.make_array_from_callback(x.shape, where[name], x.__getitem__) for name, x in host.items()}
    assert not any(x.is_fully_addressable for x in placed.values())
    save_adapter(folder, placed, CONFIG, "base")
    jax.experimental.multihost_utils.sync_global_devices("saved")
    again, _ = load_adapter(folder, CONFIG, where)
    for name, x in again.items():
        assert x.sharding == where[name] and not x.is_fully_addressable
        for shard in x.addressable_shards:
            assert (np.asarray(shard.data) == host[name][shard.index]).all()
print("well")
"""


def test_two_processes_save_and_load_their_parts(tmp_path: Path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    here = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (here.parent, here, here / "model"))), "JAX_PLATFORMS": "cpu"}
    run = lambda i: subprocess.Popen(  # noqa: E731
        [sys.executable, "-c", PROCESS, address, str(i), tmp_path / "adapter"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    processes = [run(i) for i in range(2)]
    try:
        said = [process.communicate(timeout=180)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0] and all(text.endswith("well\n") for text in said), "\n".join(said)
    same(load_adapter(tmp_path / "adapter", CONFIG)[0], adapters_of())
    assert os.listdir(tmp_path) == ["adapter"]


@pytest.mark.parametrize(("field", "value"), [
    ("use_dora", True), ("modules_to_save", ["lm_head"]), ("rank_pattern", {"q_proj": 2}), ("alpha_pattern", {"q_proj": 2}), ("layers_to_transform", 0),
    ("layers_to_transform", [0]), ("layers_pattern", "layers"), ("fan_in_fan_out", True), ("lora_bias", True), ("exclude_modules", ["lm_head"]),
    ("exclude_modules", ".*lm_head"), ("trainable_token_indices", [3]), ("target_parameters", ["experts"]), ("layer_replication", [[0, 2], [1, 2]]),
    ("alora_invocation_tokens", [5]), ("use_qalora", True), ("use_bdlora", {"nblocks": 2}), ("arrow_config", {"top_k": 2}), ("kasa_config", {"beta": 1.0}),
    ("monteclora_config", {"num_samples": 8}), ("megatron_config", {"tp": 2}), ("loftq_config", {"bits": 4}), ("of_another_release", 1),
    ("of_another_release", 0), ("of_another_release", ""),
])  # fmt: skip
def test_what_we_do_not_implement_is_refused_by_name(field: str, value, written: Path, config) -> None:
    with pytest.raises(InputError, match=rf"adapter_config\.json: {field} is .*only an unset {field} is implemented"):
        load_adapter(spoil(written, **{field: value}), config)


@pytest.mark.parametrize(("fields", "said"), [
    ({"peft_type": "ADALORA"}, 'peft_type must be "LORA", and is "ADALORA"'),
    ({"peft_type": None}, 'peft_type must be "LORA", and is null'),
    ({"task_type": "SEQ_CLS"}, 'task_type must be "CAUSAL_LM" or null, and is "SEQ_CLS"'),
    ({"bias": "lora_only"}, 'bias must be "none" or null, and is "lora_only"'),
    ({"init_lora_weights": "pissa_niter_16"}, 'init_lora_weights must be .*and is "pissa_niter_16"'),
    ({"init_lora_weights": 1}, "init_lora_weights must be .*and is 1"),
    ({"target_modules": ["q_proj", "embed_tokens"]}, 'target_modules has "embed_tokens", and only q_proj, .* can have adapters'),
    ({"target_modules": ["model.lm_head"]}, r'target_modules has "model\.lm_head"'),
    ({"target_modules": ["mlp"]}, 'target_modules has "mlp"'),
    ({"target_modules": []}, r"target_modules is \[\] and must be a list of names or a pattern"),
    ({"target_modules": {"q_proj": 1}}, "target_modules is .* must be a list"),
    ({"r": 0}, "r is 0 and must be a whole number > 0"), ({"r": 3.0}, r"r is 3\.0"), ({"r": True}, "r is true"), ({"r": None}, "r is null"),
    ({"lora_alpha": "16"}, 'lora_alpha is "16" and must be a number'), ({"lora_alpha": float("nan")}, "lora_alpha is NaN"), ({"lora_alpha": None}, "null"),
    ({"use_rslora": 1}, "use_rslora is 1 and must be true or false"),
    ({"base_model_name_or_path": 3}, "base_model_name_or_path is 3 and must be"),
])  # fmt: skip
def test_faulty_fields_are_named(fields: dict, said: str, written: Path, config) -> None:
    with pytest.raises(InputError, match=rf"adapter_config\.json: .*{said}"):
        load_adapter(spoil(written, **fields), config)


def test_fields_that_change_nothing_do_not_matter(written: Path, config) -> None:
    wanted, _ = load_adapter(written, config)
    unset = {"use_dora": None, "rank_pattern": None, "layers_to_transform": [], "megatron_config": {}, "of_another_release": False, "lora_dropout": 0.1}
    loaded, scale = load_adapter(spoil(written, **unset, inference_mode=False, use_rslora=False, init_lora_weights="gaussian", task_type=None), config)
    same(loaded, wanted)
    assert scale == 5 / 3
    few = {"peft_type": "LORA", "r": 3, "lora_alpha": 6.0, "target_modules": ["self_attn.q_proj", *(f"{n}_proj" for n in TARGETS[1:]), "q_proj"]}
    (written / "adapter_config.json").write_text(json.dumps(few))
    assert read_adapter_config(written) == AdapterConfig(3, 2.0, TARGETS, None)
    same(load_adapter(written, config)[0], wanted)


@pytest.mark.parametrize(("text", "said"), [(b"{", "line 1: not valid JSON"), (b"\xff", "not valid UTF-8"), (b"[1]", "not a JSON object")])
def test_another_file_in_place_of_the_config(text: bytes, said: str, written: Path, config) -> None:
    (written / "adapter_config.json").write_bytes(text)
    with pytest.raises(InputError, match=rf"adapter_config\.json.*{said}"):
        load_adapter(written, config)


def test_missing_files_are_named(written: Path, config) -> None:
    (written / "adapter_model.safetensors").rename(written / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: no such file; save adapter_model\.bin again as safetensors"):
        load_adapter(written, config)
    (written / "adapter_model.bin").unlink()
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: no such file; fetch"):
        load_adapter(written, config)
    with pytest.raises(InputError, match=r"adapter_config\.json: no such file; an adapter is a folder"):
        load_adapter(written / "deeper", config)


@pytest.mark.parametrize("as_pattern", [False, True])
def test_faulty_tensors_are_named(as_pattern: bool, written: Path, config) -> None:
    tensors = read(written)
    spoil(written, target_modules=r".*_proj") if as_pattern else None

    def load(changed: dict[str, np.ndarray], config=config) -> None:
        safetensors.numpy.save_file(changed, written / "adapter_model.safetensors")
        load_adapter(written, config)

    without = lambda part: {name: x for name, x in tensors.items() if part not in name}  # noqa: E731
    load(tensors)  # which is well
    for name in (Q, DOWN):
        with pytest.raises(InputError, match=rf"adapter_model\.safetensors: tensor {name} is missing"):
            load(without(name))
        with pytest.raises(InputError, match=rf"adapter_model\.safetensors: tensor {name} has shape .* ask for"):
            load(tensors | {name: np.ascontiguousarray(tensors[name].T)})
        with pytest.raises(InputError, match=rf"tensor {name} has shape"):
            load(tensors | {name: tensors[name].ravel()})
    for extra in ("base_model.model.model.embed_tokens.lora_embedding_A", "base_model.model.lm_head.weight", Q.replace("lora_A.weight", "lora_B.bias"),
                  Q.replace("layers.1", "layers.2"), Q.replace("q_proj", "qkv_proj"), Q.replace("q_proj.lora_A.weight", "q_proj.lora_magnitude_vector")):
        with pytest.raises(InputError, match=rf"adapter_model\.safetensors: unexpected tensors {extra};"):
            load(tensors | {extra: np.zeros((3, 16), np.float32)})
    with pytest.raises(InputError, match=r"tensor base_model\.model\.model\.layers\.2\.self_attn\.q_proj\.lora_A\.weight is missing"):
        load(tensors, replace(config, depth=3))
    with pytest.raises(InputError, match=r"unexpected tensors base_model\.model\.model\.layers\.1\."):
        load(tensors, replace(config, depth=1))
    with pytest.raises(InputError, match=r"q_proj\.lora_A\.weight has shape \(3, 16\); .* ask for \(3, 32\)"):
        load(tensors, replace(config, width=32))
    with pytest.raises(InputError, match=rf"tensor {Q} is stored as I32"):
        load(tensors | {Q: tensors[Q].astype(np.int32)})
    with pytest.raises(InputError, match="no tensor of an adapter is here" if as_pattern else "q_proj.* is missing"):
        load({})
    if not as_pattern:
        with pytest.raises(InputError, match=r"tensor base_model\.model\.model\.layers\.0\.mlp\.up_proj\.lora_A\.weight is missing"):
            load(without("up_proj"))
        spoil(written, target_modules=["q_proj"])
        with pytest.raises(InputError, match=r"unexpected tensors .*layers\.0\.mlp\.down_proj\.lora_A"):
            load(tensors)


def test_a_truncated_file_is_refused(written: Path, config) -> None:
    file = written / "adapter_model.safetensors"
    whole = file.read_bytes()
    for length in (0, 5, 8, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"adapter_model\.safetensors: .*fetch it again"):
            load_adapter(written, config)
    with pytest.raises(InputError, match=r"truncated, tensor base_model\.model.*\.lora_[AB]\.weight"):
        load_adapter(written, config)


@pytest.mark.parametrize("when", ["weights", "config"])
def test_a_killed_export_leaves_no_half_folder(when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "adapter"

    def killed(*_, **__):
        raise KeyboardInterrupt

    for before in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(safetensors.numpy, "save_file", killed) if when == "weights" else patch.setattr(json, "dumps", killed)
            with pytest.raises(KeyboardInterrupt):
                save_adapter(folder, adapters_of(seed=1), CONFIG, "base")
        assert os.listdir(tmp_path) == ["adapter"] * before
        save_adapter(folder, adapters_of(), CONFIG, "base")
        same(load_adapter(folder, CONFIG)[0], adapters_of())


def test_adapters_of_another_model_or_of_two_ranks_are_not_saved(tmp_path: Path) -> None:
    ours = adapters_of()
    without = {name: x for name, x in ours.items() if name != "k_b"}
    for adapters, said in [
        ({}, "there are none"),
        (without, r"k_b is None in place of \(2, 3, 4, 6\)"),
        ({"q_b": ours["q_b"]}, "q_b is .* in place of None"),
        (ours | adapters_of(targets=["v"], rank=4), r"v_a is \(2, 16, 4\) in place of \(2, 16, 3\); v_b"),
        (ours | {"embed_a": np.zeros(3)}, r"embed_a is \(3,\) in place of None"),
        (adapters_of(replace(CONFIG, depth=1), ["up"]), r"up_a is \(1, 16, 3\) in place of \(2, 16, 3\)"),
    ]:
        with pytest.raises(InputError, match=f"these adapters cannot be saved .*{said}"):
            save_adapter(tmp_path / "adapter", adapters, CONFIG, "base")
    assert os.listdir(tmp_path) == []
