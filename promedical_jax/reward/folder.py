"""A reward model as a folder: the backbone as HF has it, heads.safetensors, and calibration.json, which makes verdicts of its scores.

Or, in the place of a backbone, the PEFT adapter that training made of one (`out`/adapter): then it is read beside weights that are there already.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from promedical_jax.config import Kind
from promedical_jax.data.batches import to_host
from promedical_jax.errors import InputError
from promedical_jax.model import hf, lora, transformer
from promedical_jax.model.heads import HEADS_AXES
from promedical_jax.model.sharding import shardings
from promedical_jax.model.transformer import Dtype, ModelConfig, Params
from promedical_jax.reward.scores import TIERS
from promedical_jax.reward.verdicts import Verdicts
from promedical_jax.rubric.lines import parse

HEADS, CALIBRATION = "heads.safetensors", "calibration.json"


@dataclass(frozen=True)
class RewardModel:
    """Parameters {"backbone", "heads"}, the backbone's config, what makes verdicts of its scores, and a hash of all these, which names it in ledgers."""

    params: Params
    config: ModelConfig
    verdicts: Verdicts
    hash: str = ""

    @property
    def kind(self) -> Kind:
        return self.verdicts.kind

    @property
    def rater(self) -> str:
        """Its name beside the verdicts that it gives."""
        return f"reward-model-{self.hash[:12]}"


def head_count(kind: Kind) -> int:
    """The implicit kind has one head, the others one a tier."""
    return 1 if kind == "implicit" else len(TIERS)


def reward_files(heads: dict[str, jax.Array], verdicts: Verdicts | None) -> dict[str, bytes]:
    """What a reward model's folder holds beside its backbone: heads.safetensors, and calibration.json where it is calibrated."""
    files = {HEADS: hf.packed({name: to_host(array) for name, array in heads.items()})}
    return files | ({CALIBRATION: verdicts.model_dump_json(indent=2).encode()} if verdicts else {})


def is_reward_model(folder: Path) -> bool:
    """Whether a model folder has heads and calibration beside its weights."""
    return (folder / HEADS).is_file() and (folder / CALIBRATION).is_file()


def check_reward_model(folder: Path) -> None:
    """Raises InputError for a folder that holds no reward model."""
    if not (is_reward_model(folder) and hf.has_weights(folder)):
        needs = "weights, heads.safetensors and calibration.json"
        raise InputError(f"{folder}: not a reward model (it needs {needs}); give the folder that `promedical train rm` wrote")


def check_adapted(folder: Path, base: Path, config: ModelConfig) -> None:
    """Raises InputError for a folder that holds no reward model adapted from the model `base`, of this config."""
    if not is_reward_model(folder):
        raise InputError(f"{folder}: is an adapter without heads.safetensors and calibration.json; give the `adapter` that `promedical train rm` wrote")
    of = hf.read_adapter_config(folder).base_model
    if of is None or (of != str(base) and Path(of).resolve() != base.resolve()):
        raise InputError(f"{folder}: is an adapter of {of}, and cannot share the weights of {base}; give the reward model's `model` folder, which has its own")
    hf.load_adapter(folder, config)  # small; what is wrong with it is said before anything is compiled
    read_heads(folder / HEADS, config, head_count(read_verdicts(folder).kind))


def read_verdicts(folder: Path) -> Verdicts:
    """calibration.json of a folder. Raises InputError for what is none."""
    file = folder / CALIBRATION
    try:
        return parse(Verdicts, file.read_text(encoding="utf-8"), str(file))
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error}); train the reward model again") from error


def read_heads(file: Path, config: ModelConfig, count: int | None = None) -> dict[str, np.ndarray]:
    """The heads of a reward model on this backbone, `count` of them where it is known. Raises InputError for a file that holds others."""
    heads = hf.unpacked(file)
    found = {name: x.shape for name, x in heads.items()}
    n = len(heads["bias"]) if count is None and heads.get("bias", np.zeros(())).ndim == 1 else count
    wanted = {"weight": (n, config.width), "bias": (n,), "tie_bias": (n,)}
    if found != wanted or n not in (1, len(TIERS)):
        raise InputError(f"{file}: has tensors {found}; config.json and calibration.json ask for {wanted}")
    return heads


def load_reward_model(folder: Path, mesh: jax.sharding.Mesh, dtype: Dtype = "float32") -> RewardModel:
    """A reward model from its folder, its backbone in `dtype`, on the mesh. Raises InputError for a folder that holds no reward model."""
    check_reward_model(folder)
    config, verdicts = hf.read_config(folder), read_verdicts(folder)
    heads = read_heads(folder / HEADS, config, head_count(verdicts.kind))
    backbone = hf.load(folder, config, shardings(mesh, transformer.axes(config)), dtype)
    placed = jax.device_put(heads, shardings(mesh, HEADS_AXES))
    return RewardModel({"backbone": backbone, "heads": placed}, config, verdicts, model_hash(folder))


def load_adapted(folder: Path, base: Params, config: ModelConfig, mesh: jax.sharding.Mesh) -> RewardModel:
    """A reward model of the weights `base`, which stay where they are, and the adapter in its folder. Raises InputError as `check_adapted` does."""
    verdicts = read_verdicts(folder)
    heads = read_heads(folder / HEADS, config, head_count(verdicts.kind))
    adapters, scale = hf.load_adapter(folder, config, shardings(mesh, lora.axes(lora.TARGETS)))
    params = {"backbone": lora.join(base, {"adapters": adapters}), "heads": jax.device_put(heads, shardings(mesh, HEADS_AXES))}
    return RewardModel(params, replace(config, adapter_scale=scale), verdicts, model_hash(folder))


def model_hash(folder: Path) -> str:
    """SHA-256 over the contents of all that its scores and verdicts depend on: weights, config, heads, calibration and tokenizer; of an adapted one without
    what it was adapted from."""
    digest = hashlib.sha256()
    small = (folder / name for name in ("config.json", HEADS, CALIBRATION, "tokenizer.json"))
    for file in sorted([*folder.glob("model*.safetensors"), *folder.glob("adapter_*"), *small]):
        if file.is_file():
            with file.open("rb") as opened:
                digest.update(f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
