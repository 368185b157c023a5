"""Pictures as inline SVG: line charts, reliability diagrams, interval tracks and verdict marks. Colours come from the page's style sheet, by class."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import floor, isfinite, log10, sqrt
from typing import Any, Literal

import numpy as np

from promedical_jax.bench.intervals import Interval
from promedical_jax.bench.reward_figures import Bin

WIDTH, HEIGHT = 310, 190  # about the px at which charts are shown, so that their text keeps its size on a phone and on a desk
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 8, 24
MOST_POINTS = 500  # a line drawn through more points than there are pixels only makes the file large
THIN_SPACE = "\u202f"
RUNS = 6  # that have a colour of their own


@dataclass(frozen=True)
class Series:
    """A line: `steps` and `values` of equal length, NaN where there is no value. kind: its colour and dash (`truth` is dashed, `side` the second colour)."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    kind: Literal["main", "side", "truth"] = "main"


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Running mean over about `window` neighbours, nearer ones counting more (triangular weights), centred so that it does not lag.

    NaN is skipped, and stays NaN where it was.
    """
    if window <= 1:
        return values
    known = np.isfinite(values)
    kernel = 1 - np.abs(np.arange(1 - window, window)) / window
    total = np.convolve(np.where(known, values, 0.0), kernel, mode="full")
    weight = np.convolve(known.astype(float), kernel, mode="full")
    middle = slice(window - 1, window - 1 + len(values))
    return np.where(known, total[middle] / np.maximum(weight[middle], 1e-9), np.nan)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` round numbers (1, 2, 2.5 or 5 times a power of ten) that cover [low, high] from within; at least one."""
    span = high - low
    power = 10.0 ** floor(log10(span / most))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10, 20) if span / (factor * power) < most)
    first = np.ceil(low / step - 1e-9)
    return [float(i * step) + 0.0 for i in np.arange(first, floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number as a tick or a legend shows it: three significant digits, 12k for 12,000."""
    if not isfinite(value):
        return "–"
    if abs(value) >= 10_000:
        return f"{value / 1000:.3g}k" if abs(value) < 1e6 else f"{value / 1e6:.3g}M"
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return text.replace("e-0", "e-").replace("-", "\u2212")


def percent(value: float, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f}{THIN_SPACE}%" if isfinite(value) else "–"


def line_chart(title: str, note: str, series: Sequence[Series], share: bool = False) -> str:
    """A figure with title, legend, axes and one line a series: faint what was logged, strong its running mean. `share`: the axis is 0 to 100 %.

    Empty text if no series holds a finite value.
    """
    lines = [(s, np.asarray(s.steps, dtype=float), np.asarray(s.values, dtype=float)) for s in series]
    lines = [(s, x[np.isfinite(x)], np.where(np.isfinite(y), y, np.nan)[np.isfinite(x)]) for s, x, y in lines]
    lines = [(s, x, y) for s, x, y in lines if np.isfinite(y).any()]
    if not lines:
        return ""
    means = [smooth(y, max(1, len(y) // 15)) for _, _, y in lines]
    number = percent if share else short
    x_low, x_high = _range(np.concatenate([x for _, x, _ in lines]), pad=0.0)
    y_low, y_high = (0.0, 1.0) if share else _value_range([y for _, _, y in lines], means)

    def across(x: Any) -> Any:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def down(y: Any) -> Any:
        return TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for value in [0.0, 0.25, 0.5, 0.75, 1.0] if share else ticks(y_low, y_high):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(value):.1f}" y2="{down(value):.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{down(value) + 3.5:.1f}" text-anchor="end">{number(value)}</text>')
    steps = [t for t in ticks(x_low, x_high) if t == round(t)] if x_low < x_high - 1 else [round((x_low + x_high) / 2)]
    for value in steps:
        parts.append(f'<line class="axis" x1="{across(value):.1f}" x2="{across(value):.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>')
        at_edge = across(value) > WIDTH - RIGHT - 8  # a label centred under the last tick would stick out
        place = f'x="{WIDTH - 2}" text-anchor="end"' if at_edge else f'x="{across(value):.1f}" text-anchor="middle"'
        parts.append(f'<text {place} y="{HEIGHT - 6}">{short(value)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    inside = "".join(
        _drawn(across(x), down(y), f"raw {s.kind}", dots=False) * (mean is not y) + _drawn(across(x), down(mean), f"mean {s.kind}", dots=len(x) <= 12)
        for (s, x, y), mean in zip(lines, means, strict=True)
    )
    frame = f'x="{LEFT - 3}" y="0" width="{WIDTH - LEFT + 3}" height="{HEIGHT - BOTTOM + 2}" viewBox="{LEFT - 3} 0 {WIDTH - LEFT + 3} {HEIGHT - BOTTOM + 2}"'
    last = [(s, mean[np.isfinite(mean)][-1]) for (s, _, _), mean in zip(lines, means, strict=True)]
    legend = "".join(f'<li class="{s.kind}"><i></i>{escape(s.name)} <b>{number(value)}</b></li>' for s, value in last)
    spoken = escape(f"{title}: " + ", ".join(f"{s.name} ends at {number(value)}" for s, value in last), quote=True)
    return (
        f'<figure class="chart"><figcaption><h4>{escape(title)}</h4><p>{escape(note)}</p><ul class="legend">{legend}</ul></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{spoken}">{"".join(parts)}<svg class="plot" {frame}>{inside}</svg></svg></figure>'
    )


def reliability(title: str, note: str, bins: Sequence[Bin]) -> str:
    """A figure of how often the text holds (upwards) beside the probability that was said (across): on the diagonal the two agree. A dot for each of the
    bins, larger where it stands for more judgements, and a bar from it to the diagonal. Empty text if there is no bin."""
    if not bins:
        return ""
    side = WIDTH - LEFT - RIGHT
    foot, most = TOP + side, max(one.count for one in bins)

    def across(share: float) -> str:
        return f"{LEFT + share * side:.1f}"

    def down(share: float) -> str:
        return f"{foot - share * side:.1f}"

    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(share)}" y2="{down(share)}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{foot - share * side + 3.5:.1f}" text-anchor="end">{percent(share)}</text>')
        parts.append(f'<line class="axis" x1="{across(share)}" x2="{across(share)}" y1="{foot}" y2="{foot + 4}"/>')
        place = f'x="{WIDTH - 2}" text-anchor="end"' if share == 1 else f'x="{across(share)}" text-anchor="middle"'  # centred, the last would stick out
        parts.append(f'<text {place} y="{foot + BOTTOM - 6}">{percent(share)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{foot}" y2="{foot}"/>')
    parts.append(f'<line class="even" x1="{across(0)}" y1="{down(0)}" x2="{across(1)}" y2="{down(1)}"/>')
    for one in bins:
        x = across(one.probability)
        parts.append(f'<line class="gap" x1="{x}" x2="{x}" y1="{down(one.probability)}" y2="{down(one.truth)}"/>')
        parts.append(f'<circle class="dot" cx="{x}" cy="{down(one.truth)}" r="{2 + 5 * sqrt(one.count / most):.1f}"/>')
    said = "; ".join(f"of {one.count:,} said to hold with {percent(one.probability)}, {percent(one.truth)} hold" for one in bins)
    return (
        f'<figure class="chart reliability"><figcaption><h4>{escape(title)}</h4><p>{escape(note)}</p></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {foot + BOTTOM}" role="img" aria-label="{escape(f"{title}: {said}", quote=True)}">{"".join(parts)}</svg></figure>'
    )


def interval_track(aligned: Interval, base: Interval | None = None, tick: float | None = None, label: str = "") -> str:
    """Intervals of shares on a line from 0 to 100 % that stretches with the page: base a hollow dot above, aligned a full dot, `tick` a small upright line."""
    parts = [f'<line class="grid" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>' for x in (0, 25, 50, 75, 100)]
    parts.append('<line class="axis" x1="0" x2="100%" y1="50%" y2="50%"/>' if base is None else "")
    y_base, y_aligned = "32%", "68%" if base is not None else "50%"
    if tick is not None and isfinite(tick):
        parts.append(f'<line class="tick" x1="{_at(tick)}" x2="{_at(tick)}" y1="14%" y2="86%"/>')
    for interval, kind, y, radius in [(base, "base", y_base, 4), (aligned, "aligned", y_aligned, 4)]:
        if interval is not None and isfinite(interval.mean):
            parts.append(f'<line class="span {kind}" x1="{_at(interval.low)}" x2="{_at(interval.high)}" y1="{y}" y2="{y}"/>')
            parts.append(f'<circle class="dot {kind}" cx="{_at(interval.mean)}" cy="{y}" r="{radius}"/>')
    return f'<svg class="track" role="img" aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg>'


def interval_rows(intervals: Sequence[Interval], low: float = 0.0, high: float = 1.0, label: str = "", first: int = 0) -> str:
    """An interval a row, of several runs, on one line from `low` to `high` that stretches with the page; each row has a class of its own, run0 or whichever
    is the first, and on."""
    parts = [f'<line class="grid" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>' for x in (0, 25, 50, 75, 100)]
    for row, one in enumerate(intervals):
        if isfinite(one.mean):
            y, kind = f"{100 * (row + 0.5) / len(intervals):.1f}%", f"run{(first + row) % RUNS}"
            left, right, at = (_at((value - low) / (high - low)) for value in (one.low, one.high, one.mean))
            parts.append(f'<line class="span {kind}" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/><circle class="dot {kind}" cx="{at}" cy="{y}" r="4"/>')
    return f'<svg class="track" style="height: {14 + 18 * len(intervals)}px" role="img" aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg>'


def mark(good: bool | None, label: str) -> str:
    """A tick in a full disc (good), a cross in a square (bad) or a dash (not judged): told apart by shape, not by colour alone."""
    shape = {
        True: '<circle cx="9" cy="9" r="9"/><path d="M5 9.4l2.7 2.8L13 6.5"/>',
        False: '<rect x="0.5" y="0.5" width="17" height="17" rx="3.5"/><path d="M5.6 5.6l6.8 6.8M12.4 5.6l-6.8 6.8"/>',
        None: '<path d="M5 9h8"/>',
    }[good]
    name = {True: "good", False: "bad", None: "unjudged"}[good]
    return f'<svg class="mark {name}" viewBox="0 0 18 18" role="img" aria-label="{escape(label, quote=True)}">{shape}</svg>'


def _at(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def _range(values: np.ndarray, pad: float) -> tuple[float, float]:
    """The span of the values, widened where it is (nearly) a point."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-3):
        half = max(abs(low) * 0.1, 0.5 if low == 0 or pad == 0 else 1e-9)
        return low - half, high + half
    return low - pad * (high - low), high + pad * (high - low)


def _value_range(raw: Sequence[np.ndarray], means: Sequence[np.ndarray]) -> tuple[float, float]:
    """What the axis shows: every running mean, and what was logged but for the outer 2 % on each side, lest one spike flatten the rest."""
    known = np.concatenate([y[np.isfinite(y)] for y in raw])
    shown = np.concatenate([np.percentile(known, [2, 98]), *[m[np.isfinite(m)] for m in means]])
    low, high = _range(shown, pad=0.08)
    if low < 0 <= shown.min() or 0 <= shown.min() < 0.35 * shown.max():  # a scale that almost reaches zero had better start there
        low = 0.0
    return low, high


def _drawn(x: np.ndarray, y: np.ndarray, kind: str, dots: bool) -> str:
    """A line through the points, broken where a value is missing; a value alone between gaps becomes a dot, as does every value where there are few."""
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).round().astype(int))
    x, y = x[keep], y[keep]
    known = np.isfinite(y)
    path, circles = [], []
    for i in np.flatnonzero(known):
        begins, ends = i == 0 or not known[i - 1], i == len(x) - 1 or not known[i + 1]
        path.append(f"{'M' if begins else 'L'}{x[i]:.1f} {y[i]:.1f}")
        if dots or (begins and ends):
            circles.append(f'<circle class="{kind}" cx="{x[i]:.1f}" cy="{y[i]:.1f}" r="2.5"/>')
    return f'<path class="{kind}" d="{"".join(path)}"/>{"".join(circles)}'
