"""Before a stage relies on the tree: does it give here, with this model and on these devices, what flat rows give?

Small ragged trees of random tokens, the same number on each part of the mesh that splits the batch: an instruction, two answers, two criteria each. Their
hidden states are compared with those of flat rows, one a path. Where the stage trains, so are the gradients of the norms in front of attention and at the
end, which come through every attention's backward pass; where it samples, so are the sampler's log-probs with those of flat rows of what it sampled.
Kernels, placement and types are those that the stage will use.

Letters: B trees, N paths of a tree, S tokens of a path, Z parts of the batch, G answers, P and R tokens of an instruction and an answer, D width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from promedical_jax.cluster import chief
from promedical_jax.errors import InputError
from promedical_jax.model import transformer
from promedical_jax.model.layout import Layout, TreeBatch, assemble, place, tree
from promedical_jax.model.logprob import log_probs
from promedical_jax.model.packing import fit, pack
from promedical_jax.model.sharding import out, parts, pin, platform
from promedical_jax.model.transformer import FLOAT32, Compute, ModelConfig, Params
from promedical_jax.rollout import sample

# Relative to the largest entry. Measured on random models of 2 to 64 layers, 16 to 1,024 wide, on one to eight devices: at most 3e-6 in float32 and 0.045
# in bfloat16, which rounds other sums on a tree than on flat rows. Siblings that see each other or positions that run on make 0.2 to 1.4. The factors of
# float32 products are rounded off the CPU, to bfloat16 on TPU and to TF32 on GPU: there the second bound holds for both types.
BOUNDS = {"float32": 1e-4, "bfloat16": 0.1}
ANSWERS, CRITERIA, SAMPLED = 2, 2, 4  # answers of a tree, criteria of each, tokens of a sampled answer

_passed: set[tuple[Any, ...]] = set()  # what this process has seen to hold


def check_tree(name: str, params: Params, config: ModelConfig, compute: Compute = FLOAT32, *, trains: bool = False, packs: bool = False,
               samples: bool = False) -> None:
    """Raises InputError where trees do not give what flat rows give, on the current mesh; a process pays once for a shape of model, a type and a mesh.

    `params`: the placed backbone, called `name` in what is said. `trains`: gradients too, with `packs` of rows that trees share; `samples`: the sampler too.
    """
    wanted: list[tuple[Figures, Way]] = [(_gradients, _packed if packs else _padded)] if trains else []
    wanted += [(_states, _padded)] if packs or not trains else []
    wanted += [(_log_probs, _flat)] if samples else []
    here = (config, compute, platform(), jax.sharding.get_abstract_mesh(), jax.tree.structure(params))
    bound, worst = BOUNDS[compute.dtype if platform() == "cpu" else "bfloat16"], []
    for figures, way in wanted:
        if (figures, way, here) in _passed or (figures is _states and (_gradients, way, here) in _passed):
            continue
        found = {what: float(apart) for what, apart in figures(params, config, compute, way).items()}
        for what, apart in found.items():
            if not apart <= bound:  # nor is NaN, of infinite numbers
                raise InputError(
                    f"tree check of {name}: {what} are {apart:.1e} of the largest away from what flat rows give, and {bound:.0e} is allowed "
                    f"({compute.dtype} on {platform()}, jax {jax.__version__}); the results would be wrong, so nothing is run: "
                    f"try {'--dtype float32' if compute.dtype == 'bfloat16' else 'another version of jax'}, and report this"
                )
        worst.append(max(found.values()))
        _passed.add((figures, way, here))
    if worst:
        Console(stderr=True, quiet=not chief()).print(f"tree check of {name}: {max(worst):.1e} of {bound:.0e} allowed", highlight=False, soft_wrap=True)


# Trees, and three ways to compute them


class Trees(NamedTuple):
    """B trees of random tokens. NumPy, as all here that does not depend on parameters: the programs hold it as constants."""

    tokens: list[np.ndarray]  # of each level [B, nodes, length]
    lengths: list[np.ndarray]  # of each level [B, nodes]: odd, and never whole

    def along_paths(self, of_node: Callable[[int, int, int], np.ndarray]) -> np.ndarray:
        """[B, N, S] of what `of_node` gives for the real tokens of a level's node of a tree, joined from the top down; zero behind a path's end."""
        b, n = self.lengths[-1].shape
        joined = np.zeros((b, n, sum(ids.shape[2] for ids in self.tokens)), np.int32)
        for i, path in np.ndindex(b, n):
            whole = np.concatenate([of_node(level, i, path * own.shape[1] // n) for level, own in enumerate(self.lengths)])
            joined[i, path, : len(whole)] = whole
        return joined

    def stand(self, starts: list[np.ndarray]) -> np.ndarray:
        """Where the tokens of each path stand, given where each level's nodes [B, nodes] start."""
        return self.along_paths(lambda level, i, node: starts[level][i, node] + np.arange(self.lengths[level][i, node]))

    def ends(self) -> np.ndarray:
        """[B, N] tokens of each path."""
        return np.stack([np.repeat(own, self.lengths[-1].shape[1] // own.shape[1], axis=1) for own in self.lengths]).sum(0, dtype=np.int32)


# Rows of the trees, and where in all the rows of its part each path's tokens stand, [B, N, S].
Way = Callable[[Trees], tuple[Layout, TreeBatch, np.ndarray]]
Figures = Callable[[Params, ModelConfig, Compute, Way], dict[str, jax.Array]]


def _trees(vocabulary: int) -> Trees:
    """Two for each part of the batch."""
    b, rng = 2 * _parts(), np.random.default_rng(0)
    shapes = [(level.nodes, level.length) for level in _layout().levels]
    tokens = [rng.integers(0, vocabulary, (b, *shape), dtype=np.int32) for shape in shapes]
    return Trees(tokens, [length - 1 - 2 * rng.integers(0, length // 4, (b, nodes), dtype=np.int32) for nodes, length in shapes])


def _layout() -> Layout:
    """Few tokens where plain products run, and elsewhere several of a kernel's blocks of 128."""
    p, r, c = (16, 8, 8) if platform() == "cpu" else (80, 40, 40)
    return tree(p, (ANSWERS, r), (CRITERIA, c))


def _parts() -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else parts(mesh, "batch")


def _padded(trees: Trees) -> tuple[Layout, TreeBatch, np.ndarray]:
    layout = _layout()
    row = np.arange(2 * _parts())[:, None] % 2 * layout.tokens
    starts = [row + start + level.length * np.arange(level.nodes) for level, (start, _) in zip(layout.levels, layout.spans(), strict=True)]
    return layout, assemble(layout, [*map(_placed, trees.tokens)], [*map(_placed, trees.lengths)]), trees.stand(starts)


def _packed(trees: Trees) -> tuple[Layout, TreeBatch, np.ndarray]:
    layout, z = fit(trees.lengths, 2 * _layout().tokens), _parts()
    rows, _ = pack(layout, trees.tokens, trees.lengths, z)
    part = np.arange(2 * z)[:, None] // 2
    starts = [slots // level.nodes * layout.tokens + start + own.start.reshape(z, -1)[part, slots]
              for level, own, slots, (start, _) in zip(layout.levels, rows.nodes, rows.slots, layout.spans(), strict=True)]  # fmt: skip
    return layout, place(layout, jax.tree.map(_placed, rows)), trees.stand(starts)


def _flat(trees: Trees) -> tuple[Layout, TreeBatch, np.ndarray]:
    rows = trees.along_paths(lambda level, i, node: trees.tokens[level][i, node, : trees.lengths[level][i, node]])
    b, n, s = rows.shape
    batch = assemble(tree(s), [_placed(rows.reshape(b * n, 1, s))], [_placed(trees.ends().reshape(b * n, 1))])
    return tree(s), batch, np.arange(b * n * s).reshape(rows.shape) % (2 * n * s)


def _hidden(params: Params, config: ModelConfig, compute: Compute, way: Way) -> jax.Array:
    """The hidden states of all paths' tokens: float32 [Z, B N S / Z, D], zero behind a path's end."""
    trees, z = _trees(config.vocabulary), _parts()
    layout, batch, stand = way(trees)
    hidden = transformer.forward(params, config, batch, layout, compute)
    hidden = _regroup(hidden, z, hidden.shape[0] // z * hidden.shape[1], config.width)
    taken = _placed(stand.reshape(z, -1, 1)) == jnp.arange(hidden.shape[1])
    real = np.arange(stand.shape[2]) < trees.ends()[..., None]
    states = jnp.einsum("zst,ztd->zsd", taken.astype(hidden.dtype), hidden)  # a one-hot product partitions without help
    return jnp.where(_placed(real.reshape(z, -1, 1)), states.astype(jnp.float32), 0)


# How far apart they are


def _states(params: Params, config: ModelConfig, compute: Compute, way: Way) -> dict[str, jax.Array]:
    """Hidden states."""

    @_compiled
    def run(params: Params) -> jax.Array:
        return _apart(_hidden(params, config, compute, way), _hidden(params, config, compute, _flat))

    return {"hidden states": run(params)}


def _gradients(params: Params, config: ModelConfig, compute: Compute, way: Way) -> dict[str, jax.Array]:
    """Hidden states, and gradients of a random sum of them."""

    @_compiled
    def run(params: Params) -> tuple[jax.Array, jax.Array]:
        def value(way: Way, scales: Params) -> tuple[jax.Array, jax.Array]:
            states = _hidden(params | {"norm": scales["norm"], "layers": params["layers"] | scales["layers"]}, config, compute, way)
            rng = np.random.default_rng(1)
            of_token, of_entry = rng.normal(size=states.shape[:2]).astype(np.float32), rng.normal(size=states.shape[2]).astype(np.float32)
            return jnp.sum(jnp.einsum("zsd,d->zs", states, of_entry) * _placed(of_token)), states

        scales = {"norm": params["norm"].astype(jnp.float32), "layers": {"attn_norm": params["layers"]["attn_norm"].astype(jnp.float32)}}
        (gradients, states), (wanted, flat) = (jax.grad(partial(value, each), has_aux=True)(scales) for each in (way, _flat))
        return _apart(states, flat), jnp.maximum(*jax.tree.leaves(jax.tree.map(_apart, gradients, wanted)))

    return dict(zip(("hidden states", "gradients"), run(params), strict=True))


def _log_probs(params: Params, config: ModelConfig, compute: Compute, _: Way) -> dict[str, jax.Array]:
    """What the sampler says of the tokens that it draws, against flat rows of them."""
    z, p = _parts(), _layout().levels[0].length
    true, ids = p - 3, np.random.default_rng(2).integers(0, config.vocabulary, (z, p), dtype=np.int32)
    prompts, lengths, cases = _compiled(lambda: tuple(map(_placed, (ids, np.full(z, true, np.int32), np.arange(z, dtype=np.int32)))))()
    drawn = sample(params, config, prompts, lengths, jax.random.key(0), cases, answers=ANSWERS, answer_tokens=SAMPLED, stop=-1, compute=compute)

    @_compiled
    def run(params: Params, tokens: jax.Array, said: jax.Array) -> jax.Array:
        before = _placed(np.repeat(ids[:, None, :true], ANSWERS, axis=1))
        rows = _regroup(jnp.concatenate([before, pin(tokens, "batch", None, None)], axis=2), z * ANSWERS, 1, true + SAMPLED)
        layout = tree(true + SAMPLED)
        batch = assemble(layout, [rows], [_placed(np.full((z * ANSWERS, 1), true + SAMPLED, np.int32))])
        states = transformer.forward(params, config, batch, layout, compute)[:, true - 1 : -1]
        wanted, _ = log_probs(states, rows[:, 0, true:], transformer.unembedding(params))
        return _apart(pin(said, "batch", None, None), _regroup(wanted, z, ANSWERS, SAMPLED), least=1.0)  # of a certain token it is almost zero

    return {"the sampler's log-probs": run(params, drawn.tokens, drawn.log_probs)}


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Jitted. On the CPU quickly, to machine code that runs slower and computes the same: these programs run once."""
    quickly = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function, compiler_options=quickly if platform() == "cpu" else None)


def _placed(x: np.ndarray) -> jax.Array:
    return pin(jnp.asarray(x), "batch", *[None] * (x.ndim - 1))


def _regroup(x: jax.Array, *shape: int) -> jax.Array:
    """Reshaped, the batch in front staying where it is."""
    return jax.lax.reshape(x, shape, out_sharding=out("batch", *[None] * (len(shape) - 1)))


def _apart(x: jax.Array, wanted: jax.Array, least: float = 1e-30) -> jax.Array:
    """The largest difference, relative to the largest entry, or to `least` where that is larger; infinite where some number is none."""
    difference = jnp.abs(x - wanted)
    difference = jnp.where(jnp.isfinite(difference), difference, jnp.inf)  # the maximum over several CPU devices leaves NaN out
    return jnp.max(difference) / jnp.maximum(jnp.max(jnp.abs(wanted)), least)
