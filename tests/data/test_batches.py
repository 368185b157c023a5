import json
from functools import cache

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promedical_jax.clinic import build_tokenizer, make_cases
from promedical_jax.config import Shapes
from promedical_jax.data.batches import evaluation_batches, to_devices, to_host, training_batches
from promedical_jax.data.encode import encode, measure, to_arrays
from promedical_jax.errors import InputError
from promedical_jax.model.sharding import make_mesh


@cache
def cases():
    tokenizer = build_tokenizer()
    return [encode(case, tokenizer) for case in make_cases(10, seed=0)]


@cache
def sizes():
    return measure(cases(), Shapes(), "cases.jsonl")


def stream(count: int, batch: int = 4, seed: int = 0):
    batches = training_batches(cases(), sizes(), batch, seed, "cases.jsonl")
    return [next(batches) for _ in range(count)]


def indices(batches) -> list[int]:
    return [int(i) for batch in batches for i in batch["index"]]


def test_a_stream_is_a_function_of_the_seed() -> None:
    first, again, other = stream(8), stream(8), stream(8, seed=1)
    for one, same in zip(first, again, strict=True):
        assert one.keys() == same.keys()
        assert all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(same), strict=True))
    assert indices(first) != indices(other)


def test_each_epoch_visits_each_case_once_in_another_order() -> None:
    seen = indices(stream(10))  # batches of 4 in epochs of 10 cases: some hold the end of one and the start of the next
    epochs = [seen[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_rows_are_the_arrays_of_their_cases() -> None:
    for batch in stream(3):
        for row, i in enumerate(batch["index"]):
            own = to_arrays(cases()[i], sizes())
            for whole, part in zip(jax.tree.leaves({name: batch[name] for name in own}), jax.tree.leaves(own), strict=True):
                np.testing.assert_array_equal(whole[row], part)


def test_a_stream_goes_on_from_its_state() -> None:
    batches = training_batches(cases(), sizes(), 4, 0, "cases.jsonl")
    for _ in range(3):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))  # a checkpoint is a file
    rest = [next(batches) for _ in range(5)]
    resumed = training_batches(cases(), sizes(), 4, 0, "cases.jsonl")
    resumed.set_state(state)
    assert indices([next(resumed) for _ in range(5)]) == indices(rest) == indices(stream(8)[3:])


@settings(max_examples=20)
@given(st.integers(0, 12), st.integers(1, 10), st.integers(0, 3))
def test_a_state_is_a_number_of_cases_and_nothing_else(taken: int, batch: int, seed: int) -> None:
    walked, jumped = (training_batches(cases(), sizes(), batch, seed, "cases.jsonl") for _ in range(2))
    for _ in range(taken):
        next(walked)
    assert walked.get_state() == {"cases": batch * taken}
    jumped.set_state({"cases": batch * taken})
    assert indices([next(jumped), next(jumped)]) == indices([next(walked), next(walked)])
    assert jumped.get_state() == {"cases": batch * (taken + 2)}


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 3)])
def test_a_run_goes_on_with_another_number_of_processes(before: int, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process makes the same batches, however many there are; `to_devices` takes from them what its devices hold."""
    whole = [batch["index"].tolist() for batch in stream(5)]
    states = []
    monkeypatch.setattr(jax, "process_count", lambda: before)
    for process in range(before):
        monkeypatch.setattr(jax, "process_index", lambda: process)  # noqa: B023
        batches = training_batches(cases(), sizes(), 4, 0, "cases.jsonl")
        assert [next(batches)["index"].tolist() for _ in range(3)] == whole[:3]
        states.append(batches.get_state())
    assert states == states[:1] * before
    monkeypatch.setattr(jax, "process_count", lambda: after)
    for process in range(after):
        monkeypatch.setattr(jax, "process_index", lambda: process)  # noqa: B023
        resumed = training_batches(cases(), sizes(), 4, 0, "cases.jsonl")
        resumed.set_state(states[0])
        assert [next(resumed)["index"].tolist() for _ in range(2)] == whole[3:]


def test_a_run_goes_on_with_another_batch_where_it_was_in_the_data() -> None:
    batches, other = training_batches(cases(), sizes(), 4, 0, "cases.jsonl"), training_batches(cases(), sizes(), 2, 0, "cases.jsonl")
    for _ in range(3):
        next(batches)
    other.set_state(batches.get_state())
    assert indices([next(other) for _ in range(4)]) == indices(stream(5))[12:]


def test_too_few_cases_are_refused() -> None:
    with pytest.raises(InputError, match=r"cases\.jsonl: 10 cases are fewer than a batch of 11; lower batch or add cases"):
        stream(1, batch=11)


def test_evaluation_sees_every_case_once_and_in_order() -> None:
    batches = list(evaluation_batches(cases(), sizes(), 4))
    assert [i for indices, _ in batches for i in indices] == list(range(10))
    for indices, arrays in batches:
        assert all(len(x) == 4 for x in arrays.values())
        for row, i in enumerate([*indices, *[indices[-1]] * (4 - len(indices))]):
            np.testing.assert_array_equal(arrays["answers"][row], to_arrays(cases()[i], sizes())["answers"])
    assert [len(indices) for indices, _ in batches] == [4, 4, 2]


def test_arrays_survive_the_way_to_the_devices_and_back() -> None:
    arrays = {"x": np.arange(48, dtype=np.float32).reshape(8, 6), "i": np.arange(8, dtype=np.int32)}
    with jax.set_mesh(make_mesh(4, 2)):
        placed = to_devices(arrays)
        assert all(len({str(shard.index) for shard in x.addressable_shards}) == 4 for x in placed.values())  # split along fsdp only
        for name, x in arrays.items():
            np.testing.assert_array_equal(to_host(placed[name]), x)
