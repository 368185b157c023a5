"""Whether a training is wired right: its texts, its batches, its numbers, its machine. Each check says what it found, or what to mend."""

from promedical_jax.doctor.finding import Finding, NotApplicable, look

__all__ = ["Finding", "NotApplicable", "look"]
