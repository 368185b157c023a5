"""The invented clinic: pools of words, the condition on a formulary card, and one patient in front of it.

Every drug and condition name is made up, so that nobody takes it for medicine. A card's facts are drawn afresh for each case: they can only be
known by reading the card in the prompt, never by remembering the condition.
"""

import json
from dataclasses import asdict, dataclass
from random import Random

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


def condition_names(held_out: bool) -> tuple[str, ...]:
    """Names of the training conditions, or of the held-out quarter. Each word of a held-out name occurs in training beside other partners."""
    return tuple(f"{p} {s}" for i, p in enumerate(PREFIXES) for j, s in enumerate(SUFFIXES) if ((i + j) % 4 == 0) == held_out)


@dataclass(frozen=True)
class Condition:
    """A formulary card. The alternative drug replaces the first in patients who have `contraindication`. Doses in mg."""

    name: str
    first_drug: str
    first_dose: int
    alternative_drug: str
    alternative_dose: int
    contraindication: str
    red_flag: str
    follow_up_days: int

    def card(self) -> str:
        return (
            f"For {self.name}: usually {self.first_drug} {self.first_dose} mg; with {self.contraindication} {self.alternative_drug} "
            f"{self.alternative_dose} mg. Urgent: {self.red_flag}. Review: {self.follow_up_days} days."
        )


@dataclass(frozen=True)
class Facts:
    """What is true in one case: the card, and the patient's other illness (None when there is none)."""

    condition: Condition
    context: str | None

    @property
    def matches(self) -> bool:
        """Whether the card's contraindication applies to this patient."""
        return self.context == self.condition.contraindication

    @property
    def drug(self) -> str:
        return self.condition.alternative_drug if self.matches else self.condition.first_drug

    @property
    def dose(self) -> int:
        return self.condition.alternative_dose if self.matches else self.condition.first_dose

    @property
    def other_drug(self) -> str:
        """The card's drug that is not for this patient; unsafe exactly when `matches`."""
        return self.condition.first_drug if self.matches else self.condition.alternative_drug

    @property
    def other_dose(self) -> int:
        return self.condition.first_dose if self.matches else self.condition.alternative_dose

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str, case_id: str) -> "Facts":
        """Inverse of `to_json`. Raises InputError that names the case."""
        try:
            raw = json.loads(text)
            return Facts(condition=Condition(**raw["condition"]), context=raw["context"])
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"case {case_id!r}, field provenance.clinic: not the facts of a clinic case ({error}); make the case anew with make_cases"
            ) from error


def draw_facts(rng: Random, held_out: bool) -> Facts:
    """A card and a patient. Half of the patients have the card's contraindication, two in five no other illness, one in ten another one.

    So "has another illness" tells most of what there is to know, and a small model soon finds it; the rest has to be read by comparing.
    """
    first_drug, alternative_drug = rng.sample(DRUGS, 2)
    first_dose, alternative_dose = rng.sample(CARD_DOSES, 2)
    contraindication, another = rng.sample(CONTEXTS, 2)
    condition = Condition(
        name=rng.choice(condition_names(held_out)),
        first_drug=first_drug,
        first_dose=first_dose,
        alternative_drug=alternative_drug,
        alternative_dose=alternative_dose,
        contraindication=contraindication,
        red_flag=rng.choice(RED_FLAGS),
        follow_up_days=rng.choice(DAYS),
    )
    return Facts(condition, context=rng.choices((contraindication, None, another), (5, 4, 1))[0])
