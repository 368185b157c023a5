"""A simulated clinic whose truth is known: cases, answers of mixed quality, a checker that judges any text, and a tokenizer of its words.

`Variety` says what is varied (docs/clinic.md); `PLAIN`, the default, is the quickstart's clinic.
"""

from promedical_jax.clinic.cases import DISTRACTORS, make_cases, paraphrase
from promedical_jax.clinic.checker import foreign, holds, truth, verdicts
from promedical_jax.clinic.marks import marks_of
from promedical_jax.clinic.tokenizer import build_tokenizer
from promedical_jax.clinic.variety import GROWN, PLAIN, Rater, Spurious, Variety

__all__ = [
    "DISTRACTORS", "GROWN", "PLAIN", "Rater", "Spurious", "Variety", "build_tokenizer", "foreign", "holds", "make_cases", "marks_of", "paraphrase", "truth",
    "verdicts",
]  # fmt: skip
