"""Rubric-based medical alignment in JAX: the ProMedical system (arXiv 2604.08326)."""

__version__ = "0.1.0"
