"""Whether a case's numbers are its own: the same whoever stands beside it in a batch. That trees give what flat rows give is selfcheck.py's."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from promedical_jax.data.batches import to_devices, to_host
from promedical_jax.data.encode import Encoded
from promedical_jax.errors import InputError
from promedical_jax.model import transformer
from promedical_jax.model.layout import assemble, last_valid, nodes_of, tree
from promedical_jax.model.sharding import parts
from promedical_jax.model.transformer import Compute, ModelConfig, Params
from promedical_jax.selfcheck import BOUNDS

LONGEST = 256  # tokens of an instruction that are looked at


def batch_invariance(params: Params, config: ModelConfig, compute: Compute, mesh: jax.sharding.Mesh, cases: Sequence[Encoded]) -> str:
    """The states at the ends of instructions, and what other instructions in the batch change of them. Raises InputError beyond selfcheck's bounds."""
    width = min(LONGEST, max(len(case.prompt) for case in cases))
    rows, rng = max(2, parts(mesh, "batch")), np.random.default_rng(0)
    first = rng.permutation(len(cases))
    found = [_ends(params, config, compute, [cases[i].prompt[:width] for i in chosen], width)
             for chosen in ([first[0], *np.resize(first, rows - 1)], [first[0], *np.resize(first[::-1], rows - 1)])]  # fmt: skip
    apart = float(np.abs(found[0][0] - found[1][0]).max() / np.abs(found[0][0]).max())
    bound = BOUNDS[compute.dtype if jax.devices()[0].platform == "cpu" else "bfloat16"]
    said = f"in other company an instruction's last state differs by {apart:.1e} of its largest number, and {bound:.0e} is allowed"
    if not apart <= bound:
        raise InputError(f"{said}: what a case teaches would depend on who is beside it; try --dtype float32 or another version of jax, and report this")
    return said


@partial(jax.jit, static_argnames=("config", "compute", "width"))
def _run(params: Params, config: ModelConfig, compute: Compute, tokens: jax.Array, lengths: jax.Array, width: int) -> jax.Array:
    layout = tree(width)
    hidden = transformer.forward(params, config, assemble(layout, [tokens[:, None]], [lengths[:, None]]), layout, compute)
    return last_valid(nodes_of(hidden, layout, 0), lengths[:, None])[:, 0]


def _ends(params: Params, config: ModelConfig, compute: Compute, prompts: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """[B, D], float32."""
    tokens = np.zeros((len(prompts), width), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    placed = to_devices({"tokens": tokens, "lengths": np.array([len(prompt) for prompt in prompts], np.int32)})
    return np.asarray(to_host(_run(params, config, compute, placed["tokens"], placed["lengths"], width)), np.float32)
