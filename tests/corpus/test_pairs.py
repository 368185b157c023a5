"""Pairs and parts: counts that add up, forbidden criteria turned round, TRL's rows, and no question in two parts."""

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import questions

from promedical_jax.clinic import make_cases
from promedical_jax.corpus.pairs import criterion_pairs, missing_mistake, preferences, split
from promedical_jax.errors import InputError
from promedical_jax.rubric import Answer, Case, Criterion, Judgement, Message, Polarity, Rubric, Tier, Verdict
from promedical_jax.rubric.labels import labels_of

CRITERIA = (
    Criterion(id="dose", text="Names the dose.", tier=Tier.PROFICIENCY, weight=1.0),
    Criterion(id="kind", text="Is kind.", tier=Tier.EXCELLENCE),
    Criterion(id="veto", text="Advises aspirin.", tier=Tier.SAFETY, polarity=Polarity.FORBIDDEN),
)
LETTERS = {"+": Verdict.MET, "-": Verdict.UNMET, "?": Verdict.ABSTAIN}


def case(*answers: str, number: int = 0, text: str = "Gout?", raters: int = 1) -> Case:
    """Each answer by what the raters say of the three criteria, rater by rater, such as "+-+"."""
    verdicts = tuple(
        Judgement(answer=f"a{a}", criterion=CRITERIA[n % 3].id, verdict=LETTERS[letter], rater=f"r{n // 3}")
        for a, letters in enumerate(answers)
        for n, letter in enumerate(letters)
    )
    assert all(len(letters) == 3 * raters for letters in answers)
    rows = tuple(Answer(id=f"a{a}", text=f"Answer {a}.") for a in range(len(answers)))
    return Case(id=f"c{number}", instruction=(Message(role="user", content=text),), answers=rows, rubric=Rubric(criteria=CRITERIA), verdicts=verdicts)


def test_pairs_ties_and_abstentions_by_tier() -> None:
    pairs, counted = criterion_pairs(case("+--", "+-+", "?+-"))
    assert [(p.criterion, p.better, p.worse, p.margin) for p in pairs] == [
        ("kind", "a2", "a0", 1.0), ("kind", "a2", "a1", 1.0), ("veto", "a0", "a1", 1.0), ("veto", "a2", "a1", 1.0),  # who advises aspirin is worse
    ]  # fmt: skip
    assert counted == {
        (Tier.PROFICIENCY, "tie"): 1, (Tier.PROFICIENCY, "abstained"): 2, (Tier.EXCELLENCE, "pair"): 2, (Tier.EXCELLENCE, "tie"): 1,
        (Tier.SAFETY, "pair"): 2, (Tier.SAFETY, "tie"): 1,
    }  # fmt: skip


def test_a_mistake_is_missing_where_safety_tells_no_answer_from_another_and_some_are_safe() -> None:
    assert missing_mistake(case("+--", "+--")) == "Advises aspirin." == missing_mistake(case("+-?", "+--"))
    assert missing_mistake(case("+--", "+-+")) is None  # there is a pair
    assert missing_mistake(case("+-+", "+-+")) is None is missing_mistake(case("+-?", "+-?"))  # all make it, or nobody knows
    required = case("+-+", "+-+")
    turned = CRITERIA[2].model_copy(update={"polarity": Polarity.REQUIRED, "text": "Warns of aspirin."})
    required = required.model_copy(update={"rubric": Rubric(criteria=(*CRITERIA[:2], turned))})
    assert missing_mistake(required) == "The answer fails in this: Warns of aspirin."
    other = CRITERIA[2].model_copy(update={"id": "v2", "text": "Advises wine."})
    both = case("+--", "+--").model_copy(update={"rubric": Rubric(criteria=(*CRITERIA, other))})
    both = both.model_copy(update={"verdicts": (*both.verdicts, Judgement(answer="a0", criterion="v2", verdict=Verdict.UNMET, rater="r0"))})
    assert {missing_mistake(both, seed) for seed in range(20)} == {"Advises aspirin.", "Advises wine."}


def test_raters_who_disagree_make_a_smaller_margin() -> None:
    ((pair,), _) = criterion_pairs(case("+--+--", "+-----", raters=2))
    assert (pair.criterion, pair.better, pair.margin) == ("dose", "a0", 0.5)


ROWS = st.lists(st.text(alphabet="+-?", min_size=3, max_size=3), min_size=2, max_size=4)


@given(ROWS)
def test_the_pairs_are_those_that_the_reward_model_learns_from(rows: list[str]) -> None:
    one = case(*rows)
    pairs, counted = criterion_pairs(one)
    wins, names = labels_of(one).wins, [answer.id for answer in one.answers]
    for k, criterion in enumerate(CRITERIA):
        learned = {(names[i], names[j]) for i in range(len(rows)) for j in range(len(rows)) if wins[i, j, k] > 0}
        holds = {(p.better, p.worse) if criterion.polarity is Polarity.REQUIRED else (p.worse, p.better) for p in pairs if p.criterion == criterion.id}
        assert holds == learned
    assert sum(counted.values()) == 3 * len(list(combinations(rows, 2))) and sum(n for (_, kind), n in counted.items() if kind == "pair") == len(pairs)


def test_rows_of_preferences_follow_the_veto() -> None:
    rows = preferences(case("+++", "---", "-+-", "?--"))
    assert [(row["chosen_id"], row["rejected_id"], row["decided_by"]) for row in rows] == [
        ("a1", "a0", "safety"), ("a2", "a0", "safety"), ("a2", "a1", "excellence"),  # no skill buys a violation back; a3 cannot be ranked
    ]  # fmt: skip
    assert rows[0]["prompt"] == [{"role": "user", "content": "Gout?"}] and rows[0]["chosen"] == [{"role": "assistant", "content": "Answer 1."}]


def test_the_clinics_pairs_reconcile() -> None:
    cases = make_cases(20, seed=3, answers=3)
    counted = sum((criterion_pairs(one)[1] for one in cases), Counter())
    assert sum(counted.values()) == sum(3 * len(one.rubric.criteria) for one in cases) and not any(kind == "abstained" for _, kind in counted)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_question_is_in_two_parts_nor_is_its_near_duplicate(seed: int) -> None:
    texts = questions(600, seed)
    cases = [case("+--", number=n, text=text) for n, text in enumerate([*texts, *(text.upper() + "?" for text in texts[:200])])]
    parts = split(cases, {"train": 0.8, "validation": 0.1, "bench": 0.1}, seed)
    where = {one.id: name for name, each in parts.items() for one in each}
    assert len(where) == 800 and all(where[f"c{n}"] == where[f"c{600 + n}"] for n in range(200))
    assert 0.7 * 800 < len(parts["train"]) < 0.9 * 800 and min(map(len, parts.values())) > 30
    fewer = split(cases[:500], {"train": 0.8, "validation": 0.1, "bench": 0.1}, seed)
    assert all(where[one.id] == name for name, each in fewer.items() for one in each)  # more cases move none of these
    assert split(cases, {"train": 0.8, "validation": 0.1, "bench": 0.1}, seed + 1) != parts


@pytest.mark.parametrize("shares", [{}, {"train": 0.5}, {"train": 1.5, "bench": -0.5}])
def test_shares_that_are_none_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must be above 0 and sum to 1"):
        split([case("+--")], shares)
