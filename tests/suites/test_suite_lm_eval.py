"""The folder of tasks for lm-evaluation-harness, as far as it can be looked at without it; tests/live/test_lm_eval_tasks.py runs them."""

import json
from pathlib import Path

import pytest
import yaml

from promedical_jax.cli import main
from promedical_jax.errors import InputError
from promedical_jax.suites.known import SUITES
from promedical_jax.suites.lm_eval_tasks import ours

DRUG = {"id": "1", "question": "哪些药?", "kind": "indication", "options": {"A": "甲", "B": "乙"}, "answer": ["A"]}


def tasks(folder: Path) -> dict[str, tuple[str, str]]:
    """Of each file: its task, and the function that reads its data."""

    class Loader(yaml.SafeLoader):
        """With the one tag that lm-evaluation-harness adds."""

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    found = {file.stem: yaml.load(file.read_text(encoding="utf-8"), Loader) for file in folder.glob("*.yaml") if not file.stem.startswith("_")}
    return {name: (task["task"], task["custom_dataset"]) for name, task in found.items()}


def test_the_command_names_the_folder_and_each_task_its_suite(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "tasks-dir"]) == 0
    found = tasks(Path(capsys.readouterr().out.strip()))
    assert found.keys() == {*(f"{name}_generate" for name in ours.PARTS), *(name for name in ours.PARTS if SUITES[name].likely)}
    for name, (task, function) in found.items():
        assert task == f"promedical_{name}" and function == f"ours.{name.removesuffix('_generate')}" and callable(getattr(ours, function.split(".")[1]))


def test_a_reply_is_marked_by_the_suites_function_and_nothing_sound_abstains(tmp_path: Path) -> None:
    (tmp_path / "drugs.jsonl").write_text(json.dumps(DRUG, ensure_ascii=False), encoding="utf-8")
    [row] = ours.chidrug(chidrug=tmp_path / "drugs.jsonl", pretrained="whatever else lm-eval says")["test"]
    assert "哪些药?" in row["question"] and "弃答" in row["instruction"]
    for reply, accuracy, net, declined, abstained in (('{"answer": ["A"]}', 1, 1, 0, 0), ('{"answer": ["B"]}', 0, -1, 0, 0), ('{"answer": []}', 0, 0, 1, 0),
                                                      ("A", 0, 0, 0, 1)):  # fmt: skip
        assert ours.mark(row, [reply]) == {"accuracy": accuracy, "net": net, "declined": declined, "abstained": abstained}
    with pytest.raises(InputError, match="medec: no file is given; add --metadata"):
        ours.medec(version=1)
