"""How much is spent on a table: numbers of cases, steps and seeds, and with them the recipes of all stages.

What is trained follows one recipe throughout, of which an experiment changes the keys that it is about.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from promedical_jax.clinic import Spurious, Variety
from promedical_jax.lab.experiment import WHOLE, Base, Cases, Cut, Flags, Judge, Policy
from promedical_jax.lab.recipe import LabConfig

# Requests that only sound dangerous and those that are to be declined are there throughout: without them no table could see a policy that refuses too much.
CLINIC = Variety(levels=(1, 2), alarming=0.1, harmful=0.1)
PRESSING = 0.5  # share of the patients who ask for more than is safe, where that is what a table is about
MARK = 0.8  # correlation of spurious marks with quality, in training
ANSWER = 56  # tokens of the longest answer that is sampled
SHAPES: Flags = {"shapes.prompt": "64", "shapes.answer": str(ANSWER), "shapes.criterion": "16"}
MARKED_SHAPES: Flags = {"shapes.prompt": "64", "shapes.answer": "96", "shapes.criterion": "16"}


@dataclass(frozen=True)
class Budget:
    """Batches are multiples of 8, so that up to eight devices can share them."""

    seeds: int
    train: int
    held_out: int
    sft: int  # steps
    rm: int
    rm_batch: int
    policy: int
    policy_batch: int


SMOKE = Budget(seeds=1, train=60, held_out=8, sft=3, rm=3, rm_batch=8, policy=2, policy_batch=8)
SMALL = Budget(seeds=3, train=600, held_out=64, sft=110, rm=60, rm_batch=8, policy=12, policy_batch=8)
FULL = Budget(seeds=5, train=3000, held_out=240, sft=320, rm=400, rm_batch=8, policy=45, policy_batch=16)


class Bench:
    """The experiments of a budget, by the recipe of a laboratory."""

    def __init__(self, config: LabConfig):
        self.budget = {"smoke": SMOKE, "small": SMALL, "full": FULL}[config.budget]
        self.seeds = config.seeds or self.budget.seeds
        self._model = config.model

    def grpo(self, judge: Judge, advantage: str, cut: Cut = WHOLE, changed: Mapping[str, str] = MappingProxyType({})) -> Policy:
        return self.policy("grpo", judge, {"advantage": advantage, **changed}, cut)

    def cases(self, **variety: Any) -> Cases:
        changed = Variety.model_validate(CLINIC.model_dump() | variety)
        return Cases(variety=changed, train=self.budget.train, held_out=self.budget.held_out)

    def base(self, **variety: Any) -> Base:
        recipe = self._optimised(3e-3, self.budget.sft // 16, {"steps": str(self.budget.sft), "batch": "16", "optimizer.weight_decay": "0.01"})
        return Base(cases=self.cases(**variety), width=self._model.width, depth=self._model.depth, recipe=recipe | SHAPES)

    def marked(self) -> Cases:
        """Cases with marks, mostly of the better answers, that mean nothing."""
        marks = Spurious(length=MARK, confidence=MARK, credentials=MARK, politeness=MARK)
        return self.cases(spurious=marks.model_dump())

    def judge(self, kind: Literal["explicit", "blind", "implicit", "zero_shot"] = "explicit", cut: Cut = WHOLE,
              taught: Cases | None = None, base: Base | None = None) -> Judge:  # fmt: skip
        """`base`: where it is another one than the tables' usual."""
        base = base or self.base()
        if kind == "zero_shot":
            return Judge(base=base, kind=kind)
        steps = {"steps": str(self.budget.rm), "batch": str(self.budget.rm_batch)}
        recipe = self._optimised(3e-3, self.budget.rm // 10, steps | {"ties": "davidson", "optimizer.weight_decay": "0.01"})
        shapes = MARKED_SHAPES if taught and taught.variety.spurious.correlations(held_out=False) else SHAPES
        lent = {"foreign": "2"} if kind == "explicit" else {}  # who is told no criterion cannot be lent one
        return Judge(base=base, kind=kind, taught=taught, cut=cut, recipe=recipe | lent | shapes)

    def policy(self, stage: Literal["dpo", "ppo", "grpo"], judge: Judge | None = None, changed: Mapping[str, str] = MappingProxyType({}),
               cut: Cut = WHOLE) -> Policy:  # fmt: skip
        """Of the judge's base. `changed`: keys of the stage's recipe."""
        recipe = self._optimised(5e-4, 5, {"steps": str(self.budget.policy), "batch": str(self.budget.policy_batch), "optimizer.final": "0.3"}) | SHAPES
        if stage == "dpo":  # as many answers as the others sample, of those that stand in the cases
            recipe |= {"steps": str(2 * self.budget.policy), "beta": "0.1"}
        else:
            recipe |= {"answers": "8", "answer_tokens": str(ANSWER), "kl": "0.02"}
        return Policy(base=judge.base if judge else self.base(), stage=stage, judge=judge, cut=cut, recipe=recipe | dict(changed))

    def _optimised(self, rate: float, warmup: int, more: Flags) -> Flags:
        typed = {"dtype": self._model.dtype} if self._model.dtype != "float32" else {}
        return {"optimizer.learning_rate": f"{rate * self._model.learning_rate:g}", "optimizer.warmup": str(warmup)} | typed | more
