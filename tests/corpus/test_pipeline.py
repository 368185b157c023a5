"""The corpus from files to cases against an endpoint that replies by rule: exact counts, every sort of failure, changes, kills, and why a question is there."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripted import LINES, TASKS, config, flaky, hashed, made, reply, what_is_said
from served import Server

from promedical_jax.cli import main
from promedical_jax.corpus.asked import prompt
from promedical_jax.corpus.pipeline import lineage, plan, run
from promedical_jax.corpus.recipe import CorpusConfig
from promedical_jax.errors import InputError
from promedical_jax.recipe import read_recipe
from promedical_jax.rubric import Verdict, read_cases, write_cases


def test_from_files_to_cases_with_counts_that_add_up(recipe: dict[str, Any], server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[str, str, Any]] = []

    def noted(number: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        asked.append((TASKS.get(body["messages"][0]["content"], "verdict"), body["model"], what_is_said(body)))
        return reply(number, body)

    server.reply = noted
    run(config(recipe))
    report = json.loads((Path(recipe["out"]) / "report.json").read_text())
    stages = report["stages"]
    assert stages["questions"] == {"kept": 65, "out": {}} and stages["sieve"] == {"kept": 58, "out": {"copy": 5, "benchmark": 2}}
    kept = sum(5 <= said["difficulty"] <= 9 for task, _, said in asked if task == "difficulty")
    assert stages["difficulty"] == {"kept": kept, "out": {"difficulty": 58 - kept}} and 10 < kept < 48
    assert all(stages[name] == {"kept": kept, "out": {}} for name in ("topic", "answers", "rubric", "verdicts"))
    tasks = Counter((task, model) for task, model, _ in asked)
    wanted = {("difficulty", "grader"): 58, ("topic", "sorter"): kept, ("rubric", "expert"): kept}
    wanted |= {("answer", f"model-{name}"): kept for name in ("ada", "ben", "cy")}
    assert tasks == wanted | {("verdict", f"judge-{name}"): kept * 3 * 3 for name in ("one", "two")}

    cases = read_cases(Path(recipe["out"]) / "cases.parquet")
    parts = {name: read_cases(file) for name in ("train", "validation", "bench") if (file := Path(recipe["out"]) / f"{name}.jsonl").exists()}
    assert len(cases) == kept == sum(report["parts"].values()) and {c.id for each in parts.values() for c in each} == {c.id for c in cases}
    one = cases[0]
    assert [a.id for a in one.answers] == ["ada", "ben", "cy"] and [c.text for c in one.rubric.criteria] == [line["text"] for line in LINES]
    assert len(one.verdicts) == 2 * 3 * 3 and {j.rater for j in one.verdicts} == {"one", "two"} and one.specialty in ("urology", "cardiology")
    assert 5 <= (one.difficulty or 0) <= 9 and one.provenance["licence"] in ("MIT", "Apache-2.0")
    said = Counter(verdict["verdict"] for task, _, verdict in asked if task == "verdict")
    assert Counter(j.verdict.value for case in cases for j in case.verdicts) == said and min(said.values()) > 0
    assert {tier: sum(each.values()) for tier, each in report["pairs"].items()} == {"proficiency": kept * 2 * 3, "excellence": 0, "safety": kept * 3}
    capsys.readouterr()
    run(config(recipe))
    assert len(asked) == sum(tasks.values())  # what is made is not made again
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and lines[1].split() == ["sieve", "58", "kept;", "out:", "2", "benchmark,", "5", "copy"]


def test_failures_of_every_sort_change_no_outcome(recipe: dict[str, Any], server: Server, quick: None) -> None:
    run(config(recipe))
    sound, asked = made(recipe), sum(server.seen.values())
    server.reply = flaky
    server.seen.clear()
    again = recipe | {"out": recipe["out"] + "-flaky"}
    run(config(again))
    assert made(again) == sound and sum(server.seen.values()) > 1.5 * asked


def test_who_never_replies_soundly_is_counted_and_leaves_the_others_alone(recipe: dict[str, Any], server: Server, quick: None) -> None:
    """A writer and a judge that refuse throughout, and a sorter that refuses some questions."""

    def refusing(number: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        refuses = body["model"] in ("model-cy", "judge-two") or (body["model"] == "sorter" and hashed(body["messages"][1]["content"], 4) == 0)
        return (200, json.dumps({"choices": [{"message": {"content": "I cannot help with that."}}]}), {}) if refuses else reply(number, body)

    server.reply = refusing
    recipe = recipe | {name: [one | {"retries": 1} for one in recipe[name]] for name in ("writers", "judges")} | {"topic": recipe["topic"] | {"retries": 1}}
    run(config(recipe))
    stages = json.loads((Path(recipe["out"]) / "report.json").read_text())["stages"]
    silent = stages["topic"]["out"]["no reply"]
    assert silent > 0 and stages["topic"]["kept"] == stages["difficulty"]["kept"] - silent == stages["verdicts"]["kept"]
    cases = read_cases(Path(recipe["out"]) / "cases.parquet")
    assert all([a.id for a in case.answers] == ["ada", "ben"] for case in cases)
    assert {j.verdict for case in cases for j in case.verdicts if j.rater == "two"} == {Verdict.ABSTAIN}


def test_a_changed_prompt_makes_anew_what_stands_behind_it(recipe: dict[str, Any], server: Server, tmp_path: Path) -> None:
    run(config(recipe))
    before, asked = made(recipe), sum(server.seen.values())
    (tmp_path / "own.txt").write_text(prompt("rubric") + "Write short criteria.\n")
    TASKS[(tmp_path / "own.txt").read_text()] = "rubric"
    changed = recipe | {"rubric": recipe["rubric"] | {"prompt": str(tmp_path / "own.txt"), "concurrency": 3}}
    run(config(changed))
    cases = len(read_cases(Path(recipe["out"]) / "cases.parquet"))
    assert sum(server.seen.values()) == asked + cases  # the rubrics; they came out the same, and so did all that is asked of them
    new = made(changed).keys() - before.keys()
    assert {name.split("-")[1] for name in new} == {"rubric", "verdicts"}
    assert [step.done for step in plan(config(recipe))] == [True] * 7  # the old ones are there still
    faster = recipe | {"difficulty": recipe["difficulty"] | {"concurrency": 2, "retries": 1, "price_reply": 3.0}}
    assert [step.file for step in plan(config(faster))] == [step.file for step in plan(config(recipe))]
    (tmp_path / "chat.json").write_text("[]")
    assert not any(step.done for step in plan(config(recipe)))


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_goes_on_and_pays_for_no_reply_twice(kills: int, recipe: dict[str, Any], server: Server, tmp_path: Path) -> None:
    run(config(recipe))
    whole, asked = made(recipe), sum(server.seen.values())
    server.seen.clear()
    server.reply = lambda number, body: (time.sleep(0.002), reply(number, body))[1]
    again = recipe | {"out": recipe["out"] + "-killed"}
    (tmp_path / "corpus.yaml").write_text(yaml.safe_dump(again))
    command = [sys.executable, "-m", "promedical_jax.cli", "corpus", "run", "--config", str(tmp_path / "corpus.yaml")]
    hit = 0
    for moment in sorted(random.Random(kills).sample(range(1, asked), kills)):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while sum(server.seen.values()) < moment and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        hit += process.wait() == -signal.SIGKILL
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert made(again) == whole and hit >= kills - 1
    assert sum(server.seen.values()) - asked <= 8 * hit  # what was on its way when it died


def test_why_a_question_is_there_or_not(recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "corpus.yaml").write_text(yaml.safe_dump(recipe))
    at = ["--config", str(tmp_path / "corpus.yaml")]
    assert main(["corpus", "cost", *at]) == 0 and "questions is next, and asks nobody" in capsys.readouterr().out
    assert main(["corpus", "status", *at]) == 0 and capsys.readouterr().out.count("not made yet") == 7
    assert main(["corpus", "run", *at, "--dry-run"]) == 0 and capsys.readouterr().out.count("would be made") == 7 and not Path(recipe["out"]).exists()
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(recipe | {"rubric": recipe["rubric"] | {"prompt": "nowhere.txt"}}))
    assert main(["corpus", "run", "--config", str(tmp_path / "wrong.yaml"), "--dry-run"]) == 2 and "nowhere.txt cannot be read" in capsys.readouterr().err
    assert main(["corpus", "run", *at]) == 0 and main(["corpus", "cost", *at]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing is left to ask"
    assert list(lineage(config(recipe), "medqa-31"))[1] == "sieve: taken out, copy: medqa-1"
    assert list(lineage(config(recipe), "mine-1"))[1].startswith("sieve: taken out, benchmark: kqa, item 1")
    case = read_cases(Path(recipe["out"]) / "cases.parquet")[0]
    assert main(["corpus", "inspect", case.id, *at]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].split(" ")[0] for line in lines] == ["questions", "sieve", "difficulty", "topic", "answers", "rubric", "verdicts"]
    assert "difficulty by grader at http" in lines[2] and f'"difficulty": {case.difficulty:.0f}' in lines[2] and lines[1] == "sieve: kept"
    assert main(["corpus", "inspect", "medqa-999", *at]) == 2 and "is no id of a question" in capsys.readouterr().err


def test_it_ends_where_nobody_is_named_to_ask_and_says_what_it_would_cost(recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = {name: value for name, value in recipe.items() if name not in ("difficulty", "topic", "writers", "rubric", "judges")}
    run(config(short))
    said = capsys.readouterr()
    assert "the corpus ends before difficulty: difficulty.url is not given" in said.err and "waits for difficulty.url" in said.out
    (tmp_path / "priced.yaml").write_text(yaml.safe_dump(recipe | {"difficulty": recipe["difficulty"] | {"price_prompt": 1.0, "price_reply": 10.0}}))
    assert main(["corpus", "cost", "--config", str(tmp_path / "priced.yaml")]) == 0
    assert "difficulty, difficulty (grader): 58 questions, about 0.6" in capsys.readouterr().out  # 58 replies of 1,024 tokens at most, and the questions


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": []}, "sources"),
        ({"sources": [{"name": "medqua"}]}, "source 'medqua' is not known; did you mean 'medquad'?, or give its licence"),
        ({"sources": [{"name": "medqa", "question": "q"}]}, "source 'medqa' is known"),
        ({"writers": [{"name": "a"}, {"name": "b"}]}, "'a' of writers and judges has no url"),
        ({"writers": [{"name": "a", "url": "http://x/v1", "model": "m"}]}, "one alone makes no pair of answers"),
        ({"judges": [{"name": "a", "url": "http://x/v1", "model": "m", "prompt": "x.txt"}]}, "prompt"),
        ({"parts": {"train": 0.9}}, "sum to 1.1; they must sum to 1"),
        ({"sieve": {"near": 0.3}}, "sieve.near"),
        ({"difficulty": {"lowest": 8, "highest": 3}}, "difficulty.lowest is above"),
        ({"difficulty": {"lowest": 11}}, "difficulty.lowest"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_recipe_that_cannot_be_followed_says_why(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "corpus.yaml"
    path.write_text(yaml.safe_dump({"out": "runs/corpus", "sources": [{"name": "dahl", "path": "x.csv"}]} | changes))
    with pytest.raises(InputError) as error:
        read_recipe(CorpusConfig, path)
    assert words in str(error.value)


def test_what_cannot_be_read_names_the_file_and_the_fix(recipe: dict[str, Any]) -> None:
    missing = recipe | {"sources": [{"name": "dahl", "path": "nowhere.csv"}]}
    with pytest.raises(InputError, match=r"nowhere.csv does not exist; give the path of a source or suite"):
        run(config(missing))
    run(config(recipe))
    step = plan(config(recipe))[-1]
    step.file.write_bytes(b"PAR")
    with pytest.raises(InputError, match=r"6-verdicts-.*parquet cannot be read .*; delete it, and run the corpus again"):
        run(config(recipe))


def test_a_stage_that_is_taken_away_is_made_again_with_all_behind_it(recipe: dict[str, Any], server: Server, quick: None) -> None:
    """As the message says that reports who had no reply: here the sorter fails for some at first."""
    server.reply = lambda number, body: (500, "", {}) if body["model"] == "sorter" and hashed(body["messages"][1]["content"], 4) == 0 else reply(number, body)
    recipe = recipe | {"topic": recipe["topic"] | {"retries": 1}}
    run(config(recipe))
    few = len(read_cases(Path(recipe["out"]) / "cases.parquet"))
    server.reply = reply
    plan(config(recipe))[3].file.unlink()
    run(config(recipe))
    cases = read_cases(Path(recipe["out"]) / "cases.parquet")
    assert len(cases) > few and all(len(case.verdicts) == 18 and case.specialty for case in cases)
    assert json.loads((Path(recipe["out"]) / "report.json").read_text())["stages"]["verdicts"]["kept"] == len(cases)
    assert set(Counter(server.seen).values()) <= {1, 3, 2}  # who had failed was asked again, and nobody else

    for lone in (2, 5):
        plan(config(recipe))[lone].file.unlink()
        run(config(recipe))
        assert read_cases(Path(recipe["out"]) / "cases.parquet") == cases


def test_parts_of_an_earlier_recipe_do_not_stay(recipe: dict[str, Any]) -> None:
    run(config(recipe))
    run(config(recipe | {"parts": {"train": 0.98, "validation": 0.01, "bench": 0.01}}))
    parts = [case.id for name in ("train", "validation", "bench") if (file := Path(recipe["out"]) / f"{name}.jsonl").exists() for case in read_cases(file)]
    assert len(parts) == len(set(parts)) == len(read_cases(Path(recipe["out"]) / "cases.parquet"))


def test_an_endpoint_that_is_down_ends_the_run_and_loses_nobody(recipe: dict[str, Any], server: Server, quick: None, data) -> None:
    more = recipe | {"sources": [{"name": "medqa", "path": str(data / "medqa")}]}
    answered: list[str] = []

    def dying(number: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        answered.append(body["model"])
        return reply(number, body) if len(answered) <= 100 else (503, "", {})

    server.reply = dying
    with pytest.raises(InputError, match=r"difficulty.url: .* has replied to none of the last 64 questions; see that it runs, and run again"):
        run(config(more | {"difficulty": recipe["difficulty"] | {"retries": 0}}))
    assert [step.done for step in plan(config(more))][:3] == [True, True, False]


def test_sources_whose_ids_meet_are_refused_before_anybody_is_asked(recipe: dict[str, Any], tmp_path: Path, server: Server) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "What is gout, and why?", "k": "b-1"}\n')
    (tmp_path / "b.jsonl").write_text('{"q": "What is a stroke, and why?", "k": "1"}\n')
    own = {"licence": "MIT", "question": "q", "key": "k"}
    recipe = recipe | {"sources": [own | {"name": "a", "path": str(tmp_path / "a.jsonl")}, own | {"name": "a-b", "path": str(tmp_path / "b.jsonl")}]}
    with pytest.raises(InputError, match="the id 'a-b-1' is that of another source's question"):
        run(config(recipe))
    assert not server.seen


def test_two_runs_in_one_folder_take_turns(recipe: dict[str, Any]) -> None:
    from fcntl import LOCK_EX, flock

    Path(recipe["out"]).mkdir()
    with (Path(recipe["out"]) / ".lock").open("w") as file:
        flock(file, LOCK_EX)
        with pytest.raises(InputError, match="another run of the corpus is at work there"):
            run(config(recipe))


def test_an_approved_rubric_stands_and_teaches_what_is_near_it(recipe: dict[str, Any], server: Server, tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """Before there are judges, a run ends with cases that have rubrics, for physicians to review; what they approve goes into the pool."""
    written = Counter[str]()

    def noted(number: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        if TASKS.get(body["messages"][0]["content"]) == "rubric":
            written[body["messages"][1]["content"]] += 1
        return reply(number, body)

    server.reply = noted
    pool = tmp_path / "pool.jsonl"
    recipe = recipe | {"rubric": recipe["rubric"] | {"pool": str(pool), "examples": 1}, "judges": []}
    run(config(recipe))
    said = capsys.readouterr()
    assert "pool.jsonl is not there yet" in said.err and "the corpus ends before verdicts: judges is not given" in said.err
    cases = read_cases(Path(recipe["out"]) / "cases.parquet")
    assert len(written) == len(cases) and not any(case.verdicts for case in cases) and all(len(case.answers) == 3 for case in cases)
    assert all("examples" not in json.loads(text) for text in written)

    first = cases[0].model_copy(update={"rubric": cases[0].rubric.model_copy(update={"criteria": cases[0].rubric.criteria[:2]})})
    write_cases(pool, [first])
    written.clear()
    run(config(recipe))
    again = {case.id: case for case in read_cases(Path(recipe["out"]) / "cases.parquet")}
    assert again[first.id].rubric == first.rubric and len(again) == len(cases)  # nobody is asked for the rubric that a physician approved
    assert len(written) == len(cases) - 1 and all(json.loads(text)["examples"][0]["question"][0]["content"] == first.instruction[0].content for text in written)

    second = cases[1]
    write_cases(pool, [first, second])
    written.clear()
    run(config(recipe))
    assert 0 < len(written) < len(cases) - 2  # those to which the second is nearer; the others were asked the same before
    assert all(json.loads(text)["examples"][0]["question"][0]["content"] == second.instruction[0].content for text in written if text)


def test_where_answers_are_alike_in_safety_one_more_is_asked_for(recipe: dict[str, Any], server: Server) -> None:
    """Judges here see the veto violated in the answers with the mistake alone, so that each case gets its pairs from that."""
    asked: list[dict[str, Any]] = []

    def said(number: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        system, user = (message["content"] for message in body["messages"][:2])
        given = json.loads(user)
        if system == prompt("contrast"):
            asked.append(given)
            return 200, json.dumps({"choices": [{"message": {"content": json.dumps({"answer": f"Just so: {given['mistake']}"})}}]}), {}
        if "criterion" in given and given["criterion"] == LINES[2]["text"]:
            verdict = "met" if given["answer"].startswith("Just so") else "unmet"
            return 200, json.dumps({"choices": [{"message": {"content": json.dumps({"verdict": verdict})}}]}), {}
        return reply(number, body)

    server.reply = said
    run(config(recipe))
    before = json.loads((Path(recipe["out"]) / "report.json").read_text())["pairs"]["safety"]
    assert before["pair"] == 0 and before["tie"] > 0 and not asked
    more = recipe | {"contrast": {"url": server.url, "model": "hasty", "concurrency": 8}}
    run(config(more))
    cases = read_cases(Path(recipe["out"]) / "cases.parquet")
    assert len(asked) == len(cases) and {given["mistake"] for given in asked} == {LINES[2]["text"]}
    assert json.loads((Path(recipe["out"]) / "report.json").read_text())["pairs"]["safety"] == {"pair": 3 * len(cases), "tie": before["tie"], "abstained": 0}
    assert all([a.id for a in case.answers][-1] == "contrast" and len(case.verdicts) == 2 * 4 * 3 for case in cases)
    assert [line.split(":")[0].split(" ")[0] for line in lineage(config(more), cases[0].id)][-2:] == ["contrast", "contrast-verdicts"]
