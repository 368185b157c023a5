"""From a review, double blind and adjudicated, to a bench: its truth is what the physicians said, and where they differed what the adjudicator did."""

from pathlib import Path

from physicians import judge, otherwise, truth
from stand_in import StandIn
from test_readback import reviewed

from promedical_jax.review import adjudication, readback
from promedical_jax.review.seal import read_key
from promedical_jax.suites import promedical
from promedical_jax.suites.build import run
from promedical_jax.suites.built import Manifest
from promedical_jax.suites.recipe import BuildConfig


def build(folder: Path, out: str) -> Manifest:
    given = {"cases": folder / "out" / readback.REVIEWED, "out": folder / out, "physicians": ("ada", "ben"), "adjudicator": "cleo", "licence": "MIT"}
    return run(BuildConfig.model_validate(given))


def test_a_review_becomes_a_bench(studio: StandIn, tmp_path: Path) -> None:
    """Twelve cases, two answers each; ben says the contrary on two criteria, and cleo is with him."""
    config, cases, disputed, _ = reviewed(studio, tmp_path)
    opinion = truth(cases)
    readback.run(config)
    before = build(tmp_path, "before")
    assert before.left_out["the physicians differ"] == 4 and before.verdicts.keys() == {"agreed"}  # two criteria of two answers

    adjudication.run(config)
    tasks = read_key(config.out / adjudication.FOLDER).key.by_code
    studio.annotate("cleo", lambda code: judge(tasks[code], lambda *cell: otherwise(opinion(*cell)), lambda case, pair: pair[0]))
    readback.run(config)
    made = build(tmp_path, "bench")
    assert made.verdicts == {"agreed": before.verdicts["agreed"], "adjudicated": 4} and "the physicians differ" not in made.left_out
    points = promedical.read_points(tmp_path / "bench")
    assert len(points) == sum(made.verdicts.values()) and made.cases == 12 and made.answers == 24
    for point in points:
        said = opinion(point.case.id, point.answer.id, point.criterion.id)
        assert point.truth.value == (otherwise(said) if (point.case.id, point.criterion.id) in disputed else said)
