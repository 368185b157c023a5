"""Labels that cannot be meant: `promedical train rm` refuses each by its place before anything is written."""

import json
from pathlib import Path

import pytest

from promedical_jax.cli import main
from promedical_jax.clinic import make_cases
from promedical_jax.clinic.folder import write_model
from promedical_jax.rubric.files import case_text


def changed(record: dict, how: str) -> str:
    first = record["verdicts"][0]
    if how == "nan":
        return json.dumps(record).replace(f'"{first["verdict"]}"', "NaN", 1)
    if how == "null":
        first["verdict"] = None
    if how == "number":
        first["verdict"] = 1
    if how == "unknown criterion":
        first["criterion"] = "politeness"
    if how == "unknown answer":
        first["answer"] = "a9"
    if how == "contradiction":
        record["verdicts"].append(first | {"verdict": "unmet" if first["verdict"] == "met" else "met"})
    if how == "weights":
        weighted = next(c for c in record["rubric"]["criteria"] if "weight" in c)
        weighted["weight"] += 0.01
    return json.dumps(record)


@pytest.mark.parametrize(("how", "sentence"), [
    ("nan", "cases.jsonl, line 2: not valid JSON (NaN is not a JSON number); mend or delete the line"),
    ("null", "cases.jsonl, line 2, field verdicts[0].verdict: "),
    ("number", "cases.jsonl, line 2, field verdicts[0].verdict: is 1; use one of 'met', 'unmet' or 'abstain'"),
    ("unknown criterion", "cases.jsonl, line 2: a verdict refers to criterion 'politeness', which the rubric does not have"),
    ("unknown answer", "cases.jsonl, line 2: a verdict refers to answer 'a9', which the case does not have"),
    ("contradiction", "rater 'clinic-checker' judges criterion 'right_drug' of answer 'a0' 2 times; keep one verdict"),
    ("weights", "cases.jsonl, line 2, field rubric: the weights of the proficiency criteria sum to 1.01; scale them to sum to 1"),
])  # fmt: skip
def test_a_label_that_cannot_be_meant_is_refused(how: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [case_text(case).strip() for case in make_cases(4, seed=0)]
    lines[1] = changed(json.loads(lines[1]), how)
    (tmp_path / "cases.jsonl").write_text("\n".join(lines) + "\n")
    write_model(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    named = (part for name in ("model", "out") for part in (f"--{name}", str(tmp_path / name)))
    assert main(["train", "rm", "--cases", str(tmp_path / "cases.jsonl"), *named, "--batch", "8"]) == 2
    assert sentence in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
