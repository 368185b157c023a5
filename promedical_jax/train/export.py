"""A run's checkpoint to a model folder of HF's, also while the run goes on, and a model folder to a checkpoint.

A run folder holds recipe.yaml, checkpoints/<step> and base/, the small files of the model that training started from. A checkpoint folder that `import`
made holds the same without a recipe, and imported.json, which names where the weights came from.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from promedical_jax.atomic import replacing_folder, whole_rows
from promedical_jax.config import DpoConfig, GrpoConfig, Kind, OnPolicy, PpoConfig, RmConfig, SftConfig, Stage
from promedical_jax.errors import InputError
from promedical_jax.model import hf, lora, transformer
from promedical_jax.model.transformer import Dtype, ModelConfig, Params
from promedical_jax.recipe import read_recipe
from promedical_jax.reward import head_count, read_heads
from promedical_jax.reward.folder import CALIBRATION, HEADS, read_verdicts
from promedical_jax.train.card import base_model, imported_card, model_card
from promedical_jax.train.checkpoint import read_parameters, shapes_of, write_parameters
from promedical_jax.train.scalar import as_classifier, read_weights
from promedical_jax.train.source import compare_shapes, find, load
from promedical_jax.train.watch import end_early_with

IMPORTED = "imported.json"
OURS = ("base", "checkpoints", "model", "adapter")  # what a run folder holds


def export_checkpoint(checkpoint: Path, out: Path, step: int | None = None, dtype: Dtype | None = None, shard_gib: float = 4,
                      force: bool = False, scalar: str | None = None) -> list[str]:
    """Writes `out`, a folder that `transformers` reads, from a run folder or one that `import_model` made; returns what there is to say about it.

    `step`: which checkpoint, None the newest; `dtype`: of the weights, None their own; `scalar`: weights of a reward model's heads, as in
    proficiency=1,safety=-2, for a classifier with this one score. Raises InputError for whatever is not there or does not fit.
    """
    weights = read_weights(scalar) if scalar is not None else None
    _check_out(out, force, "config.json", "a model folder")
    if out.parent.resolve() == checkpoint.resolve() and out.name in OURS:
        raise InputError(f"{out}: is the run's own {out.name}; choose another --out")
    base, saved = checkpoint / "base", checkpoint / "checkpoints"
    if not saved.is_dir() or not base.is_dir():
        what = "no such folder" if not checkpoint.exists() else f"holds no {saved.name if base.is_dir() else base.name}"
        raise InputError(f"{checkpoint}: {what}; give the folder of a run (its --out), or one that `promedical import` made")
    config, recipe = hf.read_config(base), read_stage(checkpoint / "recipe.yaml")
    ended = early_end(checkpoint, recipe) if step is None else None
    params, chosen = read_parameters(saved, ended or step, masters=dtype == "float32")
    backbone = params.get("backbone", params.get("policy", params))  # of a reward model, of PPO, of the others
    if "adapters" in backbone:
        config, backbone = _merged(backbone, config, recipe, dtype, checkpoint)
    compare_shapes(shapes_of(backbone), config, saved / str(chosen), "the two do not belong together")
    if weights and "heads" not in params:
        raise InputError(f"{checkpoint}: holds no reward model, and --scalar is for one; give a run of `promedical train rm`, or leave --scalar out")
    said = [f"its watch ended the run with the weights of step {ended:,}; --step takes others"] if ended else []
    extra = {}
    score = None
    if weights:
        heads = jax.device_get(params["heads"])
        score = as_classifier(weights, _kind(checkpoint, recipe, len(heads["bias"])), heads, base, config)
        extra = score.files
        said += [f"its one score is {score.formula}, without the bias {score.bias:.6g} and without a calibration", *([score.note] if score.note else [])]
    elif "heads" in params:
        extra[HEADS] = hf.packed(jax.device_get(params["heads"]))
        calibration = _calibration(checkpoint, recipe, chosen)
        extra |= {CALIBRATION: calibration} if calibration else {}
        said += [] if calibration else [f"its scores are not calibrated: {_why_not(recipe)}, so it cannot judge yet"]
    card = model_card(recipe, chosen, score) if recipe else imported_card(_imported(checkpoint), score)
    classifier = hf.Classifier(score.weight, score.pad_id) if score else None
    hf.save(out, backbone, config, base, card=card, extra=extra, dtype=dtype, shard_bytes=int(shard_gib * 2**30), classifier=classifier)
    size = sum(file.stat().st_size for file in out.glob("model*.safetensors"))
    return [f"wrote {out}: {'imported weights' if recipe is None else f'step {chosen:,} of {checkpoint}'}, {size / 1e9:.2f} GB", *said]


def early_end(run: Path, recipe: Stage | None) -> int | None:
    """The step with whose weights a run's watch ended it; None where it did not."""
    return end_early_with(whole_rows(run / "watch.jsonl"), recipe.watch.patience) if isinstance(recipe, OnPolicy) else None


def import_model(source: str, out: Path, dtype: Dtype | None = None, force: bool = False) -> list[str]:
    """Writes `out`, a checkpoint folder, from a model folder or a name of the hub's; returns what there is to say about it.

    `dtype`: of the weights, None the one that holds those of the files exactly. Raises InputError for a model that is not whole or not one of ours.
    """
    _check_out(out, force, IMPORTED, "a folder that `promedical import` made")
    folder = hf.resolve(source)
    config = hf.read_config(folder)
    params = hf.load(folder, config, dtype=dtype or hf.stored_dtype(folder))
    if params is None:
        raise InputError(f"{folder}: has no weights to import; give a model folder with safetensors")
    if (folder / HEADS).is_file():
        params = {"backbone": params, "heads": jax.device_put(read_heads(folder / HEADS, config))}
    with replacing_folder(out) as part:
        hf.keep_companions(part / "base", folder)
        write_parameters(part / "checkpoints", 0, params)
        (part / IMPORTED).write_text(json.dumps({"source": source, "base_model": base_model(source)}) + "\n", encoding="utf-8")
        if (folder / CALIBRATION).is_file():
            (part / CALIBRATION).write_bytes((folder / CALIBRATION).read_bytes())
    count = sum(x.size for x in jax.tree.leaves(params))
    return [f"wrote {out}: {count / 1e9:.3g} G parameters of {source}"]


def _check_out(out: Path, force: bool, mark: str, what: str) -> None:
    if not out.exists():
        return
    if not force:
        raise InputError(f"{out} exists; give --force to replace it, or another --out")
    if not out.is_dir() or (any(out.iterdir()) and not (out / mark).is_file()):
        raise InputError(f"{out} is not {what}, and --force replaces nothing else; choose another --out")


def _merged(params: Params, config: ModelConfig, recipe: Stage | None, dtype: Dtype | None, checkpoint: Path) -> tuple[ModelConfig, Params]:
    """A LoRA run's adapters merged into the weights that it froze, as at its end."""
    if recipe is None or not recipe.lora.rank:
        raise InputError(f"{checkpoint}: its checkpoint holds adapters, and no recipe.yaml says of which model; put the run's recipe.yaml back")
    config = replace(config, adapter_scale=recipe.lora.alpha / recipe.lora.rank)
    here = jax.tree.map(lambda _: SingleDeviceSharding(jax.local_devices()[0]), transformer.shapes(config))
    frozen = load(find(recipe.model), config, here, dtype or recipe.dtype)
    if frozen is None:
        raise InputError(f"{recipe.model}: has no weights, and the adapters of {checkpoint} belong to some; put them back")
    return config, lora.merged(frozen, params, config)


# What a run was


def read_stage(path: Path) -> Stage | None:
    """The recipe of a run folder; None where there is no file. A recipe does not name its stage: a run's holds every key, and no two stages have the same."""
    if not path.is_file():
        return None
    keys = {line.partition(":")[0] for line in path.read_text(encoding="utf-8").splitlines() if line[:1].isalpha()}
    for schema in (SftConfig, RmConfig, DpoConfig, GrpoConfig, PpoConfig):
        if keys == set(schema.model_fields):
            return read_recipe(schema, path)
    raise InputError(f"{path}: is no recipe that this version wrote; put the run's own back, or export with the version that trained it")


def _kind(checkpoint: Path, recipe: Stage | None, heads: int) -> Kind:
    """The kind of a reward model with so many heads: as its recipe or its calibration says, and of an import without one by their number."""
    if isinstance(recipe, RmConfig):
        kind = recipe.kind
    elif (checkpoint / CALIBRATION).is_file():
        kind = read_verdicts(checkpoint).kind
    else:
        return "implicit" if heads == 1 else "explicit"
    if head_count(kind) != heads:
        file = CALIBRATION if recipe is None else "recipe.yaml"
        what = f"the number of its heads is {heads}, and of the {kind} kind, which {file} names, it is {head_count(kind)}"
        raise InputError(f"{checkpoint}: {what}; the two do not belong together")
    return kind


def _calibration(checkpoint: Path, recipe: Stage | None, step: int) -> bytes | None:
    """The calibration that belongs to these weights: it is fitted to the last step's scores."""
    path = checkpoint / CALIBRATION if recipe is None else checkpoint / "model" / CALIBRATION
    return path.read_bytes() if path.is_file() and (recipe is None or step == recipe.steps) else None


def _why_not(recipe: Stage | None) -> str:
    return "the imported model was not" if recipe is None else f"`promedical train rm` does that after its last step, {recipe.steps:,}"


def _imported(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / IMPORTED
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
