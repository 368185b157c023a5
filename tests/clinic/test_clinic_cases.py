"""What make_cases promises: determinism, held-out words and conditions, rubrics in three tiers, the mixture of the answers, short texts."""

import math

import pytest

from promedical_jax.clinic import build_tokenizer, make_cases, verdicts
from promedical_jax.clinic.answers import HELD_OUT, TRAIN
from promedical_jax.clinic.cases import CRITERIA, CRITERIA_HELD_OUT, PATIENT, PATIENT_HELD_OUT
from promedical_jax.clinic.world import CARD_DOSES, CONTEXTS, DAYS, DOSES, DRUGS, PREFIXES, RED_FLAGS, SUFFIXES, Facts, condition_names
from promedical_jax.errors import InputError
from promedical_jax.rubric.case import Case, Polarity, Tier, Verdict


@pytest.fixture(scope="module")
def train() -> list[Case]:
    return make_cases(400, seed=0)


@pytest.fixture(scope="module")
def held_out() -> list[Case]:
    return make_cases(200, seed=0, held_out=True)


def scores(case: Case) -> list[tuple[float, float, float]]:
    """(S1, S2, S3) of each answer, spelled out here so that the clinic's tests stand alone."""
    said = {(j.answer, j.criterion): j.verdict for j in case.verdicts}
    rows = []
    for answer in case.answers:
        good = {c: c.satisfied(said[answer.id, c.id]) for c in case.rubric.criteria}
        rows.append(
            (
                sum((c.weight or 0) * v for c, v in good.items() if c.tier is Tier.PROFICIENCY),
                sum(v for c, v in good.items() if c.tier is Tier.EXCELLENCE),
                sum(1 - v for c, v in good.items() if c.tier is Tier.SAFETY),
            )
        )
    return rows


def texts(case: Case) -> list[str]:
    return [m.content for m in case.instruction] + [a.text for a in case.answers] + [c.text for c in case.rubric.criteria]


def test_the_same_seed_gives_the_same_cases_and_a_longer_run_begins_alike() -> None:
    assert make_cases(5, seed=3) == make_cases(8, seed=3)[:5]
    assert make_cases(5, seed=3) != make_cases(5, seed=4)
    assert [m for c in make_cases(5, seed=3, answers=0) for m in c.instruction] == [m for c in make_cases(5, seed=3) for m in c.instruction]


def test_ids_tell_prefix_split_and_seed_and_are_unique(train: list[Case], held_out: list[Case]) -> None:
    assert len({c.id for c in train + held_out + make_cases(50, seed=1)}) == len(train) + len(held_out) + 50
    assert make_cases(1, seed=9, prefix="demo", answers=2)[0].id == "demo-train-9-00000"


def test_a_case_survives_json(train: list[Case]) -> None:
    case = train[0]
    assert Case.model_validate_json(case.model_dump_json()) == case


def test_held_out_conditions_are_new_combinations_of_known_words() -> None:
    seen, unseen = set(condition_names(False)), set(condition_names(True))
    assert not seen & unseen
    assert len(seen | unseen) == len(PREFIXES) * len(SUFFIXES)
    assert 0.2 < len(unseen) / len(seen | unseen) < 0.3
    assert {word for name in unseen for word in name.split()} <= {word for name in seen for word in name.split()}


@pytest.mark.parametrize(("seen", "unseen"), [(TRAIN, HELD_OUT), (CRITERIA, CRITERIA_HELD_OUT), (PATIENT, PATIENT_HELD_OUT)])
def test_held_out_phrasings_are_new(seen: dict[str, tuple[str, ...]], unseen: dict[str, tuple[str, ...]]) -> None:
    assert seen.keys() == unseen.keys()
    for kind in seen:
        assert not set(seen[kind]) & set(unseen[kind])


def test_every_held_out_token_occurs_in_training(train: list[Case], held_out: list[Case]) -> None:
    tokenizer = build_tokenizer()

    def tokens(cases: list[Case]) -> set[int]:
        return {token for case in cases for text in texts(case) for token in tokenizer.encode(text)}

    assert tokens(held_out) <= tokens(train)


def test_pools_are_apart() -> None:
    assert not set(DAYS) & set(DOSES)
    assert set(CARD_DOSES) < set(DOSES) and min(DOSES) < min(CARD_DOSES) and max(CARD_DOSES) < max(DOSES)
    flag_words = [word for flag in RED_FLAGS for word in flag.split()]
    assert len(flag_words) == len(set(flag_words)) == 2 * len(RED_FLAGS)
    assert not set(flag_words) & set(SUFFIXES)
    assert all(len(set(pool)) == len(pool) for pool in (DRUGS, CONTEXTS, PREFIXES, SUFFIXES))


def test_the_prompt_holds_every_fact_and_half_of_the_patients_have_the_contraindication(train: list[Case]) -> None:
    matches = 0
    for case in train:
        facts = Facts.from_json(case.provenance["clinic"], case.id)
        card, patient = (message.content for message in case.instruction)
        for fact in (facts.drug, f"{facts.dose} mg", facts.condition.red_flag, f"{facts.condition.follow_up_days} days", facts.condition.contraindication):
            assert fact in card
        assert facts.condition.name in patient
        assert [c for c in CONTEXTS if c in patient] == ([facts.context] if facts.context else [])
        matches += facts.matches
    assert 0.4 < matches / len(train) < 0.6


def test_rubrics(train: list[Case], held_out: list[Case]) -> None:
    sets_of_ids = set()
    for case in train + held_out:
        facts = Facts.from_json(case.provenance["clinic"], case.id)
        ids = [c.id for c in case.rubric.criteria]
        sets_of_ids.add(tuple(ids))
        assert len(ids) <= 10 and "right_drug" in ids and ("contraindicated" in ids) == facts.matches
        assert math.isclose(sum(c.weight or 0 for c in case.rubric.criteria), 1, abs_tol=1e-9)
        for criterion in case.rubric.criteria:
            assert (criterion.polarity is Polarity.FORBIDDEN) == (criterion.tier is Tier.SAFETY)
    assert len(sets_of_ids) > 20
    assert {c.tier for case in train for c in case.rubric.criteria} == set(Tier)
    assert len({tuple(c.weight for c in case.rubric.criteria if c.weight) for case in train}) > 20


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_the_mixture_leaves_something_to_learn(split: str, request: pytest.FixtureRequest) -> None:
    rows = [row for case in request.getfixturevalue(split) for row in scores(case)]
    n = len(rows)
    assert 0.50 < sum(s1 for s1, _, _ in rows) / n < 0.65
    assert 0.45 < sum(s2 for _, s2, _ in rows) / n < 0.75
    assert 0.38 < sum(s3 == 0 for _, _, s3 in rows) / n < 0.52
    assert 0.10 < sum(s1 > 0.999 and s3 == 0 for s1, _, s3 in rows) / n < 0.30


def test_each_criterion_is_met_by_some_answers_and_not_by_others(train: list[Case]) -> None:
    for kind in CRITERIA:
        said = [j.verdict is Verdict.MET for case in train for j in case.verdicts if j.criterion == kind]
        assert 0.08 < sum(said) / len(said) < 0.75, kind


def test_verdicts_are_complete_in_rubric_order_and_by_the_checker(train: list[Case]) -> None:
    for case in train[:50]:
        expected = [(a.id, c.id, v) for a in case.answers for c, v in zip(case.rubric.criteria, verdicts(case, a.text), strict=True)]
        assert [(j.answer, j.criterion, j.verdict) for j in case.verdicts] == expected
        assert all(j.rater == "clinic-checker" and not j.human for j in case.verdicts)


def test_texts_are_short(train: list[Case], held_out: list[Case]) -> None:
    tokenizer = build_tokenizer()
    answers = []
    for case in train + held_out:
        messages = [m.model_dump() for m in case.instruction]
        assert len(tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))) <= 60
        answers += [len(tokenizer.encode(answer.text)) for answer in case.answers]
        assert all(len(tokenizer.encode(criterion.text)) <= 12 for criterion in case.rubric.criteria)
    assert max(answers) <= 60 and sum(answers) / len(answers) < 30 and sorted(answers)[int(0.95 * len(answers))] <= 44


def test_a_case_from_elsewhere_is_refused(train: list[Case]) -> None:
    foreign = train[0].model_copy(update={"provenance": {}})
    with pytest.raises(InputError, match=r"clinic-train-0-00000.*provenance\.clinic.*make_cases"):
        verdicts(foreign, "Take rest.")
    broken = train[0].model_copy(update={"provenance": {"clinic": '{"condition": 3}'}})
    with pytest.raises(InputError, match=r"provenance\.clinic"):
        verdicts(broken, "Take rest.")


def test_an_unknown_criterion_is_refused(train: list[Case]) -> None:
    criterion = train[0].rubric.criteria[0].model_copy(update={"id": "bedside_manner"})
    rubric = train[0].rubric.model_copy(update={"criteria": (criterion,)})
    with pytest.raises(InputError, match="bedside_manner"):
        verdicts(train[0].model_copy(update={"rubric": rubric}), "Take rest.")
