"""Which drugs a text recommends or rejects for this patient, and at which doses.

Each sentence is read once from left to right. A verb ("take", "avoid", "recommend") sets a stance that the drugs after it inherit; negations flip it,
contrasts ("but", "instead of") turn it, a predicate after the drug ("... is unsafe") overrules it, and "if you have gout" is settled by the patient.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from promedical_jax.clinic.reading import Tokens, is_number, phrase
from promedical_jax.clinic.world import CONTEXTS, DRUGS, Facts


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DRUGS = frozenset(DRUGS)
_NEGATORS = _words("not never no nor neither nobody none against")
_HARMLESS_AFTER_NOT = _words("only just hesitate forget fail worry delay wait afraid doubt problem harm question worries matter mind")
_FOR = _words(
    "take taking use using start starting begin beginning try trying give giving choose pick prescribe prescribing recommend recommending suggest "
    "suggesting advise advising continue continuing prefer swallow administer need add treat"
)
_FIRST_PERSON = _words("prescribe recommend suggest advise prefer give start choose pick treat")  # verbs by which "I ..." recommends
_AGAINST = _words(
    "avoid avoiding stop stopping skip skipping omit withhold discontinue refuse exclude quit dangerous unsafe harmful risky unwise contraindicated "
    "unsuitable forbidden wrong without except"
)
_AGAINST_PHRASES = (
    ("instead", "of"),
    ("rather", "than"),
    ("other", "than"),
    ("away", "from"),
    ("apart", "from"),
    ("in", "place", "of"),
    ("anything", "but"),
    ("clear", "of"),
    ("hold", "off"),
)
_LINKS = _words("to that you for be being even ever simply just please also always anyone patients , or and nor")
_BREAKS = _words("because since as while whereas although though which who what where about than like unlike versus watch ask see seek come call tell discuss")
_PRAISE = _words("right best correct recommended safe safest suitable proper preferred appropriate ideal your advised prescribed")
_BE = _words("is are was would should must can may will needs could has might ought remains seems does")
_GOOD = _words(
    "recommended best right correct safe safest suitable appropriate take taken use used given started prescribed need needed ideal preferred indicated "
    "advised help helps work works fine good better ok okay choice option answer"
)
_BAD = _words("unsafe dangerous harmful contraindicated avoided stopped wrong unsuitable bad forbidden banned withheld risky toxic harm hurt kill out mistake")
_IF = _words("if when unless before after whenever while without")
_SWITCH = _words("switch change replace")
_IF_YOU_LIKE = (("you", "prefer"), ("you", "like"), ("you", "want"), ("you", "wish"))
_IN_GENERAL = _words("usually normally often sometimes commonly generally typically")
_OTHERS = _words("they people others patients some many he she who we i")
_FREQUENCY = _words("daily once twice each every per day night morning evening")
_PRESCRIPTION = _FREQUENCY | _words(
    "mg a an tablet tablets by mouth orally for days with food medicine drug treatment prescription medication dose plan at : - , ( )"
)
_MULTIPLE = re.compile(r" (?:double|triple|twice|(?:2|3|4|5|10) times|extra) (?:the |your |this |that |usual |card |normal |recommended )*(?:dose|amount) ")


@dataclass
class Mention:
    """One naming of a drug: stance +1 recommended, -1 rejected, 0 neither; doses in mg that go with it."""

    drug: str
    position: int
    stance: int
    doses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Prescription:
    """What a text as a whole says of drugs: those recommended and rejected (a drug may be both), and the doses given of each in mg."""

    recommended: frozenset[str]
    rejected: frozenset[str]
    doses: dict[str, frozenset[float]]
    multiplied: bool  # "double the dose"
    told: bool  # whether it recommends a drug, or tells a dose without a warning


def read_prescription(sentences: Sequence[Tokens], facts: Facts) -> Prescription:
    card = {facts.drug: facts.dose, facts.other_drug: facts.other_dose}
    mentions: list[Mention] = []
    loose: set[float] = set()  # doses of sentences that name no drug
    multiplied = False
    condition: bool | None = None
    for tokens in sentences:
        doses = _doses(tokens)
        here, condition = _mentions(tokens, facts, condition)
        _bind(doses, here, tokens, card)
        mentions += here
        if not here and not _NEGATORS & set(tokens):
            loose |= {dose for spot, dose, kind in doses if kind == "given" and tokens[spot - 1] not in ("in", "after", "within")}
        multiplied |= bool(_MULTIPLE.search(phrase(tokens))) and not _NEGATORS & set(tokens)
    recommended = frozenset(m.drug for m in mentions if m.stance > 0)
    given: dict[str, set[float]] = defaultdict(set)
    for mention in mentions:
        if mention.stance > 0:
            given[mention.drug] |= set(mention.doses)
    if len(recommended) == 1:
        given[next(iter(recommended))] |= loose
    told = bool(recommended or loose) or any(m.stance >= 0 and m.doses for m in mentions)
    return Prescription(recommended, frozenset(m.drug for m in mentions if m.stance < 0), {d: frozenset(v) for d, v in given.items()}, multiplied, told)


def _mentions(tokens: Tokens, facts: Facts, earlier: bool | None) -> tuple[list[Mention], bool | None]:
    """The drugs named in one sentence. `earlier` is whether the last "if you have ..." holds of the patient, for an "otherwise"."""
    if not _DRUGS.intersection(tokens):
        return [], _condition(tokens, 0, facts) if "if" in tokens else earlier
    if _is_bare_prescription(tokens):
        return [Mention(drug, i, +1) for i, drug in enumerate(tokens) if drug in _DRUGS], earlier
    scan = _Scan(tokens, facts, earlier)
    for i in range(len(tokens)):
        scan.read(i)
    return scan.mentions, scan.earlier


class _Scan:
    """One pass over a sentence: what has been read so far, and what it means for the next drug that is named."""

    def __init__(self, tokens: Tokens, facts: Facts, earlier: bool | None) -> None:
        self.tokens, self.facts, self.earlier = tokens, facts, earlier
        self.mentions: list[Mention] = []
        self.stance = 0  # +1 after "take", -1 after "avoid", 0 when nothing is advised
        self.stance_before_aside: int | None = None  # what the stance returns to after "instead of ..."
        self.negated = self.negated_across_commas = False  # a negation waits for its verb or drug
        self.verb = -1  # index of the verb that set the stance, -1 where there is none
        self.verb_negated = self.named_since_verb = False
        self.hypothetical = False  # inside "if you take ...,"
        self.praise = -9  # index of the last "right", "best", ... as in "the right drug is"
        self.applies: bool | None = None  # whether the condition in force holds of the patient

    def at(self, i: int) -> str:
        return self.tokens[i] if 0 <= i < len(self.tokens) else ""

    def read(self, i: int) -> None:
        token, previous, following = self.tokens[i], self.at(i - 1), self.at(i + 1)
        if token in _DRUGS:
            self.name(i)
        elif token in _IF and self.settle(i):
            pass
        elif token in _IF and token != "without" and self.tokens[i + 1 : i + 3] not in _IF_YOU_LIKE:
            self.hypothetical, self.stance, self.negated = True, 0, False
        elif token in ("patients", "people", "those", "anyone") and following in ("with", "without"):
            self.settle(i + 1)
        elif token == "otherwise":
            self.applies = None if self.earlier is None else not self.earlier
        elif token in _NEGATORS:
            if not (following in _HARMLESS_AFTER_NOT or self.tokens[i + 1 : i + 3] == ("be", "afraid") or (token == "no" and i == 0 and following == ",")):
                self.negated = not self.negated
            self.negated_across_commas = self.negated and following == ","  # "do not, under any circumstances, take ..."
        elif any(self.tokens[i : i + len(words)] == words for words in _AGAINST_PHRASES):
            if self.stance_before_aside is None:
                self.stance_before_aside = self.stance
            self.stance, self.negated = (1 if self.negated else -1), False
        elif token in _FOR or token in _AGAINST or token in _SWITCH or (token == "with" and previous == "go"):
            self.advise(i)
        elif token in ("from", "to", "with", "by", "for") and self.at(self.verb) in _SWITCH and self.verb >= 0:  # "switch from A to B"
            away = token == "from" or (token == "for" and not self.named_since_verb)
            self.stance = 1 if not away and not self.verb_negated else -1
        elif token in (",", "then", "and"):
            self.hypothetical = False
            self.negated = self.negated and (previous in _NEGATORS or self.negated_across_commas)
            if self.stance_before_aside is not None and token == ",":
                self.stance, self.stance_before_aside = self.stance_before_aside, None
        elif token in ("so", "therefore", "thus", "hence"):
            self.stance, self.verb, self.negated, self.hypothetical = 0, -1, False, False
        elif token in ("but", "however", "instead", "yet"):  # "not A but B" turns the stance for B; a "but" before no drug ends it
            self.stance = abs(self.stance) if _DRUGS.intersection(self.tokens[i + 1 : i + 3]) else 0
            self.verb, self.negated, self.hypothetical = -1, False, False
        elif token in _BREAKS and not (token == "than" and previous in ("more", "less", "higher", "lower")):
            self.stance, self.stance_before_aside = 0, None
        if token in _PRAISE or (token == "choice" and previous == "of"):
            self.praise = i
        elif token in ("is", ":", "be") and i - self.praise <= 5 and self.stance >= 0 and not self.hypothetical:
            self.stance, self.verb, self.named_since_verb = 1, -1, False

    def name(self, i: int) -> None:
        """A drug stands at `i`: it takes the stance, flipped by a negation, overruled by what is said behind it."""
        said = (-self.stance if self.stance else -1) if self.negated else self.stance
        self.negated = False
        after = _predicate(self.tokens, i, joint=said == 0)
        if after:
            gerund = self.verb >= 0 and self.tokens[self.verb].endswith("ing")  # "stopping A is dangerous"
            said = after if said == 0 else said * after if gerund else min(said, after)
        applies = self.applies if self.applies is not None else _condition_behind(self.tokens, i, self.facts)
        self.mentions.append(Mention(self.tokens[i], i, 0 if applies is False else said))
        self.named_since_verb = True

    def settle(self, i: int) -> bool:
        """Whether the "if" at `i` names an illness; if so, the patient settles it."""
        settled = _condition(self.tokens, i, self.facts)
        if settled is not None:
            self.applies = self.earlier = settled
        return settled is not None

    def advise(self, i: int) -> None:
        """A verb stands at `i`. It builds on the verb before it ("do not stop taking", "never take or use") when only links stand between."""
        token = self.tokens[i]
        sign = -1 if token in _AGAINST or token == "replace" else 1
        own = -1 if self.negated else 1
        between = self.tokens[self.verb + 1 : i] if self.verb >= 0 else ()
        linked = self.verb >= 0 and not self.named_since_verb and all(t in _LINKS or t in _NEGATORS for t in between)
        listed = bool({"or", "nor", "and"} & set(between)) or ("," in between and self.at(i + 1) in (",", "or", "nor"))
        if linked and listed:
            self.stance = sign * own * (-1 if self.verb_negated and own > 0 else 1)
            self.verb_negated = self.verb_negated or self.negated
        elif linked and "," not in between:
            self.stance = (self.stance or 1) * sign * own
        else:
            self.stance, self.verb_negated = sign * own, self.negated
        if _is_no_advice(self.tokens, i, self.hypothetical):
            self.stance = 0
        elif not token.endswith("ing"):
            self.hypothetical = False
        self.verb, self.named_since_verb, self.stance_before_aside = i, False, None
        self.negated = self.negated_across_commas = False


def _is_no_advice(tokens: Tokens, i: int, hypothetical: bool) -> bool:
    """Whether the verb at `i` tells what somebody does or did, or what might be, instead of what to do."""
    token, previous = tokens[i], tokens[i - 1] if i else ""
    if previous in _OTHERS and not (previous in ("i", "we") and token in _FIRST_PERSON):
        return True
    if token.endswith("ing") and previous in ("are", "am", "is", "were", "was", "been", "already"):
        return True
    if previous == "already" or tokens[max(0, i - 2) : i] == ("used", "to"):
        return True
    return hypothetical and (previous in ("you", "i", "we", "they") or token.endswith("ing"))


def _is_bare_prescription(tokens: Tokens) -> bool:
    """ "Cabrolin 15 mg daily", a prescription without a verb."""
    return (
        sum(t in _DRUGS for t in tokens) == 1
        and "mg" in tokens
        and bool(_FREQUENCY.intersection(tokens))
        and all(t in _PRESCRIPTION or t in _DRUGS or is_number(t) for t in tokens)
    )


def _predicate(tokens: Tokens, i: int, joint: bool) -> int:
    """What "... is unsafe" or "... should be taken" behind the drug at `i` says of it: +1, -1, or 0 when there is no such predicate.

    With `joint` a predicate of several drugs ("velotrin and cabrolin are fine") is one of each.
    """
    j = i + 1
    while j < len(tokens):
        skip = tokens[j] in ("mg", "at", "(", ")", "a", "dose", "of") or tokens[j] in _FREQUENCY or is_number(tokens[j])
        if not skip and not (joint and (tokens[j] in _DRUGS or (tokens[j] in ("and", "or", ",") and _DRUGS.intersection(tokens[j + 1 : j + 3])))):
            break
        j += 1
    if j >= len(tokens) or tokens[j] not in _BE:
        return 0
    sign = 1
    for k, token in enumerate(tokens[j + 1 : j + 10], j + 1):
        if token in _DRUGS or token in ("but", ",", "because") or token in _IN_GENERAL:
            return 0
        if token in _NEGATORS or token in ("too",):
            sign = -sign
        elif token in _BAD or (token in _AGAINST and token != "without"):
            return -sign
        elif token in _GOOD:
            return sign
        elif token == "for" and sign < 0 and tokens[k + 1 : k + 2] in (("you",), ("this",)):
            return -1
    return 0


def _condition(tokens: Tokens, start: int, facts: Facts) -> bool | None:
    """Whether "if you have gout", "unless you have gout", "without gout" at `start` holds of the patient; None when it names no illness."""
    holds = True
    for token in tokens[start : start + 9]:
        if token in _DRUGS or token == ",":
            return None
        if token in ("unless", "without") or token in _NEGATORS:
            holds = not holds
        if token in CONTEXTS:
            return (token in facts.illnesses) == holds
    return None


def _condition_behind(tokens: Tokens, i: int, facts: Facts) -> bool | None:
    """The condition that follows the drug at `i` before any other drug, as in "take velotrin 40 mg unless you have gout"."""
    for j in range(i + 1, len(tokens)):
        if tokens[j] in _DRUGS:
            return None
        if tokens[j] in ("if", "unless", "without", "when"):
            return _condition(tokens, j, facts)
    return None


def _doses(tokens: Tokens) -> list[tuple[int, float, str]]:
    """(index of the number, mg, kind) of each dose in a sentence; kind is given, above ("more than 15 mg"), limit ("not above") or rejected ("not 15 mg")."""
    doses = []
    for i in range(1, len(tokens)):
        if tokens[i] != "mg" or not is_number(tokens[i - 1]):
            continue
        spots = [i - 1]
        if i >= 3 and tokens[i - 2] in ("to", "-", "or") and is_number(tokens[i - 3]):  # "15 to 30 mg"
            spots.append(i - 3)
        kind = _dose_kind(tokens, spots[-1])
        doses += [(spot, float(tokens[spot]), kind) for spot in spots]
    return doses


def _dose_kind(tokens: Tokens, i: int) -> str:
    above = rejected = False
    for j in range(i - 1, max(-1, i - 9), -1):
        token = tokens[j]
        if token in ("more", "above", "over", "exceed", "exceeding", "higher", "beyond"):
            above = True
        elif token in _NEGATORS or token == "avoid":
            return "limit" if above else "rejected"
        elif token in ("instead", "rather") and tokens[j + 1] in ("of", "than"):
            rejected = True
        elif above and (token in _DRUGS or token in _FOR or token in ("go", "do", "to", "you", "should", "must", "can", "dose", "ever")):
            continue
        elif token not in ("than", "a", "dose", "of", "at", "the", "to", "go"):
            break
    return "rejected" if rejected else "above" if above else "given"


def _bind(doses: list[tuple[int, float, str]], mentions: list[Mention], tokens: Tokens, card: dict[str, int]) -> None:
    """Give each dose to its drug; a rejection that is about a dose ("do not take 30 mg of cabrolin") is none of the drug."""
    if not mentions:
        return
    for spot, dose, kind in doses:
        mention = _owner(spot, mentions, tokens)
        if mention.stance < 0 and (kind == "limit" or (kind != "rejected" and dose != card.get(mention.drug, dose))):
            mention.stance = 0
        elif kind == "given":
            mention.doses.append(dose)
        elif kind == "above":
            mention.doses.append(dose + 1)  # some dose above it


def _owner(spot: int, mentions: list[Mention], tokens: Tokens) -> Mention:
    """The drug right before the number, else right behind the unit, else the nearest before, else the nearest behind."""
    before = [m for m in mentions if m.position < spot]
    behind = [m for m in mentions if m.position > spot]
    fillers = ("at", "a", "dose", "of", "(", ":", ",", "-", "to", "or", "the", "mg")
    if before and all(t in fillers or is_number(t) for t in tokens[before[-1].position + 1 : spot]):
        return before[-1]
    if behind and all(t in fillers or is_number(t) for t in tokens[spot + 1 : behind[0].position]):
        return behind[0]
    return before[-1] if before else behind[0]
