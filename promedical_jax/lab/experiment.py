"""What the laboratory trains, as records: cases, a base policy, reward models that start from it, policies that train on them.

A record holds those that it comes of, so that its JSON is the whole recipe, and the hash of that names its folder: two tables that ask for the same thing
share it, and a change of any number in it is another thing.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Annotated, Literal

from pydantic import Field

from promedical_jax.clinic import PLAIN, Variety
from promedical_jax.rubric.case import Case, Record, Rubric, Tier

FIGURES, CURVES = "figures.json", "curves.json"  # in an experiment's folder; curves are of policies
Flags = dict[str, str]  # key of a stage's recipe -> its text, as flags have it


class Cases(Record):
    """Training and held-out cases of the clinic, so many of each."""

    variety: Variety = PLAIN
    train: Annotated[int, Field(gt=0)]
    held_out: Annotated[int, Field(gt=0)]


class Cut(Record):
    """What is taken from the training cases before a model learns from them. Truth is measured on whole cases."""

    rubric_without: tuple[Tier, ...] = ()  # these tiers are in no rubric: nobody rewards or vetoes by them
    safety_verdicts: Annotated[float, Field(ge=0, le=1)] = 1.0  # share of the cases whose verdicts on safety are kept
    criteria: Annotated[int, Field(gt=0)] | None = None  # at most so many of each tier


WHOLE = Cut()


class Base(Record):
    """The supervised start, of a model from random weights."""

    cases: Cases
    width: int
    depth: int
    recipe: Flags


class Judge(Record):
    """A reward model that starts from the base. zero_shot: the base itself, asked yes or no; nothing is trained."""

    base: Base
    kind: Literal["explicit", "blind", "implicit", "zero_shot"] = "explicit"
    taught: Cases | None = None  # where these are other cases than the base's, by other raters or with marks: it is measured on held-out ones of their sort
    cut: Cut = WHOLE
    recipe: Flags = Field(default_factory=dict)


class Policy(Record):
    """A policy that starts from the base."""

    base: Base
    stage: Literal["dpo", "ppo", "grpo"]
    judge: Judge | None = None
    cut: Cut = WHOLE
    recipe: Flags = Field(default_factory=dict)


Experiment = Base | Judge | Policy


def name(experiment: Experiment, seed: int) -> str:
    """The folder of what a seed makes of it, such as seed0/policy-1f2e3d4c5b6a."""
    found = hashlib.sha256(experiment.model_dump_json().encode()).hexdigest()[:12]
    return f"seed{seed}/{type(experiment).__name__.lower()}-{found}"


def is_made(experiment: Experiment, seed: int, out: Path) -> bool:
    """Whether its figures are in `out`: they are written last."""
    return (out / name(experiment, seed) / FIGURES).exists()


def needs(experiment: Experiment) -> list[Experiment]:
    """What must be there first."""
    if isinstance(experiment, Base):
        return []
    base: list[Experiment] = [experiment.base]
    if isinstance(experiment, Policy):
        return base + ([experiment.judge] if experiment.judge else [])
    return base


def in_order(wanted: Sequence[Experiment]) -> list[Experiment]:
    """All that these need and they themselves, each once: bases, then judges, then policies, so that each stands behind what it needs and what is short comes
    last, when workers run out of work."""
    every: dict[str, Experiment] = {}
    for one in wanted:
        for each in (*in_order(needs(one)), one):
            every.setdefault(name(each, 0), each)
    return [one for kind in (Base, Judge, Policy) for one in every.values() if isinstance(one, kind)]


def cut_cases(cases: Sequence[Case], cut: Cut) -> list[Case]:
    """The cases with what `cut` leaves of them: weights of the criteria that stay are scaled to 1. The same cases lose their verdicts whatever the seed of
    training, and those that lose them at one share lose them at every smaller one."""
    if cut == WHOLE:
        return list(cases)
    done = []
    for case in cases:
        kept, count = [], dict.fromkeys(Tier, 0)
        for criterion in case.rubric.criteria:
            count[criterion.tier] += 1
            if criterion.tier not in cut.rubric_without and count[criterion.tier] <= (cut.criteria or count[criterion.tier]):
                kept.append(criterion)
        if cut.criteria is not None:
            total = sum(c.weight for c in kept if c.weight)
            kept = [c if c.weight is None else c.model_copy(update={"weight": c.weight / total}) for c in kept]
        tiers = {c.id: c.tier for c in kept}
        silent = Random(f"{case.id}/safety").random() >= cut.safety_verdicts
        said = [one for one in case.verdicts if one.criterion in tiers and not (silent and tiers[one.criterion] is Tier.SAFETY)]
        done.append(Case.model_validate(case.model_copy(update={"rubric": Rubric(criteria=tuple(kept)), "verdicts": tuple(said)})))
    return done
