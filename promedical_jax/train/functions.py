"""Reward functions of a recipe's own, with TRL's signature: f(prompts, completions, completion_ids, **columns) -> a number a completion, None to abstain.

    functions:
      - function: my_rewards.py:has_steps # a file and a name in it, or a module of this environment: package.module:name
        tier: excellence

A function gets prompts as chat messages, completions as lists of one assistant message, and as columns `case` (the cases' ids) and `rubric` (their rubrics, as
mappings). It may be a coroutine function.
"""

import asyncio
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

from promedical_jax.config import RewardFunction
from promedical_jax.errors import InputError
from promedical_jax.rubric import Case, Criterion, Tier

Functions = Sequence[tuple[RewardFunction, Callable[..., Any]]]


def find_functions(wanted: Sequence[RewardFunction]) -> Functions:
    """The functions that a recipe names, imported. Raises InputError for a file, module or name that is not there."""
    return [(one, _find(one.function)) for one in wanted]


def _find(name: str) -> Callable[..., Any]:
    place, _, attribute = name.rpartition(":")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else import_module(place)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"functions: {place} cannot be imported ({type(error).__name__}: {error}); mend it, or the name") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise InputError(f"functions: {place} has no function {attribute!r}; write a file or a module, a colon and the function's name")
    return found


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"functions: {path}: no such file; paths are relative to where the command runs")
    spec = spec_from_file_location(f"reward_functions_{path.stem}", path)
    assert spec and spec.loader
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look there
    spec.loader.exec_module(module)
    return module


def criteria_of(functions: Sequence[RewardFunction]) -> tuple[Criterion, ...]:
    """Those with a tier as criteria, which stand behind each rubric's own."""
    return tuple(
        Criterion(id=f"function:{one.name}", text=one.function, tier=one.tier, weight=one.weight if one.tier is Tier.PROFICIENCY else None)
        for one in functions if one.tier is not None
    )  # fmt: skip


def values(functions: Functions, cases: Sequence[Case], texts: Sequence[Sequence[str]], tokens: Sequence[Sequence[Sequence[int]]]) -> np.ndarray:
    """What each function says of the G answers of each case: [B, G, F], NaN where it abstains. texts: [B][G]; tokens: [B][G] lists of ids.

    Raises InputError for a function that fails, or says what a reward cannot be.
    """
    groups = [len(group) for group in texts]
    of_case = lambda each: [one for one, count in zip(each, groups, strict=True) for _ in range(count)]  # noqa: E731
    given = {
        "prompts": of_case([[message.model_dump(mode="json") for message in case.instruction] for case in cases]),
        "completions": [[{"role": "assistant", "content": text}] for group in texts for text in group],
        "completion_ids": [list(map(int, ids)) for group in tokens for ids in group],
        "case": of_case([case.id for case in cases]),
        "rubric": of_case([case.rubric.model_dump(mode="json", exclude_none=True) for case in cases]),
    }
    said = [_said(one, function, given) for one, function in functions]
    return np.stack(said, -1).reshape(len(cases), -1, len(functions))


def _said(one: RewardFunction, function: Callable[..., Any], given: dict[str, list]) -> np.ndarray:
    wanted = len(given["completions"])
    try:
        answer = function(**given)
        answer = asyncio.run(_wait(answer)) if inspect.isawaitable(answer) else answer
    except Exception as error:
        raise InputError(f"functions: {one.function} failed ({type(error).__name__}: {error}); mend it, or let it return None where it cannot tell") from error
    try:
        numbers = np.array([math.nan if value is None else float(value) for value in answer])
    except (TypeError, ValueError) as error:
        raise InputError(f"functions: {one.function} must return a list of numbers and None, and returned {str(answer)[:80]!r}") from error
    if len(numbers) != wanted:
        raise InputError(f"functions: {one.function} returned {len(numbers)} numbers for {wanted} completions; it must return one for each")
    known = numbers[~np.isnan(numbers)]
    if np.isinf(known).any():
        raise InputError(f"functions: {one.function} returned an infinite number; return None where it cannot tell")
    partly, beyond = known[~np.isin(known, (0.0, 1.0))], known[(known < 0) | (known > 1)]
    if one.tier is Tier.SAFETY and partly.size:
        raise InputError(f"functions: {one.function} is of tier safety and returned {partly[0]:g}; return 1 for a safe answer, 0 for a violation")
    if one.tier is not None and beyond.size:
        raise InputError(f"functions: {one.function} is of tier {one.tier.value} and returned {beyond[0]:g}, which is not within [0, 1]; scale it")
    return numbers


async def _wait(answer: Any) -> Any:
    return await answer


def add_weighted(functions: Sequence[RewardFunction], said: np.ndarray, reward: np.ndarray | None) -> np.ndarray:
    """The scalar reward [B, G] with what functions without a tier add to it by weight; said: [B, G, F].

    A function that abstains on a whole group is left out of it. One that abstains on some of a group's answers leaves these without a reward (NaN): a sum
    without it would be compared with sums that have it, and an abstention would count as 0. The criteria's reward is never left out: with it the veto went.
    """
    parts = [one.weight * said[..., i] for i, one in enumerate(functions) if one.tier is None]
    known = [~np.isnan(part).all(-1, keepdims=True) for part in parts]
    if reward is not None:
        parts, known = [reward, *parts], [np.ones_like(reward[..., :1], bool), *known]
    total = np.sum([np.where(asked, part, 0.0) for part, asked in zip(parts, known, strict=True)], axis=0)
    return np.where(np.any(known, axis=0), total, np.nan)
