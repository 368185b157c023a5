"""The benchmark of duplicates, small: what it plants is there, and its figures are those of its pairs."""

import json

import numpy as np
import pytest

from benchmarks import dedup


def test_what_is_planted_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    texts, planted = dedup.make(2000, seed=3)
    assert len(texts) == 2000 and {name: len(pairs) for name, pairs in planted.items()} == {"copy": 100, "near": 100, "reordered": 50, "reworded": 50}
    same = {name: [[" ".join(texts[i].casefold().split()) for i in pair] for pair in pairs] for name, pairs in planted.items()}
    assert all(a == b for a, b in same["copy"]) and all(texts[a] != texts[b] for name in ("near", "reworded") for a, b in planted[name])
    assert all(sorted(a.split()) == sorted(b.split()) for a, b in same["reordered"])
    dedup.main(["--questions", "2000", "--seed", "3", "--mesh"])
    said = json.loads(capsys.readouterr().out)
    assert said["recall"]["copy"] == 1.0 and said["recall"]["near"] >= 0.98 and said["precision"] >= 0.98 and said["recall"]["reordered"] >= 0.95
    assert said["by_reason"]["same meaning"]["out"] > 0 and said["mesh"]["missed_by_cells"] == 0
    assert sum(each["out"] for each in said["by_reason"].values()) == said["out"]


def test_figures_count_pairs_and_what_is_out() -> None:
    planted = {"copy": np.array([[0, 1], [2, 3]]), "near": np.array([[4, 5]])}
    assert dedup.figures([1, 6], planted, 8) == {"out": 2, "recall": {"copy": 0.5, "near": 0.0}, "precision": 0.5}
