"""What is looked at before step 1 of every training: all that costs next to nothing."""

from collections.abc import Sequence
from typing import Any

import jax

from promedical_jax.config import Kind, OnPolicy, RmConfig, Shapes, Stage
from promedical_jax.data.encode import Encoded, measure, stop_token
from promedical_jax.doctor import machine, texts
from promedical_jax.doctor.finding import Finding, NotApplicable, look
from promedical_jax.errors import InputError
from promedical_jax.model.transformer import ModelConfig

LOOKED_AT = 64  # cases; `promedical doctor` looks at all


def check(config: Stage, mesh: jax.sharding.Mesh, model: ModelConfig, tokenizer: Any, cases: Sequence[Encoded]) -> None:
    """Raises InputError for the first of `findings` that failed."""
    for one in findings(config, mesh, model, tokenizer, cases[:LOOKED_AT]):
        if one.outcome == "failed":
            raise InputError(f"{one.check}: {one.said} (doctor: false in the recipe leaves such checks out)")


def findings(config: Stage, mesh: jax.sharding.Mesh, model: ModelConfig, tokenizer: Any, cases: Sequence[Encoded]) -> list[Finding]:
    """A line a check."""
    wanted = machine.need(config, model)
    return [
        look("devices", lambda: machine.devices(mesh)),
        look("memory", lambda: machine.memory(wanted, mesh.size)),
        look("disk", lambda: machine.disk(config, wanted)),
        look("chat template", lambda: texts.template_round_trip(tokenizer)),
        look("end of a turn", lambda: texts.turn_end(tokenizer)),
        look("group ids", lambda: texts.groups(cases, measure(cases, Shapes(), str(config.cases)))),
        look("scored position", lambda: _scored(config, tokenizer, cases)),
    ]


def _scored(config: Stage, tokenizer: Any, cases: Sequence[Encoded]) -> str:
    if not isinstance(config, RmConfig) and not (isinstance(config, OnPolicy) and config.reward_model):
        raise NotApplicable("no reward model reads this stage's cases")
    kind: Kind = config.kind if isinstance(config, RmConfig) else "explicit"
    return texts.scored_position(cases, measure(cases, Shapes(), str(config.cases)), stop_token(tokenizer), kind)
