"""Where a stage's model comes from: a folder of HF's, a name of the hub's, or a checkpoint folder, which `promedical import` or a run made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from promedical_jax.errors import InputError
from promedical_jax.model import hf, transformer
from promedical_jax.model.transformer import Dtype, ModelConfig, Params
from promedical_jax.train.checkpoint import read_parameters, saved_shapes, shapes_of


@dataclass(frozen=True)
class Source:
    """A folder with config.json and tokenizer, and the folder of checkpoints that holds the weights where the former does not."""

    folder: Path
    checkpoints: Path | None = None

    def has_weights(self) -> bool:
        return self.checkpoints is not None or hf.has_weights(self.folder)


def find(name: Path, weights: bool = True) -> Source:
    """The source of this name; `weights` False fetches none from the hub. Raises InputError for what is none."""
    saved = name / "checkpoints"
    if not (name / "config.json").is_file() and saved.is_dir() and (name / "base").is_dir():
        return Source(name / "base", saved)
    return Source(hf.resolve(name, weights))


def check(source: Source, config: ModelConfig) -> bool:
    """Whether there are weights, by what can be seen before they are read. Raises InputError for some that are not the model's, or not whole."""
    if source.checkpoints is None:
        return hf.check(source.folder, config) is not None
    hint = "a stage starts from whole parameters; of adapters or a reward model name the finished run's model folder, or `promedical export` it first"
    compare_shapes(saved_shapes(source.checkpoints), config, source.checkpoints, hint)
    return True


def compare_shapes(found: dict[str, tuple[int, ...]], config: ModelConfig, where: Path, hint: str) -> None:
    """Raises InputError, with the hint, for the first array that the model and a checkpoint's parameters do not both have in the same shape."""
    wanted = shapes_of(transformer.shapes(config))
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise InputError(f"{where}: {name} has shape {found.get(name)}, and base/config.json asks for {wanted.get(name)}; {hint}")


def load(source: Source, config: ModelConfig, where: Any, dtype: Dtype = "float32") -> Params | None:
    """The weights on the shardings `where`, in `dtype`; None where there are none."""
    if source.checkpoints is None:
        return hf.load(source.folder, config, where, dtype)
    wanted = jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, dtype, sharding=place), transformer.shapes(config), where)
    return read_parameters(source.checkpoints, wanted=wanted)[0]
