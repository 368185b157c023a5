"""Agreement of physicians whose disagreement is known: by hand, and by a slow bootstrap that rates resampled cases anew."""

import json
from pathlib import Path

import numpy as np
import pytest
from physicians import clinic, recipe

from promedical_jax.errors import InputError
from promedical_jax.review import agreement
from promedical_jax.review.agreement import RESAMPLES, figures, preference_ratings, verdict_ratings
from promedical_jax.review.readback import PREFERENCES, REVIEWED
from promedical_jax.review.reading import Preference
from promedical_jax.rubric import Case, Judgement, Tier, Verdict, write_cases
from promedical_jax.rubric.agreement import NONE, closeness, gwet_ac2, krippendorff_alpha, weighted_kappa

NAMES = ("ada", "ben", "cleo")


def rated(folder: Path, count: int, mistaken: dict[str, float], seed: int = 0, abstaining: float = 0.0) -> list[Case]:
    """The clinic's cases with verdicts of physicians who are wrong as often as is said, and cannot tell sometimes."""
    rng, cases = np.random.default_rng(seed), clinic(folder, count)[1]
    made = []
    for case in cases:
        said = [one for one in case.verdicts if one.answer in [answer.id for answer in case.answers[:2]]]
        own = []
        for name, rate in mistaken.items():
            for one in said:
                verdict = one.verdict if rng.random() >= rate else Verdict.UNMET if one.verdict is Verdict.MET else Verdict.MET
                own.append(Judgement(answer=one.answer, criterion=one.criterion, rater=name, human=True,
                                     verdict=Verdict.ABSTAIN if rng.random() < abstaining else verdict))  # fmt: skip
        made.append(case.model_copy(update={"verdicts": (*case.verdicts, *own)}))
    return made


def test_the_figures_are_those_of_the_coefficients(tmp_path: Path) -> None:
    cases = rated(tmp_path, 20, {"ada": 0.0, "ben": 0.1, "cleo": 0.4}, abstaining=0.05)
    found = figures(cases, [], NAMES)
    ratings = verdict_ratings(cases, NAMES)
    values, nominal = ratings.values, closeness(2)
    pairs = {(a, b): weighted_kappa(values[:, [a, b]], nominal) for a, b in ((0, 1), (0, 2), (1, 2))}
    whole = found["verdicts"]["all"]
    assert whole["kappa"]["value"] == pytest.approx(np.mean(list(pairs.values())))
    assert whole["alpha"]["value"] == pytest.approx(krippendorff_alpha(values, nominal)) and whole["ac2"]["value"] == pytest.approx(gwet_ac2(values, nominal))
    assert whole["abstained"] == (values == NONE).sum() > 0 and whole["units"] == ((values != NONE).sum(1) > 1).sum()
    assert found["physicians"]["ada"]["verdicts"]["kappa"]["value"] == pytest.approx((pairs[0, 1] + pairs[0, 2]) / 2)
    assert found["verdicts"]["safety"]["kappa"]["value"] == pytest.approx(
        np.mean([weighted_kappa(verdict_ratings(cases, NAMES, Tier.SAFETY).values[:, [a, b]], nominal) for a, b in pairs]))  # fmt: skip
    tiers = [found["verdicts"][tier.value]["units"] for tier in Tier]
    assert sum(tiers) == whole["units"] and min(tiers) > 0
    as_most = {name: found["physicians"][name]["verdicts"]["as_most"]["value"] for name in NAMES}
    assert min(as_most["ada"], as_most["ben"]) > as_most["cleo"] + 0.1
    rows = values[(values[:, 0] != NONE) & (values[:, 1] != NONE) & (values[:, 2] != NONE) & (values[:, 1] == values[:, 2])]
    alone = values[(values[:, 0] != NONE) & ((values[:, 1] == NONE) ^ (values[:, 2] == NONE))]
    hits = (rows[:, 0] == rows[:, 1]).sum() + (alone[:, 0] == alone[:, 1:].max(1)).sum()
    assert as_most["ada"] == pytest.approx(hits / (len(rows) + len(alone)))


def test_the_interval_is_that_of_resampled_cases(tmp_path: Path) -> None:
    """Each resample drawn as the figures draw it, its ratings laid out, and rated by the coefficient itself."""
    cases = rated(tmp_path, 12, {"ada": 0.0, "ben": 0.2})
    found = figures(cases, [], ("ada", "ben"), seed=5)["verdicts"]["all"]
    ratings = verdict_ratings(cases, ("ada", "ben"))
    counts = np.random.default_rng(5).multinomial(12, np.full(12, 1 / 12), RESAMPLES)
    for name, coefficient in (("kappa", weighted_kappa), ("alpha", krippendorff_alpha), ("ac2", gwet_ac2)):
        slow = [coefficient(np.repeat(ratings.values, row[ratings.case], axis=0), closeness(2)) for row in counts]
        assert (found[name]["low"], found[name]["high"]) == pytest.approx(tuple(np.nanpercentile(slow, [2.5, 97.5])), abs=1e-9)
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    assert figures(cases, [], ("ada", "ben"), seed=5)["verdicts"]["all"] == found != figures(cases, [], ("ada", "ben"), seed=6)["verdicts"]["all"]


def test_preferences_are_ordered_and_do_not_depend_on_who_stood_as_a(tmp_path: Path) -> None:
    cases = clinic(tmp_path, 4)[1]
    one, two, three, four = (case.id for case in cases)
    said = [
        Preference(case=one, physician="ada", better="x", worse="y"), Preference(case=one, physician="ben", better="x", worse="y"),
        Preference(case=two, physician="ada", better="y", worse="x"), Preference(case=two, physician="ben", tie=("x", "y")),
        Preference(case=three, physician="ada", better="x", worse="y"), Preference(case=three, physician="ben", better="y", worse="x"),
        Preference(case=four, physician="ben", tie=("y", "x")), Preference(case=four, physician="dora", tie=("y", "x")),
    ]  # fmt: skip
    ratings = preference_ratings(cases, said, ("ada", "ben"))
    assert ratings.values.tolist() == [[0, 0], [2, 1], [0, 2], [NONE, 1]] and ratings.twice == 3
    found = figures(cases, said, ("ada", "ben"))["preferences"]
    assert found["kappa"]["value"] == pytest.approx(weighted_kappa(ratings.values, closeness(3, "linear")))
    assert figures(cases, said, ("ada", "ben"))["verdicts"]["all"] == {"units": 0, "abstained": 0, "kappa": None, "alpha": None, "ac2": None}


def test_raters_who_are_not_of_the_review_are_not_heard(tmp_path: Path) -> None:
    cases = rated(tmp_path, 5, {"ada": 0.0, "ben": 0.0, "adjudicator": 1.0})
    assert figures(cases, [], ("ada", "ben"))["verdicts"]["all"]["kappa"]["value"] == 1  # neither the checker, nor the adjudicator


def test_what_is_undefined_is_said_and_is_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = rated(tmp_path, 4, {"ada": 0.0, "ben": 0.0})
    alike = [case.model_copy(update={"verdicts": tuple(one.model_copy(update={"verdict": Verdict.MET}) for one in case.verdicts)}) for case in cases]
    config = recipe(tmp_path)
    write_cases(config.out / REVIEWED, alike)
    (config.out / PREFERENCES).write_text("")
    agreement.run(config)
    found = json.loads((config.out / agreement.FILE).read_text())
    assert found["verdicts"]["all"]["kappa"] is None and found["verdicts"]["all"]["ac2"]["value"] == 1 and found["preferences"]["kappa"] is None
    assert capsys.readouterr().out.count("undefined") > 5 and "NaN" not in (config.out / agreement.FILE).read_text()


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    clinic(tmp_path)
    with pytest.raises(InputError, match=r"reviewed.jsonl does not exist; run `promedical review import` first"):
        agreement.run(recipe(tmp_path))
    with pytest.raises(InputError, match="agreement needs two physicians who judge the same cases"):
        agreement.run(recipe(tmp_path, per_case=1))
    with pytest.raises(InputError, match="agreement is measured on what: answers"):
        agreement.run(recipe(tmp_path, what="rubrics", pool=tmp_path / "pool.jsonl", per_case=2))
