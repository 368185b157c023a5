"""PEFT's adapter folders to our stacked adapters and back; what we do not implement is refused by name.

A folder holds adapter_config.json and adapter_model.safetensors, in which each adapted matrix of each layer has lora_A.weight [r, in] and
lora_B.weight [out, r]: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight. The base's weights are elsewhere.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from promedical_jax.atomic import replacing_folder
from promedical_jax.errors import InputError
from promedical_jax.model.hf.config import read_fields
from promedical_jax.model.hf.names import LAYER_NAMES
from promedical_jax.model.hf.reader import header
from promedical_jax.model.lora import TARGETS, Adapters, shapes, sizes
from promedical_jax.model.transformer import ModelConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODULES = {LAYER_NAMES[name].rpartition(".")[2]: name for name in TARGETS}  # q_proj -> q
TENSOR = "base_model.model.model.layers.{layer}.{module}.lora_{half}.weight"
# Fields that say nothing about what a trained adapter computes. Dropout acts in PEFT's training only.
IGNORED = {
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "inference_mode", "lora_dropout", "megatron_core", "peft_version",
    "qalora_group_size", "revision", "runtime_config",
}  # fmt: skip
# Fields that we read, with the values that we implement. Any other field must be unset: null, false or empty. The starts left out
# (pissa, olora, corda, loftq, lora_ga) also change the base's weights, which then are not those of its folder.
FIXED = {"peft_type": ("LORA",), "task_type": ("CAUSAL_LM", None), "bias": ("none", None), "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal")}


@dataclass(frozen=True)
class AdapterConfig:
    """What adapter_config.json says of an adapter."""

    rank: int
    scale: float  # alpha / rank, or alpha / sqrt(rank) in rank-stabilised LoRA (arXiv 2312.03732); ModelConfig's adapter_scale
    targets: tuple[str, ...] | None  # by our names; None where the file has a pattern instead, and the tensors tell
    base_model: str | None  # folder or hub id, as its writer called it


def is_adapter(folder: Path) -> bool:
    """Whether a folder has an adapter's config."""
    return (folder / CONFIG).is_file()


def read_adapter_config(folder: Path) -> AdapterConfig:
    """The config of an adapter folder. Raises InputError for a missing file, another kind of adapter or a field we do not implement."""
    path = folder / CONFIG
    fields = read_fields(path, f"an adapter is a folder with PEFT's {CONFIG} and {WEIGHTS}", f"take the {CONFIG} that PEFT wrote")
    fields.setdefault("peft_type", None)  # the one that must be there
    for name, values in FIXED.items():
        value = fields.pop(name, values[0])
        if not any(type(value) is type(one) and value == one for one in values):
            wanted = " or ".join(json.dumps(one) for one in values)
            raise InputError(f"{path}: {name} must be {wanted}, and is {json.dumps(value)}, which is not implemented; take an adapter of plain LoRA")
    rank, alpha, stabilised = fields.pop("r", None), fields.pop("lora_alpha", None), fields.pop("use_rslora", False)
    base, modules = fields.get("base_model_name_or_path"), fields.pop("target_modules", None)
    for name in sorted(fields.keys() - IGNORED):
        if not unset(fields[name]):
            raise InputError(f"{path}: {name} is {json.dumps(fields[name])}, and only an unset {name} is implemented; let PEFT merge it into its base")
    if type(rank) is not int or rank < 1:
        raise InputError(f"{path}: r is {json.dumps(rank)} and must be a whole number > 0; mend the file")
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise InputError(f"{path}: lora_alpha is {json.dumps(alpha)} and must be a number; mend the file")
    if type(stabilised) is not bool:
        raise InputError(f"{path}: use_rslora is {json.dumps(stabilised)} and must be true or false; mend the file")
    if base is not None and not isinstance(base, str):
        raise InputError(f"{path}: base_model_name_or_path is {json.dumps(base)} and must be a folder or hub id; mend the file")
    return AdapterConfig(rank, alpha / (math.sqrt(rank) if stabilised else rank), targets_of(modules, path), base)


def unset(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, (dict, list)) and not value)  # not 0, which may be a layer


def targets_of(modules: Any, path: Path) -> tuple[str, ...] | None:
    """Our names of a list of target_modules, each a module's name or the end of its path; None for a pattern or nothing."""
    if modules is None or isinstance(modules, str):
        return None
    if not isinstance(modules, list) or not modules or not all(isinstance(module, str) for module in modules):
        raise InputError(f"{path}: target_modules is {json.dumps(modules)} and must be a list of names or a pattern; mend the file")
    for module in modules:
        if module.rpartition(".")[2] not in MODULES:
            known = ", ".join(MODULES)
            raise InputError(f"{path}: target_modules has {json.dumps(module)}, and only {known} can have adapters; take an adapter of these alone")
    return tuple(name for name in TARGETS if any(MODULES[module.rpartition(".")[2]] == name for module in modules))


def load_adapter(folder: Path, config: ModelConfig, where: Mapping[str, jax.sharding.Sharding] | None = None) -> tuple[Adapters, float]:
    """An adapter folder's stacked float32 adapters and its scale, which belongs into ModelConfig's adapter_scale.

    Host arrays; with `where`, a sharding for each array that may come (those of lora.axes(TARGETS)), placed, and each process keeps its parts.
    Raises InputError naming a field we do not implement, or a missing, extra, misshapen or unreadable tensor.
    """
    about = read_adapter_config(folder)
    path = folder / WEIGHTS
    left = read_tensors(path)
    if about.targets is not None:
        targets = about.targets
    else:  # a pattern: what it matched has tensors
        found = {match[1] for name in left if (match := re.search(r"\.(\w+)\.lora_[AB]\.weight$", name))}
        targets = tuple(name for module, name in MODULES.items() if module in found)

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in left:
            raise InputError(f"{path}: tensor {name} is missing; save the adapter again, with every layer")
        if left[name].shape != shape:
            raise InputError(f"{path}: tensor {name} has shape {left[name].shape}; the base's config.json and {CONFIG} ask for {shape}")
        return left.pop(name)

    adapters: dict[str, Any] = {}
    for target in targets:
        ins, outs = sizes(config, target)
        a, b = (TENSOR.format(layer="{layer}", module=LAYER_NAMES[target], half=half) for half in "AB")
        layers = range(config.depth)
        adapters[f"{target}_a"] = np.stack([take(a.format(layer=i), (about.rank, math.prod(ins))).T.reshape(*ins, about.rank) for i in layers])
        adapters[f"{target}_b"] = np.stack([take(b.format(layer=i), (math.prod(outs), about.rank)).T.reshape(about.rank, *outs) for i in layers])
    if left:
        raise InputError(f"{path}: unexpected tensors {', '.join(sorted(left)[:5])}; take an adapter of this base with {', '.join(MODULES)} alone")
    if not adapters:
        raise InputError(f"{path}: no tensor of an adapter is here; save the adapter again")
    if where is None:
        return adapters, about.scale
    return {name: jax.make_array_from_callback(x.shape, where[name], x.__getitem__) for name, x in adapters.items()}, about.scale


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file as float32 host arrays: an adapter is small beside its base."""
    from safetensors import safe_open

    if not path.is_file():
        older = path.with_suffix(".bin")
        raise InputError(f"{path}: no such file; " + (f"save {older.name} again as safetensors with PEFT" if older.is_file() else "fetch the adapter again"))
    names = header(path)
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name).astype(np.float32) for name in names}


def save_adapter(folder: Path, adapters: Adapters, config: ModelConfig, base_model: str, card: str | None = None,
                 extra: Mapping[str, bytes] | None = None) -> None:
    """Writes a folder that PEFT's `PeftModel.from_pretrained` reads: it appears whole or not at all, and replaces one of the same name.

    `base_model`: folder or hub id of the weights that the adapters belong to; `card`: the text of README.md; `extra`: further files by name. The
    tensors are float32. Every process calls it with its parts of the arrays; process 0 writes. Raises InputError where the adapters are not those of
    `config` and one rank.
    """
    from safetensors.numpy import save_file

    targets = [name for name in TARGETS if f"{name}_a" in adapters]
    rank = adapters[f"{targets[0]}_a"].shape[-1] if targets else 0
    wanted = {name: x.shape for name, x in shapes(config, rank, targets).items()} if targets else {}
    given = {name: x.shape for name, x in adapters.items()}
    if given != wanted or not given:
        odd = sorted(name for name in given.keys() | wanted.keys() if given.get(name) != wanted.get(name))
        shown = "; ".join(f"{name} is {given.get(name)} in place of {wanted.get(name)}" for name in odd) or "there are none"
        raise InputError(f"{folder}: these adapters cannot be saved ({shown}); give those of this model, all of one rank")
    arrays = jax.tree.map(np.asarray, multihost_utils.process_allgather(adapters, tiled=True))
    if jax.process_index() > 0:
        return
    tensors = {}
    for target in targets:
        for half, stack in (("A", arrays[f"{target}_a"]), ("B", arrays[f"{target}_b"])):
            for i, x in enumerate(stack):
                flat = x.reshape(-1, rank) if half == "A" else x.reshape(rank, -1)
                tensors[TENSOR.format(layer=i, module=LAYER_NAMES[target], half=half)] = np.ascontiguousarray(flat.T, np.float32)
    with replacing_folder(folder) as part:
        save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
        (part / CONFIG).write_text(json.dumps(adapter_fields(targets, rank, config.adapter_scale, base_model), indent=2, sort_keys=True) + "\n")
        if card is not None:
            (part / "README.md").write_text(card, encoding="utf-8")
        for name, content in (extra or {}).items():
            (part / name).write_bytes(content)


def adapter_fields(targets: list[str], rank: int, scale: float, base_model: str) -> dict[str, Any]:
    """The adapter_config.json of plain LoRA. The fields are those that every release of PEFT knows; newer ones it fills with its defaults."""
    alpha = scale * rank
    nearest = round(alpha)  # alpha / rank * rank may miss it by a bit
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_model, "revision": None, "inference_mode": True, "auto_mapping": None,
        "r": rank, "lora_alpha": nearest if math.isclose(alpha, nearest, rel_tol=1e-9) else alpha, "lora_dropout": 0.0, "bias": "none",
        "target_modules": sorted(module for module, name in MODULES.items() if name in targets), "fan_in_fan_out": False, "init_lora_weights": True,
        "use_rslora": False, "use_dora": False, "modules_to_save": None, "layers_to_transform": None, "layers_pattern": None, "rank_pattern": {},
        "alpha_pattern": {},
    }  # fmt: skip
