"""Results of preferences as RewardBench keeps them: results/eval-set/ORG/NAME.json with the accuracy of each subset, which its leaderboard reads.

The form is that of `save_to_hub` in allenai/reward-bench (scripts/run_rm.py, run_v2.py and run_generative_v2.py): one flat object of model, model_type,
chat_template and subsets, its keys in order. A subset without a figure is null. Of pairs, equal scores count half here and nothing there.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from promedical_jax.atomic import replacing
from promedical_jax.suites.suite import Figures, Marked

KIND = "Generative RM"  # what RewardBench calls a judge; a reward model with a head is a "Seq. Classifier" there
NOBODY = "local"  # the folder of a model without an organisation: only files in folders are read


def results_file(out: Path, model: str) -> Path:
    organisation, _, name = model.rstrip("/").rpartition("/")
    return out / "results" / "eval-set" / (organisation.strip("/").replace("/", "--") or NOBODY) / f"{name}.json"


def write_results(out: Path, marks: Sequence[Marked], figures: Figures, model: str, kind: str = KIND, chat_template: str | None = None) -> None:
    """`model`: its name on the hub, or any other. `chat_template`: the one of FastChat's that was used, "tokenizer" for its own, None for an endpoint's."""
    subsets = sorted({group for mark in marks for group in mark.groups})
    rows = {name: (figures.get(name) or figures[f"accuracy, {name}"]).mean for name in subsets}
    whole = {"model": model, "model_type": kind, "chat_template": chat_template} | rows
    file = results_file(out, model)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as made:
        made.write_text(json.dumps(whole, ensure_ascii=False, indent=4, sort_keys=True), encoding="utf-8")
