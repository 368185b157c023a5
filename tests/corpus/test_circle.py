"""Round and round: cases go to physicians, what they correct goes into the pool, and who writes rubrics learns from that, until enough are right."""

import json
from pathlib import Path
from typing import Any

from scripted import LINES, TASKS, reply
from served import Server

from promedical_jax.corpus import pipeline
from promedical_jax.corpus.recipe import CorpusConfig
from promedical_jax.review import export, readback
from promedical_jax.review.recipe import ReviewConfig
from promedical_jax.review.rubrics import read_rounds
from promedical_jax.rubric import read_cases


def learns(number: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
    """Writes of a vague cause, unless an example shows that it is to be named."""
    if TASKS.get(body["messages"][0]["content"]) != "rubric":
        return reply(number, body)
    shown = json.loads(body["messages"][1]["content"]).get("examples", [])
    taught = any(line["text"] == LINES[0]["text"] for each in shown for line in each["criteria"])
    lines = LINES if taught else [LINES[0] | {"text": "Says something of the cause."}, *LINES[1:]]
    return 200, json.dumps({"choices": [{"message": {"content": json.dumps({"criteria": lines})}}]}), {}


def mend(task: dict[str, Any]) -> dict[str, Any]:
    """What a physician does, as Label Studio exports it."""
    rows = [place for place, row in enumerate(task["data"]["criteria"]) if "Says something" in json.dumps(row)]
    said = [("rubric", "choices", ["corrected" if rows else "passed"]), *((f"text_{place}", "text", [LINES[0]["text"]]) for place in rows)]
    result = [{"from_name": name, "to_name": "page", "type": "textarea" if kind == "text" else kind, "value": {kind: value}} for name, kind, value in said]
    return task | {"id": 1, "annotations": [{"id": 1, "result": result}]}


def test_corrections_reach_the_writer_and_the_next_round_passes(recipe: dict[str, Any], server: Server, tmp_path: Path) -> None:
    server.reply = learns
    pool = tmp_path / "pool.jsonl"
    corpus = CorpusConfig.model_validate(recipe | {"rubric": recipe["rubric"] | {"pool": str(pool)}, "judges": []})
    review = ReviewConfig(cases=Path(recipe["out"]) / "cases.parquet", out=tmp_path / "review", what="rubrics", physicians=("ada", "ben"), size=8, pool=pool,
                          threshold=0.5, exports=tmp_path / "exports")  # fmt: skip
    review.exports and review.exports.mkdir()
    for number in (1, 2):
        pipeline.run(corpus)
        export.run(review)
        for name in review.physicians:
            tasks = json.loads((review.out / f"round-{number}" / f"{name}.tasks.json").read_text())
            (tmp_path / "exports" / f"{name}-{number}.json").write_text(json.dumps([mend(task) for task in tasks]))
        readback.run(review)
    first, second = read_rounds(review)
    assert (first.reviewed, first.passed, second.reviewed, second.passed) == (8, 0, 8, 8)
    assert second.at_least > review.threshold > first.at_least
    judged = CorpusConfig.model_validate(recipe | {"rubric": recipe["rubric"] | {"pool": str(pool)}})
    pipeline.run(judged)
    cases = read_cases(Path(recipe["out"]) / "cases.parquet")
    assert len(cases) > 16 and all(case.rubric.criteria[0].text == LINES[0]["text"] for case in cases) and all(case.verdicts for case in cases)
