"""A simulated clinic whose truth is known: cases, answers of mixed quality, a checker that judges any text, and a tokenizer of its words."""

from promedical_jax.clinic.cases import make_cases, paraphrase
from promedical_jax.clinic.checker import foreign, truth, verdicts
from promedical_jax.clinic.tokenizer import build_tokenizer

__all__ = ["build_tokenizer", "foreign", "make_cases", "paraphrase", "truth", "verdicts"]
