"""Asking language models behind OpenAI-compatible endpoints: many questions at a time, and verdicts on answers among them."""

from promedical_jax.asking.asker import Asker
from promedical_jax.asking.form import Ask, Form, Messages, Plain, about, again, read_reply, turns
from promedical_jax.asking.judge import SYSTEM, EndpointJudge, Reply, question, verdict_of
from promedical_jax.asking.thinking import without_thinking

__all__ = [
    "SYSTEM", "Ask", "Asker", "EndpointJudge", "Form", "Messages", "Plain", "Reply", "about", "again", "question", "read_reply", "turns", "verdict_of",
    "without_thinking",
]  # fmt: skip
