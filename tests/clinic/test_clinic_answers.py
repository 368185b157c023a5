"""The checker against the truth known from each generated answer's plan, and what must not change a verdict."""

import re
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from promedical_jax.clinic.answers import GOOD, HELD_OUT, TRAIN, Plan, draw_plan, truth, write
from promedical_jax.clinic.cases import CRITERIA
from promedical_jax.clinic.checker import judge
from promedical_jax.clinic.tokenizer import corpus_text
from promedical_jax.clinic.world import Facts, draw_facts
from promedical_jax.rubric.case import Criterion, Tier, Verdict

KINDS = tuple(CRITERIA)
ALL = [Criterion(id=kind, text=kind, tier=Tier.EXCELLENCE) for kind in KINDS]
WORDS = sorted({word for text in corpus_text() for word in text.split()})

seeds = st.integers(0, 2**32)


def met(facts: Facts, text: str) -> set[str]:
    verdicts = judge(ALL, facts, text)
    assert Verdict.ABSTAIN not in verdicts
    return {kind for kind, verdict in zip(KINDS, verdicts, strict=True) if verdict is Verdict.MET}


def draw(seed: int, held_out: bool) -> tuple[Facts, Plan, str]:
    rng = Random(seed)
    facts = draw_facts(rng, held_out)
    plan = draw_plan(facts, rng)
    return facts, plan, write(plan, rng, held_out)


def true_kinds(plan: Plan, facts: Facts) -> set[str]:
    return {kind for kind, holds in truth(plan, facts).items() if holds}


def test_the_checker_agrees_with_the_plan_of_every_generated_answer() -> None:
    seen = set()
    for seed in range(2000):
        for held_out in (False, True):
            facts, plan, text = draw(seed, held_out)
            assert met(facts, text) == true_kinds(plan, facts), text
            seen |= {(kind, holds) for kind, holds in truth(plan, facts).items()}
    assert seen == {(kind, holds) for kind in KINDS for holds in (True, False)}


@given(seeds, st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_the_order_of_the_sentences_does_not_matter(seed: int, held_out: bool, shuffler: Random) -> None:
    facts, plan, text = draw(seed, held_out)
    sentences = re.split(r"(?<=[a-z]\.) ", text)  # a step keeps its number
    shuffler.shuffle(sentences)
    assert met(facts, " ".join(sentences)) == true_kinds(plan, facts)


@given(seeds, st.booleans(), st.sampled_from(["upper", "spaces", "lines", "no_stops", "markdown"]))
@settings(max_examples=200, deadline=None)
def test_case_spacing_and_markup_do_not_matter(seed: int, held_out: bool, how: str) -> None:
    facts, plan, text = draw(seed, held_out)
    changed = {
        "upper": text.upper(),
        "spaces": f"  {text.replace(' ', '   ')}\t",
        "lines": re.sub(r"(?<=[a-z]\.) ", "\n", text),
        "no_stops": re.sub(r"(?<=[a-z])\. ", "! ", text),
        "markdown": f"**{text}**",
    }[how]
    assert met(facts, changed) == true_kinds(plan, facts)


@given(seeds, st.booleans(), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_what_a_cut_off_answer_has_not_said_is_not_met(seed: int, held_out: bool, share: float) -> None:
    facts, plan, text = draw(seed, held_out)
    assert met(facts, text[: int(share * len(text))]) <= true_kinds(plan, facts)


@given(seeds, st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_good_answer_is_complete_and_safe(seed: int, held_out: bool) -> None:
    rng = Random(seed)
    facts = draw_facts(rng, held_out)
    text = write(draw_plan(facts, rng, GOOD), rng, held_out)
    assert met(facts, text) - {"empathy", "steps"} == {"right_drug", "right_dose", "red_flag", "follow_up"}


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_the_prompt_itself_meets_nothing(seed: int) -> None:
    facts = draw_facts(Random(seed), held_out=False)
    assert met(facts, facts.condition.card()) == set()


@given(st.text(max_size=300), seeds)
@settings(max_examples=200, deadline=None)
def test_any_text_is_judged(text: str, seed: int) -> None:
    met(draw_facts(Random(seed), held_out=False), text)


@given(st.lists(st.sampled_from([*WORDS, "mg", "not", "if", "?", '"', "1.", "፩ mg", "9" * 5000]), max_size=60), seeds)
@settings(max_examples=200, deadline=None)
def test_any_words_in_any_order_are_judged(words: list[str], seed: int) -> None:
    met(draw_facts(Random(seed), held_out=False), " ".join(words))


def test_few_phrasings_and_each_is_said() -> None:
    for table, held_out in ((TRAIN, False), (HELD_OUT, True)):
        said = " ".join(draw(seed, held_out)[2] for seed in range(300))
        for kind, phrasings in table.items():
            assert 1 <= len(phrasings) <= 4, kind
            for phrasing in phrasings:
                assert re.search(re.sub(r"\\{.*?\\}", ".+?", re.escape(phrasing)), said), phrasing
