"""A whole review over the clinic, where the truth is known: a writer with faults who learns from what he is shown, and physicians of known reliability.

The writer leaves out a criterion, or says what is no criterion, with a probability that falls with how near the nearest approved rubric is that the corpus
would show him. A physician finds and mends a fault with a probability, and else lets it pass; now and then he faults what is right.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from promedical_jax.clinic import make_cases
from promedical_jax.corpus.exemplars import examples
from promedical_jax.corpus.question import Question
from promedical_jax.likeness import NGRAMS
from promedical_jax.review.rounds import as_seen, compare, draw, enough
from promedical_jax.rubric import Case, Rubric

THRESHOLD, SIZE = 0.9, 200
FINDS, FAULTS = 0.95, 0.01  # of a physician: of what is wrong, and of what is right
CASES = make_cases(2000, seed=9, answers=0)


def card(case: Case) -> str:
    """The card of the drug stands before what the patient asks, and is what questions are told apart by here."""
    return "\n".join(message.content for message in case.instruction)


@pytest.fixture(scope="module")
def cosines() -> np.ndarray:
    """[n, n]: of all cases, 0 for those that ask the same."""
    vectors = NGRAMS.embed([card(case) for case in CASES])
    made = vectors @ vectors.T
    made[made > 0.9999] = 0
    return made


@dataclass(frozen=True)
class Writer:
    """Wrong with the probability `first` without examples, and else between `last` and that, the nearer the nearest example the less."""

    first: float
    last: float

    def wrong(self, nearest: np.ndarray) -> np.ndarray:
        return self.last + (self.first - self.last) * np.clip((0.78 - nearest) / 0.3, 0, 1)


def simulate(writer: Writer, cosines: np.ndarray, rng: np.random.Generator, rounds: int, misses: float = 1 - FINDS) -> list[tuple[float, float, bool]]:
    """Of each round the share that is right of what nobody has seen, the share that passes, and whether it is enough."""
    nearest, left, told = np.zeros(len(cosines)), np.arange(len(cosines)), []
    for number in range(1, rounds + 1):
        wrong = writer.wrong(nearest)
        seen = rng.choice(left, SIZE, replace=False)
        faulty = rng.random(SIZE) < wrong[seen]
        faulted = np.where(faulty, rng.random(SIZE) >= misses, rng.random(SIZE) < FAULTS)
        passed = int((~faulted).sum())
        told.append((float(1 - wrong[left].mean()), passed / SIZE, enough(passed, SIZE, number, as_seen(THRESHOLD, misses))))
        if told[-1][2]:
            break
        left, nearest = np.setdiff1d(left, seen), np.maximum(nearest, cosines[:, seen].max(1))
    return told


def test_over_200_reviews_of_a_writer_who_learns_the_rate_rises_and_the_rule_keeps_its_promise(cosines: np.ndarray) -> None:
    """5 % are promised; of 200, more than 18 would be a fault (p < 0.01)."""
    runs = [simulate(Writer(0.5, 0.005), cosines, np.random.default_rng(seed), 8) for seed in range(200)]
    seen = [[passed for _, passed, _ in run] for run in runs]
    assert all(max(run) > run[0] + 0.15 for run in seen) and np.mean([run[1] - run[0] for run in seen]) > 0.1
    assert np.mean([run[2] - run[1] for run in seen if len(run) > 2]) > 0
    stopped = [run[-1] for run in runs if run[-1][2]]
    assert len(stopped) >= 170 and sum(truth <= THRESHOLD for truth, _, _ in stopped) <= 18


def test_over_200_reviews_of_a_writer_who_stays_at_the_threshold_few_stop(cosines: np.ndarray) -> None:
    """The hardest case: he is exactly as good as is not enough. Without regard to what physicians miss, luck and their mercy would stop most of these."""
    never = Writer(1 - THRESHOLD, 1 - THRESHOLD)
    stops = [simulate(never, cosines, np.random.default_rng(1000 + seed), 8)[-1][2] for seed in range(200)]
    assert sum(stops) <= 18
    blind = [any(enough(int(rng.binomial(SIZE, as_seen(THRESHOLD, 0.4))), SIZE, number, THRESHOLD) for number in range(1, 9))
             for rng in map(np.random.default_rng, range(200))]  # fmt: skip
    assert sum(blind) > 18  # who lets pass four of ten faults, and is believed


def written(case: Case, near: list[Case], writer: Writer, rng: np.random.Generator) -> Rubric:
    """The clinic's rubric, or with a fault in it."""
    nearest = float((NGRAMS.embed([card(case)]) @ NGRAMS.embed([card(other) for other in near]).T).max()) if near else 0.0
    if rng.random() >= writer.wrong(np.array(nearest)):
        return case.rubric
    first, *others = case.rubric.criteria
    return Rubric(criteria=(first.model_copy(update={"text": "The answer is good."}), *others))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_review_of_real_rubrics_with_the_pool_that_the_corpus_keeps(seed: int) -> None:
    """Not drawn as numbers: rounds are drawn by the sieve's strata, faults are texts, passing is what `compare` says, and examples are the pool's nearest."""
    rng, writer = np.random.default_rng(seed), Writer(0.5, 0.005)
    as_user = lambda case: tuple(message.model_copy(update={"role": "user"}) for message in case.instruction)  # noqa: E731
    users = {case.id: case.model_copy(update={"instruction": as_user(case)}) for case in CASES}
    pool: dict[str, Case] = {}
    rates = []
    for number in range(1, 9):
        drawn = draw(list(users.values()), SIZE, seed=number, seen=pool)
        asked = [Question(id=case.id, instruction=case.instruction, source="clinic", licence="made") for case in drawn]
        shown = examples(asked, list(pool.values()), 3, NGRAMS)
        rubrics = [written(case, near, writer, rng) for case, near in zip(drawn, shown, strict=True)]
        finds = rng.random(SIZE) < FINDS
        corrected = [case.rubric if found else rubric for case, rubric, found in zip(drawn, rubrics, finds, strict=True)]
        passed = sum(compare(rubric, right).passed for rubric, right in zip(rubrics, corrected, strict=True))
        rates.append(passed / SIZE)
        if enough(passed, SIZE, number, as_seen(THRESHOLD, 1 - FINDS)):
            break
        pool |= {case.id: case.model_copy(update={"rubric": rubric}) for case, rubric in zip(drawn, corrected, strict=True)}
    assert rates[-1] > 0.93 > 0.7 > rates[0] and 2 <= len(rates) <= 8
