"""`promedical score`: verdicts come back into the cases and the ledger agrees with them, whenever it was stopped and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from folders import save_reward_model
from tiny import CONFIG, reward_params

from promedical_jax import scoring
from promedical_jax.clinic import build_tokenizer, make_cases
from promedical_jax.config import Long, ScoreConfig, Shapes
from promedical_jax.data.encode import encode
from promedical_jax.errors import InputError
from promedical_jax.model.sharding import make_mesh
from promedical_jax.reward import RewardJudge, RewardModel, TierVerdicts, Verdicts, open_judge
from promedical_jax.reward.ledger import read_ledger
from promedical_jax.rubric import Case, Tier, Verdict, read_cases, write_cases

BATCH = 2
ONE_DEVICE = make_mesh(devices=jax.devices()[:1])
BAND = Verdicts(tiers={tier: TierVerdicts(low=0.35, high=0.65) for tier in Tier})  # so that the tiny model abstains now and then


@pytest.fixture(scope="module", autouse=True)
def _one_device() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "make_mesh", lambda *_: ONE_DEVICE)
        yield


class Place:
    """A folder with a reward model, another one and cases, of which one has no answers, and a finished run of the first."""

    def __init__(self, root: Path):
        self.root, self.tokenizer = root, build_tokenizer()
        config = replace(CONFIG, vocabulary=len(self.tokenizer))
        for name, seed in (("model", 0), ("other", 3)):
            save_reward_model(root / name, RewardModel(reward_params(config, seed), config, BAND), self.tokenizer)
        one_head = reward_params(config) | {"heads": {name: x[:1] for name, x in reward_params(config)["heads"].items()}}
        save_reward_model(root / "implicit", RewardModel(one_head, config, Verdicts(kind="implicit", tiers={})), self.tokenizer)
        self.judge = open_judge(root / "model", batch=BATCH, mesh=ONE_DEVICE)
        self.rater = self.judge.model.rater
        self.cases = make_cases(5, seed=3, answers=2)
        self.cases[1] = self.cases[1].model_copy(update={"answers": (), "verdicts": ()})
        write_cases(root / "cases.jsonl", self.cases)
        self.other = open_judge(root / "other", mesh=ONE_DEVICE).model
        self.said = self.judge(self.cases)
        self.done = self.config(root / "whole.jsonl")
        self.scores: dict[str, np.ndarray] = {}  # of its cases
        with pytest.MonkeyPatch.context() as patch:
            true = RewardJudge.raw

            def raw(judge: RewardJudge, cases: Any) -> list[np.ndarray]:
                scores = true(judge, cases)
                self.scores |= {encoded.case.id: each for encoded, each in zip(cases, scores, strict=True)}
                return scores

            patch.setattr(RewardJudge, "raw", raw)
            scoring.run(self.done)

    def config(self, out: Path, **more: Any) -> ScoreConfig:
        return ScoreConfig(**{"model": self.root / "model", "cases": self.root / "cases.jsonl", "out": out, "batch": BATCH} | more)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("score"))


def ledger_of(config: ScoreConfig) -> Path:
    return config.ledger or config.out.with_suffix(".ledger.parquet")


def assert_same_rows(config: ScoreConfig, wanted: list[dict[str, Any]]) -> None:
    """Of figures rounded to six places."""
    figures = ("score", "probability")
    for row, same in zip(read_ledger(ledger_of(config)), wanted, strict=True):
        assert [row[name] for name in figures] == pytest.approx([same[name] for name in figures], rel=1e-5, abs=3e-6)
        assert {name: value for name, value in row.items() if name not in figures} == {name: value for name, value in same.items() if name not in figures}


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# What is written


def test_verdicts_come_back_into_the_cases(place: Place) -> None:
    cases = read_cases(place.done.out)
    for case, before, one in zip(cases, place.cases, place.said, strict=True):
        assert case.model_copy(update={"verdicts": before.verdicts}) == before
        assert case.verdicts[: len(before.verdicts)] == before.verdicts
        own = case.verdicts[len(before.verdicts) :]
        criteria = [criterion.id for criterion in case.rubric.criteria]
        wanted = [(a.id, c, v) for a, row in zip(case.answers, one.verdicts, strict=True) for c, v in zip(criteria, row, strict=True)]
        assert [(j.answer, j.criterion, j.verdict) for j in own] == wanted
        assert {(j.rater, j.human) for j in own} <= {(place.rater, False)}
    assert {j.verdict for case in cases for j in case.verdicts if j.rater == place.rater} == set(Verdict)
    assert files(place.root) == {"model", "other", "implicit", "cases.jsonl", "whole.jsonl", "whole.ledger.parquet"}


def test_the_ledger_has_a_row_for_each_answer_and_criterion(place: Place) -> None:
    rows = iter(read_ledger(ledger_of(place.done)))
    for case, one in zip(place.cases, place.said, strict=True):
        for a, answer in enumerate(case.answers):
            for k, criterion in enumerate(case.rubric.criteria):
                row, verdict = next(rows), one.verdicts[a][k]
                assert row["score"] == pytest.approx(one.score[a, k], rel=1e-5, abs=1e-6)
                assert row["probability"] == pytest.approx(one.probability[a, k], rel=1e-5, abs=1e-6)
                satisfied = criterion.satisfied(verdict)
                wanted = {"case": case.id, "answer": answer.id, "criterion": criterion.id, "tier": criterion.tier, "polarity": criterion.polarity,
                          "score": row["score"], "probability": row["probability"], "verdict": verdict,
                          "satisfied": None if np.isnan(satisfied) else satisfied, "model": place.judge.model.hash}  # fmt: skip
                assert row == wanted and list(row) == list(wanted)
    assert next(rows, None) is None


@pytest.mark.parametrize(("suffix", "out", "ledger"), [(".jsonl", "x.parquet", "x.jsonl"), (".parquet", "x.jsonl", None), (".parquet", "x.PARQUET", None)])
def test_both_formats_hold_the_same(suffix: str, out: str, ledger: str | None, place: Place, tmp_path: Path) -> None:
    write_cases(tmp_path / f"cases{suffix}", place.cases)
    new = tmp_path / "new" / "folder"
    config = place.config(new / out, cases=tmp_path / f"cases{suffix}", ledger=ledger and new / f"ledger-{ledger}")
    scoring.run(config)
    assert read_cases(config.out) == read_cases(place.done.out)
    assert list(read_ledger(ledger_of(config))) == list(read_ledger(ledger_of(place.done)))
    assert files(new) == {config.out.name, ledger_of(config).name}


def test_a_batch_that_the_mesh_does_not_divide_and_another_one_change_no_verdict(place: Place, tmp_path: Path) -> None:
    config = place.config(tmp_path / "out.jsonl", batch=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:4]))
        scoring.run(config)
    assert read_cases(config.out) == read_cases(place.done.out)
    assert_same_rows(config, list(read_ledger(ledger_of(place.done))))


# What is judged already


def test_an_answer_that_is_judged_keeps_its_verdicts(place: Place, tmp_path: Path) -> None:
    """Of the first case an answer is judged, otherwise than the model would, and the other lacks a verdict; the last case is judged by another model."""
    whole = read_cases(place.done.out)
    flipped = {Verdict.MET: Verdict.UNMET, Verdict.UNMET: Verdict.MET, Verdict.ABSTAIN: Verdict.MET}
    ours = [j for j in whole[0].verdicts if j.rater == place.rater]
    kept = [j.model_copy(update={"verdict": flipped[j.verdict]}) if j.answer == "a0" else j for j in ours[:-1]]
    foreign = tuple(j.model_copy(update={"rater": "reward-model-000000000000"}) if j.rater == place.rater else j for j in whole[-1].verdicts)
    cases = [place.cases[0].model_copy(update={"verdicts": tuple(kept)}), *place.cases[1:-1], whole[-1].model_copy(update={"verdicts": foreign})]
    write_cases(tmp_path / "cases.jsonl", cases)
    config = place.config(tmp_path / "out.jsonl", cases=tmp_path / "cases.jsonl")
    done = scoring.run(config)

    first, *others = read_cases(config.out)
    assert first.verdicts == (*kept, ours[-1])
    assert others[:-1] == whole[1:-1] and others[-1].verdicts == (*foreign, *whole[-1].verdicts[len(place.cases[-1].verdicts) :])
    assert_same_rows(config, [row for row in read_ledger(ledger_of(place.done)) if (row["case"], row["answer"]) != (first.id, "a0")])
    assert done.answers == sum(len(case.answers) for case in cases) - 1


def test_what_is_judged_whole_is_not_scored_again(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RewardJudge, "raw", lambda self, cases: pytest.fail("it scores again") if cases else [])
    config = place.config(tmp_path / "out.jsonl", cases=place.done.out)
    assert scoring.run(config).answers == 0
    assert config.out.read_bytes() == place.done.out.read_bytes()
    assert list(read_ledger(ledger_of(config))) == []


# Stopping and going on


class Killed(BaseException):
    pass


TOUCHES = [(os, "fsync"), (os, "replace"), (os, "unlink"), (os, "rmdir"), (RewardJudge, "raw")]


def killed_at(place: int, run: Callable[[], Any]) -> bool:
    """Runs, but from the n-th time on that a file changes or something is scored, nothing more is done, as in a process that was killed. Whether it was."""
    seen = 0

    def before(true: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen > place:
                raise Killed
            return true(*arguments, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in TOUCHES:
            patch.setattr(owner, name, before(getattr(owner, name)))
        try:
            run()
        except Killed:
            return True
    return False


@pytest.fixture
def remembered(place: Place, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models are loaded once and scores remembered, for what is computed is no question here. Gives the ids of the cases that are scored."""
    scored: list[str] = []

    def raw(judge: RewardJudge, cases: Any) -> list[np.ndarray]:
        scored.extend(encoded.case.id for encoded in cases)
        return [place.scores[encoded.case.id] for encoded in cases]

    monkeypatch.setattr(RewardJudge, "raw", raw)
    monkeypatch.setattr(scoring, "load_reward_model", lambda folder, *_: place.judge.model if folder.name == "model" else place.other)
    monkeypatch.setattr(scoring, "load_tokenizer", lambda *_: place.tokenizer)
    return scored


@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet"])
def test_wherever_it_is_killed_it_ends_as_if_it_had_not_been(out: str, place: Place, remembered: list[str], tmp_path: Path) -> None:
    whole = place.config(tmp_path / "whole" / out)
    scoring.run(whole)
    wanted = {path.name: path.read_bytes() for path in whole.out.parent.iterdir()}
    answered = sorted(case.id for case in place.cases if case.answers)
    point = 0
    while True:
        config = place.config(tmp_path / str(point) / out)
        remembered.clear()
        if not killed_at(point, lambda: scoring.run(config)):  # noqa: B023
            break
        try:
            scoring.run(config)
        except InputError as error:  # all was written, and it was killed while it tidied up
            assert "exists; give --force true" in str(error)
            assert {name: (config.out.parent / name).read_bytes() for name in wanted} == wanted
            scoring.run(config.model_copy(update={"force": True}))
            remembered.clear()
        twice = [case for case in answered if remembered.count(case) == 2]
        assert len(twice) <= BATCH and len(remembered) <= len(answered) + len(twice)
        assert {path.name: path.read_bytes() for path in config.out.parent.iterdir()} == wanted, point
        point += 1
    assert point > 25  # it was killed between any two of these


def stopped(place: Place, config: ScoreConfig, cases: int = 4) -> Path:
    """Stops a run when so many cases are done; its folder."""
    part = config.out.with_name(config.out.name + ".part")
    point = 0
    while not (part / "done.json").is_file() or json.loads((part / "done.json").read_text())["cases"] < cases:
        assert killed_at(point, lambda: scoring.run(config))
        point += 1
    return part


def test_what_a_run_left_that_was_killed_while_it_tidied_up_is_not_gone_on_with(place: Place, remembered: list[str], tmp_path: Path) -> None:
    """Without its recipe nothing says whose it is; and the run that comes next may be killed early, too."""
    config = place.config(tmp_path / "out.jsonl", cases=tmp_path / "cases.jsonl")
    write_cases(config.cases, place.cases[::-1])
    for point in range(14):
        (stopped(place, place.config(config.out)) / "recipe.json").unlink()
        assert killed_at(point, lambda: scoring.run(config))
        scoring.run(config)
        assert read_cases(config.out) == read_cases(place.done.out)[::-1]
        config.out.unlink()
        ledger_of(config).unlink()


@pytest.mark.parametrize("name", ["cases.jsonl", "ledger.jsonl"])
@pytest.mark.parametrize("rest", [b'{"case": "cl', b"\n", "é".encode()[:1]])
def test_what_stands_behind_the_recorded_place_does_not_count(name: str, rest: bytes, place: Place, remembered: list[str], tmp_path: Path) -> None:
    config = place.config(tmp_path / "out.jsonl")
    part = stopped(place, config)
    with (part / name).open("ab") as file:
        file.write((part / name).read_bytes() + rest)
    remembered.clear()
    scoring.run(config)
    assert config.out.read_bytes() == place.done.out.read_bytes()
    assert list(read_ledger(ledger_of(config))) == list(read_ledger(ledger_of(place.done)))
    assert remembered == [place.cases[4].id]


@pytest.mark.parametrize(("name", "content", "sentence"), [
    ("cases.jsonl", "{", "cases.jsonl: is shorter than the "),
    ("ledger.jsonl", None, "ledger.jsonl: is shorter than the "),
    ("done.json", "", "done.json: cannot be read"),
    ("done.json", '{"answers": 2, "rows": 3}', "done.json: cannot be read"),
])  # fmt: skip
def test_a_damaged_unfinished_run_is_a_sentence(name: str, content: str | None, sentence: str, place: Place, remembered: list[str], tmp_path: Path) -> None:
    config = place.config(tmp_path / "out.jsonl")
    part = stopped(place, config)
    (part / name).unlink()
    if content is not None:
        (part / name).write_text(content)
    with pytest.raises(InputError, match=f"{sentence}.*; delete .*out.jsonl.part and run again"):
        scoring.run(config)
    assert files(tmp_path) == {"out.jsonl.part"}


def test_another_run_does_not_go_on_with_it(place: Place, remembered: list[str], tmp_path: Path) -> None:
    config = place.config(tmp_path / "out.jsonl")
    part = stopped(place, config)
    before = {path.name: path.read_bytes() for path in part.iterdir()}
    write_cases(tmp_path / "cases.jsonl", place.cases[::-1])
    changes = [{"model": place.root / "other"}, {"cases": tmp_path / "cases.jsonl"}, {"batch": 3}, {"shapes": Shapes(answer=999)}, {"long": Long(share=0.5)}]
    for change in [*changes, *(change | {"force": True} for change in changes)]:
        with pytest.raises(InputError, match="holds an unfinished run of another model, file of cases or setting; finish that one, delete it, or choose"):
            scoring.run(config.model_copy(update=change))
        assert {path.name: path.read_bytes() for path in part.iterdir()} == before and files(tmp_path) == {"out.jsonl.part", "cases.jsonl"}
    scoring.run(config.model_copy(update={"ledger": tmp_path / "elsewhere.jsonl"}))  # where its files go is no such setting
    assert config.out.read_bytes() == place.done.out.read_bytes() and files(tmp_path) == {"out.jsonl", "elsewhere.jsonl", "cases.jsonl"}


# A process that is killed

COMMAND = """
import os, signal, sys
from promedical_jax.cli import main
from promedical_jax.reward import RewardJudge
kill, *arguments = sys.argv[1:]
raw, calls = RewardJudge.raw, [0]
def stop(judge, cases):
    calls[0] += 1
    if calls[0] == int(kill):
        os.kill(os.getpid(), signal.SIGKILL)
    return raw(judge, cases)
RewardJudge.raw = stop
sys.exit(main(arguments))
"""


def started(config: ScoreConfig, kill: int = 0) -> subprocess.Popen[str]:
    """The command in a process of its own, which kills itself when it is about to score for the `kill`-th time."""
    alone = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
             "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}  # fmt: skip
    flags = {"model": config.model, "cases": config.cases, "out": config.out, "batch": config.batch}
    given = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    return subprocess.Popen([sys.executable, "-c", COMMAND, str(kill), "score", *given], env=os.environ | alone, text=True, stderr=subprocess.PIPE)


def assert_scored_once(config: ScoreConfig, cases: list[Case]) -> None:
    """Each answer by each criterion, in order, in the cases and in the ledger alike."""
    rows = list(read_ledger(ledger_of(config)))
    assert [(r["case"], r["answer"], r["criterion"]) for r in rows] == [(x.id, a.id, c.id) for x in cases for a in x.answers for c in x.rubric.criteria]
    rater = f"reward-model-{rows[0]['model'][:12]}"
    own = [(case.id, j.answer, j.criterion, j.verdict) for case in read_cases(config.out) for j in case.verdicts if j.rater == rater]
    assert own == [(r["case"], r["answer"], r["criterion"], r["verdict"]) for r in rows]


def test_a_killed_process_is_gone_on_with(place: Place, tmp_path: Path) -> None:
    config = place.config(tmp_path / "out.jsonl")
    killed = started(config, kill=3)
    _, said = killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL, said[-4000:]
    assert files(tmp_path) == {"out.jsonl.part"}
    with pytest.MonkeyPatch.context() as patch:
        scored, raw = [], RewardJudge.raw
        patch.setattr(RewardJudge, "raw", lambda judge, cases: scored.extend(x.case.id for x in cases) or raw(judge, cases))
        scoring.run(config)
    assert scored == [place.cases[4].id]
    assert_scored_once(config, place.cases)
    assert read_cases(config.out) == read_cases(place.done.out)
    assert_same_rows(config, list(read_ledger(ledger_of(place.done))))
    assert files(tmp_path) == {"out.jsonl", "out.ledger.parquet"}


@pytest.mark.slow
def test_ten_thousand_answers_survive_being_killed_again_and_again(place: Place, tmp_path: Path) -> None:
    cases = make_cases(2500, seed=1, answers=4)
    write_cases(tmp_path / "cases.jsonl", cases)
    whole, config = (place.config(tmp_path / name / "out.jsonl", cases=tmp_path / "cases.jsonl", batch=16) for name in ("whole", "killed"))
    lines, rng, before = config.out.parent / "out.jsonl.part" / "cases.jsonl", np.random.default_rng(0), 0
    for _ in range(3):
        process = started(config)
        while process.poll() is None and (lines.stat().st_size if lines.exists() else 0) <= before:  # until it has gone on, and a moment more
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1))
        process.kill()
        _, said = process.communicate()
        assert process.returncode == -signal.SIGKILL, said[-4000:]
        assert lines.stat().st_size > before and not config.out.exists()
        before = lines.stat().st_size
    for last in (config, whole):
        process = started(last)
        _, said = process.communicate()
        assert process.returncode == 0, said[-4000:]
    assert_scored_once(config, cases)
    for file in (config.out, ledger_of(config)):
        assert file.read_bytes() == (whole.out.parent / file.name).read_bytes()


# What is refused, before anything is written


def refused(config: ScoreConfig) -> str:
    """The sentence of a run that is refused and leaves no trace."""
    folder = config.out.parent
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as caught:
        scoring.run(config)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return str(caught.value)


def test_what_exists_is_replaced_when_forced_only(place: Place, tmp_path: Path) -> None:
    config = place.config(tmp_path / "out.jsonl")
    for name in ("out.ledger.parquet", "out.jsonl"):  # the first stays, and the second is named before it
        (tmp_path / name).write_text("mine")
        assert f"{name} exists; give --force true to replace it, or another name" in refused(config)
    scoring.run(config.model_copy(update={"force": True}))
    assert config.out.read_bytes() == place.done.out.read_bytes()


def test_a_file_has_one_role(place: Place, tmp_path: Path) -> None:
    cases = tmp_path / "cases.jsonl"
    write_cases(cases, place.cases)
    (tmp_path / "alias.jsonl").symlink_to(cases)
    same = [{"out": cases}, {"out": tmp_path / "alias.jsonl"}, {"ledger": cases}, {"ledger": tmp_path / "x" / ".." / "out.jsonl"}]
    for change in same:
        assert "must be three files; choose other names" in refused(place.config(tmp_path / "out.jsonl", cases=cases, force=True).model_copy(update=change))
    cases.rename(tmp_path / "out.too_long.jsonl")
    assert "is where cases that are too long are listed" in refused(place.config(tmp_path / "out.jsonl", cases=tmp_path / "out.too_long.jsonl"))


@pytest.mark.parametrize(("change", "sentence"), [
    ({"out": "out.csv"}, "out.csv: the file of cases to write ends in .jsonl or .parquet; choose such an --out"),
    ({"out": "out"}, "the file of cases to write ends in"),
    ({"ledger": Path("ledger.csv")}, "ledger.csv: a ledger ends in .jsonl or .parquet; choose such a --ledger"),
    ({"cases": Path("none.jsonl")}, "none.jsonl does not exist"),
    ({"cases": Path("none.txt")}, "none.txt has the suffix '.txt', which is no format of cases"),
    ({"model": "implicit"}, "is an implicit reward model and has no verdicts"),
    ({"model": "."}, "not a reward model"),
    ({"model": "none"}, "no such folder"),
])  # fmt: skip
def test_what_cannot_be_is_a_sentence(change: dict[str, Any], sentence: str, place: Place, tmp_path: Path) -> None:
    change = {name: place.root / value if name == "model" else tmp_path / value if name == "out" else value for name, value in change.items()}
    assert sentence in refused(place.config(tmp_path / "out.jsonl").model_copy(update=change))


@pytest.mark.parametrize("line", ["{", '{"id": "x"}', None])
def test_a_fault_in_the_middle_of_the_cases_is_found_before_anything_is_scored(line: str | None, place: Place, tmp_path: Path) -> None:
    lines = (place.root / "cases.jsonl").read_text().splitlines()
    lines[3] = lines[0] if line is None else line  # an id that is there already
    (tmp_path / "cases.jsonl").write_text("\n".join(lines))
    config = place.config(tmp_path / "out.jsonl", cases=tmp_path / "cases.jsonl")
    assert "cases.jsonl, line 4" in refused(config)
    write_cases(config.cases, place.cases)  # mended
    scoring.run(config)
    assert config.out.read_bytes() == place.done.out.read_bytes()


def test_cases_without_answers_are_refused_where_none_has_any(place: Place, tmp_path: Path) -> None:
    write_cases(tmp_path / "cases.jsonl", [place.cases[1], place.cases[1].model_copy(update={"id": "another"})])
    assert "none of its cases has answers" in refused(place.config(tmp_path / "out.jsonl", cases=tmp_path / "cases.jsonl"))


def test_scores_that_are_no_numbers_are_no_abstentions(place: Place, tmp_path: Path) -> None:
    config, params = place.judge.model.config, place.judge.model.params
    heads = jax.tree.map(lambda x: np.full(x.shape, np.nan, x.dtype), params["heads"])
    broken = {"backbone": jax.tree.map(np.asarray, params["backbone"]), "heads": heads}
    save_reward_model(tmp_path / "broken", RewardModel(broken, config, BAND), place.tokenizer)
    with pytest.raises(InputError, match=f"case '{place.cases[0].id}': a score of the reward model is no finite number"):
        scoring.run(place.config(tmp_path / "out.jsonl", model=tmp_path / "broken"))
    assert not (tmp_path / "out.jsonl").exists()


# Cases that are too long


def limit_of(place: Place) -> int:
    """Tokens of an answer, such that one case is longer and the others fit."""
    longest = sorted(max(map(len, encode(case, place.tokenizer).answers), default=0) for case in place.cases)
    assert longest[-2] < longest[-1]
    return longest[-2]


def test_cases_that_are_too_long_are_refused_above_the_share(place: Place, tmp_path: Path) -> None:
    said = refused(place.config(tmp_path / "out.jsonl", shapes=Shapes(answer=limit_of(place)), long=Long(share=0.19)))
    assert "1 of 5 cases have an answer or another part longer than shapes allow" in said and "long.share allows 0.19" in said


@pytest.mark.parametrize("cut", [False, True])
def test_cases_that_are_too_long_are_left_out_or_cut_and_listed(cut: bool, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limit = limit_of(place)
    config = place.config(tmp_path / "out.jsonl", shapes=Shapes(answer=limit), long=Long(share=0.2, cut=cut))
    scoring.run(config)
    action = "cut" if cut else "left out"
    [listed] = [json.loads(line) for line in (tmp_path / "out.too_long.jsonl").read_text().splitlines()]
    assert listed["part"] == "answer" and listed["limit"] == limit < listed["tokens"] and listed["action"] == action
    assert f"1 of 5 cases are too long (answer) and are {action}; see {tmp_path / 'out.too_long.jsonl'}" in capsys.readouterr().err
    cases, whole = read_cases(config.out), read_cases(place.done.out)
    [at] = [i for i, case in enumerate(place.cases) if case.id == listed["case"]]
    own = [j for j in cases[at].verdicts if j.rater == place.rater]
    if cut:
        shorter = replace(place.judge, shapes=config.shapes)
        [said] = shorter([place.cases[at]])
        assert [j.verdict for j in own] == [verdict for row in said.verdicts for verdict in row]
        rows = [row["score"] for row in read_ledger(ledger_of(config), [f"case={listed['case']}"])]
        np.testing.assert_allclose(rows, said.score.ravel(), rtol=1e-5, atol=3e-6)
        [all_of_it] = place.judge([place.cases[at]])
        assert not np.allclose(said.score, all_of_it.score, atol=1e-3)  # it did read less
    else:
        assert cases[at] == place.cases[at] and not list(read_ledger(ledger_of(config), [f"case={listed['case']}"]))
    del cases[at], whole[at]
    assert cases == whole
