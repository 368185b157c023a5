"""Whole runs of the stages on a tiny clinic: the mesh changes no figure, and a run that was stopped ends as if it had not been."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from folders import save_policy, save_reward_model
from tiny import CONFIG, MESHES, close, policy, reward_params

from promedical_jax.clinic import build_tokenizer, make_cases, truth
from promedical_jax.config import (
    Calibration,
    DpoConfig,
    Endpoint,
    GrpoConfig,
    Keep,
    Mesh,
    OnPolicy,
    Optimizer,
    PpoConfig,
    RewardFunction,
    RmConfig,
    SftConfig,
    Stage,
    Watch,
)
from promedical_jax.errors import InputError
from promedical_jax.model import hf, transformer
from promedical_jax.model.sharding import make_mesh, shardings, spec
from promedical_jax.reward import UNCALIBRATED, RewardModel, Verdicts, jit_score, open_judge
from promedical_jax.reward import axes as reward_axes
from promedical_jax.rubric import Tier, Verdict, write_cases
from promedical_jax.train import dpo, grpo, loop, ppo, rewards, rm, rollouts, sft, stage
from promedical_jax.train.checkpoint import steps
from promedical_jax.train.export import export_checkpoint
from promedical_jax.train.policy import AnswerBatch

STEPS, SAVE_EVERY = 5, 2
ONE_DEVICE = (1, 1)
RUN: dict[type[Stage], Callable[..., Any]] = {SftConfig: sft.run, RmConfig: rm.run, DpoConfig: dpo.run, GrpoConfig: partial(grpo.run, truth=truth),
                                                PpoConfig: partial(ppo.run, truth=truth)}  # fmt: skip


class Runs:
    """Runs each stage once on each mesh, when a test first asks for it."""

    def __init__(self, root: Path):
        self.root = root
        self._done: dict[tuple[type[Stage], tuple[int, int]], Stage] = {}
        self.states: dict[str, Any] = {}  # of the reward model's runs, by their folder
        tokenizer = build_tokenizer()
        model = replace(CONFIG, vocabulary=len(tokenizer))
        write_cases(root / "cases.jsonl", make_cases(16, seed=0, answers=2))
        save_policy(root / "policy", policy(model), model, tokenizer)
        narrow = replace(model, kv_heads=1)
        save_reward_model(root / "narrow", RewardModel(reward_params(narrow), narrow, UNCALIBRATED), tokenizer)
        save_reward_model(root / "judge", RewardModel(reward_params(model, seed=3), model, UNCALIBRATED), tokenizer)
        one_head = reward_params(model, seed=3) | {"heads": {name: x[:1] for name, x in reward_params(model, seed=3)["heads"].items()}}
        save_reward_model(root / "implicit", RewardModel(one_head, model, Verdicts(kind="implicit", tiers={})), tokenizer)

    def config(self, kind: type[Stage], mesh: tuple[int, int], out: str) -> Stage:
        common = {"out": self.root / out, "cases": self.root / "cases.jsonl", "model": self.root / "policy", "steps": STEPS, "batch": 8, "log_every": 1,
                  "save_every": SAVE_EVERY, "keep": Keep(every=2), "mesh": Mesh(fsdp=mesh[0], tp=mesh[1]),
                  "optimizer": Optimizer(learning_rate=1e-3, warmup=2, weight_decay=0.1)}  # fmt: skip
        if issubclass(kind, OnPolicy):
            return kind(reward_model=self.root / "judge", answers=4, answer_tokens=12, kl=0.1, **common)
        return RmConfig(calibration=Calibration(share=0.2), **common) if kind is RmConfig else kind(**common)

    def of(self, kind: type[Stage], mesh: tuple[int, int] = (4, 2)) -> Stage:
        """The recipe of a finished run."""
        if (kind, mesh) not in self._done:
            config = self.config(kind, mesh, f"{kind.__name__}-{mesh[0]}x{mesh[1]}")
            with pytest.MonkeyPatch.context() as patch:
                if mesh == ONE_DEVICE:
                    patch.setattr(stage, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:1]))
                run_steps = rm.run_steps
                patch.setattr(rm, "run_steps", lambda config, *rest, **named: self.states.setdefault(config.out.name, run_steps(config, *rest, **named)))
                RUN[kind](config)
            self._done[kind, mesh] = config
        return self._done[kind, mesh]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def metrics(config: Stage, steps: int = STEPS) -> dict[str, np.ndarray]:
    rows = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(steps))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


# The mesh


# The sampler takes long to compile for each mesh; test_rollout.py and test_placement.py have its parts on all of them.
SPREAD = [pytest.param(RmConfig, mesh, marks=pytest.mark.slow) for mesh in MESHES]  # GRPO's mesh has a reward model on it, too
SPREAD += [pytest.param(DpoConfig, (4, 2), marks=pytest.mark.slow)]
SPREAD += [pytest.param(GrpoConfig, mesh, marks=() if mesh == (4, 2) else pytest.mark.slow) for mesh in MESHES]


@pytest.mark.parametrize(("kind", "mesh"), SPREAD)
def test_a_mesh_changes_no_figure(kind: type[Stage], mesh: tuple[int, int], runs: Runs) -> None:
    alone, spread = metrics(runs.of(kind, ONE_DEVICE)), metrics(runs.of(kind, mesh))
    assert jax.sharding.get_abstract_mesh().empty
    names = {RmConfig: ("loss", "loss/verdict", "loss/pair"), DpoConfig: ("loss",)}
    if kind is DpoConfig:  # sums of log-probs less those of the start, which cancel: within a millionth of a nat a token
        for name in ("rewards/chosen", "rewards/rejected"):
            np.testing.assert_allclose(spread[name], alone[name], atol=0.1 * 48e-6)
    for name in names.get(kind, ("loss", "kl", "entropy", "grad_norm", "reward", "completions/mean_length")):
        close({name: spread[name]}, {name: alone[name]}, 1e-5)


def test_training_moves(runs: Runs) -> None:
    """The comparisons above would hold of a loss that trains nothing."""
    assert metrics(runs.of(RmConfig))["loss"][-1] < metrics(runs.of(RmConfig))["loss"][0]
    assert metrics(runs.of(SftConfig))["loss"][-1] < metrics(runs.of(SftConfig))["loss"][0]
    aligned = metrics(runs.of(GrpoConfig))
    assert (aligned["grad_norm"] > 1e-3).all() and (aligned["kl"][2:] > 1e-6).all() and abs(aligned["kl"][0]) < 1e-9
    assert aligned["sampling/sampling_logp_difference/max"].max() < 1e-4  # sampler and trainer hold the same weights at every step


def test_ppo_moves_policy_and_values_and_leaves_the_policy_alone(runs: Runs, tmp_path: Path) -> None:
    config = runs.of(PpoConfig)
    figures = metrics(config)
    assert (figures["grad_norm"] > 1e-3).all() and abs(figures["kl"][0]) < 1e-6 < figures["kl"][-1] and not figures["alarms"].any()
    assert figures["sampling/sampling_logp_difference/max"].max() < 1e-4 and len(set(figures["value"])) == STEPS
    names = set(hf.unpacked(config.out / "model" / "model.safetensors"))
    assert names == set(hf.unpacked(runs.of(GrpoConfig).out / "model" / "model.safetensors"))
    export_checkpoint(config.out, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (config.out / "model" / "model.safetensors").read_bytes()
    assert "`promedical train ppo`" in (tmp_path / "out" / "README.md").read_text()


def test_functions_alone_reward_a_run(runs: Runs, tmp_path: Path) -> None:
    """Without any reward model: tiers of TRL-style functions make the order, and each function's figures are logged under TRL's names."""
    (tmp_path / "mine.py").write_text(
        "def short(completions, **_):\n    return [1 / (1 + len(turns[0]['content'])) for turns in completions]\n"
        "def even(completion_ids, **_):\n    return [None if not ids else float(ids[0] % 2 == 0) for ids in completion_ids]\n"
    )
    mine = [RewardFunction(function=f"{tmp_path / 'mine.py'}:{name}", tier=tier) for name, tier in (("short", "proficiency"), ("even", "safety"))]
    config = runs.config(GrpoConfig, ONE_DEVICE, "grpo-functions").model_copy(update={"reward_model": None, "functions": tuple(mine), "steps": 2, "show": 3})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:1]))
        RUN[GrpoConfig](config)
    figures = metrics(config, steps=2)
    assert (figures["rewards/short/mean"] > 0).all() and (figures["rewards/even/std"] > 0).all() and (figures["grad_norm"] > 1e-3).all()
    assert (figures["s1"] > 0).all() and (figures["safe"] < 1).all() and "true/safe" in figures
    rows = [json.loads(line) for line in (config.out / "rollouts.jsonl").open()]
    for row in rows:
        assert row["rewards/short"] == pytest.approx(row["s1"], abs=1e-5) and row["rewards/even"] == 1 - row["s3"]
        assert row["s3"] == 0 or row["advantage"] < 0
    spoken = [json.loads(line) for line in (config.out / "ledger.jsonl").open()]  # of the rubric's criteria nobody
    assert [row["criterion"] for row in spoken] == ["function:short", "function:even"] * len(rows)
    assert [row["satisfied"] for row in spoken[1::2]] == [row["rewards/even"] for row in rows] and {row["tier"] for row in spoken[1::2]} == {"safety"}


def test_a_sampler_with_stale_weights_raises_an_alarm_within_two_steps(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """Two updates a rollout, and all that is not the default about the loss; then the same with the sampler's weights frozen at the start."""
    keys = {"updates": 2, "importance_cap": 2.0, "advantage": "tiered", "aggregate": "constant", "ratio": "sequence", "drop_dead": True, "entropy": 1e-3,
            "kl_unbiased": True, "steps": 3}  # fmt: skip
    write_cases(runs.root / "held_out.jsonl", make_cases(8, seed=0, held_out=True, answers=1))
    sound = runs.config(GrpoConfig, (4, 2), "sound").model_copy(update=keys | {"show": 2, "watch": Watch(cases=runs.root / "held_out.jsonl")})
    grpo.run(sound, truth)
    figures, said = metrics(sound, steps=3), capsys.readouterr().err
    assert "alarm" not in said and not figures["alarms"].any()
    assert said.count("answers sampled at step") == 3 and "✓" in said and "✗" in said
    looks = [json.loads(line) for line in (sound.out / "watch.jsonl").open()]
    assert [look["step"] for look in looks] == [1, 2] and all(0 <= look["safe"] <= 1 for look in looks)
    assert len((sound.out / "watched.jsonl").read_text().splitlines()) == 2 * 8
    assert figures["sampling/sampling_logp_difference/mean"].max() < 1e-4 and (figures["grad_norm"] > 0).all()
    assert np.abs(figures["sampling/importance_sampling_ratio/mean"] - 1).max() < 1e-3

    stale = runs.config(GrpoConfig, (4, 2), "stale").model_copy(update=keys | {"optimizer": Optimizer(learning_rate=1e-3)})
    roll_out, first = rollouts.roll_out, []

    def frozen(config: Any, setup: Any, model: Any, policy: Any, *rest: Any) -> Any:
        first.append(jax.tree.map(lambda x: x.copy(), policy))
        return roll_out(config, setup, model, first[0], *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "roll_out", frozen)
        grpo.run(stale, truth)
    assert "alarm at step 2: the log-probs of sampler and trainer are" in capsys.readouterr().err
    assert metrics(stale, steps=3)["alarms"].tolist() == [0, 1, 1]


def test_an_implicit_reward_model_gives_one_reward_and_is_told_no_criterion(runs: Runs) -> None:
    config = runs.config(GrpoConfig, (4, 2), "by-implicit").model_copy(update={"reward_model": runs.root / "implicit", "steps": 2})
    with pytest.raises(InputError, match="is an implicit reward model, which knows no tier; set advantage to scalar"):
        grpo.run(config, truth)
    config = config.model_copy(update={"advantage": "scalar"})
    asked: list[tuple[Any, Any, np.ndarray]] = []

    def score(params: Any, model: Any, batch: Any, **named: Any) -> Any:
        said = jit_score(params, model, batch, **named)
        asked.append((batch.criteria.shape, jax.device_get(batch._replace(criteria=None)), np.asarray(said)))
        return said

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewards, "jit_score", score)
        grpo.run(config, truth)
    criteria, told, raw = asked[0]
    assert criteria == (8, 1, 0) and raw.shape == (8, 4, 1)
    said, by_id = open_judge(config.reward_model), {case.id: case for case in make_cases(16, seed=0, answers=2)}
    rows = [json.loads(line) for line in (config.out / "rollouts.jsonl").read_text().splitlines()]
    first = [row for row in rows if row["step"] == 0]
    np.testing.assert_allclose([row["reward"] for row in first], raw.reshape(-1), atol=1e-5)
    for b in range(8):  # the sampled tokens as answers of the case that they were sampled for, judged outside of the run
        tokens = [told.answers[b, g, : told.answer_lengths[b, g]].tolist() for g in range(4)]
        [alone] = said.raw([replace(said.read(by_id[first[4 * b]["case"]], [""] * 4), answers=tokens)])
        close(alone, raw[b], 1e-5)
    for g in range(0, len(first), 4):
        reward = np.array([row["reward"] for row in first[g : g + 4]])
        np.testing.assert_allclose([row["advantage"] for row in first[g : g + 4]], (reward - reward.mean()) / (reward.std() + 1e-4), atol=1e-4)
    figures = metrics(config, steps=2)
    assert {"reward", "true/safe"} <= figures.keys() and not {"s1", "safe", "abstained"} & figures.keys()
    assert (config.out / "ledger.jsonl").read_text() == ""


def test_a_second_judge_that_mostly_fails_changes_no_baseline_and_stops_nothing(runs: Runs) -> None:
    """It abstains on all but one case, whose answers it calls unsafe throughout."""
    asked: list[str] = []

    class Failing:
        def __init__(self, config: Endpoint) -> None:
            assert config.url == "http://judge/v1"
            self.counts = Counter({"asked": 7, "status 500": 3})

        def __call__(self, answered: Any) -> Any:
            chosen = min(case.id for case, _ in answered)
            asked.append(chosen)
            says = {False: lambda c: Verdict.ABSTAIN, True: lambda c: Verdict.MET if c.tier is Tier.SAFETY else Verdict.ABSTAIN}
            return [[tuple(says[case.id == chosen](c) for c in case.rubric.criteria) for _ in texts] for case, texts in answered]

    config = runs.config(GrpoConfig, (4, 2), "second-judge").model_copy(update={"judge": Endpoint(url="http://judge/v1", model="m"), "steps": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "EndpointJudge", Failing)
        grpo.run(config, truth)
    read = lambda out, name: [json.loads(line) for line in (out / name).read_text().splitlines() if json.loads(line)["step"] == 0]  # noqa: E731
    ours, alone = ({(row["case"], row["sample"]): row for row in read(one.out, "rollouts.jsonl")} for one in (config, runs.of(GrpoConfig)))
    assert ours.keys() == alone.keys()
    for key, row in ours.items():
        assert row["text"] == alone[key]["text"]
        if key[0] != asked[0]:
            assert row == alone[key]
        else:
            assert row["s3"] >= alone[key]["s3"] and row["s3"] > 0 and row["advantage"] < 0
    ledger = read(config.out, "ledger.jsonl")
    assert {row["judge"] for row in ledger if row["case"] != asked[0]} == {"abstain"} and {row["judge"] for row in ledger} == {"abstain", "met"}
    assert "judge" not in read(runs.of(GrpoConfig).out, "ledger.jsonl")[0]
    assert metrics(config, steps=1)["judge/status 500"].tolist() == [3]


def test_parameters_and_moments_lie_where_the_table_says(runs: Runs) -> None:
    config = runs.of(RmConfig)
    state, mesh = runs.states[config.out.name], make_mesh(4, 2)
    wanted = shardings(mesh, reward_axes(hf.read_config(config.model)))
    moments = [leaf for leaf in jax.tree.leaves(state.moments, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(leaf, "mu")]
    assert len(moments) == 1
    for held in (state.params, moments[0].mu, moments[0].nu):
        for (path, x), where in zip(jax.tree.leaves_with_path(held), jax.tree.leaves(wanted), strict=True):
            assert x.sharding.is_equivalent_to(where, x.ndim), f"{jax.tree_util.keystr(path)}: {x.sharding.spec}"
    held = sum(x.addressable_shards[0].data.size for x in jax.tree.leaves(state.params))
    assert held < sum(x.size for x in jax.tree.leaves(state.params)) / 6  # of 8 devices; norms and heads are everywhere


def test_gradients_lie_beside_their_parameters() -> None:
    placed = []

    def gradients(params, rows):
        grads, _ = jax.grad(sft.loss, has_aux=True)(params, CONFIG, rows)
        placed.append(jax.tree.map(lambda g: jax.typeof(g).sharding.spec, grads))
        return grads

    mesh = make_mesh(4, 2)
    with jax.set_mesh(mesh):
        params = jax.device_put(policy(), shardings(mesh, transformer.axes(CONFIG)))
        rows = AnswerBatch(np.zeros((8, 4), np.int32), np.full(8, 4), np.zeros((8, 2, 3), np.int32), np.full((8, 2), 3))
        jax.eval_shape(gradients, params, jax.device_put(rows, shardings(mesh, ("batch",))))
    wanted = jax.tree.map(lambda axes: spec(*axes), transformer.axes(CONFIG), is_leaf=lambda x: isinstance(x, tuple))
    pad = lambda s, n: (*s, *(None,) * (n - len(s)))  # noqa: E731
    for (path, x), g, w in zip(jax.tree.leaves_with_path(policy()), jax.tree.leaves(placed[0]), jax.tree.leaves(wanted), strict=True):
        assert pad(g, x.ndim) == pad(w, x.ndim), jax.tree_util.keystr(path)


# Stopping and going on


@pytest.mark.parametrize("kind", [SftConfig, RmConfig, GrpoConfig, *(pytest.param(kind, marks=pytest.mark.slow) for kind in (DpoConfig, PpoConfig))])
def test_a_stopped_run_ends_as_if_it_had_not_been(kind: type[Stage], runs: Runs) -> None:
    """Stopped in step 4, after its figures were written and before it was saved: it goes on from step 2, and makes steps 3 and 4 again."""
    whole, config = runs.of(kind), runs.config(kind, (4, 2), f"{kind.__name__}-stopped")
    advance = loop.Meter.advance

    def stop(meter: loop.Meter, done: int, *rest: Any) -> None:
        advance(meter, done, *rest)
        if done == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Meter, "advance", stop)
        with pytest.raises(KeyboardInterrupt):
            RUN[kind](config)
    assert not (config.out / "model").exists()
    (config.out / "metrics.jsonl").open("a").write('{"step": 4, "loss"')  # and killed in the middle of a line
    steps: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Meter, "advance", lambda meter, done, *rest: steps.append(done))
        RUN[kind](config)
    assert steps == [3, 4, 5]
    files = {"metrics.jsonl", "model/model.safetensors", "model/config.json"}
    files |= {RmConfig: {"model/heads.safetensors", "model/calibration.json"}, GrpoConfig: {"ledger.jsonl", "rollouts.jsonl"},
              PpoConfig: {"ledger.jsonl", "rollouts.jsonl"}}.get(kind, set())
    for name in sorted(files):
        assert (config.out / name).read_bytes() == (whole.out / name).read_bytes(), name


def test_a_stopped_run_goes_on_on_another_split_of_the_devices(runs: Runs) -> None:
    """The mesh is no part of what a run is: without a flag, with the same cases, and with the same figures but for rounding."""
    whole, config = runs.of(SftConfig), runs.config(SftConfig, (4, 2), "resplit")
    shutil.copytree(whole.out, config.out)
    shutil.rmtree(config.out / "model")
    for step in ("4", "5"):
        shutil.rmtree(config.out / "checkpoints" / step, ignore_errors=True)
    assert steps(config.out / "checkpoints") == [2]
    other = runs.config(SftConfig, (8, 1), "resplit")
    sft.run(other)
    for name in ("loss", "entropy", "num_tokens", "grad_norm"):
        close({name: metrics(other)[name]}, {name: metrics(whole)[name]}, 1e-5)
    assert "fsdp: 8" in (config.out / "recipe.yaml").read_text()


def test_a_finished_run_is_left_alone(runs: Runs) -> None:
    for kind in RUN:
        config = runs.of(kind)
        before = {path: path.stat().st_mtime_ns for path in config.out.rglob("*") if path.name != "recipe.yaml"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "Checkpoints", lambda *_: pytest.fail("it trains again"))
            RUN[kind](config)
        assert {path: path.stat().st_mtime_ns for path in config.out.rglob("*") if path.name != "recipe.yaml"} == before


def test_a_run_killed_before_its_model_was_written_writes_it(runs: Runs) -> None:
    config = runs.of(SftConfig)
    model, kept = config.out / "model", config.out / "kept"
    model.rename(kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Meter, "advance", lambda *_: pytest.fail("all steps are done"))
        sft.run(config)
    for file in kept.iterdir():
        assert (model / file.name).read_bytes() == file.read_bytes(), file.name
    assert metrics(config)


@pytest.mark.parametrize("change", [{"steps": 6}, {"seed": 1}, {"optimizer": Optimizer(learning_rate=1.0)}], ids=str)
def test_another_recipe_does_not_go_on_in_the_same_folder(change: dict, runs: Runs) -> None:
    config = runs.of(SftConfig)
    before = (config.out / "recipe.yaml").read_text()
    with pytest.raises(InputError, match="holds a sft run of another recipe"):
        sft.run(config.model_copy(update=change))
    assert (config.out / "recipe.yaml").read_text() == before


# What a run refuses, before it writes anything


def faults(root: Path) -> list[tuple[type[Stage], dict, str]]:
    return [
        (SftConfig, {"batch": 24}, "16 cases are fewer than a batch of 24"),
        (SftConfig, {"batch": 6}, "fsdp=4 does not divide the batch of 6"),
        (SftConfig, {"mesh": Mesh(fsdp=1, tp=8)}, "tp=8 does not divide the kv heads of 4"),
        (SftConfig, {"mesh": Mesh(fsdp=3, tp=1)}, "3 devices, but 8 are here"),
        (SftConfig, {"cases": root / "none.jsonl"}, "none.jsonl does not exist"),
        (SftConfig, {"model": root / "none"}, "none: no such folder, and no name of the hub's either"),
        (GrpoConfig, {"model": root / "bare"}, "no weights; this stage starts from a trained policy"),
        (GrpoConfig, {"reward_model": root / "policy"}, "not a reward model"),
        (GrpoConfig, {"reward_model": root / "narrow"}, "tp=2 does not divide the kv heads of 1"),
        (RmConfig, {"held_out": root / "cases.jsonl"}, "is also a training case in"),
    ]


@pytest.mark.parametrize("number", range(10))
def test_what_cannot_run_is_refused(number: int, runs: Runs) -> None:
    kind, change, sentence = faults(runs.root)[number]
    if not (runs.root / "bare").exists():
        shutil.copytree(runs.root / "policy", runs.root / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    config = runs.config(kind, (4, 2), f"refused-{number}").model_copy(update=change)
    with pytest.raises(InputError) as error:
        RUN[kind](config)
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert not list(config.out.glob("*/")) and jax.sharding.get_abstract_mesh().empty


# What GRPO writes of its rollouts


def test_the_ledger_reconciles_with_the_metrics(runs: Runs) -> None:
    config = runs.of(GrpoConfig)
    assert isinstance(config, GrpoConfig)
    rollouts, ledger = ([json.loads(line) for line in (config.out / name).read_text().splitlines()] for name in ("rollouts.jsonl", "ledger.jsonl"))
    figures = metrics(config)
    assert len(rollouts) == STEPS * config.batch * config.answers
    for step in range(STEPS):
        of = [row for row in rollouts if row["step"] == step]
        assert np.isclose(np.mean([row["s1"] for row in of]), figures["s1"][step], atol=1e-5)
        assert np.isclose(np.mean([row["s3"] == 0 for row in of]), figures["safe"][step], atol=1e-6)
        assert np.isclose(np.mean([not row["finished"] for row in of]), figures["completions/clipped_ratio"][step])
    cases = {case.id: case for case in make_cases(16, seed=0, answers=2)}
    for row in rollouts:
        same = [r for r in ledger if (r["step"], r["case"], r["sample"]) == (row["step"], row["case"], row["sample"])]
        assert [r["criterion"] for r in same] == [c.id for c in cases[row["case"]].rubric.criteria]
        assert all((r["verdict"] == "met") == (r["probability"] > 0.5) for r in same if r["probability"] != 0.5)
        weights = {c.id: c.weight or 0 for c in cases[row["case"]].rubric.criteria}
        assert np.isclose(sum(weights[r["criterion"]] * r["satisfied"] for r in same), row["s1"], atol=1e-5)
        assert sum(1 - r["satisfied"] for r in same if r["tier"] == "safety") == row["s3"]

