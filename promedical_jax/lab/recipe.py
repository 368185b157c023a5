"""The recipe of `promedical lab`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from promedical_jax.config import Positive, Settings

Name = Literal["T1", "T2", "T3", "T4", "T5", "T6"]
TABLES = "T1 reward models, T2 safety, T3 ablations, T4 policies, T5 sensitivity, T6 what the paper leaves out, or all"
BUDGET = "small: a table in about ten minutes on two cores, 3 seeds; full: 5 seeds and hours; smoke: whether it runs at all, its figures mean nothing"


class Larger(Settings):
    """A larger model in the place of the clinic's small one, from random weights as well."""

    width: Positive = Field(128, description="of the residual stream; the feed-forward is twice as wide")
    depth: Positive = Field(2, description="layers")
    learning_rate: float = Field(1.0, gt=0, description="what every stage's learning rate is multiplied by")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="what matrix products compute in")


class LabConfig(Settings):
    """The paper's claims on the simulated clinic, where truth is known: tables T1 to T6, each with seeds, intervals, and the paper's figure beside."""

    table: Name | Literal["all"] = Field(description=TABLES)
    budget: Literal["smoke", "small", "full"] = Field("small", description=BUDGET)
    out: Path = Field(Path("runs/lab"), description="folder for what is trained, the figures and the page; what is there already is not made again")
    seeds: Positive | None = Field(None, description="seeds, each of which draws cases, start and training anew; null: the budget's")
    processes: Positive | None = Field(None, description="trainings at a time; null: one a core, and one where there is an accelerator")
    render: bool = Field(False, description="train nothing: draw tables and page of what is there")
    model: Larger = Larger()
