"""Judges on this machine by the recipe: a reward model and a language model asked yes or no, against what they say when asked directly."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from folders import save_policy, save_reward_model
from suite_rules import figure
from tiny import CONFIG, policy, reward_params

from promedical_jax.cli import main
from promedical_jax.clinic import build_tokenizer, make_cases
from promedical_jax.errors import InputError
from promedical_jax.model.sharding import make_mesh
from promedical_jax.reward import RewardModel, TierVerdicts, Verdicts, open_judge
from promedical_jax.reward.calibration import Platt
from promedical_jax.reward.zero_shot import open_zero_shot
from promedical_jax.rubric import Tier, Verdict, write_cases
from promedical_jax.suites import promedical
from promedical_jax.suites.recipe import SuiteConfig
from promedical_jax.suites.report import read_run
from promedical_jax.suites.run import run

VERDICTS = Verdicts(tiers={tier: TierVerdicts(calibration=Platt(scale=1.5, shift=0.2), low=0.4, high=0.6, labels=50) for tier in Tier})
ONE_DEVICE = make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("judges"), build_tokenizer()
    config = replace(CONFIG, vocabulary=len(tokenizer))
    save_reward_model(folder / "rm", RewardModel(reward_params(config), config, VERDICTS), tokenizer)
    one_head = reward_params(config) | {"heads": {name: x[:1] for name, x in reward_params(config)["heads"].items()}}
    save_reward_model(folder / "implicit", RewardModel(one_head, config, Verdicts(kind="implicit", tiers={})), tokenizer)
    save_policy(folder / "lm", policy(config), config, tokenizer)
    write_cases(folder / "cases.jsonl", CASES)
    return folder


CASES = [one.model_copy(update={"verdicts": tuple(j.model_copy(update={"human": True}) for j in one.verdicts)}) for one in make_cases(8, 0, answers=3)]


def config(folder: Path, suite: str, out: Path, **more: Any) -> SuiteConfig:
    return SuiteConfig.model_validate({"suite": suite, "data": folder / "cases.jsonl", "out": out, "reward_model": folder / "rm"} | more)


def said_directly(folder: Path) -> dict[tuple[str, str, str], tuple[float, float, Verdict]]:
    judge = open_judge(folder / "rm", mesh=ONE_DEVICE)
    return {
        (case.id, answer.id, criterion.id): (float(one.score[a, k]), float(one.probability[a, k]), one.verdicts[a][k])
        for case, one in zip(CASES, judge(CASES), strict=True)
        for a, answer in enumerate(case.answers)
        for k, criterion in enumerate(case.rubric.criteria)
    }


def test_a_reward_model_judges_pointwise_and_pairwise_as_it_does_by_itself(folder: Path, tmp_path: Path) -> None:
    said = said_directly(folder)
    report = run(config(folder, "promedical-pointwise", tmp_path / "points"))
    points = promedical.read_points(folder / "cases.jsonl")
    verdicts = [(said[one.case.id, one.answer.id, one.criterion.id][2], one.truth) for one in points]
    spoke = [(verdict, truth) for verdict, truth in verdicts if verdict is not Verdict.ABSTAIN]
    assert figure(report, "accuracy") == pytest.approx(np.mean([verdict is truth for verdict, truth in spoke])) and report.figures["accuracy"].n == len(spoke)
    assert figure(report, "abstained") == pytest.approx(1 - len(spoke) / len(points)) and 0 < len(spoke) < len(points)
    assert {"accuracy, raw", "accuracy, own", "accuracy, calibrated"} <= report.figures.keys()
    assert report.calibration and report.calibration.startswith("platt by tier")
    for mark in read_run(tmp_path / "points")[1]:
        score, own, _ = said[tuple(mark.id.split("/"))]  # type: ignore[index]
        assert mark.beliefs["score"] == pytest.approx(score, abs=1e-4) and mark.beliefs["own"] == pytest.approx(own, abs=1e-4)
        assert mark.beliefs["raw"] == pytest.approx(1 / (1 + np.exp(-score)), abs=1e-4)

    pairs = run(config(folder, "promedical-pairwise", tmp_path / "pairs"))
    right = []
    for pair in promedical.read_pairs(folder / "cases.jsonl"):
        good, bad = (said[pair.case.id, answer.id, pair.criterion.id][0] for answer in (pair.good, pair.bad))
        right.append((good > bad) == (pair.criterion.satisfied(Verdict.MET) == 1))
    assert figure(pairs, "accuracy, ties half") == pytest.approx(np.mean(right)) and len(right) == pairs.items > 20
    assert pairs.figures["follows the place"].n == 0 and "accuracy by verdict alone, ties half" in pairs.figures


def test_name_version_and_calibration_stand_beside_its_figures(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "run", "--suite", "promedical-pairwise", "--data", str(folder / "cases.jsonl"), "--reward_model", str(folder / "rm"), "--out",
                 str(tmp_path)]) == 0  # fmt: skip
    report, _ = read_run(tmp_path)
    assert report.judge == f"reward model {folder / 'rm'}, explicit" and report.judge_version == open_judge(folder / "rm", mesh=ONE_DEVICE).model.hash[:12]
    assert report.judge_calibration == "proficiency by platt on 50 labels, excellence by platt on 50 labels, safety by platt on 50 labels"
    printed = capsys.readouterr().out
    assert f"judge: {report.judge}, version {report.judge_version}" in printed and report.judge_calibration in printed


def test_the_order_of_the_answers_changes_nothing(folder: Path, tmp_path: Path) -> None:
    """Each answer is read by itself: a position swap finds the same scores, to rounding."""
    turned = [one.model_copy(update={"answers": one.answers[::-1]}) for one in CASES]
    write_cases(tmp_path / "turned.jsonl", turned)
    marks = []
    for data in (folder / "cases.jsonl", tmp_path / "turned.jsonl"):
        run(config(folder, "promedical-pairwise", tmp_path / data.stem, data=data))
        marks.append({mark.id: mark.score for mark in read_run(tmp_path / data.stem)[1]})
    assert marks[0] == marks[1] and len(marks[0]) > 20


def test_a_language_model_asked_yes_or_no(folder: Path, tmp_path: Path) -> None:
    """The base model as judge: its log-odds are raw, and it has no calibration of its own."""
    report = run(config(folder, "promedical-pointwise", tmp_path, reward_model=folder / "lm", zero_shot=True))
    judge = open_zero_shot(folder / "lm", ONE_DEVICE)
    said = {(case.id, a, k): one.score[i, j] for case, one in zip(CASES, judge(CASES), strict=True) for i, a in enumerate(a.id for a in case.answers)
            for j, k in enumerate(k.id for k in case.rubric.criteria)}  # fmt: skip
    points = promedical.read_points(folder / "cases.jsonl")
    right = [(said[one.case.id, one.answer.id, one.criterion.id] > 0) == (one.truth is Verdict.MET) for one in points]
    assert figure(report, "accuracy") == pytest.approx(np.mean(right), abs=2 / len(points))
    assert report.judge == f"{folder / 'lm'} asked yes or no" and not any("own" in name for name in report.figures)


def test_a_reward_model_judges_what_a_policy_says(folder: Path, tmp_path: Path) -> None:
    sampling = {"answers": 2, "answer_tokens": 8}
    report = run(config(folder, "promedical-policy", tmp_path, policy=folder / "lm", sampling=sampling, batch=8))
    marks = read_run(tmp_path)[1]
    texts = [mark.reply for mark in marks]
    judge = open_judge(folder / "rm", mesh=ONE_DEVICE)
    for case, mark, scores in zip(CASES, marks, judge.scores(CASES, texts), strict=True):  # type: ignore[arg-type]
        assert mark.id == case.id and len(mark.verdicts) == 2 * len(case.rubric.criteria)
        if scores.judged.any():
            assert mark.parts["S1"] == pytest.approx(np.nanmean(scores.s1))
    assert report.answerer == f"policy {folder / 'lm'}" and report.answerer_version and report.answerer_version != report.judge_version
    assert report.figures["length, tokens"].mean and report.figures["length, tokens"].high is not None and report.figures["length, tokens"].high <= 8


@pytest.mark.parametrize(("suite", "more", "said"), [
    ("promedical-pointwise", {"reward_model": "implicit"}, "of the implicit kind, which is told no criterion"),
    ("healthbench", {}, "healthbench has no verdicts for a reward model to give"),
    ("promedical-pointwise", {"policy": "lm"}, "asks its answerer behind an endpoint"),
    ("promedical-pairwise", {"reward_model": None}, r"judge\.url: promedical-pairwise needs one to ask; .*, or reward_model, a folder"),
])  # fmt: skip
def test_who_cannot_judge_or_answer_is_refused(folder: Path, tmp_path: Path, data: Path, suite: str, more: dict[str, Any], said: str) -> None:
    given = {name: value and folder / value for name, value in more.items()}
    where = {"data": data / "healthbench"} if suite == "healthbench" else {}
    with pytest.raises(InputError, match=said):
        run(config(folder, suite, tmp_path / "out", **given, **where))


def test_two_judges_or_two_answerers_are_one_too_many(folder: Path, tmp_path: Path) -> None:
    endpoint = {"url": "http://localhost:1/v1", "model": "m"}
    for more, said in [({"judge": endpoint}, "reward_model and judge.url are both given"),
                       ({"policy": folder / "lm", "answerer": endpoint}, "policy and answerer.url"),
                       ({"reward_model": None, "zero_shot": True}, "zero_shot says how reward_model is asked")]:  # fmt: skip
        with pytest.raises(ValueError, match=said):
            config(folder, "promedical-policy", tmp_path, **more)


def test_cases_are_read_once_each(folder: Path) -> None:
    seen: list[str] = []

    def judge(cases: Any, texts: Any) -> Any:
        seen.extend(case.id for case in cases)
        return open_judge(folder / "rm", mesh=ONE_DEVICE)(cases, texts)

    promedical.points_by(judge, promedical.read_points(folder / "cases.jsonl"))
    assert sorted(seen) == sorted(case.id for case in CASES)


