"""Who sits where: every running answer keeps its place in the world, and only places disappear."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from promedical_jax.rollout.seats import EMPTY, first_seats, leave_at, move, shapes, sources


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2, 4]), st.floats(0.02, 1))
def test_each_running_answer_has_one_place_in_a_slot_of_its_case(seed: int, cases: int, answers: int, parts: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    running, seats = np.ones((parts * cases, answers), bool), first_seats(cases, answers, parts)
    for _ in range(3):  # answers finish, and those left move, several times
        running &= rng.random(running.shape) < share
        moved = move(running, seats, parts)
        if moved is seats:
            continue
        slots, rows = sources(seats, moved, parts)
        case, sample = (x.reshape(parts, -1, *x.shape[1:]) for x in moved)
        before = [x.reshape(parts, -1, *x.shape[1:]) for x in seats]
        assert case.shape[1] <= before[0].shape[1] and sample[0].size < before[1][0].size  # instructions' memory and rows only shrink
        assert (case.shape[1], sample.shape[2]) in shapes(cases, answers)
        for part in range(parts):
            seated = [(int(case[part, i]), int(number)) for (i, _), number in np.ndenumerate(sample[part]) if number != EMPTY]
            left = running[part * cases : (part + 1) * cases]
            assert sorted(seated) == sorted(zip(*map(list, np.nonzero(left)), strict=True))
            old_slots, old_rows = slots.reshape(parts, -1)[part], rows.reshape(parts, *sample.shape[1:])[part]
            for (i, j), number in np.ndenumerate(sample[part]):
                if number != EMPTY:
                    slot, place = divmod(int(old_rows[i, j]), before[1].shape[2])
                    assert before[0][part, old_slots[i]] == before[0][part, slot] == case[part, i] and before[1][part, slot, place] == number
        seats = moved


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(2, 9))
def test_the_decoder_returns_before_it_could_run_for_ever(seed: int, cases: int, answers: int) -> None:
    running = np.random.default_rng(seed).random((cases, answers)) < 0.6
    running[0, 0] = True
    assert leave_at(running, first_seats(cases, answers, 1), 1) < running.sum()  # an answer must finish first


def test_few_shapes_are_compiled() -> None:
    assert shapes(16, 8) == [(16, 8), (16, 4), (16, 2), (16, 1), (8, 1), (4, 1), (2, 1)]
    assert all(slots * places >= 2 for cases in range(1, 20) for answers in range(1, 20) for slots, places in shapes(cases, answers))
