"""What a good answer is: cases, rubrics and verdicts; scores and their order; rewards and advantages; files of cases. No model code."""

from promedical_jax.rubric import advantage
from promedical_jax.rubric.case import Answer, Case, Criterion, Judge, Judgement, Message, Polarity, Record, Rubric, Tier, Verdict
from promedical_jax.rubric.files import from_dataset, read_cases, stream_cases, to_dataset, write_cases
from promedical_jax.rubric.reward import ScalarReward
from promedical_jax.rubric.scores import Scores, best, prefer, satisfied_matrix, score, score_verdicts, win_points, win_rate

__all__ = [
    "Answer",
    "Case",
    "Criterion",
    "Judge",
    "Judgement",
    "Message",
    "Polarity",
    "Record",
    "Rubric",
    "ScalarReward",
    "Scores",
    "Tier",
    "Verdict",
    "advantage",
    "best",
    "from_dataset",
    "prefer",
    "read_cases",
    "satisfied_matrix",
    "score",
    "score_verdicts",
    "stream_cases",
    "to_dataset",
    "win_points",
    "win_rate",
    "write_cases",
]
