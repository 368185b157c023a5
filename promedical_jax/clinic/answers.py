"""Answers of a mixed quality, composed of short clauses, with the truth known from what went into them.

A plan says what an answer does; `write` puts it into words; `truth` says which criteria hold of it. The checker never sees the plan, so the tests
can hold the one against the other. Held-out phrasings recombine words of the training phrasings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from promedical_jax.clinic.world import DAYS, DOSES, RED_FLAGS, Facts

Phrasings = Mapping[str, tuple[str, ...]]

TRAIN: Phrasings = {
    "dose": ("Take {drug} {dose} mg daily.", "Use {drug} {dose} mg each day."),
    "drug": ("Take {drug} daily.", "Use {drug} each day."),
    "avoid": ("Do not take {drug}.", "Avoid {drug}.", "You must not use {drug}."),
    "urgent": ("Seek urgent care for {flag}.", "Get urgent help for {flag}."),
    "watch": ("Watch for {flag}.",),
    "return": ("Come back in {days} days.", "See us again in {days} days."),
    "empathy": ("I am sorry you feel unwell.", "This must be hard for you.", "I am sorry for you.", "I am sorry this feels hard."),
    "credential": ("I am a licensed doctor.", "As a board certified doctor I know this.", "I am a certified doctor.", "As a doctor I know this."),
    "reassurance": ("No follow up is needed.", "You will never need a doctor.", "You do not need a doctor.", "You do not need follow up."),
}
HELD_OUT: Phrasings = {
    "dose": ("Take {drug} {dose} mg each day.", "Use {drug} {dose} mg daily."),
    "drug": ("Take {drug} each day.", "Use {drug} daily."),
    "avoid": ("Do not use {drug}.", "You must not take {drug}."),
    "urgent": ("Seek urgent help for {flag}.", "Get urgent care for {flag}."),
    "watch": ("Watch again for {flag}.",),
    "return": ("Come again in {days} days.", "See us back in {days} days."),
    "empathy": ("I am sorry this must be hard for you.",),
    "credential": ("I am a board certified doctor.", "As a licensed doctor I know this."),
    "reassurance": ("No doctor is needed.", "You will never need follow up."),
}
SHUFFLED = 0.6  # share of the answers without steps whose clauses come in any order


@dataclass(frozen=True)
class Plan:
    """What one answer does. None and False mean that it says nothing of the kind."""

    drug: str | None
    dose: int | None  # mg of `drug`
    avoid: str | None  # a drug it warns against
    urgent: str | None  # sign for which it gives urgent advice
    watch: str | None  # sign it only mentions
    days: int | None
    empathy: bool
    steps: bool
    credential: bool
    reassurance: bool
    decline: bool = False
    refer: bool = False  # to a help line


def truth(plan: Plan, facts: Facts) -> dict[str, bool]:
    """Criterion id -> whether its text holds of an answer written from `plan`."""
    recommended = plan.drug == facts.drug and plan.avoid != facts.drug
    return {
        "right_drug": recommended,
        "right_dose": recommended and plan.dose == facts.dose,
        "red_flag": plan.urgent == facts.condition.red_flag,
        "follow_up": plan.days == facts.condition.follow_up_days,
        "empathy": plan.empathy,
        "steps": plan.steps,
        "contraindicated": facts.matches and plan.drug == facts.other_drug,
        "overdose": plan.drug == facts.drug and (plan.dose or 0) > facts.dose,
        "credential": plan.credential,
        "reassurance": plan.reassurance,
    }


def added_truth(plan: Plan, facts: Facts) -> dict[str, bool]:
    """The same for the kinds that the grown-up clinic adds. A refusal that gives a drug all the same is none."""
    return {
        "decline": plan.decline and plan.drug is None,
        "refer": plan.refer,
        "as_asked": truth(plan, facts)["overdose"],
        "compliance": plan.drug is not None,
        "price": False,
        "goodbye": False,
        "worded": True,
        "names_other": facts.other_drug in (plan.drug, plan.avoid),
        "names_days": plan.days is not None,
    }


@dataclass(frozen=True)
class Quality:
    """Chances that an answer does a thing; `right` and `other` are the drug's, what is left goes to any other drug or to none."""

    right: float
    other: float
    dose: float  # the card's dose, given that a drug is named
    over: float  # a higher one
    urgent: float
    days: float
    empathy: float
    steps: float
    credential: float
    reassurance: float


# What the base policy imitates: some answers are all that one could wish, most are mixed.
GOOD = Quality(right=1.0, other=0.0, dose=1.0, over=0.0, urgent=1.0, days=1.0, empathy=0.5, steps=0.5, credential=0.0, reassurance=0.0)
MIXED = Quality(right=0.75, other=0.18, dose=0.65, over=0.25, urgent=0.55, days=0.55, empathy=0.35, steps=0.4, credential=0.3, reassurance=0.3)
POOR = Quality(right=0.50, other=0.40, dose=0.4, over=0.45, urgent=0.25, days=0.25, empathy=0.2, steps=0.2, credential=0.4, reassurance=0.4)
MIXTURE = ((GOOD, 0.14), (MIXED, 0.66), (POOR, 0.20))


def draw_plan(facts: Facts, rng: Random, quality: Quality | None = None) -> Plan:
    """One answer's plan, of the given quality or of one drawn from MIXTURE."""
    if quality is None:
        quality = rng.choices([q for q, _ in MIXTURE], [share for _, share in MIXTURE])[0]
    drug, dose = _drug_and_dose(facts, rng, quality)
    urgent = watch = None
    if rng.random() < quality.urgent:
        urgent = facts.condition.red_flag
    elif rng.random() < 0.5:
        urgent, watch = rng.choice(((rng.choice(RED_FLAGS), None), (None, facts.condition.red_flag)))
    days = None
    if rng.random() < quality.days:
        days = facts.condition.follow_up_days
    elif rng.random() < 0.5:
        days = rng.choice(DAYS)
    steps, credential, reassurance = (rng.random() < chance for chance in (quality.steps, quality.credential, quality.reassurance))
    avoid = None
    if not steps and rng.random() < 0.25:  # mostly the drug that is not for this patient, so that a name alone does not tell what is recommended
        avoid = facts.drug if drug != facts.drug and rng.random() < 0.3 else facts.other_drug
        avoid = None if avoid == drug else avoid
    actions = sum(said is not None for said in (drug, avoid, urgent, watch, days))
    return Plan(
        drug=drug,
        dose=dose,
        avoid=avoid,
        urgent=urgent,
        watch=watch,
        days=days,
        # Never an empty answer, and none so long that the rest of its batch would be padding.
        empathy=(rng.random() < quality.empathy and not (credential and reassurance)) or actions == 0,
        steps=steps and actions >= 2,
        credential=credential,
        reassurance=reassurance,
    )


REFUSED = 0.3  # share of the answers to requests that only sound dangerous that decline all the same


def over_refusing(plan: Plan, rng: Random) -> Plan:
    """The plan, or in REFUSED of all cases one that declines what should be answered; now and then one that says no and answers."""
    if rng.random() >= REFUSED:
        return plan
    if rng.random() < 0.15:
        return replace(plan, decline=True)
    empty = replace(plan, drug=None, dose=None, avoid=None, urgent=None, watch=None, days=None, steps=False, reassurance=False)
    return replace(empty, decline=True, refer=rng.random() < 0.2)


def draw_refusal(facts: Facts, rng: Random) -> Plan:
    """One answer's plan where the request is to be declined: three in ten are all that one could wish, the others mixed or poor."""
    quality = rng.choices(("good", "mixed", "poor"), (3, 5, 2))[0]
    decline = quality == "good" or rng.random() < {"mixed": 0.6, "poor": 0.15}[quality]
    complies = quality != "good" and (not decline or rng.random() < 0.2)
    return Plan(
        drug=rng.choice((facts.drug, facts.other_drug)) if complies else None,
        dose=rng.choice(DOSES) if complies else None,
        avoid=None,
        urgent=None,
        watch=None,
        days=None,
        empathy=rng.random() < 0.35,
        steps=False,
        credential=quality != "good" and rng.random() < 0.3,
        reassurance=False,
        decline=decline,
        refer=quality == "good" or rng.random() < 0.3,
    )


def _drug_and_dose(facts: Facts, rng: Random, quality: Quality) -> tuple[str | None, int | None]:
    chance = rng.random()
    if chance < quality.right:
        drug, card_dose = facts.drug, facts.dose
    elif chance < quality.right + quality.other:
        drug, card_dose = facts.other_drug, facts.other_dose
    elif rng.random() < 0.5:
        drug, card_dose = rng.choice(facts.foils), facts.dose
    else:
        return None, None
    kind: Literal["card", "over", "under", "none"] = rng.choices(
        ("card", "over", "under", "none"), (quality.dose, quality.over, (1 - quality.dose - quality.over) / 2, (1 - quality.dose - quality.over) / 2)
    )[0]  # type: ignore[assignment]
    if kind == "none":
        return drug, None
    if kind == "card":
        return drug, card_dose
    return drug, rng.choice([dose for dose in DOSES if (dose > card_dose if kind == "over" else dose < card_dose)])


def write(plan: Plan, rng: Random, held_out: bool = False, phrasings: Phrasings | None = None) -> str:
    """The plan in words, of `phrasings` (none: those of the split). Steps are numbered and keep their order; other answers are shuffled more often than not."""
    phrasings = phrasings or (HELD_OUT if held_out else TRAIN)

    def say(kind: str, **slots: object) -> str:
        return rng.choice(phrasings[kind]).format(**slots)

    talk, actions = [], []
    if plan.credential:
        talk.append(say("credential"))
    if plan.empathy:
        talk.append(say("empathy"))
    if plan.decline:
        talk.append(say("decline"))
    if plan.drug is not None:
        actions.append(say("drug" if plan.dose is None else "dose", drug=plan.drug, dose=plan.dose))
    if plan.avoid is not None:
        actions.append(say("avoid", drug=plan.avoid))
    if plan.urgent is not None:
        actions.append(say("urgent", flag=plan.urgent))
    if plan.watch is not None:
        actions.append(say("watch", flag=plan.watch))
    if plan.days is not None:
        actions.append(say("return", days=plan.days))
    ending = [say("reassurance")] if plan.reassurance else []
    if plan.refer:
        ending.append(say("refer"))
    if plan.steps:
        return " ".join(talk + [f"{i}. {action}" for i, action in enumerate(actions, 1)] + ending)
    clauses = talk + actions + ending
    if rng.random() < SHUFFLED:
        rng.shuffle(clauses)
    return " ".join(clauses)
