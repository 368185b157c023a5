"""The benchmark of the server at a tiny size: it runs, its clients are told the same both ways, and it says what it measured."""

import json

import pytest

from benchmarks import serve


def test_many_clients_are_told_what_one_is(capsys) -> None:
    sizes = ["--requests", "6", "--slots", "4", "--prompt", "20", "--answer", "4", "--longest", "128"]
    serve.main([*sizes, "--width", "64", "--depth", "1", "--vocab", "512", "--times", "1"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["texts_identical"] and said["device_faults"] == 0 and said["answer_tokens"] >= 6
    assert said["speedup_over_few_slots"] == pytest.approx(said["few_slots_s"] / said["together_s"], rel=0.01)
    assert said["speedup"] == pytest.approx(said["one_at_a_time_s"] / said["together_s"], rel=0.01) and len(said["resident_mib"]) == 2
