"""What the pages have in common: the document around them, and the cells of their tables.

A content security policy in the document forbids scripts and every outside resource.
"""

from collections.abc import Sequence
from html import escape
from math import isfinite

from promedical_jax.bench.intervals import Interval
from promedical_jax.bench.style import CSS
from promedical_jax.bench.svg import THIN_SPACE, mark, percent, short
from promedical_jax.rubric.case import Polarity

SCALE = f'<div class="scale">{"".join(f"<span>{tick}{THIN_SPACE}%</span>" for tick in (0, 25, 50, 75, 100))}</div>'
NOTHING_BELOW = "<small>&nbsp;</small>"  # keeps a number level with those that have an interval below


def document(title: str, body: Sequence[str]) -> str:
    """The whole page of the parts that there are."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n'
        + "\n".join(part for part in body if part)
        + "\n<footer>ProMedical, arXiv 2604.08326, in JAX.</footer>\n</body>\n</html>\n"
    )


def cell(name: str, interval: Interval, share: bool = True, css: str = "") -> str:
    """A figure with its interval below; `name` stands above it where the page is narrow."""
    mean = percent(interval.mean, 1) if share else short(interval.mean)
    return f'<td data-name="{name}"{f" class={css!r}" if css else ""}><b>{mean}</b><small>{between(interval, share, 1)}</small></td>'


def between(interval: Interval, share: bool = True, digits: int = 0) -> str:
    if not isfinite(interval.low):
        return "–"
    low, high = (f"{100 * interval.low:.{digits}f}", percent(interval.high, digits)) if share else (short(interval.low), short(interval.high))
    return f"{low} to {high}"


def change(base: Interval, aligned: Interval, unit: float = 100.0, digits: int = 0, judged: bool = True) -> str:
    """The difference in points, coloured only where the intervals do not touch (and where more is better)."""
    if not (isfinite(base.mean) and isfinite(aligned.mean)):
        return "–"
    difference = unit * (aligned.mean - base.mean)
    tone = (' class="up"' if difference > 0 else ' class="down"') if judged and clear(base, aligned) else ""
    return f"<b{tone}>{difference:+.{digits}f}</b>".replace("-", "\u2212")


def clear(base: Interval, aligned: Interval) -> bool:
    return aligned.low > base.high or aligned.high < base.low


def verdict(met: bool | None, polarity: Polarity) -> str:
    """A mark that says good or bad, and a word that says what happened; None: nobody could say."""
    if met is None:
        return f'{mark(None, "not judged")}<span aria-hidden="true">not judged</span>'
    good = met == (polarity is Polarity.REQUIRED)
    word = ("done" if good else "missing") if polarity is Polarity.REQUIRED else ("avoided" if good else "violated")
    return f'{mark(good, word)}<span aria-hidden="true"{"" if good else " class=bad"}>{word}</span>'


def said(text: str) -> str:
    """What somebody said, as a paragraph."""
    return f'<p class="said">{escape(text)}</p>' if text.strip() else '<p class="said empty">nothing was said</p>'
