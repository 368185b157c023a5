"""A reward model as a reward function of TRL's: f(prompts, completions, completion_ids, **columns) -> list of numbers, None where it abstains.

    from promedical_jax.reward.trl import reward_function

    trainer = GRPOTrainer(..., reward_funcs=reward_function("runs/clinic/rm/model"))

The data set needs a column `rubric`: the rubric of each prompt, as in a Case (a mapping, or its JSON text). TRL itself is not imported.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from promedical_jax.errors import InputError
from promedical_jax.model.transformer import Dtype
from promedical_jax.reward.judge import HARD, RewardJudge, Uses, open_judge
from promedical_jax.rubric import Case, Rubric, ScalarReward
from promedical_jax.rubric.lines import parse

PUBLISHED = ScalarReward()
Turns = str | Sequence[Mapping[str, Any]]


def reward_function(model: str | Path | RewardJudge, *, reward: ScalarReward = PUBLISHED, use: Uses = HARD, batch: int = 8,
                    dtype: Dtype = "float32") -> Callable[..., list[float | None]]:
    """The published scalar reward of a reward model's verdicts. `use`: tiers of which probabilities count in place of verdicts.

    Completions of the same prompt and rubric are read as one tree, so a group's prompt is computed once.
    """
    judge = model if isinstance(model, RewardJudge) else open_judge(model, batch=batch, dtype=dtype)

    def promedical(prompts: Sequence[Turns], completions: Sequence[Turns], completion_ids: Any = None, **columns: Any) -> list[float | None]:
        if "rubric" not in columns:
            raise InputError("the data set has no column 'rubric'; add one with each prompt's rubric, as a mapping or as JSON text")
        groups: dict[str, tuple[Case, list[int], list[str]]] = {}
        for i, (prompt, completion, rubric) in enumerate(zip(prompts, completions, columns["rubric"], strict=True)):
            text = rubric if isinstance(rubric, str) else json.dumps(_without_nulls(rubric))
            key = json.dumps([prompt, text])
            if key not in groups:
                groups[key] = _case(i, prompt, text), [], []
            _, places, texts = groups[key]
            places.append(i)
            texts.append(completion if isinstance(completion, str) else "".join(str(message["content"] or "") for message in completion))
        rewards: list[float | None] = [None] * len(prompts)
        cases, answers = [case for case, _, _ in groups.values()], [texts for _, _, texts in groups.values()]
        for scores, (_, places, _) in zip(judge.scores(cases, answers, use), groups.values(), strict=True):
            for place, value, judged in zip(places, reward.of(scores), scores.judged, strict=True):
                rewards[place] = float(value) if judged else None
        return rewards

    return promedical


def _case(number: int, prompt: Turns, rubric: str) -> Case:
    place = f"row {number + 1} of the batch, column"
    turns = [("user", prompt)] if isinstance(prompt, str) else [(message.get("role"), message.get("content")) for message in prompt]
    known = parse(Rubric, rubric, f"{place} rubric").model_dump(mode="json", exclude_none=True)
    messages = [{"role": role, "content": content} for role, content in turns]
    return parse(Case, json.dumps({"id": f"prompt-{number}", "instruction": messages, "rubric": known}), f"{place} prompt")


def _without_nulls(value: Any) -> Any:
    """Columns of a data set have no absent fields, only nulls."""
    if isinstance(value, Mapping):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list | tuple) else value
