"""`review agreement`: how far the physicians agree beyond chance, on verdicts and on preferences, with intervals that resample cases.

What counts of a unit (a criterion of an answer, or a preference) is summed over a case first, for the units of one case resemble each other; a resample is then
a row of counts, and all its coefficients one product. Who cannot tell has not rated.

Letters: u units, r raters, q categories, n cases, s resamples.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isnan
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Column, Table

from promedical_jax.atomic import replacing
from promedical_jax.errors import InputError
from promedical_jax.review.readback import PREFERENCES, REVIEWED
from promedical_jax.review.reading import Preference
from promedical_jax.review.recipe import ReviewConfig
from promedical_jax.rubric.agreement import NONE, Coefficient, closeness, gwet_ac2, krippendorff_alpha, weighted_kappa
from promedical_jax.rubric.case import Case, Tier, Verdict
from promedical_jax.rubric.files import read_cases
from promedical_jax.rubric.lines import read_records

FILE = "agreement.json"
RESAMPLES = 2000
UNDEFINED = "undefined"

Estimate = Callable[[np.ndarray], np.ndarray]  # how often each case counts [s, n] -> a figure for each row [s]


@dataclass(frozen=True)
class Ratings:
    """`values` [u, r]: categories, or NONE. `case` [u]: the place of each unit's case among `n`. `abstained`: how often a rater could not tell."""

    values: np.ndarray
    case: np.ndarray
    n: int
    abstained: int
    weights: np.ndarray  # [q, q]

    @property
    def twice(self) -> int:
        """Units that at least two have rated."""
        return int(((self.values != NONE).sum(1) >= 2).sum())

    def by_case(self, parts: np.ndarray) -> np.ndarray:
        """[u, ...] summed over each case's units: [n, ...]."""
        whole = np.zeros((self.n, *parts.shape[1:]))
        np.add.at(whole, self.case, parts)
        return whole


def run(config: ReviewConfig) -> None:
    """Of what `review import` wrote: a table, and agreement.json."""
    if len(config.physicians) < 2 or config.readers < 2:
        raise InputError("agreement needs two physicians who judge the same cases; name more, or raise per_case")
    if config.what != "answers":
        raise InputError("agreement is measured on what: answers; of rubrics, `promedical review import` says how many differ")
    for name in (REVIEWED, PREFERENCES):
        if not (config.out / name).exists():
            raise InputError(f"{config.out / name} does not exist; run `promedical review import` first")
    cases = read_cases(config.out / REVIEWED)
    preferences = [one for _, one in read_records(config.out / PREFERENCES, Preference)]
    found = figures(cases, preferences, config.physicians, config.seed)
    with replacing(config.out / FILE) as file:
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _show(found)
    print(f"wrote {config.out / FILE}")


def figures(cases: Sequence[Case], preferences: Sequence[Preference], physicians: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """`verdicts` (all and by tier) and `preferences`: units that two rated, abstentions, and three coefficients; `physicians`: each beside the others.

    A figure has value, low and high, or is None where it is undefined.
    """
    resampled = np.random.default_rng(seed).multinomial(len(cases), np.full(len(cases), 1 / len(cases)), RESAMPLES).astype(float)
    tiers: dict[str, Tier | None] = {"all": None} | {tier.value: tier for tier in Tier}
    verdicts = {name: verdict_ratings(cases, physicians, tier) for name, tier in tiers.items()}
    preferred = preference_ratings(cases, preferences, physicians)
    kinds = {"verdicts": verdicts["all"], "preferences": preferred}
    return {
        "cases": len(cases),
        "resamples": RESAMPLES,
        "verdicts": {name: _together(ratings, resampled) for name, ratings in verdicts.items()},
        "preferences": _together(preferred, resampled),
        "physicians": {name: {kind: _one(ratings, r, resampled) for kind, ratings in kinds.items()} for r, name in enumerate(physicians)},
    }


def verdict_ratings(cases: Sequence[Case], physicians: Sequence[str], tier: Tier | None = None) -> Ratings:
    """1 met, 0 unmet; of one tier, or of all."""
    column = {name: r for r, name in enumerate(physicians)}
    rows: dict[tuple[int, str, str], list[int]] = {}
    abstained = 0
    for place, case in enumerate(cases):
        wanted = {criterion.id for criterion in case.rubric.criteria if tier in (None, criterion.tier)}
        for one in case.verdicts:
            if one.human and one.rater in column and one.criterion in wanted:
                row = rows.setdefault((place, one.answer, one.criterion), [NONE] * len(physicians))
                abstained += one.verdict is Verdict.ABSTAIN
                if one.verdict is not Verdict.ABSTAIN:
                    row[column[one.rater]] = int(one.verdict is Verdict.MET)
    return _ratings(rows, len(physicians), len(cases), abstained, closeness(2))


def preference_ratings(cases: Sequence[Case], preferences: Sequence[Preference], physicians: Sequence[str]) -> Ratings:
    """0 the first of the two answers by id is better, 1 a tie, 2 the second: whichever of them stood as A. A tie is half way between."""
    column, place = {name: r for r, name in enumerate(physicians)}, {case.id: n for n, case in enumerate(cases)}
    rows: dict[tuple[int, str, str], list[int]] = {}
    for one in preferences:
        if one.physician in column and one.case in place:
            first, second = sorted(one.tie or (str(one.better), str(one.worse)))
            row = rows.setdefault((place[one.case], first, second), [NONE] * len(physicians))
            row[column[one.physician]] = 1 if one.tie else 2 * (one.better == second)
    return _ratings(rows, len(physicians), len(cases), 0, closeness(3, "linear"))


def _ratings(rows: dict[tuple[int, str, str], list[int]], raters: int, n: int, abstained: int, weights: np.ndarray) -> Ratings:
    values = np.array(list(rows.values()), int).reshape(-1, raters)
    return Ratings(values, np.array([case for case, *_ in rows], int), n, abstained, weights)


def _together(ratings: Ratings, resampled: np.ndarray) -> dict[str, Any]:
    estimates = {"kappa": _mean_kappa(ratings, range(ratings.values.shape[1])), "alpha": _coefficient(ratings, krippendorff_alpha),
                 "ac2": _coefficient(ratings, gwet_ac2)}  # fmt: skip
    return {"units": ratings.twice, "abstained": ratings.abstained} | {name: _interval(one, resampled) for name, one in estimates.items()}


def _one(ratings: Ratings, r: int, resampled: np.ndarray) -> dict[str, Any]:
    """A physician beside the others: mean kappa over the pairs with each of them, and the share of ratings that are what most of the others say."""
    return {"rated": int((ratings.values[:, r] != NONE).sum()), "kappa": _interval(_mean_kappa(ratings, range(ratings.values.shape[1]), r), resampled),
            "as_most": _interval(_as_most(ratings, r), resampled)}  # fmt: skip


def _coefficient(ratings: Ratings, coefficient: Coefficient, columns: Sequence[int] | None = None) -> Estimate:
    values = ratings.values if columns is None else ratings.values[:, list(columns)]
    parts = ratings.by_case(coefficient.parts(values, ratings.weights))
    return lambda counts: coefficient.of((counts @ parts.reshape(len(parts), -1)).reshape(len(counts), *parts.shape[1:]), ratings.weights)


def _mean_kappa(ratings: Ratings, raters: Sequence[int], of: int | None = None) -> Estimate:
    """Over the pairs of raters, or those with one of them; a pair for which it is undefined is left out."""
    pairs = [_coefficient(ratings, weighted_kappa, pair) for pair in combinations(raters, 2) if of is None or of in pair]

    def mean(counts: np.ndarray) -> np.ndarray:
        each = np.stack([pair(counts) for pair in pairs])
        there = ~np.isnan(each)
        return np.divide(np.where(there, each, 0).sum(0), there.sum(0), out=np.full(len(counts), np.nan), where=there.any(0))

    return mean


def _as_most(ratings: Ratings, r: int) -> Estimate:
    others = np.delete(ratings.values, r, axis=1)
    counted = (others[:, :, None] == np.arange(len(ratings.weights))).sum(1)  # [u, q]
    most = counted.max(1, initial=0)
    is_one = (most > 0) & ((counted == most[:, None]).sum(1) == 1) & (ratings.values[:, r] != NONE)
    hit = is_one & (counted.argmax(1) == ratings.values[:, r])
    parts = ratings.by_case(np.column_stack([hit, is_one]).astype(float))

    def share(counts: np.ndarray) -> np.ndarray:
        hits, trials = (counts @ parts).T
        return np.divide(hits, trials, out=np.full(len(counts), np.nan), where=trials > 0)

    return share


def _interval(estimate: Estimate, resampled: np.ndarray) -> dict[str, float] | None:
    """The figure of all cases with its percentile interval (Efron 1979), of the resamples in which it is defined; None where it is not defined itself."""
    value = float(estimate(np.ones((1, resampled.shape[1])))[0])
    if isnan(value):
        return None
    low, high = np.nanpercentile(estimate(resampled), [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high)}


def _show(found: dict[str, Any]) -> None:
    right = [Column(name, justify="right") for name in ("units", "abstained", "Cohen's kappa", "Krippendorff's alpha", "Gwet's AC2")]
    table = Table("verdicts", *right, box=box.SIMPLE_HEAD, pad_edge=False)
    for name, entry in (found["verdicts"] | {"preferences": found["preferences"]}).items():
        table.add_row(name, f"{entry['units']:,}", f"{entry['abstained']:,}", *(_text(entry[key]) for key in ("kappa", "alpha", "ac2")))
    right = [Column(name, justify="right") for name in ("kappa with others", "as most others", "kappa, preferences", "as most, preferences")]
    each = Table("physician", *right, box=box.SIMPLE_HEAD, pad_edge=False)
    for name, entry in found["physicians"].items():
        each.add_row(name, *(_text(entry[kind][key]) for kind in ("verdicts", "preferences") for key in ("kappa", "as_most")))
    console = Console()
    console.print(table)
    console.print(each)
    print("in brackets: 95 % intervals over cases")


def _text(figure: dict[str, float] | None) -> str:
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})" if figure else UNDEFINED
