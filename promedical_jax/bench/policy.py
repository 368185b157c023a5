"""The figures of a policy's judged answers."""

from collections.abc import Callable, Sequence

import numpy as np

from promedical_jax.answering import Answered
from promedical_jax.bench.intervals import Interval, bootstrap
from promedical_jax.bench.policy_figures import Measured, means, measure, points
from promedical_jax.bench.report import Example, ExampleAnswer, PolicyFigures
from promedical_jax.rubric import Case


def chosen(answered: Sequence[Answered], choose: Callable[[Sequence[tuple[Case, Sequence[str]]]], list[int]]) -> list[Answered]:
    """Of each case the one answer that `choose` puts first: best-of-G."""
    picks = choose([(one.case, one.texts) for one in answered])
    return [
        Answered(one.case, one.texts[g : g + 1], one.lengths[g : g + 1], one.verdicts[g : g + 1], one.scores[g : g + 1])
        for one, g in zip(answered, picks, strict=True)
    ]


def figures(answered: Sequence[Answered]) -> PolicyFigures:
    """Means over cases of each case's mean over its answers, with 95 % bootstrap intervals over cases. S2 is the share of the bonus criteria met."""
    of_cases = [means(_measured(one)) for one in answered]
    return PolicyFigures(
        **{name: bootstrap([each[name] for each in of_cases]) for name in ("s1", "s2", "s3", "safe")},
        length=bootstrap([float(np.mean(one.lengths)) for one in answered]),
        n_cases=len(answered),
        n_answers=sum(len(one.texts) for one in answered),
    )


def win_rate(ours: Sequence[Answered], theirs: Sequence[Answered]) -> Interval:
    """Share of pairs (our answer g, their answer g to the same case) that we win by the lexicographic order, ties counted half."""
    return bootstrap([points(_measured(a), _measured(b)) for a, b in zip(ours, theirs, strict=True)])


def _measured(one: Answered) -> Measured:
    return measure(one.case.rubric.criteria, one.verdicts)


def examples(base: Sequence[Answered], aligned: Sequence[Answered], count: int) -> tuple[Example, ...]:
    """The first answers of both to cases spread over the set: chosen by position, not by outcome."""
    chosen = np.unique(np.linspace(0, len(base) - 1, min(count, len(base))).astype(int))
    return tuple(Example.of(base[i].case, _shown(base[i]), _shown(aligned[i]), base[i].verdicts[0], aligned[i].verdicts[0]) for i in chosen)


def _shown(one: Answered) -> ExampleAnswer:
    return ExampleAnswer(text=one.texts[0], s1=float(one.scores.s1[0]), s2=float(one.scores.s2[0]), s3=float(one.scores.s3[0]))
