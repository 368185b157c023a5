"""Asking language models behind OpenAI-compatible endpoints: many questions at a time, and verdicts on answers among them."""

from promedical_jax.asking.asker import Ask, Asker, Messages, Plain
from promedical_jax.asking.judge import SYSTEM, EndpointJudge, Reply, question, verdict_of

__all__ = ["SYSTEM", "Ask", "Asker", "EndpointJudge", "Messages", "Plain", "Reply", "question", "verdict_of"]
