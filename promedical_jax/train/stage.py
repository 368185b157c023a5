"""What every stage does before its first step and after its last: from folders to token arrays and placed parameters, and back to a model folder."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from promedical_jax import cluster
from promedical_jax.config import Kind, Lora, Stage
from promedical_jax.data.encode import Encoded
from promedical_jax.data.load import encode_file, load_tokenizer
from promedical_jax.doctor import before as doctor
from promedical_jax.errors import InputError
from promedical_jax.model import hf, lora, transformer
from promedical_jax.model.sharding import check_divisible, make_mesh, shardings
from promedical_jax.model.transformer import Compute, ModelConfig, Params
from promedical_jax.rubric.labels import EQUAL, RaterWeights
from promedical_jax.train.card import model_card
from promedical_jax.train.resume import claim
from promedical_jax.train.source import Source, check, find, load


@dataclass(frozen=True)
class Setup:
    """A stage's mesh, its model's source and config, tokenizer and encoded training cases."""

    mesh: jax.sharding.Mesh
    source: Source
    model: ModelConfig
    tokenizer: Any
    cases: Sequence[Encoded]
    compute: Compute


@dataclass(frozen=True)
class Parts:
    """Parameters as a stage trains them: every loss sees join(frozen, trained)."""

    frozen: Params  # placed, in the type that products compute in; empty where everything is trained
    trained: Params | Callable[[], Params]  # placed in float32, or what makes them under jit
    axes: Params  # the names of the axes of `trained`


def prepare(config: Stage, kind: Kind = "explicit", raters: RaterWeights = EQUAL) -> Setup:
    """Reads what the recipe names; `kind` and `raters` say how cases are read (see data.encode).

    Raises InputError, in every process alike, before anything is compiled or written.
    """
    cluster.join()
    with cluster.together():
        return _read(config, kind, raters)


def _read(config: Stage, kind: Kind, raters: RaterWeights) -> Setup:
    mesh = make_mesh(config.mesh.fsdp, config.mesh.tp, config.mesh.slice)
    source = find(config.model)
    model = hf.read_config(source.folder)
    check_fits(mesh, model, config.batch)
    if not check(source, model) and config.lora.rank:
        raise InputError(f"{config.model}: has no weights, and LoRA adapts trained ones; set lora.rank to 0 or name a model with weights")
    check_adapter(config.lora, model)
    tokenizer = load_tokenizer(hf.resolve(config.tokenizer, weights=False) if config.tokenizer else source.folder, model.vocabulary)
    cases = encode_file(config.cases, tokenizer, kind, raters)
    if config.doctor:
        doctor.check(config, mesh, model, tokenizer, cases)
    return Setup(mesh, source, model, tokenizer, cases, Compute(config.dtype, config.remat))


def begin(config: Stage, setup: Setup) -> None:
    """Makes the run folder this recipe's own, with the small files of the model beside its checkpoints, so that any of them can be exported."""
    claim(config)
    tokenizer = hf.resolve(config.tokenizer, weights=False) if config.tokenizer else None
    hf.keep_companions(config.out / "base", setup.source.folder, tokenizer)


def check_adapter(config: Lora, model: ModelConfig) -> None:
    """Raises InputError where the adapter to start from is another than the recipe speaks of, or none of this model."""
    if config.rank:
        lora.check(config.targets)
    if config.start:
        if not config.rank:
            raise InputError(f"lora.start: {config.start} is given, but lora.rank is 0; set it to the adapter's")
        if not config.start.is_dir():
            raise InputError(f"lora.start: {config.start}: no such folder; give the folder of a PEFT adapter")
        found = hf.read_adapter_config(config.start)
        for name, theirs, ours in (("rank", found.rank, config.rank), ("alpha", found.scale * found.rank, config.alpha)):
            if not math.isclose(theirs, ours, rel_tol=1e-9):  # the adapter's alpha went through its scale
                raise InputError(f"lora.{name}: the recipe says {ours:.12g}, and the adapter in {config.start} has {theirs:.12g}; set lora.{name} to that")
        adapters, _ = hf.load_adapter(config.start, model)  # small; what is wrong with it is said before anything is written
        targets = [name for name in lora.TARGETS if f"{name}_a" in adapters]
        if set(targets) != set(config.targets):
            raise InputError(f"lora.targets: the adapter in {config.start} is of {', '.join(targets)}; set lora.targets to these")


def check_fits(mesh: jax.sharding.Mesh, model: ModelConfig, batch: int) -> None:
    """Raises InputError where the mesh does not divide the batch or a size of the model."""
    sizes = {"width": model.width, "kv_heads": model.kv_heads, "feed_forward": model.feed_forward, "vocabulary": model.vocabulary}
    check_divisible(mesh, {"batch": batch, **sizes})


def backbone(config: Stage, setup: Setup, key: jax.Array) -> tuple[ModelConfig, Parts]:
    """The parameters of the recipe's model, and the model's config with the scale of its adapters, if it has some.

    Without LoRA all of them are trained, random ones where the folder has no weights; with LoRA the adapters are, and the rest is frozen.
    """
    where = shardings(setup.mesh, transformer.axes(setup.model))
    if not config.lora.rank:
        weights = load(setup.source, setup.model, where)
        return setup.model, Parts({}, partial(transformer.init, setup.model, key) if weights is None else weights, transformer.axes(setup.model))
    weights = load(setup.source, setup.model, where, config.dtype)
    assert weights is not None  # as `prepare` saw
    targets = config.lora.targets
    axes = {"adapters": lora.axes(targets)}
    model = replace(setup.model, adapter_scale=config.lora.alpha / config.lora.rank)
    if config.lora.start:
        adapters, _ = hf.load_adapter(config.lora.start, model, shardings(setup.mesh, axes)["adapters"])
        return model, Parts(weights, {"adapters": adapters}, axes)
    return model, Parts(weights, lambda: {"adapters": lora.init(setup.model, config.lora.rank, targets, key)}, axes)


def frozen_start(config: Stage, parts: Parts) -> Params:
    """The parameters that training starts from, to stay as they are: with adapters what they adapt, without a second copy, else in the products' type.

    Of trained parameters it is a copy: the first step takes their memory. Ask for it before.
    """
    if callable(parts.trained):
        return parts.frozen  # fresh adapters change nothing
    kept = jax.tree.map(lambda x: jnp.array(x, "float32" if parts.frozen else config.dtype, copy=True), parts.trained)
    return lora.join(parts.frozen, kept)


def save_model(config: Stage, model: ModelConfig, params: Params, extra: dict[str, bytes] | None = None, step: int | None = None) -> None:
    """Writes `out`/model, a folder that transformers reads; with adapters `out`/adapter too, as PEFT reads them, and merged weights in the former.

    `extra`: further files by name, in both; `step`: whose weights these are, None: the last one's.
    """
    card = model_card(config, step)
    if "adapters" in params:
        hf.save_adapter(config.out / "adapter", params["adapters"], model, str(config.model), card, extra)
        params = lora.merged(*lora.split(params), model)
    hf.save(config.out / "model", params, model, config.out / "base", card=card, extra=extra)
