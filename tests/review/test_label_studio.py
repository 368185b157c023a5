"""Whole reviews with a real Label Studio: sealed export, annotations by two physicians who differ on purpose, import, agreement, adjudication; rubrics.

Run by `LABEL_STUDIO=/path/to/bin/label-studio pytest tests/review -m studio`, with the executable of `pip install label-studio` in an environment of its own.
"""

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from physicians import choices, clinic, judge, number, otherwise, recipe, texts, truth

from promedical_jax.errors import InputError
from promedical_jax.review import adjudication, agreement, export, readback
from promedical_jax.review.recipe import StudioRecipe
from promedical_jax.review.seal import read_key
from promedical_jax.rubric import Tier, read_cases

pytestmark = pytest.mark.studio

PASSWORD = "only-For-This-Test-1"
STARTED = 300.0  # seconds that a server may take to be there


@dataclass
class Server:
    """A Label Studio of this test's own, with an owner and a session for each who works there."""

    url: str
    token: str  # the owner's personal access token
    legacy: str
    people: dict[str, httpx2.Client]

    def tasks(self, physician: str, project: int) -> list[dict[str, Any]]:
        reply = self.people[physician].get("/api/tasks", params={"project": project, "page_size": 100, "fields": "all"})
        return reply.raise_for_status().json()["tasks"]

    def annotate(self, physician: str, project: int, say: Callable[[str], list[dict[str, Any]] | None]) -> None:
        for task in self.tasks(physician, project):
            result = say(task["data"]["code"])
            if result is not None:
                self.people[physician].post(f"/api/tasks/{task['id']}/annotations/", json={"result": result}).raise_for_status()

    def project(self, physician: str, review: str) -> int:
        every = self.people["owner"].get("/api/projects", params={"page_size": 100}).raise_for_status().json()["results"]
        [one] = [project for project in every if project["description"].startswith(f"Review {review} of {physician},")]
        return one["id"]


def session(url: str, path: str, email: str) -> httpx2.Client:
    """Somebody signed up or logged in, as by a browser."""
    client = httpx2.Client(base_url=url, follow_redirects=True, timeout=60)
    client.get(path)
    form = {"email": email, "password": PASSWORD, "csrfmiddlewaretoken": client.cookies["csrftoken"], "allow_newsletters": "false"}
    client.post(path, data=form, headers={"Referer": url}).raise_for_status()
    client.headers |= {"X-CSRFToken": client.cookies["csrftoken"], "Referer": url}
    client.get("/api/current-user/whoami").raise_for_status()
    return client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = os.environ.get("LABEL_STUDIO")
    if not command or not os.access(command, os.X_OK):
        pytest.fail(f"LABEL_STUDIO is {command!r}, which is no executable; set it to label-studio of an environment in which Label Studio is installed")
    home = tmp_path_factory.mktemp("label-studio")
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    url, log = f"http://localhost:{port}", home / "log"
    quiet = {"COLLECT_ANALYTICS": "False", "LATEST_VERSION_CHECK": "False", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": ""}
    start = [command, "start", "--no-browser", "--port", str(port), "--username", "owner@example.org", "--password", PASSWORD, "--enable-legacy-api-token"]
    with log.open("w") as said:
        environment = os.environ | quiet | {"LABEL_STUDIO_BASE_DATA_DIR": str(home / "data"), "HOME": str(home)}
        process = subprocess.Popen(start, env=environment, stdout=said, stderr=said)
    try:
        _wait(url, process, log)
        owner = session(url, "/user/login/", "owner@example.org")
        invite = owner.get("/api/invite").raise_for_status().json()["invite_url"]
        people = {name: session(url, invite, f"{name}@example.org") for name in ("ada", "ben", "cleo")}
        token = owner.post("/api/token/").raise_for_status().json()["token"]
        owner.post("/api/jwt/settings", json={"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}).raise_for_status()
        legacy = owner.get("/api/current-user/token").raise_for_status().json()["token"]
        yield Server(url, token, legacy, people | {"owner": owner})
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + STARTED
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            if httpx2.get(f"{url}/health", timeout=5).is_success:
                return
        except httpx2.RequestError:
            time.sleep(0.5)
    pytest.fail(f"Label Studio does not start:\n{log.read_text()[-3000:]}")


@pytest.fixture
def connected(server: Server, monkeypatch: pytest.MonkeyPatch) -> StudioRecipe:
    monkeypatch.setenv("STUDIO_TOKEN", server.token)
    return StudioRecipe(url=server.url, key="STUDIO_TOKEN")


def test_a_review_of_answers_from_export_to_adjudication(
    server: Server, connected: StudioRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cases = clinic(tmp_path)
    config, opinion = recipe(tmp_path, studio=connected, size=8), truth(cases)
    export.run(config)
    with pytest.raises(InputError, match="holds an export, and Label Studio has all of it"):
        export.run(config)
    key = read_key(config.out).key
    tasks = key.by_code
    assert [len(key.of(name)) for name in config.physicians] == [8, 8]
    held = json.dumps([task["data"] for name in config.physicians for task in server.tasks(name, server.project(name, key.review))])
    assert not [secret for case in cases for secret in (case.id, *(f'"{answer.id}"' for answer in case.answers)) if secret in held]

    disputed = {(task.case, task.criteria[0]) for task in key.of("ada")[:3]}  # on these ben says the contrary, of both answers
    contrary = lambda case, answer, criterion: (otherwise if (case, criterion) in disputed else str)(opinion(case, answer, criterion))  # noqa: E731
    server.annotate("ada", server.project("ada", key.review), lambda code: judge(tasks[code], opinion, lambda case, pair: pair[0]))
    last = key.of("ben")[-1].code  # which ben leaves open until the first import
    says = lambda code: judge(tasks[code], contrary, lambda case, pair: pair[0] if case != key.of("ada")[5].case else "equal")  # noqa: E731
    server.annotate("ben", server.project("ben", key.review), lambda code: None if code == last else says(code))
    readback.run(config)
    printed = capsys.readouterr().out
    assert ["ben", "8", "7", "0", "1"] in [line.split()[:5] for line in printed.splitlines()]
    with pytest.raises(InputError, match=r"1 tasks of .* are open yet"):
        adjudication.run(config)
    server.annotate("ben", server.project("ben", key.review), lambda code: says(code) if code == last else None)

    monkeypatch.setenv("STUDIO_TOKEN", server.legacy)  # the other kind of token
    readback.run(config)
    reviewed = {case.id: case for case in read_cases(config.out / readback.REVIEWED)}
    for task in key.tasks:
        said = {(one.answer, one.criterion): one.verdict.value for one in reviewed[task.case].verdicts if one.rater == task.physician}
        view = opinion if task.physician == "ada" else contrary
        assert said == {(answer, criterion): view(task.case, answer, criterion) for answer in task.answers for criterion in task.criteria}
    preferred = [json.loads(line) for line in (config.out / readback.PREFERENCES).read_text().splitlines()]
    assert len(preferred) == 16 and sum("tie" in one for one in preferred) == 1
    assert all(one["better"] < one["worse"] for one in preferred if "better" in one)

    agreement.run(config)
    found = json.loads((config.out / agreement.FILE).read_text())
    cells = sum(2 * len(task.criteria) for task in key.of("ada"))
    assert found["verdicts"]["all"]["units"] == cells and found["physicians"]["ben"]["verdicts"]["as_most"]["value"] == pytest.approx(1 - 6 / cells)
    assert found["verdicts"]["all"]["kappa"]["low"] < found["verdicts"]["all"]["kappa"]["value"] < 1

    adjudication.run(config)
    again = read_key(config.out / adjudication.FOLDER).key
    assert {(task.case, criterion) for task in again.tasks for criterion in task.criteria} == disputed and again.physicians == ["cleo"]
    assert [task.case for task in again.tasks if task.overall] == [key.of("ada")[5].case]
    codes = again.by_code
    server.annotate("cleo", server.project("cleo", again.review), lambda code: judge(codes[code], opinion, lambda case, pair: pair[1]))
    readback.run(config)
    settled = read_cases(config.out / readback.SETTLED_CASES)
    for case in settled:
        human = {(one.answer, one.criterion): one for one in case.verdicts if one.human}
        assert {one.rater for one in human.values()} == {"physicians"} and len(human) == sum(one.human for one in case.verdicts)
        assert all(one.verdict.value == opinion(case.id, *cell) for cell, one in human.items())
    assert any(one.rater == "cleo" for case in read_cases(config.out / readback.REVIEWED) for one in case.verdicts)
    decided = {one["case"]: one for one in map(json.loads, (config.out / readback.SETTLED_PREFERENCES).read_text().splitlines())}
    assert len(decided) == 8 and decided[key.of("ada")[5].case]["better"] > decided[key.of("ada")[5].case]["worse"]


def test_a_round_of_rubrics(server: Server, connected: StudioRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, cases = clinic(tmp_path)
    config = recipe(tmp_path, studio=connected, what="rubrics", pool=tmp_path / "pool.jsonl", size=6, adjudicator=None, threshold=0.5)
    export.run(config)
    key = read_key(config.out / "round-1").key
    by_id, [wrong, *_] = {case.id: case for case in cases}, key.tasks
    first = next(row for row, name in enumerate(wrong.criteria) if next(c for c in by_id[wrong.case].rubric.criteria if c.id == name).tier is Tier.PROFICIENCY)
    corrected = [choices("rubric", "corrected"), choices(f"place_{first}", "removed"), texts("text_0", "Tells to drink bleach."),
                 texts("add_proficiency_required", "Asks about the kidneys."), number(f"weight_{first + 1}", 40)]  # fmt: skip
    for name in key.physicians:
        server.annotate(name, server.project(name, key.review), lambda code: corrected if code == wrong.code else [choices("rubric", "passed")])
    readback.run(config)
    printed = capsys.readouterr().out
    assert "round 1: 6 of 6 rubrics reviewed, 5 right as they stand (83.3 %)" in printed and "not enough" in printed
    pool = {case.id: case for case in read_cases(config.pool)}
    rubric = pool[wrong.case].rubric
    assert len(pool) == 6 and wrong.criteria[first] not in {criterion.id for criterion in rubric.criteria}
    assert next(c.text for c in rubric.criteria if c.id == wrong.criteria[0]) == "Tells to drink bleach."
    assert rubric.criteria[-1].text == "Asks about the kidneys." and sum(c.weight or 0 for c in rubric.criteria) == pytest.approx(1)
    export.run(config)
    assert not {task.case for task in read_key(config.out / "round-2").key.tasks} & pool.keys()


def test_a_key_that_is_not_accepted_is_said_and_not_shown(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clinic(tmp_path)
    for token in ("aaaa.bbbb.cccc-secret", "secret-of-the-legacy-kind"):
        monkeypatch.setenv("STUDIO_TOKEN", token)
        with pytest.raises(InputError, match=r"studio.key: http://localhost:\d+ does not accept what STUDIO_TOKEN holds") as error:
            export.run(recipe(tmp_path, out=tmp_path / token, studio=StudioRecipe(url=server.url, key="STUDIO_TOKEN")))
        assert "secret" not in str(error.value)
