"""RewardBench 2 and pairs, by an endpoint's ratings and by functions, against the published rules written out here."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset
from scripted import hashed
from served import Server
from suite_rules import by, figure, material, ran, recipe

from promedical_jax.errors import InputError
from promedical_jax.suites import preference, rewardbench

SUBSETS = ["Factuality", "Safety", "Math"]
FOURS = [
    {"id": str(n), "prompt": f"P{n}", "chosen": [f"good {n}"], "rejected": [f"bad {n} {i}" for i in range(3)], "subset": SUBSETS[n % 3]} for n in range(60)
]
TIES = [
    {"id": f"{kind}:{n}", "prompt": f"T{n} {kind}", "chosen": [f"right {n} {kind} {i}" for i in range(right)],
     "rejected": [f"wrong {n} {kind} {i}" for i in range(4)], "subset": "Ties"}
    for n in range(12) for kind, right in (("ref", 1), ("tied", 3))
]  # fmt: skip


def rating(answer: str) -> float:
    """1 to 10; right ones are often better."""
    return hashed(answer, 6) + 1 + (4 if answer.startswith(("good", "right")) else 0)


def test_best_of_four_and_ties_by_the_published_rules(server: Server, tmp_path: Path) -> None:
    (tmp_path / "rb.jsonl").write_text("".join(json.dumps(row) + "\n" for row in FOURS + TIES))
    server.reply = by(lambda _: None, lambda body: {"why": "", "rating": rating(material(body)["answer"])})
    report, items = ran(recipe(server, "rewardbench2", tmp_path / "rb.jsonl", tmp_path / "out", "judge"))
    each: dict[str, list[float]] = {subset: [] for subset in SUBSETS}
    for row in FOURS:
        scores = [rating(text) for text in row["chosen"] + row["rejected"]]
        each[row["subset"]].append(scores.count(max(scores)) ** -1 if scores[0] == max(scores) else 0.0)
    assert any(0 < value < 1 for values in each.values() for value in values)  # some are shared
    for subset, values in each.items():
        assert figure(report, subset) == pytest.approx(np.mean(values)) and report.figures[subset].n == 20

    accurate: dict[str, list[bool]] = {"ref": [], "tied": []}
    spread, gap = {}, {}
    for row in TIES:
        kind, number = row["id"].split(":")
        right, wrong = ([rating(text) for text in row[name]] for name in ("chosen", "rejected"))
        accurate[kind].append(min(right) > max(wrong))
        spread[kind, number], gap[kind, number] = max(right) - min(right), min(right) - max(wrong)
    numbers = {number for _, number in gap}
    between = np.array([spread["tied", n] for n in numbers], float)
    tied, ref = (np.array([gap[kind, n] for n in numbers], float) for kind in ("tied", "ref"))
    with np.errstate(divide="ignore", invalid="ignore"):
        much = np.nan_to_num(np.tanh(np.minimum(ref, tied) / between - 1), nan=0.0)
    ties = 0.3 * np.mean(accurate["tied"]) + 0.3 * np.mean(accurate["ref"]) + 0.2 * np.mean(tied > between) + 0.2 * np.mean(np.minimum(ref, tied) > between)
    assert 0 < sum(accurate["tied"]) < 12 and 0 < sum(accurate["ref"]) < 12
    assert figure(report, "Ties") == pytest.approx(ties + 0.01 * much.mean()) and report.figures["Ties"].n == 24
    assert figure(report, "mean of subsets") == pytest.approx(np.mean([*map(np.mean, each.values()), ties + 0.01 * much.mean()]))
    low, high = report.figures["mean of subsets"].low, report.figures["mean of subsets"].high
    assert low < figure(report, "mean of subsets") < high and len(items) == 84


def test_ties_with_equal_right_answers_do_not_divide_by_zero() -> None:
    items = [preference.Item("tied:1", "p", ("a", "b", "c"), 2, "Ties"), preference.Item("ref:1", "p", ("a", "c"), 1, "Ties")]
    best = preference.best_figures([preference.mark_scores(items[0], [5, 5, 1]), preference.mark_scores(items[1], [5, 1])])
    assert best["Ties"].mean == pytest.approx(1.01)
    level = preference.best_figures([preference.mark_scores(items[0], [5, 5, 5]), preference.mark_scores(items[1], [5, 5])])
    assert level["Ties"].mean == 0.0


def test_a_function_that_abstains_on_one_answer_abstains_on_the_item() -> None:
    item = preference.Item("1", "p", ("a", "b"), 1, "all")
    for nothing in (None, math.nan):
        [mark] = preference.by_function([item], lambda _, answer, nothing=nothing: nothing if answer == "b" else 1.0)
        assert mark.score is None and preference.pair_figures([mark])["abstained"].mean == 1.0


PAIRS: list[dict[str, Any]] = [
    {"prompt_id": "1", "label_type": "easy", "prompt": "我头痛。", "chosen": [{"role": "assistant", "content": "好答案"}],
     "rejected": [{"role": "user", "content": "我头痛。"}, {"role": "assistant", "content": "差"}], "metadata": {}},
    {"id": "2", "subset": "hard", "prompt": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "How?"}, {"role": "user", "content": "So."}],
     "chosen": "short", "rejected": "a longer one"},
    {"id": "3", "subset": "hard", "prompt": "P", "chosen": "same", "rejected": "size"},
    {"id": "4", "subset": "empty", "prompt": "P", "chosen": "something", "rejected": ""},
]  # fmt: skip


def test_pairs_as_texts_and_as_conversations_by_any_function(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PAIRS), encoding="utf-8")
    items = preference.read_pairs(tmp_path / "pairs.jsonl")
    assert items[0].answers == ("好答案", "差") and items[1].prompt == "user: Why?\n\nassistant: How?\n\nuser: So."
    figures = preference.pair_figures(preference.by_function(items, lambda prompt, answer: len(answer)))
    assert figures["accuracy, equal scores half"].mean == 0.625 and figures["accuracy, easy"].mean == 1.0 and figures["accuracy, hard"].mean == 0.25
    assert figures["equal scores"].mean == 0.25 and figures["accuracy, empty"].mean == 1.0


def test_results_are_read_as_rewardbench_reads_its_own(server: Server, tmp_path: Path) -> None:
    """As analysis/utils.py of allenai/reward-bench does: all files of all organisations' folders by `datasets`, without the column chat_template."""
    (tmp_path / "rb.jsonl").write_text("".join(json.dumps(row) + "\n" for row in FOURS + TIES))
    server.reply = by(lambda _: None, lambda body: {"why": "", "rating": rating(material(body)["answer"])})
    report, _ = ran(recipe(server, "rewardbench2", tmp_path / "rb.jsonl", tmp_path / "out", "judge"))
    shutil.copytree(tmp_path / "out" / "results", tmp_path / "results")
    items = [preference.Item(str(n), "p", ("好", "b"), 1, subset) for n, subset in enumerate(("easy", "hard", "hard"))]
    marks = preference.by_function(items, lambda _, answer: float(answer == "好"))
    rewardbench.write_results(tmp_path, marks, preference.pair_figures(marks), "mine/8B", "Seq. Classifier", "tokenizer")

    files = sorted(file for folder in (tmp_path / "results" / "eval-set").iterdir() if folder.is_dir() for file in folder.glob("*.json"))
    assert [str(file.relative_to(tmp_path)) for file in files] == ["results/eval-set/local/judge.json", "results/eval-set/mine/8B.json"]
    read = [load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path)).to_pandas() for file in files]
    judged, mine = (frame.drop(columns=["chat_template"]) for frame in read)
    assert judged.to_dict("records") == [
        {"model": "judge", "model_type": "Generative RM"} | {subset: figure(report, subset) for subset in (*SUBSETS, "Ties")}]  # fmt: skip
    assert mine.to_dict("records") == [{"model": "mine/8B", "model_type": "Seq. Classifier", "easy": 1.0, "hard": 1.0}]
    assert files[0].read_text() == json.dumps(json.loads(files[0].read_text()), indent=4, sort_keys=True)


def test_a_subset_where_all_abstain_has_no_accuracy(tmp_path: Path) -> None:
    marks = preference.by_function([preference.Item("1", "p", ("a", "b"), 1, "all")], lambda *_: None)
    rewardbench.write_results(tmp_path, marks, preference.pair_figures(marks), "org/sub/name")
    assert json.loads((tmp_path / "results" / "eval-set" / "org--sub" / "name.json").read_text())["all"] is None


@pytest.mark.parametrize(("change", "said"), [({"chosen": []}, "field chosen"), ({"prompt": " "}, "field prompt"), ({"rejected": 3}, "field rejected")])
def test_the_first_pair_of_another_form_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIRS[2]) + "\n" + json.dumps(PAIRS[2] | change))
    with pytest.raises(InputError, match=f"line 2.*{said}.*no item of Medical RewardBench"):
        preference.read_pairs(tmp_path / "pairs.jsonl")


@pytest.mark.parametrize(
    ("row", "change", "said"),
    [(FOURS[0], {"chosen": ["a", "b"]}, "chosen holds 2, and outside of the subset Ties there is one"), (FOURS[0], {"rejected": []}, "field rejected"),
     (TIES[1], {"id": "loose"}, "id is 'loose'"), (TIES[1], {"chosen": ["a"]}, "chosen holds 1"), (FOURS[0], {}, "the id 'Factuality 0' was already given")],
)  # fmt: skip
def test_the_first_record_of_another_form_is_named(row: dict[str, Any], change: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "rb.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | change))
    with pytest.raises(InputError, match=f"line 2.*{said}"):
        preference.read_best(tmp_path / "rb.jsonl")
