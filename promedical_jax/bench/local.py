"""Models on this machine for the suites: a policy that is sampled, and a judge of criteria, each from its folder or from the hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from promedical_jax.answering import sample_cases
from promedical_jax.config import Shapes
from promedical_jax.data.encode import encode, measure
from promedical_jax.data.load import load_tokenizer
from promedical_jax.model import hf, transformer
from promedical_jax.model.sharding import make_mesh, shardings, shared_evenly
from promedical_jax.model.transformer import Compute, Dtype
from promedical_jax.reward import RewardJudge, open_judge
from promedical_jax.reward.folder import model_hash
from promedical_jax.reward.zero_shot import open_zero_shot
from promedical_jax.rubric import Case
from promedical_jax.selfcheck import check_tree

Texts = tuple[tuple[str, ...], tuple[int, ...]]  # the answers to a case, and their lengths in tokens


def sample_folder(name: Path, cases: Sequence[Case], shapes: Shapes, place: str, batch: int, dtype: Dtype, **how: Any) -> list[Texts]:
    """Answers of the policy in a folder to each case; `how` as `sample_cases` takes it. Raises InputError for a folder that holds no trained model, and for a
    case that does not fit `shapes`."""
    folder, mesh, compute = hf.resolve(name), make_mesh(), Compute(dtype)
    model = hf.read_config(folder)
    tokenizer = load_tokenizer(folder, model.vocabulary)
    encoded = [encode(case, tokenizer) for case in cases]
    sizes = measure(encoded, shapes, place)
    with jax.set_mesh(mesh):
        weights = hf.load_trained(folder, model, shardings(mesh, transformer.axes(model)), dtype)
        check_tree("the policy", weights, model, compute, samples=True)
        return sample_cases(weights, model, tokenizer, encoded, sizes, batch=shared_evenly(batch, mesh), compute=compute, **how)


def open_folder(name: Path, zero_shot: bool, batch: int, dtype: Dtype) -> RewardJudge:
    """The reward model in a folder, or the language model there that is asked yes or no. Raises InputError for a folder that holds none."""
    folder, mesh = hf.resolve(name), make_mesh()
    judge = open_zero_shot(folder, mesh, batch, dtype) if zero_shot else open_judge(folder, batch=batch, dtype=dtype, mesh=mesh)
    with jax.set_mesh(mesh):
        check_tree("the judge", judge.model.params["backbone"], judge.model.config, Compute(dtype))
    return judge


def hash_of(name: Path) -> str:
    """Of all that a model folder's answers or scores depend on."""
    return model_hash(hf.resolve(name))
