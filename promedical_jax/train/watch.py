"""The watch against reward hacking: before each checkpoint the policy answers held-out cases, and someone judges whom the training reward does not know.

While the training reward rises and that judge's does not, the policy learns to please its reward model and nothing else. After so many looks without a new best
(`watch.patience`) the run ends early, with the weights of the best look.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from promedical_jax.answering import Answered, answer_cases
from promedical_jax.cluster import agree, chief
from promedical_jax.config import OnPolicy
from promedical_jax.data.encode import Encoded, measure
from promedical_jax.data.load import encode_file, load_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.model import hf
from promedical_jax.model.transformer import ModelConfig, Params
from promedical_jax.reward import RewardJudge, check_reward_model, judge_of, load_reward_model
from promedical_jax.reward.folder import read_verdicts
from promedical_jax.rubric import Judge
from promedical_jax.train.metrics import Lines
from promedical_jax.train.stage import Setup, check_fits


def watched_cases(config: OnPolicy, tokenizer: Any, training: set[str], truth: Judge | None) -> list[Encoded]:
    """The recipe's held-out cases. Raises InputError where one of them is trained on, or where nobody is there to judge them."""
    assert config.watch.cases
    if config.watch.judge:
        if config.reward_model and _run_of(config.watch.judge) == _run_of(config.reward_model):
            raise InputError(f"watch.judge: {config.watch.judge} is the training's own reward model, which cannot tell that it is outwitted; name another one")
        folder = hf.resolve(config.watch.judge)
        check_reward_model(folder)
        kind = read_verdicts(folder).kind
        if kind != "explicit":
            raise InputError(f"watch.judge: {config.watch.judge} is a reward model of kind {kind}, which tells no criterion from another; name an explicit one")
    elif truth is None:
        raise InputError("watch.judge is missing; name a reward model other than the training's, for nobody here knows the truth about watch.cases")
    cases = list(encode_file(config.watch.cases, tokenizer))
    both = [case.case.id for case in cases if case.case.id in training]
    if both:
        raise InputError(f"{config.watch.cases}: case {both[0]!r} is among the training cases ({len(both)} of {len(cases)} are); watch held-out ones")
    return cases


def _run_of(name: Path) -> Path:
    """What a reward model is known by: its run's folder, of which `model` and `adapter` are the same one."""
    folder = name.resolve()
    return folder.parent if folder.name in ("model", "adapter") else folder


def end_early_with(rows: Sequence[dict[str, Any]], patience: int | None) -> int | None:
    """The step, counted from 1, with whose weights a run of these looks ends early; None where it goes on.

    That is the latest of the best looks, where `patience` looks or more followed it and their mean training reward was higher than its own. Looks or rewards
    that are not known (null) decide nothing.
    """
    known = [row for row in rows if row["value"] is not None]
    if patience is None or not known:
        return None
    best = max(known, key=lambda row: (row["value"], row["step"]))
    since = [row for row in known if row["step"] > best["step"]]
    rewards = [row["reward"] for row in since if row["reward"] is not None]
    if len(since) < patience or not rewards or best["reward"] is None or sum(rewards) / len(rewards) <= best["reward"]:
        return None
    return int(best["step"]) + 1


class Watch:
    """The looks of a run, written to `out`/watch.jsonl, and the answers to `out`/watched.jsonl. `value` of a look is the mean published
    reward by the judge."""

    def __init__(self, config: OnPolicy, setup: Setup, model: ModelConfig, cases: list[Encoded], truth: Judge | None):
        self.waves = 1  # in which a batch of the cases is sampled
        self._config, self._setup, self._model, self._cases = config, setup, model, cases
        self._sizes = measure(cases, config.shapes, str(config.watch.cases))
        self._reward_judge = None if config.watch.judge is None else _open(config, config.watch.judge, setup)
        self._judge = self._reward_judge.verdicts if self._reward_judge else truth
        self._console = Console(stderr=True, quiet=not chief())
        self._rewards: list[float] = []  # of the training's steps since the last look
        self._rows: list[dict[str, Any]] = []
        self._file: Lines | None = None
        self._answers: Lines | None = None
        self._end: int | None = None

    @property
    def prompt(self) -> int:
        """The longest instruction of the cases, in tokens."""
        return self._sizes.prompt

    @property
    def held(self) -> Any:
        """The arrays of the judge."""
        return self._reward_judge.model.params if self._reward_judge else ()

    def begin(self, remembered: dict[str, Any] | None) -> None:
        """Goes on with what `remember` returned: the looks before, the rewards since the last one and where the files end; None: from the start."""
        before = remembered or {"rows": [], "rewards": [], "positions": [0, 0]}
        self._rows, self._rewards = list(before["rows"]), list(before["rewards"])
        self._end = self._decide()
        self._file, self._answers = (Lines(self._config.out / name, at) for name, at in zip(("watch.jsonl", "watched.jsonl"), before["positions"], strict=True))

    def remember(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as JSON; all rows are on the disk then."""
        assert self._file and self._answers
        return {"rows": self._rows, "rewards": self._rewards, "positions": [self._file.flush(), self._answers.flush()]}

    def hear(self, values: dict[str, Any]) -> None:
        """The figures of a training step; process 0 alone knows the reward, and alone decides."""
        if "reward" in values and np.isfinite(values["reward"]):
            self._rewards.append(float(values["reward"]))

    def look(self, policy: Params, done: int) -> float | None:
        """The policy after step `done`, counted from 1, on the held-out cases; returns the look's value, None where the judge abstains on every answer."""
        assert self._file and self._answers and self._judge
        config, setup = self._config, self._setup
        answered = answer_cases(policy, self._model, setup.tokenizer, self._cases, self._sizes, self._judge, answers=config.watch.answers,
                                answer_tokens=config.answer_tokens, batch=config.batch, seed=config.seed, temperature=config.temperature, compute=setup.compute,
                                waves=self.waves)
        judged = np.concatenate([one.scores.judged for one in answered])
        mean = lambda values: round(float(np.concatenate(values)[judged].mean()), 6) if judged.any() else None  # noqa: E731
        row = {
            "step": done - 1,
            "value": mean([config.reward.of(one.scores) for one in answered]),
            "s1": mean([one.scores.s1 for one in answered]),
            "safe": mean([one.scores.clean for one in answered]),
            "judged": round(float(judged.mean()), 6),
            "reward": round(float(np.mean(self._rewards)), 6) if self._rewards else None,
        }
        self._rewards = []
        self._rows.append(row)
        self._file.write([row])
        self._answers.write(_shown(done - 1, one) for one in answered)
        said = "  ".join(f"{name} {'unknown' if row[name] is None else format(row[name], '.3g')}" for name in ("value", "s1", "safe", "judged"))
        self._console.print(f"watch at step {done}: {said}, on {len(answered)} held-out cases", soft_wrap=True, highlight=False)
        self._end = self._decide()
        return row["value"]

    def outwitted(self) -> int | None:
        """The step of the best look, counted from 1, where the run is to end with its weights; None where it goes on. The same in every process."""
        return self._end

    def _decide(self) -> int | None:
        step = agree(end_early_with(self._rows, self._config.watch.patience) or 0) or None
        best = next((row for row in self._rows if step and row["step"] == step - 1), None)
        if best and chief():
            self._console.print(
                f"ends early: since step {step} the training reward rose above {best['reward']:.3g}, and no look at the held-out cases was worth more than its"
                f" {best['value']:.3g}: the policy outwits its reward model. The model is that of step {step}",
                soft_wrap=True, highlight=False,
            )  # fmt: skip
        return step

    def close(self) -> None:
        for file in (self._file, self._answers):
            if file:
                file.close()


def _shown(step: int, one: Answered) -> dict[str, Any]:
    """A case's answers and what was said of them, as a row of `out`/watched.jsonl; scores are null where an answer abstains."""
    scores = {
        name: [round(float(value), 6) if judged else None for value, judged in zip(getattr(one.scores, name), one.scores.judged, strict=True)]
        for name in ("s1", "s2", "s3")
    }
    return {"step": step, "case": one.case.id, "texts": list(one.texts), "verdicts": [[verdict.value for verdict in row] for row in one.verdicts]} | scores


def _open(config: OnPolicy, folder: Path, setup: Setup) -> RewardJudge:
    folder = hf.resolve(folder)
    check_fits(setup.mesh, hf.read_config(folder), config.batch)
    model = load_reward_model(folder, jax.sharding.get_mesh(), config.dtype)
    return judge_of(model, load_tokenizer(folder, model.config.vocabulary), setup.mesh, config.batch, setup.compute)
