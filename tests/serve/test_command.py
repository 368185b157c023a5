"""`promedical serve` as it is typed: what it refuses before anything is loaded, and what a dry run says. And our own Asker, which asks the server."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosted import Hosted, hosted
from pydantic import BaseModel
from served import at_once

from promedical_jax.asking.asker import Ask, Asker
from promedical_jax.cli import main
from promedical_jax.config import Endpoint


@pytest.fixture(scope="module")
def host(models: Path) -> Iterator[Hosted]:
    with hosted(models, longest=512) as made:
        yield made


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["serve", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_others_are_not_let_in_without_a_key(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no key is set; give key the name of an environment variable" in refused(capsys, "m", "--host", address)
    assert main(["serve", "m", "--host", address, "--key", "SERVER_KEY", "--print-config"]) == 0
    assert main(["serve", "m", "--print-config"]) == 0  # at 127.0.0.1
    assert "host: 127.0.0.1" in capsys.readouterr().out


@pytest.mark.parametrize("secret", [None, "", " ", "two words", "ké", "a\nb"])
def test_a_key_that_is_none_is_refused(secret: str | None, models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERVER_KEY", raising=False)
    if secret is not None:
        monkeypatch.setenv("SERVER_KEY", secret)
    assert "the environment's SERVER_KEY holds no key" in refused(capsys, str(models / "policy"), "--key", "SERVER_KEY", "--port", "0")


def test_what_cannot_be_served_is_refused_in_a_sentence(models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen at 127.0.0.1, port {port} (Address already in use)" in refused(capsys, str(models / "policy"), "--port", port)
    assert "is a reward model; give it with --reward_model" in refused(capsys, str(models / "judge"), "--port", "0")
    assert "does not divide the batch of 9" in refused(capsys, str(models / "policy"), "--port", "0", "--slots", "9")
    assert "not a reward model" in refused(capsys, str(models / "policy"), "--port", "0", "--reward_model", str(models / "policy"))
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "promedical_jax.serve.app")
    assert "pip install 'promedical-jax[serve]'" in refused(capsys, str(models / "policy"))


def test_a_dry_run_says_what_would_be_served(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(models / "policy"), "--reward_model", str(models / "judge"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2 layers of width 16" in said and "127.0.0.1, port 8000, without a key" in said and "16 of 2048 tokens: 0.01 GiB" in said
    assert "not a reward model" in refused(capsys, str(models / "policy"), "--reward_model", str(models / "policy"), "--dry-run")


class Answer(BaseModel, extra="forbid"):
    answer: str


def test_our_own_asker_can_ask_it(host: Hosted) -> None:
    """A random model replies with no JSON: that is counted as garbage, reply by reply, and nothing else goes wrong."""
    asker = Asker(Endpoint(url=host.url, model="tiny", max_tokens=8, retries=1, concurrency=4), pause=at_once)
    asks = [Ask([{"role": "user", "content": f"Rest {number}?"}], Answer) for number in range(6)]
    assert asker(asks) == [None] * 6
    assert (asker.counts["asked"], asker.counts["failed"]) == (6, 6)
    causes = {name for name, count in asker.counts.items() if count} - {"asked", "failed", "tokens"}
    assert causes <= {"garbage", "status 400"} and asker.counts["garbage"] >= 6 and asker.counts["tokens"] > 6 * 8
