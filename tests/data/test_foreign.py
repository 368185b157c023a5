"""Criteria lent to other cases."""

import numpy as np

from promedical_jax.clinic import build_tokenizer, foreign, make_cases
from promedical_jax.clinic.variety import GROWN
from promedical_jax.data.encode import encode
from promedical_jax.data.foreign import with_foreign

CASES = make_cases(120, seed=2)
TOKENIZER = build_tokenizer()
ENCODED = [encode(case, TOKENIZER) for case in CASES]
LENT = with_foreign(ENCODED, 2, seed=0)


def text_of(tokens: list[int]) -> str:
    return TOKENIZER.decode(tokens).removeprefix("\n<|im_start|>user\n").removesuffix("<|im_end|>")


def test_each_case_gets_criteria_of_others_that_no_answer_meets() -> None:
    every = {criterion.text for case in CASES for criterion in case.rubric.criteria}
    for before, after in zip(ENCODED, LENT, strict=True):
        own, k = {criterion.text for criterion in before.case.rubric.criteria}, len(before.criteria)
        assert len(after.criteria) == len(after.heads) == after.labels.met.shape[1] == k + 2
        assert after.criteria[:k] == before.criteria and after.heads[:k] == before.heads
        lent = [text_of(tokens) for tokens in after.criteria[k:]]
        assert len(set(lent)) == 2 and set(lent) <= every - own
        assert not after.labels.met[:, k:].any() and after.labels.weight[:, k:].all() and not after.labels.wins[..., k:].any()
        assert (after.labels.ties[..., k:].sum((0, 1)) == 4 * 3).all()  # each is a tie with each other
        for x, y in zip(after.labels, before.labels, strict=True):
            np.testing.assert_array_equal(x[..., :k], y)


def test_what_many_cases_ask_for_is_not_lent() -> None:
    lent = {text_of(tokens) for before, after in zip(ENCODED, LENT, strict=True) for tokens in after.criteria[len(before.criteria) :]}
    assert not {"Shows empathy.", "Gives numbered steps.", "Claims a medical credential."} & lent and len(lent) > 80


def test_the_label_is_true_nearly_always() -> None:
    """By the clinic's checker, of a donor that has this text."""
    wrong = count = 0
    donors = {criterion.text: (criterion, case) for case in CASES for criterion in case.rubric.criteria}
    for before, after in zip(ENCODED, LENT, strict=True):
        for tokens in after.criteria[len(before.criteria) :]:
            criterion, donor = donors[text_of(tokens)]
            count += 1
            wrong += not foreign(before.case, criterion, donor)
    assert count == 240 and wrong / count < 0.2


def test_what_is_about_answers_in_general_is_not_lent_however_rarely_it_is_said() -> None:
    cases = make_cases(80, seed=2, variety=GROWN)
    kinds = {criterion.text: criterion.dimension for case in cases for criterion in case.rubric.criteria}
    encoded = [encode(case, TOKENIZER) for case in cases]
    lent = [text_of(tokens) for before, after in zip(encoded, with_foreign(encoded, 2, 0), strict=True) for tokens in after.criteria[len(before.criteria) :]]
    assert len(lent) == 160 and {kinds[text] for text in lent} == {None}
    assert "general" in kinds.values() and kinds["Gives a drug or a dose."] == "general"  # few cases have it, and most answers to others would meet it


def test_which_ones_is_a_function_of_the_seed() -> None:
    again, other = with_foreign(ENCODED, 2, seed=0), with_foreign(ENCODED, 2, seed=1)
    assert [one.criteria for one in again] == [one.criteria for one in LENT] != [one.criteria for one in other]


def test_a_lonely_case_gets_none() -> None:
    [alone] = with_foreign(ENCODED[:1], 2, seed=0)
    assert alone.criteria == ENCODED[0].criteria
