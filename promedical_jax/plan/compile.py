"""`promedical plan`: compiles a stage for a topology, on a machine without it, and says what it would cost there."""

import math
import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import jax

from promedical_jax.errors import InputError
from promedical_jax.model import hf
from promedical_jax.model.hf.known import known_config
from promedical_jax.model.sharding import make_mesh, parts
from promedical_jax.model.transformer import ModelConfig
from promedical_jax.plan import flops, hlo
from promedical_jax.plan.chips import GIB, Chip, topology
from promedical_jax.plan.programs import Choices, Program, Shapes, StageName, build
from promedical_jax.plan.report import Memory, Moved, Plan, Time
from promedical_jax.train.stage import check_fits

KERNEL_RATE = 0.5  # of the peak, for attention's kernels, which the compiler does not estimate
UNUSED = {stage: ("batch",) if stage in ("rm", "score") else ("batch", "criteria", "criterion") for stage in get_args(StageName)}
SMALL = 2**20  # collectives below a MiB, such as the sum of a loss, are not worth a line


@dataclass(frozen=True)
class Request:
    """What to plan. `batch` None takes one case for each part of the mesh that splits the batch."""

    model: str
    stage: StageName
    topology: str
    shapes: Shapes
    choices: Choices
    tp: int = 1
    slices: int = 1


def plan_stage(request: Request, suggest: bool = True) -> Plan:
    """The plan of a request; where it does not fit and `suggest` is set, with the first change that makes it fit, compiled too."""
    chip, devices = topology(request.topology)
    name, model = resolve(request.model)
    done = _compile(request, name, model, chip, devices)
    if done.fits or not suggest:
        return done
    for words, change in _changes(request, model, done):
        if _compile(change, name, model, chip, devices).fits:
            return done.model_copy(update={"suggestion": words})
    words = "neither a smaller batch, full remat, more tensor parallelism nor LoRA is enough; take more chips, or shorter answers"
    return done.model_copy(update={"suggestion": words})


def resolve(model: str) -> tuple[str, ModelConfig]:
    """A model by its hub id, of those known without a download, or by a folder with config.json."""
    folder = Path(model)
    return (model, hf.read_config(folder)) if folder.is_dir() else (model, known_config(model))


def _changes(request: Request, model: ModelConfig, failed: Plan):
    """What to try, the least harmful first: (in words, the changed request)."""
    rows = failed.batch
    while rows % 2 == 0 and rows // 2 >= math.prod(failed.mesh[name] for name in ("slice", "fsdp")):
        rows //= 2
        yield f"lower --batch to {rows}", replace(request, shapes=replace(request.shapes, batch=rows))
    smallest = replace(request, shapes=replace(request.shapes, batch=rows))
    if request.choices.remat != "full" and request.stage not in ("score", "reference", "rollout"):
        yield "--remat full", replace(request, choices=replace(request.choices, remat="full"))
    widest = math.gcd(model.kv_heads, failed.devices // request.slices)
    if request.stage == "rollout" and request.tp < widest:
        yield f"--tp {widest}", replace(request, tp=widest)
    if not request.choices.lora and request.stage != "score":
        yield "--lora 16", replace(request, choices=replace(request.choices, lora=16))
        if smallest != request:
            yield f"--lora 16 and --batch {rows}", replace(smallest, choices=replace(smallest.choices, lora=16))


def _compile(request: Request, name: str, model: ModelConfig, chip: Chip, devices: list) -> Plan:
    mesh = make_mesh(-1, request.tp, request.slices, devices)
    batch = request.shapes.batch or parts(mesh, "batch")
    shapes = replace(request.shapes, batch=batch)
    check_fits(mesh, model, batch)
    program = build(request.stage, model, mesh, shapes, request.choices, chip.hbm)
    with jax.set_mesh(mesh):
        began = time.monotonic()
        lowered = program.function.trace(*program.arguments, **program.keywords).lower(lowering_platforms=(devices[0].platform,))
        try:
            compiled = lowered.compile()
            memory, text, needed = compiled.memory_analysis(), compiled.as_text(), None
        except jax.errors.JaxRuntimeError as error:
            memory, text, needed = None, "", _needed(str(error))
        seconds = time.monotonic() - began
    used = needed if memory is None else _held(memory, chip)
    assert used is not None
    reading = hlo.read(text)
    gib = Memory(parameters=program.parameters / GIB, optimizer=program.optimizer / GIB, beside=program.beside / GIB, peak=(used + program.beside) / GIB,
                 temporaries=None if memory is None else (used - memory.argument_size_in_bytes) / GIB,
                 temp_size=None if memory is None else memory.temp_size_in_bytes / GIB, hbm=chip.hbm / GIB)  # fmt: skip
    fits = (memory is not None or chip.stand_in is not None) and gib.peak <= gib.hbm  # a stand-in may refuse what the chip itself has room for
    used_shapes = {key: value for key, value in asdict(shapes).items() if key not in UNUSED[request.stage]}
    return Plan(
        model=name, stage=request.stage, topology=request.topology, stand_in=chip.stand_in, devices=len(devices), mesh=dict(mesh.shape), batch=batch,
        waves=program.waves,
        shapes=used_shapes, choices=asdict(request.choices), tokens=program.tokens,
        fits=fits, gib=gib, compile_s=seconds, tflops=program.work.model / 1e12,
        tflops_computed=program.work.computed / 1e12, time=_time(chip, len(devices), program, reading) if text and chip.clock else None,
        collectives=_moved(reading.collectives),
    )  # fmt: skip


def _held(memory: Any, chip: Chip) -> int:
    """Bytes of a device that a program holds when it holds most, its arguments among them.

    The TPU's compiler lays the buffers out and says so; this is what it compares with the device's memory. The temporaries of its summary are more than
    that: a program may be well within the memory though arguments and they are not. The CPU's compiler lays nothing out, and its peak leaves things out.
    """
    if chip.clock or chip.stand_in:
        return memory.peak_memory_in_bytes
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes


def _needed(error: str) -> float:
    """Bytes of a device that a program would need which the compiler gave up on. Raises the compiler's own words where it gave up on something else."""
    found = re.search(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", error) or re.search(r"temporaries \(([\d.]+)([KMGT])\) exceeds available HBM", error)
    if not found:
        raise InputError(f"plan: the compiler refused the program: {error.splitlines()[0]}")
    return float(found.group(1)) * 2 ** (10 * ("KMGT".index(found.group(2)) + 1))


def _time(chip: Chip, devices: int, program: Program, reading: hlo.Reading) -> Time:
    assert chip.clock
    work = program.work
    cycles = program.waves * reading.cycles
    compute = cycles / chip.clock
    kernels = work.attention / devices / (KERNEL_RATE * chip.flops) if reading.kernels else 0.0
    moving = program.waves * sum(c.size * c.times * (2 if c.kind == "all-reduce" else 1) for c in reading.collectives) / (chip.ici / 2)
    estimate = max(compute + kernels, moving)
    return Time(mcycles=cycles / 1e6, compute=compute, kernels=kernels, collectives=moving, estimate=estimate, floor=_floor(chip, devices, work),
                tokens_per_second_per_device=program.tokens / estimate / devices, mfu=work.model / devices / chip.flops / estimate)  # fmt: skip


def _floor(chip: Chip, devices: int, work: flops.Work) -> float:
    return max(work.model / devices / chip.flops, work.traffic / devices / chip.bandwidth)


def _moved(collectives: list[hlo.Collective]) -> tuple[Moved, ...]:
    rows = []
    for kind in hlo.KINDS:
        mine = [c for c in collectives if c.kind == kind and c.size * c.times >= SMALL]
        if mine:
            largest = max(mine, key=lambda c: c.size)
            outside = max((c for c in mine if not c.loops), key=lambda c: c.size, default=None)
            gib = sum(c.size * c.times for c in mine) / GIB
            shape, mib = (outside.shape, outside.size / 2**20) if outside else (None, 0.0)
            rows.append(Moved(kind=kind, count=sum(c.times for c in mine), gib=gib, largest=largest.shape, largest_outside_loops=shape, mib_outside_loops=mib))
    return tuple(rows)
