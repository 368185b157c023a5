"""What `promedical plan` says: on simulated CPUs against the arrays themselves, on TPUs by the real compiler."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from tiny import CONFIG, quick_compilation

from promedical_jax.cli import main
from promedical_jax.errors import InputError
from promedical_jax.model import transformer
from promedical_jax.model.hf import hf_config
from promedical_jax.model.sharding import make_mesh
from promedical_jax.model.transformer import Remat
from promedical_jax.plan import compile as planning
from promedical_jax.plan.chips import CHIPS, GIB, Chip, topology
from promedical_jax.plan.compile import Request, plan_stage
from promedical_jax.plan.programs import Choices, Shapes, build

SMALL = Shapes(batch=0, prompt=8, answers=2, answer=8, criteria=2, criterion=4)
STAGES = ("sft", "rm", "score", "reference", "grpo", "rollout")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model")
    (path / "config.json").write_text(json.dumps(hf_config(replace(CONFIG, head=16))))
    return str(path)


def size(config=replace(CONFIG, head=16)) -> int:  # noqa: B008
    return sum(x.size for x in jax.tree.leaves(transformer.shapes(config)))


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_compiles_and_its_memory_is_that_of_its_arrays(folder: str, stage) -> None:
    done = plan_stage(Request(folder, stage, "cpu:4", SMALL, Choices(dtype="float32"), tp=2))
    assert done.mesh == {"slice": 1, "fsdp": 2, "tp": 2} and done.batch == 2 and done.fits and done.time is None and done.suggestion is None
    held = done.gib.parameters * GIB / (4 * size() / 4)  # float32 over four devices, but for the norms, which every device has
    assert 1 <= held < 1.25
    beside = done.gib.beside / done.gib.parameters
    assert beside == pytest.approx({"reference": 4, "grpo": 2, "rollout": 4}.get(stage, 0), rel=0.01)  # policy, two moments, reference, judge: but its own
    moments = done.gib.optimizer / done.gib.parameters
    assert moments == pytest.approx(dict.fromkeys(("sft", "rm", "grpo"), 2).get(stage, 0), rel=0.01)
    assert done.gib.peak >= done.gib.parameters + done.gib.optimizer + done.gib.beside


@pytest.mark.slow
def test_adapters_and_narrow_weights_hold_less_where_they_should(folder: str) -> None:
    choose = lambda **choices: plan_stage(Request(folder, "sft", "cpu:1", SMALL, Choices(**choices))).gib  # noqa: E731
    full, adapters, narrow = choose(), choose(lora=1), choose(weights="bfloat16")
    assert adapters.optimizer < 0.2 * full.optimizer and 0.5 * full.parameters < adapters.parameters < 0.7 * full.parameters
    assert narrow.parameters == full.parameters / 2 and narrow.optimizer == pytest.approx(1.5 * full.optimizer, rel=0.01)  # masters beside two moments


def test_with_adapters_the_reference_is_the_base_and_counts_once(folder: str) -> None:
    full, adapters = (plan_stage(Request(folder, "grpo", "cpu:1", SMALL, Choices(lora=lora, dtype="float32"))).gib for lora in (0, 1))
    base = GIB / (4 * size())
    assert full.beside * base == pytest.approx(2) and adapters.beside * base == pytest.approx(1)  # judge and reference, or the judge alone
    assert 1 < adapters.parameters * base < 1.25
    for gib in (full, adapters):
        assert gib.peak == pytest.approx(gib.parameters + gib.optimizer + gib.temporaries + gib.beside, rel=0.02)  # but for the batch


def test_a_reward_model_that_shares_the_base_adds_an_adapter(folder: str) -> None:
    """Policy, reference, reward model and optimizer in GRPO's run: one backbone, an adapter each of policy and reward model, moments of one."""
    plans = {stage: [plan_stage(Request(folder, stage, "cpu:1", SMALL, Choices(lora=1, dtype="float32", shared=shared))).gib for shared in (False, True)]
             for stage in ("grpo", "reference", "rollout", "score")}  # fmt: skip
    base = 4 * size() / GIB
    for stage in ("grpo", "reference", "rollout"):
        apart, shared = plans[stage]
        adapter = shared.beside - (apart.beside - base)  # in the place of a backbone
        assert shared.parameters == apart.parameters and 0 < adapter < 0.25 * base, stage
    apart, shared = plans["score"]
    assert apart.beside == 0 < shared.beside < base  # the policy's adapter and its moments
    assert base < shared.parameters < 1.25 * base


def test_a_plan_that_does_not_fit_says_what_would(folder: str, monkeypatch) -> None:
    request = Request(folder, "score", "cpu:2", replace(SMALL, batch=8), Choices())
    peaks = {rows: plan_stage(replace(request, shapes=replace(SMALL, batch=rows))).gib.peak for rows in (8, 4)}
    room = GIB * sum(peaks.values()) / 2
    monkeypatch.setattr(planning, "topology", lambda name: (Chip("cpu", room, 0, 0, 0, None), topology(name)[1]))
    done = plan_stage(request)
    assert not done.fits and done.suggestion == "lower --batch to 4"
    monkeypatch.setattr(planning, "topology", lambda name: (Chip("cpu", 1000, 0, 0, 0, None), topology(name)[1]))
    assert "take more chips" in str(plan_stage(request).suggestion)


@pytest.mark.slow  # the real compiler takes a minute and more
@pytest.mark.parametrize("name", ["v5e:2x4", "v6e:2x4"])
def test_a_tpu_step_gathers_no_parameter_outside_its_loops(name: str) -> None:
    """The real compiler's program for a chip that is not here, of a model with the 0.6B's sizes and vocabulary, and a tenth of its layers."""
    model = replace(planning.resolve("Qwen/Qwen3-0.6B")[1], depth=3)
    with pytest.MonkeyPatch.context() as patch, quick_compilation(False):
        patch.setattr(planning, "resolve", lambda _: ("Qwen/Qwen3-0.6B, shortened", model))
        done = plan_stage(Request("", "sft", name, Shapes(8, 256, 2, 256, 1, 1), Choices()))
    weights = size(model)
    assert done.fits and done.devices == 8 and done.gib.hbm == pytest.approx(CHIPS[name.split(":")[0]].hbm / GIB)
    assert done.gib.parameters == pytest.approx(4 * weights / 8 / GIB, rel=0.01)  # float32, split over eight chips
    assert done.gib.optimizer == pytest.approx(2 * done.gib.parameters, rel=0.01)
    assert done.gib.parameters < done.gib.temporaries < 2.0
    assert done.time and 0 < done.time.floor < done.time.estimate < 1 and 0 < done.time.mfu < 1 and done.time.kernels > 0
    moved = {one.kind: one for one in done.collectives}
    smallest = 2 * model.width * model.kv_heads * model.head / 2**20  # MiB of the smallest matrix of one layer, in bfloat16
    assert moved["all-gather"].count >= 3 * 7 and moved["all-gather"].mib_outside_loops < smallest
    scattered = moved.get("reduce-scatter") or moved["all-reduce"]  # as the compiler writes the sum of gradients
    assert scattered.mib_outside_loops < smallest


@pytest.mark.parametrize(("remat", "runs"), [pytest.param("full", 2, marks=pytest.mark.slow), ("attention", 1)])
def test_the_attention_kernel_runs_once_where_remat_keeps_what_it_gave(remat: Remat, runs: int) -> None:
    """Two kernels of the backward pass stand beside it, in the real compiler's program."""
    mesh = make_mesh(devices=topology("v5e:1x1")[1])
    program = build("sft", replace(CONFIG, head=128), mesh, Shapes(2, 128, 2, 128, 1, 1), Choices(remat=remat), memory=0.0)
    with jax.set_mesh(mesh):
        lowered = program.function.trace(*program.arguments, **program.keywords).lower(lowering_platforms=("tpu",))
        text = lowered.compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == runs + 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v9z:2x2", "--topology 'v9z:2x2' is not known"),
        ("v5e", "--topology 'v5e' is not known"),
        ("v5e:3x5", "no such arrangement of v5e chips"),
        ("cpu:0", "--topology 'cpu:0' is not known"),
        ("h100:3", "GPUs are planned for one host, of 1, 4, 8"),
        ("cpu:64", "8 CPU devices already"),
    ],
)
def test_unknown_topologies_are_refused(name: str, words: str) -> None:
    jax.devices()  # from here on the process has as many as it has
    with pytest.raises(InputError, match=words):
        topology(name)


def test_shapes_that_the_mesh_does_not_divide_are_refused(folder: str) -> None:
    with pytest.raises(InputError, match="fsdp=2 does not divide the batch of 3"):
        plan_stage(Request(folder, "sft", "cpu:2", replace(SMALL, batch=3), Choices()))
    with pytest.raises(InputError, match="tp=8 does not divide the kv heads of 4"):
        plan_stage(Request(folder, "sft", "cpu:8", SMALL, Choices(), tp=8))


def test_the_command_prints_json_or_a_table(folder: str, capsys) -> None:
    line = ["plan", "--model", folder, "--stage", "score", "--topology", "cpu:2", "--prompt", "8", "--answers", "2", "--answer", "8", "--criteria", "2",
            "--criterion", "4"]  # fmt: skip
    assert main([*line, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["fits"] is True and said["stage"] == "score" and said["shapes"]["criterion"] == 4
    assert set(said["gib"]) >= {"parameters", "optimizer", "peak", "hbm"}
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "score of" in printed and "GiB a device" in printed


def test_the_command_refuses_what_it_does_not_know(capsys, tmp_path: Path) -> None:
    for arguments, words in (
        (["--model", "Qwen/Qwen3-9B", "--stage", "sft", "--topology", "cpu:1"], "did you mean 'Qwen/Qwen3-8B'"),
        (["--model", str(tmp_path), "--stage", "sft", "--topology", "cpu:1"], "config.json"),
        (["--model", "Qwen/Qwen3-8B", "--stage", "grpo", "--topology", "cpu:1", "--shared"], "give --lora RANK too"),
        (["--model", "Qwen/Qwen3-8B", "--stage", "dpo", "--topology", "cpu:1"], "dpo"),
        (["--model", "Qwen/Qwen3-8B", "--stage", "sft", "--topology", "cpu:1", "--batch", "0"], "batch"),
    ):
        assert main(["plan", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error and error.startswith("error: ") and "Traceback" not in error
