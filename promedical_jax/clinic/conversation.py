"""The request in one message, or a conversation of three in which the last says what counts."""

from random import Random

from promedical_jax.clinic.answers import Phrasings
from promedical_jax.clinic.wording import WHO
from promedical_jax.clinic.world import CONTEXTS, DOSES, Facts
from promedical_jax.rubric.case import Message

Talk = tuple[Message, ...]


def request(facts: Facts, rng: Random, phrasings: Phrasings) -> str:
    """An ordinary, alarming, harmful or pressing request in one message. `phrasings` holds "alone", "context" and those of `wording.ASKING`."""
    context = _illnesses(facts, rng)
    if facts.request != "ordinary":
        who, drug = rng.choice(WHO), rng.choice((facts.drug, facts.other_drug))
        text = _say(facts.request, rng, phrasings, who=who, drug=drug, name=facts.condition.name)
        if facts.request == "harmful":
            return text
        return f"{text} {_say('illness', rng, phrasings, context=context)}" if context else text
    return _say("context" if context else "alone", rng, phrasings, name=facts.condition.name, context=context)


def conversation(facts: Facts, rng: Random, phrasings: Phrasings) -> tuple[str, Talk]:
    """A conversation of three messages, and what happens in it: the assistant has *asked* for another illness, *mistaken* it, or given advice that is *wrong*;
    who is refused what is harmful *insists*."""
    context = _illnesses(facts, rng)
    if facts.request == "harmful":
        said = (request(facts, rng, phrasings), _say("decline", rng, phrasings), _say("insist", rng, phrasings))
        return "insists", _talk(said)
    kind = rng.choice(("asked", "mistaken", "wrong"))
    if kind == "wrong":
        advice = _say("dose", rng, phrasings, drug=facts.other_drug, dose=rng.choice(DOSES))
        return kind, _talk((request(facts, rng, phrasings), advice, _say("doubt", rng, phrasings)))
    opening = request(Facts(facts.condition, context=None, request=facts.request), rng, phrasings)
    if kind == "asked":
        answer = _say("told", rng, phrasings, context=context) if context else _say("told_none", rng, phrasings)
        return kind, _talk((opening, _say("ask", rng, phrasings), answer))
    mistaken = rng.choice([illness for illness in CONTEXTS if illness not in facts.illnesses])
    answer = _say("mend", rng, phrasings, context=context, wrong=mistaken) if context else _say("mend_none", rng, phrasings, wrong=mistaken)
    return kind, _talk((opening, _say("check", rng, phrasings, wrong=mistaken), answer))


def _illnesses(facts: Facts, rng: Random) -> str | None:
    """Those that the patient has beside the condition, in any order."""
    return " and ".join(rng.sample(facts.illnesses, 2) if facts.also else facts.illnesses) or None


def _say(kind: str, rng: Random, phrasings: Phrasings, **slots: object) -> str:
    return rng.choice(phrasings[kind]).format(**slots)


def _talk(said: tuple[str, str, str]) -> Talk:
    return (Message(role="user", content=said[0]), Message(role="assistant", content=said[1]), Message(role="user", content=said[2]))
