"""The stages that ask in shards: README's lines under datatrove make what one machine makes, and a rank that dies pays for nothing twice."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripted import config, hashed, reply
from served import Server

from promedical_jax.corpus.asked import prompt
from promedical_jax.corpus.beyond import merge, pipeline, shard
from promedical_jax.corpus.pipeline import run
from promedical_jax.errors import InputError

README = (Path(__file__).parents[2] / "README.md").read_text()
MODELS = ("difficulty", "topic", "writers", "rubric", "judges")


def without_models(recipe: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in recipe.items() if name not in MODELS}


def sharded(recipe: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The recipe in another folder, with questions and sieve made."""
    other = recipe | {"out": str(tmp_path / "sharded")}
    run(config(without_models(other)))
    return other


def refusing(number: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
    """A sorter that never sorts a sixth of the questions, so that stages take something out in each shard."""
    refuses = body["model"] == "sorter" and hashed(body["messages"][1]["content"], 6) == 0
    return (200, "{}", {}) if refuses else reply(number, body)


def files_of(recipe: dict[str, Any]) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(recipe["out"]).iterdir() if file.suffix in (".parquet", ".jsonl", ".json")}


@pytest.mark.parametrize("tasks", [1, pytest.param(3, marks=pytest.mark.slow), pytest.param(24, marks=pytest.mark.slow)])
def test_shards_put_together_are_what_one_machine_makes(tasks: int, recipe: dict[str, Any], server: Server, quick: None, tmp_path: Path) -> None:
    server.reply, recipe = refusing, recipe | {"topic": recipe["topic"] | {"retries": 1}}
    run(config(recipe))
    asked = server.seen.copy()
    server.seen.clear()
    other = sharded(recipe, tmp_path)
    (step,) = pipeline(config(other))
    for rank in reversed(range(tasks)):  # more tasks than questions, too: some ranks have none
        step(None, rank, tasks)
    merge(config(other), tasks)
    assert files_of(other) == files_of(recipe) and server.seen.keys() == asked.keys()
    assert any(out.get("no reply") for out in (one["out"] for one in json.loads((tmp_path / "sharded" / "report.json").read_text())["stages"].values()))


def test_the_lines_of_the_readme_run_under_datatrove(recipe: dict[str, Any], server: Server, tmp_path: Path) -> None:
    pytest.importorskip("datatrove", reason="datatrove is not installed; pip install datatrove")
    run(config(recipe))
    asked = server.seen.copy()
    server.seen.clear()
    other = sharded(recipe, tmp_path)
    [lines] = [block for block in re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL) if "datatrove" in block]
    (tmp_path / "configs" / "corpus").mkdir(parents=True)
    (tmp_path / "configs" / "corpus" / "local.yaml").write_text(yaml.safe_dump(other))
    (tmp_path / "beyond.py").write_text(lines)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    for again in (False, True):
        done = subprocess.run([sys.executable, "beyond.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert files_of(other) == files_of(recipe) and server.seen == asked  # the second time nobody is asked
        assert ("already been completed" in done.stderr) == again
    assert sorted(path.name for path in (tmp_path / "sharded" / "shards").iterdir()) == ["0-of-2", "1-of-2"]


def test_a_rank_that_dies_goes_on_and_pays_for_no_reply_twice(recipe: dict[str, Any], server: Server, tmp_path: Path) -> None:
    other = sharded(recipe, tmp_path)
    server.reply = lambda number, body: (401, "no more", {}) if body["model"] == "expert" else reply(number, body)
    with pytest.raises(InputError, match="answers 401"):
        shard(config(other), 0, 2)
    paid = {key: count for key, count in server.seen.items() if json.loads(key)[0]["content"] != prompt("rubric")}
    with pytest.raises(InputError, match=r"0-of-2/5-rubric-.* is not there; run that task again"):
        merge(config(other), 2)
    server.reply = reply
    shard(config(other), 0, 2)
    assert {key: server.seen[key] for key in paid} == paid and set(paid.values()) == {1, 3}  # three writers are asked alike
    everything = sum(server.seen.values())
    shard(config(other), 0, 2)
    assert sum(server.seen.values()) == everything


def test_a_budget_and_a_pace_are_divided_among_the_ranks(recipe: dict[str, Any], server: Server, tmp_path: Path) -> None:
    other = sharded(recipe | {"difficulty": recipe["difficulty"] | {"budget": 1.6e-4, "price_reply": 1.0, "max_tokens": 8, "per_minute": 4000}}, tmp_path)
    with pytest.raises(InputError, match=r"difficulty.budget: .* of 4e-05 are spent"):
        shard(config(other), 1, 4)
    assert 0 < sum(server.seen.values()) < 58 / 4


def test_without_questions_it_says_how_to_make_them(recipe: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"1-sieve-.* is not there; first run `promedical corpus run` by this recipe without models"):
        shard(config(recipe), 0, 2)
