"""What the YAML files beside this one ask of it: the suites that are measured by replies alone, as tasks of lm-evaluation-harness.

Multiple choice by log-likelihood is lm-evaluation-harness's own; only the wording is ours. What is generated is read and marked by the suite's own functions,
and asked for once: nobody is told there what was wrong with a reply, as `promedical bench run` tells.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from pydantic import ValidationError

from promedical_jax.asking import read_reply
from promedical_jax.errors import InputError
from promedical_jax.suites.known import SUITES
from promedical_jax.suites.recipe import Name
from promedical_jax.suites.run import read_items
from promedical_jax.suites.suite import unheard

# The parts of a mark whose means are official figures.
CHOICE = ("accuracy",)
PARTS: dict[Name, Sequence[str]] = {
    "medqa": CHOICE, "medmcqa": CHOICE, "pubmedqa": CHOICE, "chidrug": ("accuracy", "net", "declined"), "medec": ("flag right", "sentence right", "composite"),
}  # fmt: skip
ITEMS: dict[tuple[str, str], Any] = {}  # by suite and id: a row of a dataset holds no record


def _rows(suite: Name, **metadata: Any) -> dict[str, Dataset]:
    """The official file that `--metadata` names for the suite; whatever else lm-evaluation-harness puts there is let be."""
    if not metadata.get(suite):
        raise InputError(f"""{suite}: no file is given; add --metadata '{{"{suite}": "PATH"}}', with its file or folder as its authors publish it""")
    chosen, rows = SUITES[suite], []
    assert chosen.ask
    for item in read_items(suite, Path(str(metadata[suite]))):
        name = unheard(chosen, item).id
        ITEMS[suite, name] = item
        instruction, question = (message["content"] for message in chosen.ask(item).messages)
        row: dict[str, Any] = {"suite": suite, "id": name, "instruction": instruction, "question": question, "target": ""}
        if chosen.likely:
            likely = chosen.likely(item)
            row |= {"context": likely.context, "options": list(likely.options), "gold": likely.gold}
        rows.append(row)
    return {"test": Dataset.from_list(rows)}


medqa, medmcqa, pubmedqa, chidrug, medec = (partial(_rows, suite) for suite in PARTS)


def mark(row: dict[str, Any], replies: Sequence[str]) -> dict[str, float]:
    """Of one item: the parts of its mark, and whether nothing sound was said."""
    suite, item = SUITES[row["suite"]], ITEMS[row["suite"], row["id"]]
    assert suite.ask
    try:
        reply = read_reply(replies[0], suite.ask(item).form)
    except ValidationError:
        reply = None
    parts = suite.mark(item, reply, []).parts
    return {name: parts[name] or 0.0 for name in PARTS[row["suite"]]} | {"abstained": float(reply is None)}
