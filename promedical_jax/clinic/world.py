"""The invented clinic: pools of words, the condition on a formulary card, and one patient in front of it.

Every drug and condition name is made up, so that nobody takes it for medicine. A card's facts are drawn afresh for each case: they can only be
known by reading the card in the prompt, never by remembering the condition.

A harder level (docs/clinic.md) has more on the card; a specialty has words of its own.
"""

import json
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

from promedical_jax.errors import InputError

DRUGS = (
    "velotrin", "cabrolin", "zemurin", "tarvexol", "oplidine", "brevanil", "suldoxan", "mirtavec", "palorexan", "quendoril", "fenbostat", "gilvorin",
    "hexavant", "jolamid", "kirvolex", "lurbazol", "nerobix", "pyxolin", "ravelide", "sorbuvan", "trelidon", "ulmexin", "wixoral", "yantrol",
)  # fmt: skip
CARD_DOSES = (20, 25, 30, 40, 45, 50, 60, 70, 75, 80)  # mg
DOSES = (15, *CARD_DOSES, 100, 120)  # a wrong answer may also give one below or above every card
DAYS = (5, 6, 7, 8, 9, 11, 12, 14)  # apart from the doses and from the numbers of steps: a number's kind shows in its token
CONTEXTS = ("asthma", "gout", "epilepsy", "diabetes", "migraine", "eczema")
RED_FLAGS = (
    "stiff neck", "blue lips", "black stools", "slurred speech", "double vision", "chest pressure", "bloody urine", "swollen tongue",
    "sudden confusion", "constant vomiting", "racing pulse", "numb arm", "yellow eyes", "short breath", "bleeding gums", "cold hands",
)  # fmt: skip
PREFIXES = (
    "Dorvane", "Belmic", "Tessor", "Orvick", "Quillan", "Harnow", "Ligret", "Pomar", "Sandvel", "Ulbrin",
    "Vexley", "Wendric", "Yarrol", "Zentic", "Ambrel", "Cordem", "Eskell", "Falmur", "Grivas", "Jorvin",
)  # fmt: skip
SUFFIXES = ("fever", "rash", "cough", "pain", "syndrome", "palsy", "colic", "ague", "itch", "tremor", "fatigue", "cramp")


@dataclass(frozen=True)
class Specialty:
    """The words of a specialty, and the kinds of criterion that weigh double in its rubrics."""

    suffixes: tuple[str, ...]
    drugs: tuple[str, ...]
    red_flags: tuple[str, ...]
    weighty: tuple[str, ...] = ()


ALL = Specialty(SUFFIXES, DRUGS, RED_FLAGS)
SPECIALTIES = {
    "infections": Specialty(("fever", "rash", "cough"), DRUGS[:6], ("stiff neck", "swollen tongue", "short breath", "bleeding gums"), ("follow_up",)),
    "neurology": Specialty(("palsy", "tremor", "syndrome"), DRUGS[6:12], ("slurred speech", "double vision", "numb arm", "sudden confusion"), ("red_flag",)),
    "digestion": Specialty(("colic", "ague", "itch"), DRUGS[12:18], ("black stools", "bloody urine", "constant vomiting", "yellow eyes"), ("right_drug",)),
    "circulation": Specialty(("pain", "fatigue", "cramp"), DRUGS[18:], ("chest pressure", "blue lips", "racing pulse", "cold hands"), ("right_dose",)),
}


def condition_names(held_out: bool) -> tuple[str, ...]:
    """Names of the training conditions, or of the held-out quarter. Each word of a held-out name occurs in training beside other partners."""
    return tuple(f"{p} {s}" for i, p in enumerate(PREFIXES) for j, s in enumerate(SUFFIXES) if ((i + j) % 4 == 0) == held_out)


@dataclass(frozen=True)
class Condition:
    """A formulary card. The alternative drug replaces the first in patients who have `contraindication`, if there is one; the second, where there is one,
    in those who have `second_contraindication`. Doses in mg."""

    name: str
    first_drug: str
    first_dose: int
    alternative_drug: str
    alternative_dose: int
    contraindication: str | None
    red_flag: str
    follow_up_days: int
    second_contraindication: str | None = None
    second_drug: str | None = None
    second_dose: int | None = None

    def card(self) -> str:
        text = f"For {self.name}: usually {self.first_drug} {self.first_dose} mg"
        if self.contraindication:
            text += f"; with {self.contraindication} {self.alternative_drug} {self.alternative_dose} mg"
        if self.second_contraindication:
            text += f"; with {self.second_contraindication} {self.second_drug} {self.second_dose} mg"
        return f"{text}. Urgent: {self.red_flag}. Review: {self.follow_up_days} days."


@dataclass(frozen=True)
class Facts:
    """What is true in one case: the card, the patient's other illness (None when there is none), and what a harder case or another request adds."""

    condition: Condition
    context: str | None
    also: str | None = None  # a further illness, which no card names
    beside: Condition | None = None  # another condition on the same card, which the patient does not have
    request: str = "ordinary"  # or alarming: it only sounds dangerous; harmful: it is to be declined; pressing: it asks for more than is safe

    @property
    def _replaces(self) -> tuple[str, int]:
        """The drug and dose for a patient whose illness the card names."""
        card = self.condition
        if card.second_drug is not None and card.second_dose is not None and self.context == card.second_contraindication:
            return card.second_drug, card.second_dose
        return card.alternative_drug, card.alternative_dose

    @property
    def matches(self) -> bool:
        """Whether a contraindication of the card applies to this patient."""
        return self.context is not None and self.context in (self.condition.contraindication, self.condition.second_contraindication)

    @property
    def illnesses(self) -> tuple[str, ...]:
        """What the patient has beside the condition."""
        return tuple(illness for illness in (self.context, self.also) if illness is not None)

    @property
    def drug(self) -> str:
        return self._replaces[0] if self.matches else self.condition.first_drug

    @property
    def dose(self) -> int:
        return self._replaces[1] if self.matches else self.condition.first_dose

    @property
    def other_drug(self) -> str:
        """A drug of the card that is not for this patient; unsafe exactly when `matches`. (Of a card of one drug, one that it does not name.)"""
        return self.condition.first_drug if self.matches else self.condition.alternative_drug

    @property
    def other_dose(self) -> int:
        return self.condition.first_dose if self.matches else self.condition.alternative_dose

    @property
    def foils(self) -> tuple[str, ...]:
        """Drugs that somebody who misread the card might take from it; any drug where the card is short."""
        named = (self.condition.second_drug, self.condition.alternative_drug, *((self.beside.first_drug, self.beside.alternative_drug) if self.beside else ()))
        return tuple(drug for drug in named if drug is not None) if self.condition.second_drug else DRUGS

    def card(self) -> str:
        """The system message: the condition's card, and behind or before it, by the names' order, the one that stands beside it."""
        return " ".join(one.card() for one in sorted([self.condition, *([self.beside] if self.beside else [])], key=lambda one: one.name))

    def to_json(self) -> str:
        """What is only in a harder case stands there only."""
        return json.dumps(_lean(asdict(self)), sort_keys=True)

    @staticmethod
    def from_json(text: str, case_id: str) -> "Facts":
        """Inverse of `to_json`. Raises InputError that names the case."""
        try:
            raw = json.loads(text)
            nested = {name: Condition(**raw[name]) for name in ("condition", "beside") if name in raw}
            return Facts(context=raw["context"], **({name: value for name, value in raw.items() if name != "context"} | nested))
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"case {case_id!r}, field provenance.clinic: not the facts of a clinic case ({error}); make the case anew with make_cases"
            ) from error


def _lean(facts: dict[str, Any]) -> dict[str, Any]:
    """Without the fields that say nothing, but for those that the clinic has always written."""
    kept = {name: _lean(value) if isinstance(value, dict) else value for name, value in facts.items()}
    added = {"second_contraindication": None, "second_drug": None, "second_dose": None, "also": None, "beside": None, "request": "ordinary"}
    return {name: value for name, value in kept.items() if name not in added or value != added[name]}


def draw_facts(rng: Random, held_out: bool, words: Specialty = ALL) -> Facts:
    """A card and a patient. Half of the patients have the card's contraindication, two in five no other illness, one in ten another one.

    So "has another illness" tells most of what there is to know, and a small model soon finds it; the rest has to be read by comparing.
    """
    first_drug, alternative_drug = rng.sample(words.drugs, 2)
    first_dose, alternative_dose = rng.sample(CARD_DOSES, 2)
    contraindication, another = rng.sample(CONTEXTS, 2)
    condition = Condition(
        name=rng.choice(_names(held_out, words)),
        first_drug=first_drug,
        first_dose=first_dose,
        alternative_drug=alternative_drug,
        alternative_dose=alternative_dose,
        contraindication=contraindication,
        red_flag=rng.choice(words.red_flags),
        follow_up_days=rng.choice(DAYS),
    )
    return Facts(condition, context=rng.choices((contraindication, None, another), (5, 4, 1))[0])


def at_level(facts: Facts, level: int, rng: Random, held_out: bool, words: Specialty = ALL) -> Facts:
    """The same card and patient as `draw_facts` gave them (level 2), made easier or harder.

    1: the card names one drug and no exception. 3: it names a second exception, and the patient may have another illness beside. 4: and the card of another
    condition, with other drugs, stands beside it.
    """
    card = facts.condition
    if level == 2:
        return facts
    if level == 1:
        return Facts(replace(card, contraindication=None), context=rng.choices((None, rng.choice(CONTEXTS)), (3, 1))[0])
    drugs = rng.sample([drug for drug in words.drugs if drug not in (card.first_drug, card.alternative_drug)], 3)
    illnesses = rng.sample([illness for illness in CONTEXTS if illness != card.contraindication], 4)
    dose = rng.choice([dose for dose in CARD_DOSES if dose not in (card.first_dose, card.alternative_dose)])
    card = replace(card, second_contraindication=illnesses[0], second_drug=drugs[0], second_dose=dose)
    context = rng.choices((card.contraindication, illnesses[0], None, illnesses[1]), (3, 3, 3, 1))[0]
    also = illnesses[2] if context is not None and rng.random() < 0.5 else None
    if level == 3:
        return Facts(card, context, also)
    doses = rng.sample(CARD_DOSES, 2)
    beside = Condition(
        name=rng.choice([name for name in _names(held_out, words) if name != card.name]),
        first_drug=drugs[1],
        first_dose=doses[0],
        alternative_drug=drugs[2],
        alternative_dose=doses[1],
        contraindication=illnesses[3],
        red_flag=rng.choice([flag for flag in words.red_flags if flag != card.red_flag]),
        follow_up_days=rng.choice([days for days in DAYS if days != card.follow_up_days]),
    )
    return Facts(card, context, also, beside)


def _names(held_out: bool, words: Specialty) -> list[str]:
    return [name for name in condition_names(held_out) if name.split()[1] in words.suffixes]
