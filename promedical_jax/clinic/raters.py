"""Raters who err: the truth of each verdict, turned over as often as the rater's reliability says."""

from collections.abc import Iterable
from random import Random

from promedical_jax.clinic.variety import Rater
from promedical_jax.rubric.case import Criterion, Judgement, Verdict


def rated(rater: Rater, truth: Iterable[tuple[str, Criterion, Verdict]], rng: Random) -> list[Judgement]:
    """The verdicts of a rater, given (answer id, criterion, true verdict). Errors are independent of each other, of other raters and of the answer."""
    verdicts = []
    for answer, criterion, verdict in truth:
        abstains, errs = rng.random() < rater.abstains, rng.random() >= getattr(rater, criterion.tier.value)
        said = Verdict.ABSTAIN if abstains else verdict if not errs else Verdict.UNMET if verdict is Verdict.MET else Verdict.MET
        verdicts.append(Judgement(answer=answer, criterion=criterion.id, verdict=said, rater=rater.name, human=rater.human))
    return verdicts
