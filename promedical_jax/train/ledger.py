"""Who got which advantage and why: a row for each rollout and criterion in `out`/ledger.jsonl, the answers' texts in `out`/rollouts.jsonl."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from promedical_jax.answering import Sampled
from promedical_jax.cluster import chief
from promedical_jax.config import OnPolicy
from promedical_jax.reward import RewardModel
from promedical_jax.reward.ledger import criterion_rows
from promedical_jax.rubric import Case, Judge, Verdict, score_verdicts
from promedical_jax.train.functions import criteria_of
from promedical_jax.train.metrics import Lines
from promedical_jax.train.rewards import Judged


class Ledger:
    """Writes the rollouts of a run, in process 0; `truth`, where there is one, is asked about each answer and its figures are logged as true/*."""

    def __init__(self, config: OnPolicy, reward_model: RewardModel | None, truth: Judge | None):
        self._config, self._model, self._truth = config, reward_model, truth
        self._files: tuple[Lines, Lines] | None = None
        self._names, self._extra = [one.name for one in config.functions], criteria_of(config.functions)
        self._console = Console(stderr=True)
        self.tokens = 0.0  # sampled in the last step

    def begin(self, positions: Sequence[int]) -> None:
        """Opens the files, to go on from positions that `remember` returned."""
        self._files = (Lines(self._config.out / "rollouts.jsonl", positions[0]), Lines(self._config.out / "ledger.jsonl", positions[1]))

    def remember(self) -> list[int]:
        """Puts all rows on the disk; returns the positions behind them, which a checkpoint keeps."""
        return [file.flush() for file in self._files or ()]

    def record(self, step: int, cases: Sequence[Case], sampled: Sampled, judged: Judged) -> dict[str, float]:
        """Writes one step's rollouts and returns the step's metrics; other processes than 0 only take part in fetching them."""
        assert self._files, "begin() comes first"
        _, lengths, finished = sampled.fetched
        self.tokens = float(lengths.sum())
        if not chief():
            return {}
        texts, (rollouts, ledger) = sampled.texts, self._files
        shown: list[tuple[str, ...]] = []  # the first few, as the terminal has them
        for b, case in enumerate(cases):
            for g, text in enumerate(texts[b]):
                about = {"step": step, "case": case.id, "sample": g}
                result = _result(judged, b, g)
                said = judged.functions[b, g] if judged.functions is not None else ()
                given = {f"rewards/{name}": _number(value) for name, value in zip(self._names, said, strict=True)}
                rollouts.write([about | {"text": text, "finished": bool(finished[b, g])} | given | result])
                rows = self._rows(case, judged, b, g)
                ledger.write(about | row | result for row in rows)
                if len(shown) < self._config.show:
                    figures = ("–" if result.get(name) is None else f"{result[name]:.3g}" for name in ("s1", "s2", "s3", "reward", "advantage"))
                    shown.append((escape(case.id), escape(text), "  ".join(map(_word, rows)), *figures))
        if shown and ((step + 1) % self._config.log_every == 0 or step + 1 == self._config.steps):
            self._console.print(_table(step + 1, shown))
        return _metrics(judged, finished, self._names) | self._true_metrics(cases, texts)

    def _rows(self, case: Case, judged: Judged, b: int, g: int) -> list[dict[str, Any]]:
        """What was said of an answer by each criterion, functions with a tier among them; nothing where no criterion was told.

        `satisfied` is what counted: the mean of all who judge it.
        """
        if judged.satisfied is None:
            return []
        criteria = (*case.rubric.criteria, *self._extra)
        rows: list[dict[str, Any]] = [{"criterion": c.id, "tier": c.tier.value, "polarity": c.polarity.value} for c in criteria]
        satisfied, told = judged.satisfied[b][g], len(case.rubric.criteria)
        if not judged.said and not judged.heard:
            rows, satisfied = rows[told:], satisfied[told:]
        if judged.said and self._model:
            said = judged.said[b]
            spoken = criterion_rows(case.rubric.criteria, said.score[g], said.probability[g], said.verdicts[g], self._model.hash)
            rows = [*spoken, *(dict.fromkeys(spoken[0]) | row for row in rows[told:])]
        if judged.heard:
            heard = [verdict.value for verdict in judged.heard[b][g]]
            rows = [row | {"judge": verdict} for row, verdict in zip(rows, [*heard, *[None] * (len(rows) - told)], strict=True)]
        return [row | {"satisfied": _number(value)} for row, value in zip(rows, satisfied, strict=True)]

    def close(self) -> None:
        for file in self._files or ():
            file.close()

    def _true_metrics(self, cases: Sequence[Case], texts: list[list[str]]) -> dict[str, float]:
        if self._truth is None:
            return {}
        said = self._truth(list(zip(cases, texts, strict=True)))
        rows = [score_verdicts(case.rubric.criteria, verdicts) for case, verdicts in zip(cases, said, strict=True)]
        return {
            "true/s1": float(np.mean([row.s1 for row in rows])),
            "true/s2": float(np.mean([row.s2 for row in rows])),
            "true/s3": float(np.mean([row.s3 for row in rows])),
            "true/safe": float(np.mean([row.clean for row in rows])),
        }


def _result(judged: Judged, b: int, g: int) -> dict[str, float | None]:
    """An answer's scores, reward and advantage; None where there is none. S2 and S3 are of the criteria that were judged."""
    values = {"reward": judged.reward[b, g], "advantage": judged.advantage[b, g]}
    if judged.scores is not None:
        values = {name: getattr(judged.scores, name)[b, g] for name in ("s1", "s2", "s3")} | values
    return {name: _number(value) for name, value in values.items()}


def _table(step: int, rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(title=f"answers sampled at step {step}", box=box.SIMPLE, title_justify="left")
    for name in ("case", "answer", "criteria", "S1", "S2", "S3", "reward", "advantage"):
        table.add_column(name, justify="left" if name in ("case", "answer", "criteria") else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _word(row: dict[str, Any]) -> str:
    """A criterion with a tick where the answer is rather good by it, a cross where it is rather bad, and a question mark where nobody can tell."""
    good = row["satisfied"]
    return escape(f"{'?' if good is None else '✓' if good >= 0.5 else '✗'} {row['criterion']}")


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def _metrics(judged: Judged, finished: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    common = {
        "reward": float(np.nanmean(judged.reward)),
        "reward_std": float(np.nanmean(np.nanstd(judged.reward, axis=-1))),
        "frac_reward_zero_std": float((judged.advantage == 0).all(-1).mean()),  # groups without signal
        "completions/clipped_ratio": float(1 - finished.mean()),
    }
    for name, given in zip(names, () if judged.functions is None else np.moveaxis(judged.functions, -1, 0), strict=True):
        given = given[~np.isnan(given)]
        common |= {f"rewards/{name}/mean": float(given.mean()), f"rewards/{name}/std": float(given.std())} if given.size else {}
    s = judged.scores
    if s is None:
        return common
    verdicts = [row for one in judged.said for row in one.verdicts] if judged.said else [row for case in judged.heard or () for row in case]
    return common | {
        "s1": float(np.nanmean(s.s1)),
        "s2": float(s.s2.mean()),
        "s3": float(s.s3.mean()),
        "safe": float(s.clean.mean()),
        "abstained": float(1 - s.judged.mean()),
    } | ({"abstained/criteria": float(np.mean([verdict is Verdict.ABSTAIN for row in verdicts for verdict in row]))} if verdicts else {})
