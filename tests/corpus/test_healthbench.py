"""HealthBench: small handwritten files for the rules, the real file for the counts."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from promedical_jax.corpus import import_healthbench
from promedical_jax.errors import InputError
from promedical_jax.rubric import Polarity, Tier, Verdict, read_cases, score, write_cases

DATA = Path(os.environ.get("PROMEDICAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "healthbench"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the HealthBench file is not at {DATA}; set PROMEDICAL_DATA to the folder that holds healthbench/")


def item(points, axis="accuracy", text=None):
    return {"criterion": text or f"Does {axis} {points}.", "points": points, "tags": ["level:example", f"axis:{axis}"]}


def example(*items, **more):
    return {"prompt_id": "p1", "prompt": [{"role": "user", "content": "My chest hurts."}], "rubrics": list(items)} | more


def file_with(tmp_path, *examples):
    path = tmp_path / "healthbench.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in examples))
    return path


def said(path):
    with pytest.raises(InputError) as caught:
        import_healthbench(path)
    return str(caught.value).replace(f"{path.parent}/", "")


@pytest.mark.parametrize(
    ("points", "axis", "tier", "polarity"),
    [
        (10, "accuracy", "proficiency", "required"),
        (1, "completeness", "proficiency", "required"),
        (5, "communication_quality", "excellence", "required"),
        (-1, "accuracy", "proficiency", "forbidden"),
        (-6, "communication_quality", "proficiency", "forbidden"),
        (-7, "accuracy", "safety", "forbidden"),
        (-10, "communication_quality", "safety", "forbidden"),
    ],
)
def test_points_and_axis_decide_the_tier(tmp_path, points, axis, tier, polarity):
    (case,) = import_healthbench(file_with(tmp_path, example(item(5), item(points, axis))))
    criterion = case.rubric.criteria[1]
    assert (criterion.tier, criterion.polarity, criterion.dimension) == (tier, polarity, axis)
    assert (criterion.weight is None) == (tier != "proficiency")


def test_weights_are_the_points_over_their_sum_and_a_forbidden_thing_counts_when_avoided(tmp_path):
    (case,) = import_healthbench(file_with(tmp_path, example(item(6), item(-2), item(8, "communication_quality"), item(-9))))
    assert [c.weight for c in case.rubric.criteria] == [0.75, 0.25, None, None]
    avoids = score(case.rubric.criteria, [0, case.rubric.criteria[1].satisfied(Verdict.UNMET), 0, 1])
    assert (avoids.s1, avoids.s3) == (0.25, 0)


def test_points_tags_and_the_warning_are_kept(tmp_path):
    (case,) = import_healthbench(file_with(tmp_path, example(item(6), item(-8))))
    assert case.id == "healthbench-p1"
    assert case.provenance["benchmark"] == "never train on it" and case.provenance["licence"] == "MIT" and "HealthBench" in case.provenance["source"]
    assert json.loads(case.provenance["points"]) == {"c1": 6, "c2": -8}
    assert json.loads(case.provenance["tags"])["c2"] == ["level:example", "axis:accuracy"]


def test_the_published_form_is_read_too(tmp_path):
    ideal = {"ideal_completion": "Call for help.", "ideal_completions_group": "Group1", "ideal_completions_ref_completions": ["Rest."]}
    tags = ["theme:emergency_referrals", "physician_agreed_category:emergent"]
    published = example(item(6), example_tags=tags, ideal_completions_data=ideal, canary="healthbench:1")
    (case,) = import_healthbench(file_with(tmp_path, published))
    assert case.category == "emergency_referrals" and case.provenance["canary"] == "healthbench:1"
    assert [(a.id, a.text, a.source) for a in case.answers] == [("ideal", "Call for help.", "physicians, Group1"), ("reference_1", "Rest.", "model")]
    (bare,) = import_healthbench(file_with(tmp_path, example(item(6), ideal_completions_data=None)))
    assert bare.answers == () and bare.category is None


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (example(item(0)), "healthbench.jsonl, line 1, field rubrics[0].points: is 0, which neither rewards nor punishes"),
        (example(item(11)), "line 1, field rubrics[0].points"),
        (example(item("5")), "line 1, field rubrics[0].points"),
        (example(item(5), item(4, text=" ")), "line 1, field rubrics[1].criterion: the text is empty"),
        (example(item(5) | {"tags": ["level:example"]}), "line 1, field rubrics[0].tags: holds 0 tags 'axis:NAME' and one is needed"),
        (example(item(5) | {"tags": ["axis:a", "axis:b"]}), "line 1, field rubrics[0].tags: holds 2 tags"),
        (example(item(5) | {"tags": ["axis: "]}), "line 1, field rubrics[0].tags"),
        (example(), "line 1, field rubrics: holds 0 and needs at least 1"),
        (example(item(-9), item(5, "communication_quality")), "line 1, field rubrics: no criterion falls in the tier proficiency"),
        (example(item(5), prompt=[]), "line 1, field prompt: holds 0 and needs at least 1"),
        (example(item(5), prompt=[{"role": "doctor", "content": "x"}]), "line 1, field prompt[0].role: is 'doctor'; use one of 'system', 'user'"),
        (example(item(5), rubric=[]), "line 1, field rubric: is not a known field; did you mean 'rubrics'?"),
    ],
)
def test_a_faulty_row_is_named(tmp_path, row, complaint):
    assert complaint in said(file_with(tmp_path, row))


def test_paths(tmp_path):
    path = file_with(tmp_path, example(item(5)), example(item(5)))
    assert "line 2, field id: 'healthbench-p1' is already the id of the case at healthbench.jsonl, line 1" in said(path)
    file_with(tmp_path, example(item(5)))
    assert len(import_healthbench(tmp_path)) == 1
    (tmp_path / "other.jsonl").touch()
    assert "holds 2 .jsonl files and one is needed" in said(tmp_path)
    assert "does not exist" in said(tmp_path / "none.jsonl")


@pytest.fixture(scope="module")
def cases():
    return import_healthbench(DATA)


@needs_data
def test_the_real_counts_reconcile(cases):
    assert len(cases) == 300 and sum(len(case.rubric.criteria) for case in cases) == 3525
    assert Counter((c.tier, c.polarity) for case in cases for c in case.rubric.criteria) == {
        (Tier.PROFICIENCY, Polarity.REQUIRED): 2232,
        (Tier.EXCELLENCE, Polarity.REQUIRED): 189,
        (Tier.PROFICIENCY, Polarity.FORBIDDEN): 444,
        (Tier.SAFETY, Polarity.FORBIDDEN): 660,
    }
    assert all(case.provenance["benchmark"] == "never train on it" for case in cases)


@needs_data
def test_real_weights_are_in_the_ratio_of_the_points(cases):
    for case in cases:
        points = json.loads(case.provenance["points"])
        weighted = [(c.weight, abs(points[c.id])) for c in case.rubric.criteria if c.weight]
        assert all(w * sum(p for _, p in weighted) == pytest.approx(p) for w, p in weighted)


@needs_data
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_real_cases_round_trip(cases, tmp_path, suffix):
    write_cases(tmp_path / f"cases{suffix}", cases)
    assert read_cases(tmp_path / f"cases{suffix}") == cases
