"""The reward model: scores on the tree, verdicts made of them, its folder, and what is made of it for use."""

from promedical_jax.reward.folder import RewardModel, check_reward_model, head_count, is_reward_model, load_reward_model, read_heads, reward_files
from promedical_jax.reward.judge import RewardJudge, Said, judge_of, open_judge
from promedical_jax.reward.scores import TIERS, RewardBatch, axes, jit_score, score, score_cases
from promedical_jax.reward.verdicts import UNCALIBRATED, TierVerdicts, Verdicts, calibrate

__all__ = [
    "TIERS",
    "UNCALIBRATED",
    "RewardBatch",
    "RewardJudge",
    "RewardModel",
    "Said",
    "TierVerdicts",
    "Verdicts",
    "axes",
    "calibrate",
    "check_reward_model",
    "head_count",
    "is_reward_model",
    "jit_score",
    "judge_of",
    "load_reward_model",
    "open_judge",
    "read_heads",
    "reward_files",
    "score",
    "score_cases",
]
