"""Reads a compiled program's text (HLO): the compiler's own cycle estimates, the kernels it could not estimate, and what travels between devices.

The TPU compiler writes `estimated_cycles` into the operations of its final program. A loop's body counts as often as it runs. Kernels of Pallas carry
no estimate and are counted by name. The idea is to compare programs, and to foresee a step within a factor that one calibration gives.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}


@dataclass(frozen=True)
class Collective:
    """One operation that moves data between devices. `size` is the whole array's bytes on a device (what comes in, or what a reduction takes)."""

    kind: str
    shape: str
    size: int
    times: int  # it runs a step
    loops: int  # around it
    source: str  # of the program, by JAX's name for it


@dataclass
class Reading:
    cycles: int = 0
    kernels: Counter[str] = field(default_factory=Counter)  # name -> executions
    collectives: list[Collective] = field(default_factory=list)


def read(text: str) -> Reading:
    """What a step of the program costs. `text`: `compiled.as_text()`."""
    computations, entry = _computations(text)
    reading = Reading()
    _walk(computations, entry, reading, 1, 0)
    return reading


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by its name, and the name of the one that is the program."""
    found: dict[str, list[str]] = {}
    name, entry = "", ""
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{\s*$", line)
        if header:
            name = header.group(2)
            found[name] = []
            entry = name if header.group(1) else entry
        elif line.rstrip() == "}":
            name = ""
        elif name:
            found[name].append(line)
    return found, entry


def _walk(computations: dict[str, list[str]], name: str, reading: Reading, times: int, loops: int) -> None:
    for line in computations.get(name, []):
        loop = re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
        if loop:
            _walk(computations, loop.group(2), reading, times * _trips(computations, loop.group(1), line), loops + 1)
            continue
        estimate = re.search(r'estimated_cycles":"?(\d+)', line)
        if estimate:
            reading.cycles += times * int(estimate.group(1))
        if "tpu_custom_call" in line:
            kernel = re.match(r"\s*(?:ROOT )?%?([\w\-]+)", line)
            reading.kernels[kernel.group(1) if kernel else "?"] += times
        for one in _collective(line, times, loops):
            fused = one.kind == "all-reduce" and "all-reduce-scatter" in name  # how the TPU compiler writes a reduce-scatter
            reading.collectives.append(replace(one, kind="reduce-scatter") if fused else one)
        for called in _called(line):
            # A fused operation's cycles stand at the call, and those of another core beside the program are no cycles of it; what travels stands inside.
            inside = Reading() if estimate or re.search(r" (?:fusion|call-start)\(", line) else reading
            _walk(computations, called, inside, times, loops)
            if inside is not reading:
                reading.collectives.extend(inside.collectives)


def _called(line: str) -> Iterator[str]:
    if re.search(r" (?:call|call-start|conditional|fusion|async-start)\(", line):
        for names in re.findall(r"(?:to_apply|calls|called_computations|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)", line):
            yield from re.findall(r"[\w.\-]+", names)


def _trips(computations: dict[str, list[str]], condition: str, line: str) -> int:
    """How often a loop runs: as the compiler says, else the largest constant in its condition; 1 where none is found."""
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
    if known:
        return int(known.group(1))
    lines = list(computations.get(condition, []))
    for called in [c for line in lines for c in re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line)]:
        lines += computations.get(called, [])
    return max((int(n) for line in lines for n in re.findall(r"[su]32\[\][^ ]* constant\((\d+)\)", line)), default=1)


def _collective(line: str, times: int, loops: int) -> Iterator[Collective]:
    found = re.search(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\((.*)", line)
    if found:
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", found.group(1)) + re.findall(r"(\w+)\[([\d,]*)\]", found.group(3).split(")")[0])
        sizes = {f"{kind}[{shape}]": BYTES.get(kind, 0) * math.prod(int(n) for n in shape.split(",") if n) for kind, shape in arrays}
        largest = max(sizes, key=lambda shape: sizes[shape], default="")
        source = re.search(r'op_name="([^"]*)"', line)
        yield Collective(found.group(2), largest, sizes.get(largest, 0), times, loops, source.group(1) if source else "")
