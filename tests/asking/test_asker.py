"""Asking an endpoint: repair, money, pace, and a run that is killed. How failures end is in test_judge_endpoint.py."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict
from served import Server, at_once, says

from promedical_jax.asking import Ask, Asker, Plain
from promedical_jax.config import Endpoint
from promedical_jax.errors import InputError


class Grade(BaseModel):
    model_config = ConfigDict(extra="forbid")

    grade: int


def asks(count: int) -> list[Ask]:
    return [Ask([{"role": "user", "content": f"Grade number {i}."}], Grade) for i in range(count)]


def asker(server: Server, **keys: Any) -> Asker:
    return Asker(Endpoint(**{"url": server.url, "model": "m", "timeout": 5.0, "retries": 2} | keys), "corpus.grader", pause=at_once)


def graded(_: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
    """The number in the question, for ten tokens of question and two of reply."""
    number = int("".join(filter(str.isdigit, body["messages"][0]["content"])))
    reply = {"choices": [{"message": {"content": json.dumps({"grade": number})}}], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}
    return 200, json.dumps(reply), {}


def test_a_reply_of_another_form_is_told_what_was_wrong_and_then_taken(server: Server) -> None:
    bodies = []

    def reply(number: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        bodies.append(body)
        return says('{"grade": "high"}')(number, body) if number == 0 else graded(number, body)

    server.reply = reply
    asking = asker(server)
    assert asking(asks(1)) == [Grade(grade=0)] and asking.counts["garbage"] == 1 and asking.counts["failed"] == 0
    first, second = (body["messages"] for body in bodies)
    assert second[0] == first[0] and second[1] == {"role": "assistant", "content": '{"grade": "high"}'} and "field grade" in second[2]["content"]
    form = bodies[0]["response_format"]["json_schema"]
    assert form["strict"] and form["schema"]["required"] == ["grade"] and form["schema"]["additionalProperties"] is False


def test_words_of_ones_own_are_taken_as_they_are_and_kept(server: Server, tmp_path: Path) -> None:
    """No form is asked for; a reply that looks like JSON is text all the same, and a blank one is none."""
    bodies: list[dict[str, Any]] = []
    words = iter([" ", '{"grade": 3}'])

    def reply(number: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
        bodies.append(body)
        return says(next(words))(number, body)

    server.reply = reply
    question = Ask([{"role": "user", "content": "How are you?"}], Plain)
    asking = asker(server, cache=tmp_path / "replies.sqlite")
    assert asking([question]) == [Plain(text='{"grade": 3}')] and asking.counts["garbage"] == 1
    assert bodies[0] == bodies[1] and "response_format" not in bodies[0]  # what was blank is not shown to it
    assert asker(server, cache=tmp_path / "replies.sqlite")([question]) == [Plain(text='{"grade": 3}')] and len(bodies) == 2
    server.reply = says('{"grade": 4}')
    graded_now = asker(server, cache=tmp_path / "replies.sqlite")([Ask(question.messages, Grade)])
    assert graded_now == [Grade(grade=4)]  # the same words in another form are another question


def test_what_is_spent_is_counted_over_runs_and_no_more_than_the_budget(server: Server, tmp_path: Path) -> None:
    server.reply = graded
    money = {"price_prompt": 1e5, "price_reply": 1e6, "max_tokens": 2, "cache": tmp_path / "replies.sqlite", "concurrency": 4}  # a reply costs 3
    asking = asker(server, budget=20.0, **money)
    assert asking.left(asks(10)) == (10, 50, pytest.approx(10 * (0.1 * 3 + 2)))  # fifteen letters are about three tokens
    with pytest.raises(InputError, match=r"corpus.grader.budget: \d+ of 20 are spent.*raise it and run again \(what was replied is in .*replies.sqlite\)"):
        asking(asks(10))
    paid = sum(server.seen.values())
    assert asking.spent() == pytest.approx(3 * paid) and paid >= 3 and 3 * paid <= 20
    again = asker(server, **money)
    assert again.left(asks(10))[0] == 10 - paid  # what was under way came to its end, and is kept
    assert again(asks(10)) == [Grade(grade=i) for i in range(10)] and sum(server.seen.values()) == 10 and again.spent() == pytest.approx(30)
    with pytest.raises(ValueError, match="budget is given and no price"):
        Endpoint(budget=1.0)


def test_requests_keep_the_pace(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.reply = graded
    monkeypatch.setattr("promedical_jax.asking.asker.monotonic", lambda: 7.0)
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    Asker(Endpoint(url=server.url, model="m", per_minute=600), pause=note)(asks(5))
    assert sorted(waits) == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_it_runs_where_an_event_loop_runs_already(server: Server) -> None:
    server.reply = graded

    async def notebook() -> Any:
        return asker(server)(asks(2))

    assert asyncio.run(notebook()) == [Grade(grade=0), Grade(grade=1)]


def test_a_key_is_in_no_message_and_in_no_file(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADER_KEY", "sk-secret")
    server.reply = graded
    asker(server, key="GRADER_KEY", cache=tmp_path / "replies.sqlite")(asks(2))
    assert all(b"sk-secret" not in file.read_bytes() for file in tmp_path.iterdir())
    server.reply = lambda *_: (401, "Incorrect API key provided: sk-secret", {})
    with pytest.raises(InputError, match=r"answers 401: 'Incorrect API key provided: \*\*\*'"):
        asker(server, key="GRADER_KEY")(asks(2))


RUN = """
import sys
sys.path[:0] = ["tests", "tests/asking"]
from test_asker import Endpoint, Asker, asks
replies = Asker(Endpoint(url=sys.argv[1], model="m", cache=sys.argv[2], concurrency=3))(asks(40))
print(sum(reply.grade for reply in replies))
"""


def test_killed_and_run_again_it_pays_for_no_reply_twice(server: Server, tmp_path: Path) -> None:
    """What had been replied when the process died is asked for again at most where it was still on its way: three at a time."""
    server.reply = lambda *given: (time.sleep(0.03), graded(*given))[1]
    command = [sys.executable, "-c", RUN, server.url, str(tmp_path / "replies.sqlite")]
    root = Path(__file__).parents[2]
    kills = 0
    for after in (5, 12, 20, 31):
        run = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL)
        while sum(server.seen.values()) < after and run.poll() is None:
            time.sleep(0.005)
        run.send_signal(signal.SIGKILL)
        kills += run.wait() == -signal.SIGKILL
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == str(sum(range(40))), done.stderr
    assert kills == 4 and len(server.seen) == 40 and sum(server.seen.values()) <= 40 + 3 * kills


def test_one_question_that_is_refused_is_no_fault_of_the_recipe(server: Server) -> None:
    """Once others were replied to: it may be too long, or not to the endpoint's taste."""
    server.reply = lambda number, body: (400, "maximum context length", {}) if "number 3" in body["messages"][0]["content"] else graded(number, body)
    asking = asker(server, concurrency=1)
    assert asking(asks(6)) == [Grade(grade=i) if i != 3 else None for i in range(6)] and asking.counts["status 400"] == 1 == asking.counts["failed"]


@pytest.mark.parametrize("url", ["localhost:8000/v1", "http://[bad", "ftp://host/v1", "http:///v1"])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(InputError, match=r"corpus.grader.url: .* is no address; write it as http://localhost:8000/v1"):
        Asker(Endpoint(url=url, model="m"), "corpus.grader")


@pytest.mark.parametrize("key", ["two words", "schl\u00fcssel"])
def test_what_is_no_key_is_refused_without_being_said(key: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADER_KEY", key)
    with pytest.raises(InputError, match="what GRADER_KEY holds is no key") as error:
        asker(server, key="GRADER_KEY")
    assert key not in str(error.value)
    monkeypatch.setenv("GRADER_KEY", "sk-1\n")  # as a file's last line leaves it
    server.reply = graded
    assert asker(server, key="GRADER_KEY")(asks(1)) == [Grade(grade=0)] and server.headers[-1]["Authorization"] == "Bearer sk-1"


HOSTILE = {
    "half a letter": json.dumps({"choices": [{"message": {"content": "\ud83d"}}]}),
    "a deep list": "[" * 200_000,
    "a deep reply": json.dumps({"choices": [{"message": {"content": "[" * 100_000}}]}),
    "no object": json.dumps({"choices": [{"message": {"content": 7}}]}),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_reply_is_garbage_and_ends_nothing(text: str, server: Server) -> None:
    server.reply = lambda number, body: (200, text, {}) if number == 0 else graded(number, body)
    asking = asker(server)
    assert asking(asks(2)) == [Grade(grade=0), Grade(grade=1)] and asking.counts["garbage"] == 2


@pytest.mark.parametrize("tokens", [-(10**6), 10**30, "x"])
def test_a_bill_that_cannot_be_is_not_believed(tokens: Any, server: Server) -> None:
    usage = {"prompt_tokens": tokens, "completion_tokens": 1}
    server.reply = lambda number, body: (200, json.dumps(json.loads(graded(number, body)[1]) | {"usage": usage}), {})
    asking = asker(server, price_prompt=1e6, price_reply=1e6)
    asking(asks(1))
    assert 0 < asking.spent() < 100


def test_a_budget_is_spent_to_the_last_question_it_pays_for(server: Server) -> None:
    """What is under way may cost far more than it does: that is waited for, and not taken for spent."""
    server.reply = graded
    asking = asker(server, budget=60.0, concurrency=16, price_prompt=1e5, price_reply=1e6, max_tokens=20)  # a reply costs 3, and may cost 23
    with pytest.raises(InputError, match="budget"):
        asking(asks(40))
    assert 12 <= sum(server.seen.values()) <= 20  # 60 pay for 20; the last must have had 23 left


def test_replicas_of_a_model_share_the_questions_and_stand_in_for_each_other(server: Server, tmp_path: Path) -> None:
    other = Server()
    server.reply = other.reply = graded
    asking = asker(server, replicas=[other.url], cache=tmp_path / "replies.sqlite")
    assert asking(asks(40)) == [Grade(grade=i) for i in range(40)]
    assert sum(server.seen.values()) == 20 == sum(other.seen.values())
    other.server.shutdown()
    other.server.server_close()
    assert asking(asks(60)) == [Grade(grade=i) for i in range(60)] and asking.counts["failed"] == 0 and asking.counts["unreachable"] > 0
    assert asker(server, cache=tmp_path / "replies.sqlite").left(asks(60))[0] == 0  # whoever replied, the model's reply is known
    with pytest.raises(InputError, match=r"grader.replicas: 'nowhere' is no address"):
        asker(server, replicas=["nowhere"])


def test_a_budget_of_tokens_needs_no_price_and_is_kept(server: Server, tmp_path: Path) -> None:
    server.reply = graded  # a reply costs 12 tokens
    asking = asker(server, budget_tokens=120, concurrency=4, max_tokens=20, cache=tmp_path / "replies.sqlite")
    with pytest.raises(InputError, match=r"grader.budget_tokens: \d+ of 120 are spent, and the next question may cost \d+; raise it and run again"):
        asking(asks(40))
    assert 3 <= sum(server.seen.values()) < 40 and asking.counts["tokens"] <= 120 and asking.spent() == 0


def test_a_budget_that_is_spent_ends_also_where_sums_are_rounded(server: Server) -> None:
    """Of what was held for requests that are over, nothing may be left, were it 1e-21."""
    server.reply = graded
    asking = asker(server, budget=4e-5, concurrency=8, price_reply=1.0, max_tokens=8)
    with pytest.raises(InputError, match="4e-05 are spent"):
        asyncio.run(asyncio.wait_for(asking._ask_all(asks(40), lambda *_: None), 20))  # what waits without end fails here, and does not hang


def test_a_key_is_not_said_in_part_either(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADER_KEY", "sk-" + "S" * 60)
    server.reply = lambda *_: (401, "x" * 170 + " sk-" + "S" * 60, {})
    with pytest.raises(InputError) as error:
        asker(server, key="GRADER_KEY")(asks(1))
    assert "SSS" not in str(error.value)


def test_a_secret_that_is_said_back_is_masked_and_a_word_that_serves_as_key_is_not(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    class Told(BaseModel):
        text: str

    ask = [Ask([{"role": "user", "content": "Say something."}], Told)]
    for key, said in (("EMPTY", "The stomach is EMPTY."), ("sk-0123456789abcdef", "The stomach is ***.")):
        monkeypatch.setenv("GRADER_KEY", key)
        server.reply = says(json.dumps({"text": f"The stomach is {key}."}))
        assert asker(server, key="GRADER_KEY")(ask) == [Told(text=said)]


def test_what_is_for_this_machine_goes_through_no_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.reply = graded
    assert asker(server)(asks(1)) == [Grade(grade=0)]
    assert asker(server, url=server.url.replace("127.0.0.1", "localhost"))(asks(1)) == [Grade(grade=0)]
