"""The benchmark of duplicates, small: what it plants is there, and its figures are those of its pairs."""

import json

import pytest

from benchmarks import dedup


def test_what_is_planted_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    texts, copies, near = dedup.make(2000, seed=3)
    assert len(texts) == 2000 and len(copies) == len(near) == 100
    assert all(" ".join(texts[a].casefold().split()) == " ".join(texts[b].casefold().split()) and texts[a] != texts[b] for a, b in copies)
    assert all(texts[a] != texts[b] for a, b in near)
    dedup.main(["--questions", "2000", "--seed", "3"])
    said = json.loads(capsys.readouterr().out)
    assert said["copy"]["recall"] == 1.0 and said["near_copy"]["recall"] >= 0.98 and said["near_copy"]["precision"] >= 0.98
