"""What goes out is sealed, whole, and goes out once: over HTTP to a stand-in, and as files."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from physicians import clinic, recipe
from stand_in import LEGACY, PERSONAL, StandIn

from promedical_jax.cli import main
from promedical_jax.errors import InputError
from promedical_jax.recipe import read_recipe
from promedical_jax.review import export, readback
from promedical_jax.review.page import EMPTY, labelling, task_data
from promedical_jax.review.recipe import ReviewConfig, StudioRecipe
from promedical_jax.review.seal import FILE, ORDER, deal, read_key
from promedical_jax.rubric import Answer, Case, Judgement, Message, Verdict, write_cases


def at(studio: StandIn) -> StudioRecipe:
    return StudioRecipe(url=studio.url, key="STUDIO_TOKEN")


def tasks_of(folder: Path, physician: str) -> list[dict[str, Any]]:
    return json.loads((folder / f"{physician}.tasks.json").read_text())


# What is sealed


def test_label_studio_gets_nothing_that_tells_who_answered(tmp_path: Path) -> None:
    _, cases = clinic(tmp_path)
    by_models = lambda case: tuple(one.model_copy(update={"source": f"model-{n}"}) for n, one in enumerate(case.answers))  # noqa: E731
    named = [case.model_copy(update={"answers": by_models(case)}) for case in cases]
    write_cases(tmp_path / "cases.jsonl", named)
    config = recipe(tmp_path)
    export.run(config)
    ids = {secret for case in named for secret in (case.id, *(one.id for one in case.answers), *(one.source for one in case.answers))}
    for name in config.physicians:
        text = (config.out / f"{name}.tasks.json").read_text()
        assert not [secret for secret in ids if f'"{secret}"' in text] and "model-" not in text and "checker" not in text
        assert all(case.id not in text for case in named)
    sealed = read_key(config.out)
    assert {row["data"]["seal"] for row in tasks_of(config.out, "ada")} == {sealed.seal}


def test_who_is_a_is_random_for_each_physician_and_the_pair_is_the_same(tmp_path: Path) -> None:
    clinic(tmp_path, 60)
    config = recipe(tmp_path)
    export.run(config)
    key = read_key(config.out).key
    ada, ben = ({task.case: task.answers for task in key.of(name)} for name in config.physicians)
    assert {case: set(pair) for case, pair in ada.items()} == {case: set(pair) for case, pair in ben.items()} and len(ada) == 60
    swapped = sum(ada[case] != ben[case] for case in ada)
    first = sum(pair[0] < pair[1] for pair in ada.values())
    assert 10 < swapped < 50 and 10 < first < 50  # fair coins leave these once in ten million
    assert [task.case for task in key.of("ada")] != [task.case for task in key.of("ben")]
    again = recipe(tmp_path, out=tmp_path / "again")
    export.run(again)
    other = {task.case: task.answers for task in read_key(again.out).key.of("ada")}
    assert {case: set(pair) for case, pair in other.items()} == {case: set(pair) for case, pair in ada.items()}  # by the seed
    assert other != ada  # by no seed
    assert len({task.code for task in key.tasks}) == 120


def test_cases_are_dealt_evenly(tmp_path: Path) -> None:
    _, cases = clinic(tmp_path, 30)
    config = recipe(tmp_path, physicians=("a", "b", "c", "d"), per_case=2)
    asked = deal(cases, config)
    assert Counter(Counter(one.physician for one in asked).values()) == {15: 4}
    pairs = Counter(tuple(sorted(one.physician for one in asked if one.case is case)) for case in cases)
    assert len(pairs) > 3 and all(len(set(pair)) == 2 for pair in pairs)
    assert deal(cases, config) == asked
    rubrics = recipe(tmp_path, what="rubrics", pool=tmp_path / "pool.jsonl")
    assert Counter(one.physician for one in deal(cases, rubrics)) == {"ada": 15, "ben": 15}


# The page


def test_a_page_has_the_criteria_by_tier_safety_first(tmp_path: Path) -> None:
    _, cases = clinic(tmp_path)
    config = recipe(tmp_path)
    export.run(config)
    sealed, by_id = read_key(config.out), {case.id: case for case in cases}
    task = sealed.key.of("ada")[0]
    data = task_data(task, by_id[task.case], sealed)["data"]
    criteria, texts = {one.id: one for one in by_id[task.case].rubric.criteria}, {one.id: one.text for one in by_id[task.case].answers}
    assert [row["text"] for row in data["criteria"]] == [criteria[name].text for name in task.criteria] and set(task.criteria) == set(criteria)
    tiers = [criteria[name].tier for name in task.criteria]
    assert tiers == sorted(tiers, key=ORDER.index)
    assert [bool(row["heading"]) for row in data["criteria"]] == [n == 0 or tier is not tiers[n - 1] for n, tier in enumerate(tiers)]
    assert (data["a"], data["b"]) == tuple(texts[name] for name in task.answers)
    assert "Patient: " in data["question"] and by_id[task.case].instruction[-1].content in data["question"]


def test_a_lone_question_stands_alone_and_an_empty_answer_says_so(tmp_path: Path) -> None:
    _, [case, *_] = clinic(tmp_path)
    lone = case.model_copy(update={"instruction": (Message(role="user", content="Why?"),), "answers": (Answer(id="x", text=" "), Answer(id="y", text="Hm.")),
                                   "verdicts": ()})  # fmt: skip
    write_cases(tmp_path / "cases.jsonl", [lone])
    export.run(recipe(tmp_path))
    [row] = tasks_of(tmp_path / "out", "ada")
    assert row["data"]["question"] == "Why?" and {row["data"]["a"], row["data"]["b"]} == {EMPTY, "Hm."}


def test_a_rubrics_page_has_hints_and_nobodys_verdicts(tmp_path: Path) -> None:
    _, [case, *_] = clinic(tmp_path)
    vague = case.rubric.criteria[0].model_copy(update={"text": "Gives appropriate advice."})
    rubric = case.rubric.model_copy(update={"criteria": (vague, *(one for one in case.rubric.criteria[1:] if one.tier != "safety"))})
    kept = {one.id for one in rubric.criteria}
    alike = tuple(Judgement(answer=one.answer, criterion=one.criterion, verdict=Verdict.MET, rater="judge") for one in case.verdicts if one.criterion in kept)
    write_cases(tmp_path / "cases.jsonl", [case.model_copy(update={"rubric": rubric, "verdicts": alike})])
    config = recipe(tmp_path, what="rubrics", pool=tmp_path / "pool.jsonl", physicians=("ada",), adjudicator=None)
    export.run(config)
    [row] = tasks_of(config.out / "round-1", "ada")
    said = {one["text"]: one for one in row["data"]["criteria"]}
    assert said["Gives appropriate advice."]["hint"].startswith("Hint: it says 'appropriate'")
    assert row["data"]["hint"].startswith("Hint: nothing an answer says is unsafe")
    assert "answers" not in json.dumps(row) and "tells none from another" not in json.dumps(row)
    assert re.search(r"weight \d+(\.\d+)? of 100", said["Gives appropriate advice."]["about"])


@pytest.mark.parametrize("what", ["answers", "rubrics"])
def test_the_labelling_configuration_is_sound(what: Any) -> None:
    tree = ElementTree.fromstring(labelling(what))
    named = [one.attrib["name"] for one in tree.iter() if "name" in one.attrib]
    assert len(named) == len(set(named))
    assert all(one.attrib["toName"] in named for one in tree.iter() if "toName" in one.attrib)
    for repeater in tree.iter("Repeater"):
        inside = [one for one in repeater.iter() if one.tag in ("Choices", "TextArea", "Number")]
        assert all(one.attrib["name"].endswith("_{{idx}}") for one in inside)
    assert all(one.attrib.get("hotkey") for one in tree.iter("Choice"))  # else Label Studio gives it a key that is pressed by accident
    aliases = {tuple(one.attrib["alias"] for one in field) for field in tree.iter("Choices") if "alias" in field[0].attrib}
    if what == "answers":
        assert aliases == {tuple(verdict.value for verdict in Verdict), ("a", "equal", "b")}
    else:
        assert aliases == {(*(tier.value for tier in ORDER), "removed"), ("required", "forbidden")}


# Files


def test_files_are_written_whole_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clinic(tmp_path)
    config = recipe(tmp_path)
    real, calls = export.labelling, [0]

    def failing(what: Any) -> str:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError("the disk is full")
        return real(what)

    monkeypatch.setattr(export, "labelling", failing)
    with pytest.raises(OSError, match="full"):
        export.run(config)
    assert not (config.out / FILE).exists()  # without a key it is no export
    monkeypatch.setattr(export, "labelling", real)
    export.run(config)
    assert sorted(path.name for path in config.out.iterdir()) == ["ada.config.xml", "ada.tasks.json", "ben.config.xml", "ben.tasks.json", FILE]
    before = (config.out / FILE).read_bytes()
    with pytest.raises(InputError, match=r"out holds an export already; read it back with `promedical review import`, or give another out"):
        export.run(config)
    assert (config.out / FILE).read_bytes() == before


def test_a_dry_run_says_who_gets_how_much_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clinic(tmp_path)
    (tmp_path / "recipe.yaml").write_text(f"cases: {tmp_path}/cases.jsonl\nout: {tmp_path}/out\nwhat: answers\nphysicians: [ada, ben, cy]\nper_case: 2\n")
    assert main(["review", "export", "--config", str(tmp_path / "recipe.yaml"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "12 cases" in said and said.count("8 tasks") == 3 and not (tmp_path / "out").exists()
    assert main(["review", "export", "--config", str(tmp_path / "recipe.yaml")]) == 0
    assert main(["review", "export", "--config", str(tmp_path / "recipe.yaml"), "--dry-run"]) == 0 and "has an export" in capsys.readouterr().out
    assert main(["review", "export", "--config", str(tmp_path / "recipe.yaml")]) == 2


def test_another_recipe_does_not_go_on_with_an_export(tmp_path: Path) -> None:
    clinic(tmp_path)
    export.run(recipe(tmp_path))
    for command in (readback.run, lambda config: export.run(config.model_copy(update={"studio": StudioRecipe(url="http://127.0.0.1:9", key="PATH")}))):
        with pytest.raises(InputError, match=r"out/sealed.json has tasks for 'ben', who is not in the recipe; name its physicians, or give another out"):
            command(recipe(tmp_path, physicians=("ada", "eve")))


# Over HTTP


@pytest.mark.parametrize("token", [PERSONAL, LEGACY])
def test_a_project_for_each_physician(studio: StandIn, tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_TOKEN", token)
    clinic(tmp_path)
    config = recipe(tmp_path, studio=at(studio))
    export.run(config)
    sealed = read_key(config.out)
    assert len(studio.projects) == 2
    for name in config.physicians:
        project = studio.of(name)
        assert [row["data"]["code"] for row in project["tasks"]] == [task.code for task in sealed.key.of(name)]
        assert sealed.seal in project["description"] and project["label_config"] == labelling("answers") and len(project["title"]) <= 50
    with pytest.raises(InputError, match="holds an export, and Label Studio has all of it"):
        export.run(config)
    assert len(studio.projects) == 2
    assert not [path.name for path in config.out.rglob("*") if token in path.read_text()]


@pytest.mark.parametrize("broken", [("POST", "/api/projects", 2), ("POST", "import", 1), ("POST", "import", 2)])
def test_what_broke_off_is_gone_on_with_and_nothing_is_made_twice(studio: StandIn, tmp_path: Path, broken: tuple[str, str, int]) -> None:
    clinic(tmp_path)
    config, (method, ending, nth), seen = recipe(tmp_path, studio=at(studio)), broken, [0]

    def refuse(this: str, path: str) -> tuple[int, str] | None:
        seen[0] += this == method and path.endswith(ending)
        return (500, f"no space left, says {PERSONAL} access-1") if seen[0] == nth and this == method and path.endswith(ending) else None

    studio.refuse = refuse
    with pytest.raises(InputError) as error:
        export.run(config)
    assert re.search(r"answers 500 to POST /api/projects.*\(there are: project \d+ of ada.*; the same command goes on\)", str(error.value))
    assert PERSONAL not in str(error.value) and "access-1" not in str(error.value) and "***" in str(error.value)
    before = (config.out / FILE).read_bytes()
    studio.refuse = lambda *_: None
    for other in range(120):  # a server that is in use: the projects are found on a later page
        studio.projects[1000 + other] = {"title": f"other {other}", "description": "", "tasks": []}
    export.run(config)
    key = read_key(config.out).key
    assert (config.out / FILE).read_bytes() == before and len(studio.projects) == 122
    for name in config.physicians:
        assert Counter(row["data"]["code"] for row in studio.of(name)["tasks"]) == {task.code: 1 for task in key.of(name)}


def test_a_token_that_runs_out_is_bought_anew(studio: StandIn, tmp_path: Path) -> None:
    clinic(tmp_path)
    studio.refuse = lambda method, path: setattr(studio, "expire", path == "/api/projects" and method == "POST" and studio.access == 1)
    export.run(recipe(tmp_path, studio=at(studio)))
    assert studio.access >= 2 and len(studio.projects) == 2


@pytest.mark.parametrize("token", ["a.b.c-wrong", "wrong-as-well"])
def test_a_key_that_is_refused_is_named_and_not_shown(studio: StandIn, tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_TOKEN", token)
    clinic(tmp_path)
    with pytest.raises(InputError, match=r"studio.key: http://\S+ does not accept what STUDIO_TOKEN holds \(401\); make a new access token") as error:
        export.run(recipe(tmp_path, studio=at(studio)))
    assert "wrong" not in str(error.value)
    assert not (tmp_path / "out" / FILE).exists()  # so that the recipe may still be changed


@pytest.mark.parametrize(
    ("url", "token", "words"),
    [
        ("localhost:8080", PERSONAL, "studio.url: 'localhost:8080' is no address; write it as http://localhost:8080"),
        ("http://127.0.0.1:9", PERSONAL, r"studio.url: http://127.0.0.1:9 does not reply \(ConnectError\); see that Label Studio runs there"),
        ("http://127.0.0.1:9", LEGACY, r"studio.url: http://127.0.0.1:9 does not reply \(ConnectError\)"),
        ("http://127.0.0.1:9", "", "studio.key: the environment has no STUDIO_TOKEN; set it to an access token"),
        ("http://127.0.0.1:9", "two words", "studio.key: what STUDIO_TOKEN holds is no access token"),
    ],
)
def test_a_server_that_is_not_there(url: str, token: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_TOKEN", token)
    clinic(tmp_path)
    with pytest.raises(InputError, match=words) as error:
        export.run(recipe(tmp_path, studio=StudioRecipe(url=url, key="STUDIO_TOKEN")))
    assert not token or token not in str(error.value)


def test_something_else_that_runs_there_is_said(studio: StandIn, tmp_path: Path) -> None:
    clinic(tmp_path)
    studio.refuse = lambda method, path: (200, "<html>") if path == "/api/projects" else None
    with pytest.raises(InputError, match="with no JSON; see that Label Studio is what runs there"):
        export.run(recipe(tmp_path, studio=at(studio)))
    studio.refuse = lambda method, path: (200, "[]") if path == "/api/projects" else None
    with pytest.raises(InputError, match="sends no list of projects"):
        export.run(recipe(tmp_path, out=tmp_path / "other", studio=at(studio)))


# What cannot be exported


def test_cases_with_one_answer_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, [first, *others] = clinic(tmp_path)
    write_cases(tmp_path / "cases.jsonl", [first.model_copy(update={"answers": first.answers[:1], "verdicts": ()}), *others])
    export.run(recipe(tmp_path))
    assert "1 of 12 cases have no two answers to compare, and are left out" in capsys.readouterr().err
    assert {task.case for task in read_key(tmp_path / "out").key.tasks} == {case.id for case in others}


def test_cases_that_cannot_be_reviewed_are_refused(tmp_path: Path) -> None:
    _, cases = clinic(tmp_path)
    write_cases(tmp_path / "cases.jsonl", [case.model_copy(update={"answers": case.answers[:1], "verdicts": ()}) for case in cases])
    with pytest.raises(InputError, match=r"cases.jsonl has no case with two answers"):
        export.run(recipe(tmp_path))
    taken = tuple(one.model_copy(update={"rater": "ben"}) for one in cases[0].verdicts)
    write_cases(tmp_path / "cases.jsonl", [Case.model_validate(cases[0].model_copy(update={"verdicts": taken}))])
    with pytest.raises(InputError, match="has verdicts of a rater 'ben' already; call that physician by another name"):
        export.run(recipe(tmp_path))
    assert not (tmp_path / "out" / FILE).exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"physicians": []}, "physicians"),
        ({"physicians": ["ada", "Ada"]}, "2 are called 'ada'"),
        ({"adjudicator": "ben"}, "2 are called 'ben'"),
        ({"physicians": ["../ada"]}, "'../ada' of physicians and adjudicator is no name of a file"),
        ({"physicians": ["physicians"]}, "is what all of them together are called"),
        ({"per_case": 3}, "per_case is 3, and there are 2 physicians"),
        ({"what": "rubrics"}, "needs pool, a file of reviewed rubrics that ends in .jsonl"),
        ({"studio": {"url": "http://x"}}, "studio needs url and key, or neither"),
        ({"threshold": 1.5}, "threshold"),
        ({"what": "verdicts"}, "what"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_recipe_that_cannot_be_followed_says_why(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "review.yaml"
    path.write_text(yaml.safe_dump({"cases": "c.jsonl", "out": "out", "what": "answers", "physicians": ["ada", "ben"]} | changes))
    with pytest.raises(InputError) as error:
        read_recipe(ReviewConfig, path)
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["answers", "rubrics"])
def test_the_recipes_that_come_with_it_are_sound(name: str) -> None:
    config = read_recipe(ReviewConfig, Path(__file__).parents[2] / "configs" / "review" / f"{name}.yaml")
    assert config.what == name and config.studio.url is None and config.exports
