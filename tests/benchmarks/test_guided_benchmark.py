"""The benchmark of answers that are kept to a schema, at a tiny size: it runs, and its figures are of what it says."""

import json

import pytest

from benchmarks import guided


def test_each_form_is_walked_and_each_way_timed(capsys) -> None:
    guided.main(["--slots", "4", "--answer", "8", "--width", "64", "--depth", "1", "--vocab", "512", "--times", "1"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["forms"].keys() == guided.SAID.keys() and all(form["first_us"]["longest"] >= form["first_us"]["median"] > 0 for form in said["forms"].values())
    assert said["guided_over_free"] == pytest.approx(said["guided_s"] / said["free_s"], rel=0.01)
    assert said["free_tokens_per_s"] == pytest.approx(4 * 8 / said["free_s"], rel=0.01)
