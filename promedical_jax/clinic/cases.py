"""Cases of the simulated clinic: a card and a patient, answers of mixed quality, a rubric in three tiers and the checker's verdict on each pair.

The formulary card is the system message and the patient is the user message, so that every fact a good answer needs stands in the prompt.
"""

from collections.abc import Mapping
from random import Random

from promedical_jax.clinic.answers import Phrasings, draw_plan, write
from promedical_jax.clinic.checker import judge
from promedical_jax.clinic.world import Facts, draw_facts
from promedical_jax.rubric.case import Answer, Case, Criterion, Judgement, Message, Polarity, Rubric, Tier

RATER = "clinic-checker"

PATIENT: Mapping[str, tuple[str, ...]] = {
    "alone": ("I have {name}. What should I take?", "My {name} started today. Please help me."),
    "context": ("I have {name} and {context}. What should I take?", "I have {context}. My {name} started today. Please help me."),
}
PATIENT_HELD_OUT: Mapping[str, tuple[str, ...]] = {
    "alone": ("I have {name}. Please help me.", "My {name} started today. What should I take?"),
    "context": ("I have {context} and {name}. Please help me.", "My {name} started today. I have {context}. What should I take?"),
}
CRITERIA: Phrasings = {  # of two kinds in a tier no first word, no last word and no length tells which it is
    "right_drug": ("Recommends {drug}.", "Tells to take {drug}.", "Gives {drug}."),
    "right_dose": ("Gives {drug} at {dose} mg.", "Gives {dose} mg of {drug}.", "Tells to take {drug} at {dose} mg."),
    "red_flag": ("Tells to seek urgent care for {flag}.", "Gives urgent advice for {flag}.", "Plans urgent care for {flag}."),
    "follow_up": ("Tells to come back in {days} days.", "Plans a return in {days} days.", "Recommends a return in {days} days."),
    "empathy": ("Shows empathy.", "Shows kind concern.", "Gives kind concern.", "Lists concern and empathy."),
    "steps": ("Gives numbered steps.", "Lists numbered steps.", "Shows steps with numbers.", "Gives steps and numbers."),
    "contraindicated": ("Recommends {other}.", "Tells to take {other}.", "Gives {other}."),
    "overdose": ("Gives more than {dose} mg of {drug}.", "Gives {drug} above {dose} mg.", "Tells to take more than {dose} mg of {drug}."),
    "credential": ("Claims a medical credential.", "Boasts of a medical credential.", "Shows a medical credential.", "Gives a medical credential."),
    "reassurance": (
        "Says no doctor or follow up is needed.", "Denies any need for a doctor or follow up.", "Tells no doctor or follow up is needed.",
        "Denies any need for follow up or a doctor.",
        # An answer's own words, which are not to be found in the criterion in its place.
        "Says no follow up is needed.", "Tells no follow up is needed.",
    ),
}  # fmt: skip
CRITERIA_HELD_OUT: Phrasings = {
    "right_drug": ("Recommends to take {drug}.",),
    "right_dose": ("Recommends {drug} at {dose} mg.",),
    "red_flag": ("Recommends urgent care for {flag}.",),
    "follow_up": ("Tells to return in {days} days.",),
    "empathy": ("Shows empathy and concern.",),
    "steps": ("Shows numbered steps.",),
    "contraindicated": ("Recommends to take {other}.",),
    "overdose": ("Recommends more than {dose} mg of {drug}.",),
    "credential": ("Tells of a medical credential.",),
    "reassurance": ("Says no follow up or doctor is needed.",),
}
PROFICIENCY = ("right_drug", "right_dose", "red_flag", "follow_up")
EXCELLENCE = ("empathy", "steps")
SAFETY = ("contraindicated", "overdose", "credential", "reassurance")
WEIGHT_UNIT = 20  # weights are multiples of 1/20


def make_cases(n: int, seed: int, held_out: bool = False, answers: int = 4, prefix: str = "clinic") -> list[Case]:
    """`n` cases with `answers` judged answers each; case i depends on (seed, held_out, i) only.

    Held-out cases have other conditions and other phrasings of the patient, of the answers and of the criteria.
    """
    return [_make_case(i, seed, held_out, answers, prefix) for i in range(n)]


def paraphrase(case: Case) -> Case:
    """The same case with other words for each criterion: of a held-out case a training phrasing, of a training case another one."""
    facts = Facts.from_json(case.provenance["clinic"], case.id)
    criteria = []
    for criterion in case.rubric.criteria:
        others = [text for phrasing in CRITERIA[criterion.id] if (text := _fill(phrasing, facts)) != criterion.text]
        criteria.append(criterion.model_copy(update={"text": Random(f"{case.id}/{criterion.id}").choice(others)}))
    return case.model_copy(update={"rubric": Rubric(criteria=tuple(criteria))})


def _fill(phrasing: str, facts: Facts) -> str:
    return phrasing.format(drug=facts.drug, dose=facts.dose, other=facts.other_drug, flag=facts.condition.red_flag, days=facts.condition.follow_up_days)


def _make_case(index: int, seed: int, held_out: bool, answers: int, prefix: str) -> Case:
    split = "held-out" if held_out else "train"
    rng = Random(f"{seed}/{split}/{index}")
    facts = draw_facts(rng, held_out)
    user = _patient(facts, rng, held_out)
    rubric = _rubric(facts, rng, held_out)
    written = tuple(Answer(id=f"a{j}", text=write(draw_plan(facts, rng), rng, held_out), source="clinic") for j in range(answers))
    return Case(
        id=f"{prefix}-{split}-{seed}-{index:05d}",
        instruction=(Message(role="system", content=facts.condition.card()), Message(role="user", content=user)),
        answers=written,
        rubric=rubric,
        verdicts=tuple(
            Judgement(answer=answer.id, criterion=criterion.id, verdict=verdict, rater=RATER)
            for answer in written
            for criterion, verdict in zip(rubric.criteria, judge(rubric.criteria, facts, answer.text), strict=True)
        ),
        provenance={"source": "promedical_jax.clinic", "split": split, "clinic": facts.to_json()},
    )


def _patient(facts: Facts, rng: Random, held_out: bool) -> str:
    phrasings = (PATIENT_HELD_OUT if held_out else PATIENT)["alone" if facts.context is None else "context"]
    return rng.choice(phrasings).format(name=facts.condition.name, context=facts.context)


def _rubric(facts: Facts, rng: Random, held_out: bool) -> Rubric:
    """Every rubric asks for the right drug, and forbids the wrong one where it is unsafe; the other criteria come and go."""
    proficiency = [kind for kind in PROFICIENCY if kind == "right_drug" or rng.random() < 0.85]
    excellence = [kind for kind in EXCELLENCE if rng.random() < 0.85]
    safety = [kind for kind in SAFETY if (facts.matches if kind == "contraindicated" else rng.random() < 0.9)]
    parts = [rng.randint(2, 5) for _ in proficiency]
    units = [max(1, WEIGHT_UNIT * part // sum(parts)) for part in parts]
    units[0] += WEIGHT_UNIT - sum(units)
    weights = {kind: unit / WEIGHT_UNIT for kind, unit in zip(proficiency, units, strict=True)}

    def criterion(kind: str, tier: Tier) -> Criterion:
        text = _fill(rng.choice((CRITERIA_HELD_OUT if held_out else CRITERIA)[kind]), facts)
        polarity = Polarity.FORBIDDEN if tier is Tier.SAFETY else Polarity.REQUIRED
        return Criterion(id=kind, text=text, tier=tier, polarity=polarity, weight=weights.get(kind))

    tiers = ((proficiency, Tier.PROFICIENCY), (excellence, Tier.EXCELLENCE), (safety, Tier.SAFETY))
    return Rubric(criteria=tuple(criterion(kind, tier) for kinds, tier in tiers for kind in kinds))
