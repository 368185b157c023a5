"""What goes wrong outside: wrong keys, broken and oversized bodies, clients that leave, queues that are full, time that is over, a server that is told to end.
Each gets its status, and the next one is served as before."""

import gc
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import jax
import openai
import pytest
from hosted import Hosted, hosted
from openai import OpenAI
from watching import until

KEY = "a-secret-of-ours"
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "What should I take?"}], "max_tokens": 12, "seed": 1}
LONG = ASKED | {"max_tokens": 90}


@pytest.fixture(scope="module")
def host(models: Path) -> Iterator[Hosted]:
    with hosted(models) as made:
        yield made


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test that uses it the shared server is idle, has had no fault, and says what it said before."""
    if "host" not in request.fixturenames:
        yield
        return
    host: Hosted = request.getfixturevalue("host")
    before = post(host).json()["choices"]
    yield
    until(lambda: host.service.open == 0 and host.service.engine.running + host.service.engine.waiting == 0)
    assert post(host).json()["choices"] == before and host.service.engine.faults == 0


def post(host: Hosted, body: Any = ASKED, **more: Any) -> httpx2.Response:
    given = {"json": body} if isinstance(body, dict) else {"content": body}
    return host.http.post(f"{host.url}/chat/completions", **given | more)


def slowly(host: Hosted, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Blocks of tokens wait until they are let go, which is what this returns."""
    from promedical_jax.serve import slots

    gate, original = threading.Event(), slots.go_on
    monkeypatch.setattr(slots, "go_on", lambda *given: (gate.wait(60), original(*given))[1])
    return gate.set


# Keys


@pytest.fixture(scope="module")
def locked(models: Path) -> Iterator[Hosted]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERVER_KEY", KEY)
        with hosted(models, key="SERVER_KEY") as made:
            yield made


@pytest.mark.parametrize("header", [None, "Bearer wrong", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"bearer {KEY}", KEY, "Bearer", f"Basic {KEY}", "Bearer é"])
def test_a_wrong_key_gets_nothing(locked: Hosted, header: str | None) -> None:
    headers = {} if header is None else {b"Authorization": header.encode()}
    asked = [("POST", "/v1/chat/completions"), ("POST", "/v1/score"), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/no/such"), ("PUT", "/")]
    for method, path in asked:
        reply = httpx2.request(method, f"{locked.root}{path}", headers=headers, json=ASKED)
        assert reply.status_code == 401 and reply.json()["error"]["code"] == "invalid_api_key" and "tiny" not in reply.text and KEY not in reply.text
    assert httpx2.get(f"{locked.root}/health", headers=headers).json() == {"status": "ok"}


def test_two_keys_at_once_are_none(locked: Hosted) -> None:
    assert httpx2.get(f"{locked.url}/models", headers=[("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer x")]).status_code == 401


def test_the_right_key_gets_all(locked: Hosted) -> None:
    client = OpenAI(base_url=locked.url, api_key=KEY, max_retries=0)
    assert client.chat.completions.create(**ASKED).choices and [model.id for model in client.models.list()] == ["tiny"]
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


# Bodies


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": "tiny"}', b'{"model": NaN}', b"[" * 19_000, b'"\\ud800\\ud800"'])
def test_a_broken_body_is_a_400(host: Hosted, body: bytes) -> None:
    reply = post(host, body)
    assert reply.status_code == 400 and reply.json()["error"]["type"] == "invalid_request_error" and len(reply.json()["error"]["message"]) < 500


@pytest.mark.parametrize("size", [20_001, 100_000, 1_000_000])
@pytest.mark.parametrize("said", [True, False])
def test_a_body_that_is_too_large_is_a_413(host: Hosted, size: int, said: bool) -> None:
    """Whether its length is said before or not."""
    body = json.dumps(ASKED | {"user": "x" * size}).encode()
    if size <= 100_000 or said:
        reply = post(host, body if said else iter([body[:9000], body[9000:]]))
        assert reply.status_code == 413 and "20000 bytes" in reply.json()["error"]["message"]


def test_paths_and_methods_that_are_none(host: Hosted) -> None:
    for method, path, status in (("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405), ("GET", "/", 404), ("POST", "/v1/completions", 404)):
        reply = httpx2.request(method, f"{host.root}{path}")
        assert reply.status_code == status and path in reply.json()["error"]["message"]


def test_without_a_reward_model_there_are_no_scores(host: Hosted) -> None:
    reply = httpx2.post(f"{host.url}/score", json={"instruction": "a", "answers": ["b"], "criteria": [{"text": "c", "tier": "safety"}]})
    assert reply.status_code == 404 and "--reward_model" in reply.json()["error"]["message"]


def mutated(random_: random.Random) -> bytes:
    """A sound request with something changed: a value, a key, a byte, a piece gone or twice."""
    body: dict[str, Any] = json.loads(json.dumps(ASKED | {"max_tokens": random_.randint(1, 4)}))
    odd = [None, True, -1, 0, 1, 2**70, 1e308, 0.5, "", "x", "\u0000", "\ud7ff", [], [[]], {}, {"a": None}, ["x"] * 9, [{"role": "user"}], "a" * 3000]
    fields = ["model", "messages", "max_tokens", "seed", "temperature", "top_p", "top_k", "n", "stop", "stream", "logprobs", "top_logprobs", "user", "tools",
              "response_format", "stream_options", "logit_bias", "no_such_field"]  # fmt: skip
    for _ in range(random_.randint(0, 3)):
        body[random_.choice(fields)] = random_.choice(odd)
    if isinstance(body.get("messages"), list) and random_.random() < 0.3:
        body["messages"] = [{random_.choice(["role", "content", "x"]): random_.choice(odd) for _ in range(3)} for _ in range(random_.randint(0, 3))]
    raw = bytearray(json.dumps(body).encode())
    for _ in range(random_.choice([0, 0, 0, 1, 5])):
        at = random_.randrange(len(raw))
        match random_.randrange(3):
            case 0:
                raw[at] = random_.randrange(256)
            case 1:
                del raw[at : at + random_.randint(1, 20)]
            case 2:
                raw[at:at] = raw[at : at + random_.randint(1, 20)]
        if not raw:
            return b""
    return bytes(raw)


def test_five_hundred_fuzzed_requests_harm_nothing(host: Hosted) -> None:
    random_ = random.Random(0)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda body: post(host, body), [mutated(random_) for _ in range(500)]))
    statuses = {reply.status_code for reply in replies}
    assert statuses <= {200, 400, 404} and {200, 400} <= statuses
    assert all("error" in reply.json() and "Traceback" not in reply.text for reply in replies if reply.status_code != 200)


def test_what_is_no_http_harms_nothing(host: Hosted) -> None:
    random_ = random.Random(1)
    port = int(host.root.rpartition(":")[2])
    asked = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    heads = [b"", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", asked + b"Content-Length: -5\r\n\r\n", b"GET " + b"a" * 70_000,
             asked + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n"]  # fmt: skip
    for head in [*heads, *(random_.randbytes(200) for _ in range(20))]:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
            raw.sendall(head)
            raw.shutdown(socket.SHUT_WR)
            try:
                said = raw.recv(1000)
            except ConnectionResetError:
                said = b""
            assert not said or said.startswith(b"HTTP/1.1 4")


# Clients that leave


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_frees_the_slot_at_once(host: Hosted, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = slowly(host, monkeypatch)
    dropped = host.service.counts["dropped_total", ""]
    port, body = int(host.root.rpartition(":")[2]), json.dumps(LONG | {"stream": stream, "n": 3}).encode()
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        until(lambda: host.service.engine.running == 3)
        if stream:
            assert raw.recv(20).startswith(b"HTTP/1.1 200")
    until(lambda: host.service.open == 0)  # while the device still works on it
    assert host.service.counts["dropped_total", ""] - dropped == 3
    answered = host.service.counts["tokens_total", '{kind="answer"}']
    let_go()
    until(lambda: host.service.engine.running == 0)
    assert host.service.counts["tokens_total", '{kind="answer"}'] == answered


def test_who_leaves_in_the_middle_of_a_stream_or_of_a_body(host: Hosted) -> None:
    port = int(host.root.rpartition(":")[2])
    for _ in range(5):
        with httpx2.stream("POST", f"{host.url}/chat/completions", json=LONG | {"stream": True}) as reply:
            next(reply.iter_lines())
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")


def test_a_client_that_stays_but_does_not_read_keeps_no_slot(host: Hosted) -> None:
    port, body = int(host.root.rpartition(":")[2]), json.dumps(LONG | {"stream": True, "logprobs": True, "top_logprobs": 20, "n": 8}).encode()
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        until(lambda: host.service.open == 1)
        until(lambda: host.service.engine.running == 0)
        assert post(host).status_code == 200


# Limits


def test_a_full_queue_is_a_429_that_says_when_to_come_again(host: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = slowly(host, monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, host, ASKED | {"n": 72})
        until(lambda: host.service.engine.running + host.service.engine.waiting == 72)
        refused = post(host)
        let_go()
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1" and refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert len(waiting.result().json()["choices"]) == 72


def test_when_the_time_is_over_the_answer_is_an_error_whole_or_streamed(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hosted(models, timeout=0.5) as host:
        let_go = slowly(host, monkeypatch)
        reply = post(host)
        assert reply.status_code == 504 and reply.json()["error"]["code"] == "timeout"
        with OpenAI(base_url=host.url, api_key="none", max_retries=0) as client, pytest.raises(openai.APIError, match=r"not done in 0\.5 seconds"):
            list(client.chat.completions.create(**ASKED, stream=True))
        with socket.create_connection(("127.0.0.1", int(host.root.rpartition(":")[2]))) as raw:
            raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
            assert raw.recv(100).startswith(b"HTTP/1.1 408")
        let_go()


def test_a_device_that_fails_is_a_500_and_the_next_is_served(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from promedical_jax.serve import slots

    with hosted(models) as host:
        wanted = post(host).json()["choices"]
        with monkeypatch.context() as patch:
            patch.setattr(slots, "go_on", lambda *_: 1 // 0)
            reply = post(host)
        assert reply.status_code == 500 and "ask again" in reply.json()["error"]["message"] and host.service.engine.faults == 1
        assert post(host).json()["choices"] == wanted


# The end


def test_told_to_end_it_finishes_what_is_under_way_and_takes_nothing_new(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hosted(models) as host, ThreadPoolExecutor(1) as pool:
        wanted = post(host, LONG).json()["choices"]
        let_go = slowly(host, monkeypatch)
        under_way = pool.submit(post, host, LONG)
        until(lambda: host.service.engine.running == 1)
        host.server.handle_exit(15, None)
        refused, health = post(host), httpx2.get(f"{host.root}/health")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_ending")
        assert (health.status_code, health.json()) == (503, {"status": "ending"})
        let_go()
        assert under_way.result().json()["choices"] == wanted
        host.thread.join(30)
        assert not host.thread.is_alive()
        with pytest.raises(httpx2.ConnectError):
            post(host)


def test_after_its_grace_what_is_left_ends_as_an_error(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hosted(models, grace=0.3) as host, ThreadPoolExecutor(2) as pool:
        let_go = slowly(host, monkeypatch)
        left = [pool.submit(post, host, LONG | {"stream": stream}) for stream in (False, True)]
        until(lambda: host.service.engine.running + host.service.engine.waiting == 2)
        host.server.handle_exit(15, None)
        until(lambda: host.service.engine._closing)
        let_go()
        plain, stream = (one.result() for one in left)
        assert plain.status_code == 500 and "ends" in plain.json()["error"]["message"]
        assert stream.status_code == 200 and "[DONE]" not in stream.text and '"error"' in stream.text.splitlines()[-2]
        host.thread.join(30)
        assert not host.thread.is_alive()


def test_memory_is_what_it_was_after_hundreds_of_requests(host: Hosted) -> None:
    def held() -> tuple[int, int]:
        until(lambda: host.service.open == 0 and host.service.engine.running == 0)
        gc.collect()  # what errors of earlier tests hold
        live = jax.live_arrays()
        return len(live), sum(x.nbytes for x in live)

    ways = [ASKED | {"n": 1 + n % 4, "max_tokens": 1 + n % 30, "stream": n % 2 == 0, "logprobs": n % 3 == 0} for n in range(60)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda way: post(host, way), ways))
        first = held()
        for _ in range(3):
            list(pool.map(lambda way: post(host, way), ways))
            assert held() == first
