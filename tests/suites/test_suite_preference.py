"""RewardBench 2 and pairs, by an endpoint's ratings and by functions, against the published rules written out here."""

import json
import math
import random
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st
from scripted import hashed
from served import Server
from suite_rules import by, figure, material, ran, recipe

from promedical_jax.bench.intervals import bootstrap_of
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


@pytest.mark.parametrize(("change", "said"), [({"chosen": []}, "field chosen"), ({"prompt": " "}, "field prompt"), ({"rejected": 3}, "field rejected"),
                                              ({"chosen": [{"role": "user", "content": "x"}]}, "chosen ends with a message of 'user'")])  # fmt: skip
def test_the_first_pair_of_another_form_is_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIRS[2]) + "\n" + json.dumps(PAIRS[2] | change))
    with pytest.raises(InputError, match=f"line 2.*{said}.*no item of Medical RewardBench"):
        preference.MEDICAL_REWARDBENCH.read(tmp_path / "pairs.jsonl")


@pytest.mark.parametrize(
    ("row", "change", "said"),
    [(FOURS[0], {"chosen": ["a", "b"]}, "chosen holds 2, and outside of the subset Ties there is one"), (FOURS[0], {"rejected": []}, "field rejected"),
     (TIES[1], {"id": "loose"}, "id is 'loose'"), (TIES[1], {"chosen": ["a"]}, "chosen holds 1"), (FOURS[0], {}, "the id 'Factuality 0' was already given")],
)  # fmt: skip
def test_the_first_record_of_another_form_is_named(row: dict[str, Any], change: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "rb.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | change))
    with pytest.raises(InputError, match=f"line 2.*{said}"):
        preference.read_best(tmp_path / "rb.jsonl")


# The Ties rule against the published code, as it reads: lists of scores by kind and number, numpy throughout, and numbers that are none made 0 at the end.


def published_ties(rows: Sequence[tuple[str, int, Sequence[float]]]) -> float:
    """Of (id, how many of the scores are of right answers, scores). allenai/reward-bench, rewardbench/utils.py, process_single_model, commit a009692."""
    spread, gap = {}, {}
    for name, right, scores in rows:
        kind, number = name.split(":")
        good, bad = scores[:right], scores[right:]
        spread[kind, number], gap[kind, number] = max(good) - min(good), min(good) - max(bad)
    kinds = {kind: [value > 0 for (one, _), value in gap.items() if one == kind] for kind in ("ref", "tied")}
    both = sorted({number for kind, number in gap if kind == "ref"} & {number for kind, number in gap if kind == "tied"})
    among, over, alone = (np.array([table[kind, n] for n in both]) for table, kind in ((spread, "tied"), (gap, "tied"), (gap, "ref")))
    with np.errstate(divide="ignore", invalid="ignore"):
        much = np.nan_to_num(np.tanh(np.minimum(alone, over) / among - 1), nan=0.0)
    accuracies = 0.3 * np.mean(kinds["tied"]) + 0.3 * np.mean(kinds["ref"])
    return float(accuracies + 0.2 * np.mean(over > among) + 0.2 * np.mean(np.minimum(alone, over) > among) + 0.01 * np.mean(much))


SCORES = st.one_of(st.integers(1, 10).map(float), st.floats(-50, 50, allow_subnormal=False))


@st.composite
def tied_rows(draw: st.DrawFn) -> list[tuple[str, int, list[float]]]:
    """Pairs of prompts, of which one may be without the other, but for the first."""
    rows = []
    for number in range(draw(st.integers(1, 5))):
        for kind in ("ref", "tied"):
            if number == 0 or draw(st.booleans()):
                right, wrong = 1 if kind == "ref" else draw(st.integers(2, 5)), draw(st.integers(1, 4))
                rows.append((f"{kind}:{number}", right, draw(st.lists(SCORES, min_size=right + wrong, max_size=right + wrong))))
    return rows


def ours(rows: Sequence[tuple[str, int, Sequence[float]]]) -> float | None:
    items = [preference.Item(name, "p", ("a",) * len(scores), right, "Ties") for name, right, scores in rows]
    marks = [preference.mark_scores(item, scores) for item, (_, _, scores) in zip(items, rows, strict=True)]
    with patch.object(preference, "bootstrap_of", partial(bootstrap_of, n=1)):  # the interval is not looked at
        return preference.best_figures(marks)["Ties"].mean


@given(tied_rows())
def test_ties_are_the_published_codes_whatever_the_scores(rows: list[tuple[str, int, list[float]]]) -> None:
    assert ours(rows) == pytest.approx(published_ties(rows), abs=1e-12)


@given(tied_rows(), st.integers(1, 8), st.integers(-20, 20), st.randoms(use_true_random=False))
def test_ties_know_no_scale_no_zero_and_no_order(rows: list[tuple[str, int, list[float]]], scale: int, shift: int, rng: random.Random) -> None:
    rows = [(name, right, [float(round(score)) for score in scores]) for name, right, scores in rows]  # exact, whatever is added
    moved = []
    for name, right, scores in rows:
        good, bad = ([scale * score + shift for score in part] for part in (scores[:right], scores[right:]))
        rng.shuffle(good)
        rng.shuffle(bad)
        moved.append((name, right, good + bad))
    rng.shuffle(moved)
    assert ours(moved) == pytest.approx(ours(rows), abs=1e-12)
    assert -0.01 <= (ours(rows) or 0.0) <= 1.01


def test_pairs_average_over_their_labels_as_the_published_table_does(tmp_path: Path) -> None:
    """UltraMedRM's row of the data set's card: four accuracies and their plain mean, of groups of unequal size."""
    published = {"easy": (238, 94.12), "hard": (196, 73.47), "length": (163, 77.30), "human": (180, 77.22)}
    items, scores = [], []
    for label, (count, accuracy) in published.items():
        right = round(count * accuracy / 100)
        items += [preference.Item(f"{label}{n}", "p", ("a", "b"), 1, label) for n in range(count)]
        scores += [(1.0, 0.0)] * right + [(0.0, 1.0)] * (count - right)
    figures = preference.pair_figures([preference.mark_scores(item, each) for item, each in zip(items, scores, strict=True)])
    assert 100 * figures["mean of subsets"].mean == pytest.approx(80.53, abs=0.005) and figures["mean of subsets"].n == 777
    assert 100 * figures["accuracy, equal scores half"].mean > 81
    assert all(100 * figures[f"accuracy, {label}"].mean == pytest.approx(accuracy, abs=0.005) for label, (_, accuracy) in published.items())


PUBLISHED_PAIR = {
    "prompt_id": "MedQA,1", "label_type": "length", "prompt": "患者发热三天🤒,如何处理?",
    "chosen": [{"role": "user", "content": "患者发热三天🤒,如何处理?"}, {"role": "assistant", "content": "多饮水,必要时就医。"}],
    "rejected": [{"role": "user", "content": "患者发热三天🤒,如何处理?"}, {"role": "assistant", "content": "不必处理。"}],
    "metadata": {"chosen": {"model": "gpt-4", "rank": 1}},
}  # fmt: skip


def test_a_prompts_pairs_and_rows_that_stand_twice_are_all_judged(server: Server, tmp_path: Path) -> None:
    rows = [PUBLISHED_PAIR, PUBLISHED_PAIR, PUBLISHED_PAIR | {"label_type": "hard"}]
    (tmp_path / "dev.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    server.reply = by(lambda _: None, lambda body: {"why": "", "rating": len(material(body)["answer"])})
    report, items = ran(recipe(server, "ultramedical-preference", tmp_path / "dev.json", tmp_path / "out", "judge"))
    assert [item["id"] for item in items] == ["length 1:MedQA,1", "length 2:MedQA,1", "hard 3:MedQA,1"] and report.source.name == "UltraMedical-Preference"
    assert figure(report, "mean of subsets") == 1.0 and report.figures["accuracy, length"].n == 2 and len(server.seen) == 2


@pytest.mark.parametrize(("name", "told"), [("num_correct", 2), ("num_incorrect", 2), ("total_completions", 3)])
def test_counts_that_the_file_has_are_held_against_it(name: str, told: int, tmp_path: Path) -> None:
    whole = FOURS[0] | {"num_correct": 1, "num_incorrect": 3, "total_completions": 4}
    (tmp_path / "rb.jsonl").write_text(json.dumps(whole) + "\n" + json.dumps(whole | {"id": "x", name: told}))
    with pytest.raises(InputError, match=f"line 2: {name} is {told}, and chosen and rejected hold"):
        preference.read_best(tmp_path / "rb.jsonl")
