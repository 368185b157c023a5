"""The page of a case through a run: what stands in it, from which files, and what it says of a folder without one."""

import json
from pathlib import Path

import pytest

from promedical_jax.bench.follow import write_case_page
from promedical_jax.cli import main
from promedical_jax.clinic import make_cases, truth
from promedical_jax.config import GrpoConfig
from promedical_jax.errors import InputError
from promedical_jax.recipe import dump
from promedical_jax.rubric import score_verdicts, write_cases


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that looked at held-out cases twice, and sampled training cases: the first of them in two steps, with an answer of HTML."""
    folder = tmp_path / "run"
    folder.mkdir()
    training, held_out = make_cases(3, seed=0, answers=2), make_cases(2, seed=0, held_out=True, answers=2)
    write_cases(tmp_path / "train.jsonl", training)
    write_cases(tmp_path / "held_out.jsonl", held_out)
    config = GrpoConfig(out=folder, cases=tmp_path / "train.jsonl", model="m", reward_model="r", watch={"cases": tmp_path / "held_out.jsonl"})
    (folder / "recipe.yaml").write_text(dump(config))
    looks, rollouts, ledger = [], [], []
    for step in (1, 3):
        for case in held_out:
            texts = [case.answers[0].text, "I am a licensed doctor." if step == 1 else ""]
            [said] = truth([(case, texts)])
            scores = score_verdicts(case.rubric.criteria, said)
            looks.append({"step": step, "case": case.id, "texts": texts, "verdicts": [list(row) for row in said], "s1": scores.s1.tolist(),
                          "s2": scores.s2.tolist(), "s3": scores.s3.tolist()})  # fmt: skip
    for step, case in ((0, training[0]), (1, training[1]), (2, training[0])):
        for sample, text in enumerate(("<b>Rest</b> & wait.", "Avoid it.")):
            about = {"step": step, "case": case.id, "sample": sample}
            rollouts.append(about | {"text": text, "s1": None if sample else 0.25, "s2": 0.0, "s3": 1.0, "reward": 0.5, "advantage": -0.75})
            ledger += [about | {"criterion": criterion.id, "verdict": "met", "satisfied": 1.0} for criterion in case.rubric.criteria]
    for name, rows in (("watched", looks), ("rollouts", rollouts), ("ledger", ledger)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4, "case"')  # it is still writing
    return folder


def test_a_held_out_case_is_followed_through_the_looks(run: Path, tmp_path: Path) -> None:
    [first, _] = make_cases(2, seed=0, held_out=True, answers=2)
    assert write_case_page(run, None, tmp_path / "page.html") == 2
    page = (tmp_path / "page.html").read_text()
    assert first.id in page and "which the policy never trained on" in page and "Step 2</h3>" in page and "Step 4</h3>" in page
    assert "I am a licensed doctor." in page and "nothing was said" in page and first.answers[0].text in page
    assert all(criterion.text in page for criterion in first.rubric.criteria) and "<script" not in page and "http://" not in page


def test_a_training_case_is_followed_through_its_rollouts(run: Path, tmp_path: Path) -> None:
    case = make_cases(3, seed=0, answers=2)[0]
    assert write_case_page(run, case.id, tmp_path / "page.html") == 2
    page = (tmp_path / "page.html").read_text()
    assert "Step 1</h3>" in page and "Step 3</h3>" in page and "Step 2</h3>" not in page and "advantage <b>-0.75</b>" in page
    assert "&lt;b&gt;Rest&lt;/b&gt; &amp; wait." in page and "<b>Rest" not in page and "not judged" in page


def test_the_command_writes_beside_the_run_and_replaces_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["follow", str(run)]) == 0 and "answers of 2 steps" in capsys.readouterr().out
    before = (run / "case.html").read_bytes()
    assert main(["follow", str(run)]) == 2 and "give --force" in capsys.readouterr().err
    assert main(["follow", str(run), "--case", "clinic-none"]) == 2
    assert before == (run / "case.html").read_bytes()


def test_what_has_no_such_case_is_refused(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with pytest.raises(InputError, match="case 'nobody' was never answered; among those that were are"):
        write_case_page(run, "nobody", page)
    write_cases(tmp_path / "held_out.jsonl", make_cases(1, seed=9))
    with pytest.raises(InputError, match=r"holds no case .* any more"):
        write_case_page(run, None, page)
    with pytest.raises(InputError, match="holds no recipe"):
        write_case_page(tmp_path, None, page)
    for name in ("watched", "rollouts"):
        (run / f"{name}.jsonl").unlink()
    with pytest.raises(InputError, match="holds no answers yet"):
        write_case_page(run, None, page)
    assert not page.exists()
