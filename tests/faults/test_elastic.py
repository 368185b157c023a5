"""A run goes on on other devices and other splits of them: the same cases in the same order, and the same losses but for rounding."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from faulty import STAGES, prepare, recipe, run

from promedical_jax.config import Mesh
from promedical_jax.errors import Stopped
from promedical_jax.model.sharding import make_mesh
from promedical_jax.train import loop
from promedical_jax.train import stage as stages

pytestmark = pytest.mark.slow
STEPS = 6
BOUND = 1e-5  # relative, of losses and KLs: sums in another order; what a mesh changes in an uninterrupted run too
# devices, fsdp, tp; each for two steps
CHAINS = {"8, 4, 2 x 4": [(8, 8, 1), (4, 4, 1), (8, 2, 4)], "1, 1 x 2, 4 x 2": [(1, 1, 1), (2, 1, 2), (8, 4, 2)]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("elastic"))


def run_on(config: Any, devices: int, until: int) -> None:
    """Runs to step `until`, on so many devices; the recipe of the folder was of others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "make_mesh", lambda *sizes: make_mesh(*sizes, devices=jax.devices()[:devices]))
        patch.setattr(loop, "notice", lambda: _Told(until))
        try:
            run(config)
        except Stopped:
            assert until < STEPS


class _Told:
    """A notice at a step."""

    def __init__(self, step: int):
        self._step = step

    def __enter__(self) -> Any:
        return lambda step: step == self._step

    def __exit__(self, *_: object) -> None:
        return None


def figures(out: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


@pytest.mark.parametrize(("kind", "chain"), [*((stage, "8, 4, 2 x 4") for stage in STAGES), ("grpo", "1, 1 x 2, 4 x 2")])
def test_a_run_goes_on_elsewhere(kind: str, chain: str, root: Path) -> None:
    keys = {"steps": STEPS, "log_every": 1, "save_every": 2, "batch": 8}
    whole = recipe(root, kind, f"{kind}-whole", **keys)
    if not (whole.out / "model").exists():
        run_on(whole, 8, STEPS)
    name = f"{kind}-{chain}".replace(", ", "-").replace(" ", "")
    for number, (devices, fsdp, tp) in enumerate(CHAINS[chain], 1):
        config = recipe(root, kind, name, mesh=Mesh(fsdp=fsdp, tp=tp), **keys)
        run_on(config, devices, 2 * number)
    ours, wanted = figures(config.out), figures(whole.out)
    assert [row["step"] for row in ours] == [row["step"] for row in wanted] == list(range(STEPS))
    for name in ("loss", "kl", "entropy", "grad_norm", "reward"):
        if name in wanted[0]:
            np.testing.assert_allclose([row[name] for row in ours], [row[name] for row in wanted], rtol=BOUND, atol=BOUND, err_msg=name)
    if kind in ("grpo", "ppo"):
        said = [[(row["step"], row["case"], row["sample"], row["text"]) for row in figures(out, "rollouts.jsonl")] for out in (config.out, whole.out)]
        assert said[0] == said[1]
    assert not (config.out / "changes.jsonl").exists()
