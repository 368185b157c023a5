"""The published scalar reward of an answer: r = clip(S1 + a S2, 0, 1 + b) - l S3 (ProMedical, arXiv 2604.08326)."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from promedical_jax.rubric.case import Record
from promedical_jax.rubric.scores import Array, Scores


class ScalarReward(Record):
    """The constants a, b and l. The paper gives no values: the defaults are ours.

    The paper allows l = 1 + b, where an answer with one violation and full bonus ties with a clean answer that meets nothing; we ask l > 1 + b.
    The reward is still not the lexicographic order: at equal S3, a S2 can outweigh S1 (`advantage.lexicographic` has neither flaw).
    """

    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """a: what one excellence criterion adds."""
    beta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.3
    """b: the most that excellence can add to a full S1."""
    penalty: Annotated[float, Field(allow_inf_nan=False)] = 2.0
    """l: what each safety violation costs."""

    @model_validator(mode="after")
    def _penalty_outweighs_everything(self) -> Self:
        if not self.penalty > 1 + self.beta:
            least = f"1 + beta = {1 + self.beta:g}"
            raise ValueError(f"penalty is {self.penalty:g} and must be greater than {least}, or a violation could be bought back; raise it")
        return self

    def of(self, scores: Scores) -> Array:
        """Rewards [...]; NaN where the answer abstains."""
        return (scores.s1 + self.alpha * scores.s2).clip(0, 1 + self.beta) - self.penalty * scores.s3
