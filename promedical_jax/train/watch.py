"""The watch against reward hacking: before each checkpoint the policy answers held-out cases, and someone judges whom the training reward does not know.

While the training reward rises and that judge's does not, the policy learns to please its reward model and nothing else. After so many looks without a new best
(`watch.patience`) the run ends early, with the weights of the best look.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from promedical_jax.answering import Answered, answer_cases
from promedical_jax.cluster import agree, chief, together
from promedical_jax.config import OnPolicy
from promedical_jax.data.encode import Encoded, measure
from promedical_jax.data.load import encode_file, load_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.model import hf
from promedical_jax.model.transformer import ModelConfig, Params
from promedical_jax.reward import check_reward_model, judge_of, load_reward_model
from promedical_jax.rubric import Judge
from promedical_jax.train.metrics import Lines
from promedical_jax.train.stage import Setup


def watched_cases(config: OnPolicy, tokenizer: Any, training: set[str], truth: Judge | None) -> list[Encoded]:
    """The recipe's held-out cases. Raises InputError where one of them is trained on, or where nobody is there to judge them."""
    assert config.watch.cases
    if config.watch.judge:
        if config.watch.judge == config.reward_model:
            raise InputError(f"watch.judge: {config.watch.judge} is the training's own reward model, which cannot tell that it is outwitted; name another one")
        check_reward_model(hf.resolve(config.watch.judge))
    elif truth is None:
        raise InputError("watch.judge is missing; name a reward model other than the training's, for nobody here knows the truth about watch.cases")
    cases = list(encode_file(config.watch.cases, tokenizer))
    both = [case.case.id for case in cases if case.case.id in training]
    if both:
        raise InputError(f"{config.watch.cases}: case {both[0]!r} is among the training cases ({len(both)} of {len(cases)} are); watch held-out ones")
    return cases


class Watch:
    """The looks of a run, kept in `out`/watch.jsonl, from which it goes on, and the answers in `out`/watched.jsonl. `value` of a look is the mean published
    reward by the judge."""

    def __init__(self, config: OnPolicy, setup: Setup, model: ModelConfig, cases: list[Encoded], truth: Judge | None):
        self._config, self._setup, self._model, self._cases = config, setup, model, cases
        self._sizes = measure(cases, config.shapes, str(config.watch.cases))
        self._judge = truth if config.watch.judge is None else _open(config, config.watch.judge, setup)
        self._console = Console(stderr=True, quiet=not chief())
        self._rewards: list[float] = []  # of the training's steps since the last look
        self._rows: list[dict[str, float]] = []
        self._file: Lines | None = None
        self._answers: Lines | None = None
        self._end: int | None = None

    def begin(self, step: int) -> None:
        """Goes on from `step`, with the looks before it."""
        path = self._config.out / "watch.jsonl"
        with together():
            self._rows = _rows_before(path, step) if path.is_file() else []
        self._file, self._answers = Lines(path, step), Lines(self._config.out / "watched.jsonl", step)

    def hear(self, values: dict[str, Any]) -> None:
        """The figures of a training step; process 0 alone knows the reward, and alone decides."""
        if "reward" in values and np.isfinite(values["reward"]):
            self._rewards.append(float(values["reward"]))

    def look(self, policy: Params, done: int) -> float:
        """The policy after step `done`, counted from 1, on the held-out cases; returns the look's value."""
        assert self._file and self._answers and self._judge
        config, setup = self._config, self._setup
        answered = answer_cases(policy, self._model, setup.tokenizer, self._cases, self._sizes, self._judge, answers=config.watch.answers,
                                answer_tokens=config.answer_tokens, batch=config.batch, seed=config.seed, temperature=config.temperature, compute=setup.compute)
        of = lambda values: round(float(np.mean(known)) if (known := np.asarray(values)[~np.isnan(values)]).size else np.nan, 6)  # noqa: E731
        row = {
            "step": done - 1,
            "value": of(np.concatenate([config.reward.of(one.scores) for one in answered])),
            "s1": of(np.concatenate([one.scores.s1 for one in answered])),
            "safe": of(np.concatenate([one.scores.clean for one in answered])),
            "reward": of(self._rewards) if self._rewards else 0.0,
        }
        if np.isnan(row["value"]):
            raise InputError(f"watch.judge abstains on every answer to {config.watch.cases}, and cannot watch anything; name another one")
        self._rewards = []
        self._rows.append(row)
        self._file.write([row])
        self._answers.write(_shown(done - 1, one) for one in answered)
        for file in (self._file, self._answers):
            file.flush()
        said = f"watch at step {done}: reward {row['value']:.3g}, s1 {row['s1']:.3g}, safe {row['safe']:.3g} on {len(answered)} held-out cases"
        self._console.print(f"{said}; in training {row['reward']:.3g}", soft_wrap=True, highlight=False)
        return row["value"]

    def outwitted(self) -> int | None:
        """The step of the best look, counted from 1, where the run is to end with its weights; None where it goes on. The same in every process."""
        self._end = self._end or agree(self._outwitted() or 0) or None
        return self._end

    def _outwitted(self) -> int | None:
        patience = self._config.watch.patience
        if patience is None or not self._rows:
            return None
        best = int(np.argmax([row["value"] for row in self._rows]))
        since = self._rows[best + 1 :]
        if len(since) < patience or np.mean([row["reward"] for row in since]) <= self._rows[best]["reward"]:
            return None
        then, now, step = self._rows[best], self._rows[-1], int(self._rows[best]["step"]) + 1
        self._console.print(
            f"stopped early: since step {step} the training reward rose from {then['reward']:.3g} to {now['reward']:.3g}, and the held-out cases' own fell from"
            f" {then['value']:.3g} to {now['value']:.3g}: the policy outwits its reward model. The model is that of step {step}",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
        return step

    def close(self) -> None:
        for file in (self._file, self._answers):
            if file:
                file.close()


def _shown(step: int, one: Answered) -> dict[str, Any]:
    """A case's answers and what was said of them, as a row of `out`/watched.jsonl; scores are null where an answer abstains."""
    number = lambda value: None if np.isnan(value) else round(float(value), 6)  # noqa: E731
    scores = {name: [number(value) for value in getattr(one.scores, name)] for name in ("s1", "s2", "s3")}
    return {"step": step, "case": one.case.id, "texts": list(one.texts), "verdicts": [[verdict.value for verdict in row] for row in one.verdicts]} | scores


def _open(config: OnPolicy, folder: Path, setup: Setup) -> Judge:
    folder = hf.resolve(folder)
    model = load_reward_model(folder, jax.sharding.get_mesh(), config.dtype)
    return judge_of(model, load_tokenizer(folder, model.config.vocabulary), setup.mesh, config.batch, setup.compute).verdicts


def _rows_before(path: Path, step: int) -> list[dict[str, float]]:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in rows if row["step"] < step]
