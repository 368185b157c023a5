"""LoRA through the three stages: what is trained, kept and written, and that the mesh, a stop and a start from an adapter change nothing else."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import pytest
from folders import save_policy, save_reward_model
from tiny import CONFIG, close, policy, reward_params

from promedical_jax.cli import main
from promedical_jax.clinic import build_tokenizer, make_cases, truth
from promedical_jax.config import Calibration, GrpoConfig, Lora, Mesh, Optimizer, RmConfig, SftConfig, Stage
from promedical_jax.errors import InputError
from promedical_jax.model import hf, lora
from promedical_jax.model.sharding import make_mesh
from promedical_jax.reward import UNCALIBRATED, RewardModel
from promedical_jax.rubric import write_cases
from promedical_jax.train import grpo, loop, rm, rollouts, sft, stage
from promedical_jax.train.checkpoint import read_parameters

STEPS, SAVE_EVERY = 4, 2
RANK, ALPHA = 2, 6.0
LORA = Lora(rank=RANK, alpha=ALPHA)
ONE_DEVICE = (1, 1)
KINDS: list[type[Stage]] = [SftConfig, RmConfig, GrpoConfig]
RUN: dict[type[Stage], Callable[..., Any]] = {SftConfig: sft.run, RmConfig: rm.run, GrpoConfig: partial(grpo.run, truth=truth)}
MODULE = {SftConfig: sft, RmConfig: rm, GrpoConfig: grpo}


class Runs:
    """Runs each stage once on each mesh, when a test first asks for it."""

    def __init__(self, root: Path):
        self.root = root
        self._done: dict[tuple[type[Stage], tuple[int, int]], Stage] = {}
        self.states: dict[Path, Any] = {}  # the last one of each run, by its folder
        self.references: dict[Path, Any] = {}  # what looked the reference up at GRPO's last step
        tokenizer = build_tokenizer()
        model = replace(CONFIG, vocabulary=len(tokenizer))
        write_cases(root / "cases.jsonl", make_cases(16, seed=0, answers=2))
        save_policy(root / "policy", policy(model), model, tokenizer)
        save_reward_model(root / "judge", RewardModel(reward_params(model, seed=3), model, UNCALIBRATED), tokenizer)
        self.base = policy(model)
        self.untouched = contents(root / "policy")

    def config(self, kind: type[Stage], out: str, mesh: tuple[int, int] = (4, 2), **keys: Any) -> Stage:
        common = {"out": self.root / out, "cases": self.root / "cases.jsonl", "model": self.root / "policy", "steps": STEPS, "batch": 8, "log_every": 1,
                  "save_every": SAVE_EVERY, "mesh": Mesh(fsdp=mesh[0], tp=mesh[1]), "lora": LORA,
                  "optimizer": Optimizer(learning_rate=1e-2, weight_decay=0.1)} | keys  # fmt: skip
        if kind is GrpoConfig:
            return GrpoConfig(reward_model=self.root / "judge", answers=4, answer_tokens=12, kl=0.1, **common)
        return RmConfig(calibration=Calibration(share=0.2), **common) if kind is RmConfig else SftConfig(**common)

    def run(self, config: Stage) -> Stage:
        module = MODULE[type(config)]
        run_steps, look_up = module.run_steps, grpo.frozen_log_probs

        def watched(reference: Any, *rest: Any) -> jax.Array:
            self.references[config.out] = jax.device_get(reference)
            return look_up(reference, *rest)

        with pytest.MonkeyPatch.context() as patch:
            if (config.mesh.fsdp, config.mesh.tp) == ONE_DEVICE:
                patch.setattr(stage, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:1]))
            patch.setattr(module, "run_steps", lambda config, *rest, **named: self.states.setdefault(config.out, run_steps(config, *rest, **named)))
            patch.setattr(grpo, "frozen_log_probs", watched)
            RUN[type(config)](config)
        return config

    def of(self, kind: type[Stage], mesh: tuple[int, int] = (4, 2)) -> Stage:
        """The recipe of a finished run."""
        if (kind, mesh) not in self._done:
            self._done[kind, mesh] = self.run(self.config(kind, f"{kind.__name__}-{mesh[0]}x{mesh[1]}", mesh))
        return self._done[kind, mesh]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("adapters"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def metrics(config: Stage) -> dict[str, np.ndarray]:
    rows = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def loaded(folder: Path) -> Any:
    return jax.device_get(hf.load(folder, hf.read_config(folder)))


def merged(base: Any, adapters: lora.Adapters, scale: float) -> Any:
    """The base with scale * a b added to each adapted weight, by numpy in float64."""
    layers = dict(base["layers"])
    for name in lora.TARGETS:
        if f"{name}_a" in adapters:
            a, b, w = (np.asarray(x, np.float64) for x in (adapters[f"{name}_a"], adapters[f"{name}_b"], layers[name]))
            layers[name] = w + scale * np.einsum("lir,lro->lio", a.reshape(len(a), -1, a.shape[-1]), b.reshape(*b.shape[:2], -1)).reshape(w.shape)
    return base | {"layers": layers}


def leaf_names(tree: Any) -> set[str]:
    return {jax.tree_util.keystr(path, simple=True, separator=".") for path, x in jax.tree.leaves_with_path(tree)}


# What a run is and leaves


@pytest.mark.slow  # test_lora.py has their values and gradients on every mesh, test_runs.py whole runs
@pytest.mark.parametrize("kind", KINDS)
def test_a_mesh_changes_no_figure(kind: type[Stage], runs: Runs) -> None:
    alone, spread = metrics(runs.of(kind, ONE_DEVICE)), metrics(runs.of(kind))
    names = {SftConfig: ("loss", "entropy"), RmConfig: ("loss", "loss/verdict", "loss/pair"), GrpoConfig: ("loss", "kl", "entropy", "grad_norm", "reward")}
    for name in names[kind]:
        assert len(alone[name]) == STEPS
        close({name: spread[name]}, {name: alone[name]}, 1e-5)
    if kind is not GrpoConfig:  # whose loss need not fall in so few steps
        assert alone["loss"][-1] < 0.95 * alone["loss"][0]


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=() if kind is GrpoConfig else pytest.mark.slow) for kind in KINDS])
def test_the_folders_hold_the_adapter_and_the_merged_weights(kind: type[Stage], runs: Runs) -> None:
    config = runs.of(kind)
    state = jax.device_get(runs.states[config.out].params)
    trained = state.get("backbone", state)["adapters"]
    about = hf.read_adapter_config(config.out / "adapter")
    assert (about.rank, about.scale, set(about.targets or ())) == (RANK, ALPHA / RANK, set(lora.TARGETS))
    assert about.base_model == str(config.model) and contents(config.model) == runs.untouched  # what the adapter belongs to is as it was
    adapters, _ = hf.load_adapter(config.out / "adapter", hf.read_config(config.model))
    jax.tree.map(np.testing.assert_array_equal, adapters, trained)
    after = loaded(config.out / "model")
    close(after, merged(runs.base, adapters, ALPHA / RANK), 1e-6)
    for name in lora.TARGETS:
        assert np.abs(after["layers"][name] - runs.base["layers"][name]).max() > 1e-3, name
    for name in runs.base["layers"].keys() - set(lora.TARGETS):
        np.testing.assert_array_equal(after["layers"][name], runs.base["layers"][name])
    assert ("heads.safetensors" in contents(config.out / "model")) is (kind is RmConfig)
    if kind is RmConfig:
        jax.tree.map(np.testing.assert_array_equal, hf.unpacked(config.out / "model" / "heads.safetensors"), state["heads"])


@pytest.mark.parametrize("kind", KINDS)
def test_state_and_checkpoint_hold_the_adapters_alone(kind: type[Stage], runs: Runs) -> None:
    config = runs.of(kind)
    state = runs.states[config.out]
    wanted = {f"adapters.{name}_{half}" for name in lora.TARGETS for half in "ab"}
    if kind is RmConfig:
        wanted = {f"backbone.{name}" for name in wanted} | {"heads.weight", "heads.bias", "heads.tie_bias"}
    (adam,) = [x for x in jax.tree.leaves(state.moments, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")]
    saved = ocp.checkpointables_metadata((config.out / "checkpoints" / str(STEPS)).absolute()).metadata["state"]
    for tree in (state.params, adam.mu, adam.nu, saved["params"]):
        assert leaf_names(tree) == wanted
    assert state.masters == () and not leaf_names(saved["masters"])
    for tree in (state, saved):  # parameters, two moments of each, and a few counters
        assert leaf_names(tree).issuperset({f"params.{name}" for name in wanted}) and len(jax.tree.leaves(tree)) <= 3 * len(wanted) + 3
        counted = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))
        assert counted <= 3 * sum(x.size for x in jax.tree.leaves(state.params)) + 3
    assert 5 * sum(x.size for x in jax.tree.leaves(state.params)) < sum(x.size for x in jax.tree.leaves(runs.base))


def test_grpo_measures_its_kl_to_the_base(runs: Runs) -> None:
    config = runs.of(GrpoConfig)
    figures = metrics(config)
    assert 0 <= figures["kl"][0] < 1e-11 and (figures["kl"][1:] > 1e-6).all() and (figures["grad_norm"] > 1e-4).all()
    assert figures["sampling/sampling_logp_difference/max"].max() < 1e-4  # the sampler has the adapters of each step
    jax.tree.map(np.testing.assert_array_equal, runs.references[config.out], runs.base)


@pytest.mark.slow
def test_without_a_kl_no_reference_is_looked_up(runs: Runs) -> None:
    config = runs.run(runs.config(GrpoConfig, "without-kl", ONE_DEVICE, steps=1).model_copy(update={"kl": 0.0}))
    assert config.out not in runs.references and "kl" not in metrics(config) and metrics(config)["entropy"] > 0


# Stopping, exporting meanwhile, and going on


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_is_exported_merged_and_ends_as_if_it_had_not_been(kind: type[Stage], runs: Runs) -> None:
    """The folder of a finished run without what its last two steps left but lines of figures: as if it had been killed before it was saved again."""
    config = runs.of(kind)
    files = {"metrics.jsonl", "model/model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"}
    files |= {RmConfig: {"model/heads.safetensors", "model/calibration.json"}, GrpoConfig: {"ledger.jsonl", "rollouts.jsonl"}}.get(kind, set())
    whole = {name: (config.out / name).read_bytes() for name in sorted(files)}
    for name in ("model", "adapter", f"checkpoints/{STEPS}"):
        shutil.rmtree(config.out / name)

    halfway = runs.root / f"{kind.__name__}-halfway"
    assert main(["export", str(config.out), "--out", str(halfway)]) == 0
    params, step = read_parameters(config.out / "checkpoints")
    by_hand = merged(runs.base, params.get("backbone", params)["adapters"], ALPHA / RANK)
    assert step == SAVE_EVERY and np.abs(by_hand["layers"]["q"] - runs.base["layers"]["q"]).max() > 1e-3
    close(loaded(halfway), by_hand, 1e-6)
    if kind is RmConfig:
        jax.tree.map(np.testing.assert_array_equal, hf.unpacked(halfway / "heads.safetensors"), jax.device_get(params["heads"]))

    steps: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Meter, "advance", lambda meter, done, *rest: steps.append(done))
        runs.run(config)
    assert steps == [3, 4]
    for name, before in whole.items():
        assert (config.out / name).read_bytes() == before, name


# One base in memory


def test_policy_reference_and_reward_model_share_one_base(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward model's adapter beside the policy's frozen weights says what its merged folder says, and holds no second copy of them."""
    judge = runs.of(RmConfig)
    shared, loads = [], rollouts.load_adapted

    def watched(folder: Path, base: Any, *rest: Any) -> RewardModel:
        model = loads(folder, base, *rest)
        backbone, _ = lora.split(model.params["backbone"])
        shared.append(all(x is y for x, y in zip(jax.tree.leaves(base), jax.tree.leaves(backbone), strict=True)))
        return model

    monkeypatch.setattr(rollouts, "load_adapted", watched)
    ledgers = {}
    for name in ("model", "adapter"):
        config = runs.config(GrpoConfig, f"grpo-beside-{name}", steps=1).model_copy(update={"reward_model": judge.out / name})
        runs.run(config)
        ledgers[name] = [json.loads(line) for line in (config.out / "ledger.jsonl").open()]
    assert shared == [True]
    for apart, beside in zip(ledgers["model"], ledgers["adapter"], strict=True):
        assert {**apart, **beside} == apart | {key: beside[key] for key in ("model", "score", "probability")}
    for key in ("score", "probability"):  # the ledger has six places
        close(*(np.array([row[key] for row in ledgers[name]]) for name in ("adapter", "model")), 1e-5)


def test_a_reward_model_s_adapter_is_refused_where_it_cannot_share(runs: Runs, tmp_path: Path) -> None:
    judge = runs.of(RmConfig).out / "adapter"
    config = runs.config(GrpoConfig, "grpo-refused").model_copy(update={"reward_model": judge})
    with pytest.raises(InputError, match=r"lora\.rank, or give the reward model's `model` folder"):
        grpo.run(config.model_copy(update={"lora": Lora()}))
    shutil.copytree(runs.root / "policy", tmp_path / "other")
    with pytest.raises(InputError, match=r"is an adapter of .*policy, and cannot share the weights of .*other"):
        grpo.run(config.model_copy(update={"model": tmp_path / "other"}))
    with pytest.raises(InputError, match=r"without heads\.safetensors and calibration\.json"):
        grpo.run(config.model_copy(update={"reward_model": runs.of(SftConfig).out / "adapter"}))
    assert not config.out.exists()


# Starting from an adapter


def test_a_run_goes_on_from_an_adapter(runs: Runs) -> None:
    """Its first loss is that of the merged model, to which fresh adapters add nothing; its adapters are those of the file, some steps on."""
    first = runs.of(SftConfig)
    start = LORA.model_copy(update={"start": first.out / "adapter"})
    onwards = runs.run(runs.config(SftConfig, "onwards", lora=start))
    of_merged = runs.run(runs.config(SftConfig, "of-merged", model=first.out / "model"))
    losses = metrics(onwards)["loss"]
    close(losses[0], metrics(of_merged)["loss"][0], 1e-5)
    assert abs(losses[0] / metrics(first)["loss"][0] - 1) > 0.05 and losses[-1] < losses[0]  # not that of the base, and it falls
    old, new = (hf.load_adapter(config.out / "adapter", hf.read_config(config.model))[0] for config in (first, onwards))
    for name in old:  # an entry moves by about the rate a step at most
        assert 0 < np.abs(new[name] - old[name]).max() <= 1.5 * STEPS * onwards.optimizer.learning_rate, name
    close(loaded(onwards.out / "model"), merged(runs.base, new, ALPHA / RANK), 1e-6)


@pytest.mark.parametrize(("rank", "alpha", "stabilised"), [(49, 1.0, False), (8, 16.0, True)])
def test_an_alpha_that_binary_fractions_miss_is_still_the_same(rank: int, alpha: float, stabilised: bool, runs: Runs, tmp_path: Path) -> None:
    """alpha / 49 * 49 is not alpha; and rank-stabilised LoRA has another one in our terms, which the refusal says with all of its digits."""
    folder, model = tmp_path / "adapter", hf.read_config(runs.root / "policy")
    adapters = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), lora.shapes(model, rank, ("q",)))
    hf.save_adapter(folder, adapters, replace(model, adapter_scale=alpha / rank), "base")
    fields = json.loads((folder / "adapter_config.json").read_text()) | {"use_rslora": stabilised}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    asked = Lora(rank=rank, alpha=alpha, targets=("q",), start=folder)
    if stabilised:
        with pytest.raises(InputError, match=r"has 45\.25\d+; set lora\.alpha to that") as error:
            stage.check_adapter(asked, model)
        asked = asked.model_copy(update={"alpha": float(str(error.value).split(" has ")[1].split(";")[0])})
    stage.check_adapter(asked, model)
    close(asked.alpha / rank, hf.read_adapter_config(folder).scale, 1e-9)


def faults(root: Path, adapter: Path) -> list[tuple[type[Stage], dict, list[str]]]:
    """A kind, what is changed in a recipe that starts from `adapter`, and what the sentence says."""
    start = {"start": adapter}
    return [
        (SftConfig, {"lora": Lora(rank=4, alpha=ALPHA, **start)}, ["lora.rank: the recipe says 4, and", "has 2; set lora.rank to that"]),
        (RmConfig, {"lora": Lora(rank=RANK, alpha=8, **start)}, ["lora.alpha: the recipe says 8, and", "has 6; set lora.alpha to that"]),
        (GrpoConfig, {"lora": Lora(rank=RANK, alpha=ALPHA, targets=("q", "v"), **start)},
         ["lora.targets: the adapter in", "is of q, k, v, o, gate, up, down; set lora.targets to these"]),
        (SftConfig, {"lora": Lora(alpha=ALPHA, **start)}, ["lora.start:", "lora.rank is 0; set it to the adapter's"]),
        (GrpoConfig, {"lora": Lora(rank=RANK, alpha=ALPHA, start=root / "none")}, ["lora.start:", "none: no such folder; give the folder of a PEFT adapter"]),
        (SftConfig, {"lora": Lora(rank=RANK, alpha=ALPHA, start=root / "policy")}, ["adapter_config.json: no such file; an adapter is a folder with"]),
        (SftConfig, {"lora": Lora(rank=RANK, alpha=ALPHA, start=root / "cut")}, ["cut/adapter_model.safetensors", "no such file"]),
        (SftConfig, {"lora": Lora(rank=RANK, alpha=ALPHA, targets=("q", "q"))}, ["target 'q' is named twice; name it once"]),
        (SftConfig, {"model": root / "bare"}, ["bare: has no weights, and LoRA adapts trained ones; set lora.rank to 0 or name a model with weights"]),
        (RmConfig, {"model": root / "bare"}, ["bare: has no weights, and LoRA adapts trained ones; set lora.rank to 0 or name a model with weights"]),
    ]


@pytest.mark.parametrize("number", range(10))
def test_what_cannot_be_adapted_is_refused_before_anything_is_written(number: int, runs: Runs) -> None:
    adapter = runs.of(SftConfig).out / "adapter"
    if not (runs.root / "bare").exists():
        shutil.copytree(runs.root / "policy", runs.root / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
        shutil.copytree(adapter, runs.root / "cut", ignore=shutil.ignore_patterns("*.safetensors"))
    kind, change, said = faults(runs.root, adapter)[number]
    config = runs.config(kind, f"refused-{number}", **change)
    with pytest.raises(InputError) as error:
        runs.run(config)
    assert all(part in str(error.value) for part in said) and "\n" not in str(error.value), str(error.value)
    assert not config.out.exists() and jax.sharding.get_abstract_mesh().empty
