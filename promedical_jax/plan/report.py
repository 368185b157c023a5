"""What a plan says: one record, which the command prints as a table or as JSON."""

from pydantic import BaseModel, ConfigDict
from rich import box
from rich.console import Console
from rich.table import Table


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Memory(Record):
    """GiB on each device. `temporaries` is what the program holds beside its arguments when it holds most: gradients and activations; `beside` what a
    run keeps there that this program never sees. `temp_size` is the figure of that name in the compiler's summary, as others publish it; it is larger."""

    parameters: float
    optimizer: float
    temporaries: float | None  # None where the compiler gave up before it could say, as is `temp_size`
    temp_size: float | None
    beside: float
    peak: float
    hbm: float


class Time(Record):
    """Seconds a step. `compute` is the compiler's estimate, from `mcycles` million cycles; `kernels` attention's by its operations at half the peak;
    `collectives` all traffic at the links' speed; `estimate` the longer of computing and moving; `floor` the roofline's: operations at peak, or bytes
    that must be read."""

    mcycles: float
    compute: float
    kernels: float
    collectives: float
    estimate: float
    floor: float
    tokens_per_second_per_device: float
    mfu: float  # the mathematics' operations at the estimate, as a share of the peak


class Moved(Record):
    """What one kind of collective moves in a step, on each device."""

    kind: str
    count: int
    gib: float
    largest: str
    largest_outside_loops: str | None
    mib_outside_loops: float  # of the largest outside every loop


class Plan(Record):
    model: str
    stage: str
    topology: str
    stand_in: str | None = None  # the TPU whose compiler laid the program out, in the place of the topology's own
    devices: int
    mesh: dict[str, int]
    batch: int
    waves: int  # parts of the batch that are sampled one after the other, for want of memory; `collectives` are of one
    shapes: dict[str, int]
    choices: dict[str, str | int]
    tokens: int
    fits: bool
    gib: Memory
    compile_s: float
    tflops: float  # the mathematics', over all devices
    tflops_computed: float  # with what the backward pass computes again
    time: Time | None  # None for a CPU, whose compiler estimates nothing, a GPU, whose compiler this is not, and where the program did not compile
    collectives: tuple[Moved, ...]
    suggestion: str | None = None


def show(plan: Plan, console: Console) -> None:
    """The plan as a table of a line each."""
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items() if size > 1) or "one device"
    shapes = ", ".join(f"{name} {size:,}" for name, size in plan.shapes.items())
    rows = {
        "stage": f"{plan.stage} of {plan.model}, {', '.join(f'{name} {value}' for name, value in plan.choices.items())}",
        "devices": f"{plan.devices} of {plan.topology}: {mesh}" + (f"; laid out as by {plan.stand_in}'s compiler" if plan.stand_in else ""),
        "batch": f"{plan.batch} cases: {shapes}; {plan.tokens:,} tokens a step" + (f", in {plan.waves} waves" if plan.waves > 1 else ""),
        "memory": _memory(plan.gib),
        "fits": "yes" if plan.fits else "no",
        "compiled in": f"{plan.compile_s:.0f} s",
        "operations": f"{plan.tflops:,.0f} TFLOP a step, {plan.tflops_computed:,.0f} with what is computed again",
    }
    if plan.time:
        t = plan.time
        rows["time"] = f"{t.estimate:.2f} s a step (computing {t.compute:.2f}, attention {t.kernels:.2f}, moving {t.collectives:.2f}; floor {t.floor:.2f})"
        rows["speed"] = f"{t.tokens_per_second_per_device:,.0f} tokens/s a device, {t.mfu:.0%} MFU, {t.mcycles:,.0f} Mcycles, by estimate"
    for moved in plan.collectives:
        rows[moved.kind] = f"{moved.count:,} a step, {moved.gib:.2f} GiB; largest {moved.largest}"
    if plan.suggestion:
        rows["suggestion"] = plan.suggestion
    for name, text in rows.items():
        table.add_row(name, text)
    console.print(table)


def _memory(gib: Memory) -> str:
    temporaries = "?" if gib.temporaries is None else f"{gib.temporaries:.2f}"
    beside = f", {gib.beside:.2f} beside" if gib.beside else ""
    parts = f"parameters {gib.parameters:.2f}, optimizer {gib.optimizer:.2f}, temporaries {temporaries}{beside}"
    return f"{gib.peak:.2f} of {gib.hbm:.2f} GiB a device ({parts})"
