"""What patients wrote goes to the endpoints that the recipe names, and nowhere else; and the endpoint's key stays where it came from."""

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import yaml
from pyarrow import parquet
from scripted import TASKS, hashed, reply
from served import Server

from promedical_jax.clinic import make_cases
from promedical_jax.rubric import read_cases, write_cases

GUARD = Path(__file__).parents[1] / "guard.py"
KEY = "sk-live-4/7Zq+verysecretkey=="  # with what JSON may write in two ways


@pytest.fixture
def environment() -> dict[str, str]:
    """As a user has it who never heard of offline modes, behind a proxy that would see all."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_")) and not name.lower().endswith("_proxy")}
    return mine | {"PYTHONPATH": str(Path(__file__).parents[2]), "HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9", "CORPUS_KEY": KEY}


def guarded(arguments: list[str], server: Server, folder: Path, environment: dict[str, str]) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What came of a command, and whom it spoke to beside the server."""
    log = folder / "spoken.log"
    log.write_text("")
    command = [sys.executable, str(GUARD), str(log), str(server.server.server_port), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return done, log.read_text().splitlines()


def written(recipe: dict[str, Any], folder: Path) -> list[str]:
    (folder / "corpus.yaml").write_text(yaml.safe_dump(recipe))
    return ["corpus", "run", "--config", str(folder / "corpus.yaml")]


def test_the_whole_corpus_speaks_to_its_endpoints_alone(recipe: dict[str, Any], server: Server, tmp_path: Path, environment: dict[str, str]) -> None:
    arguments = written(recipe, tmp_path)
    done, spoken = guarded(arguments, server, tmp_path, environment)
    assert done.returncode == 0, done.stderr
    assert spoken == [] and len(read_cases(Path(recipe["out"]) / "cases.parquet")) > 10 and sum(server.seen.values()) > 500
    for other in (["corpus", "status"], ["corpus", "cost"], ["corpus", "inspect", "medqa-1"]):
        done, spoken = guarded([*other, *arguments[2:]], server, tmp_path, environment)
        assert (done.returncode, spoken) == (0, []), done.stderr


def test_reading_sources_of_every_sort_speaks_to_nobody(data: Path, server: Server, tmp_path: Path, environment: dict[str, str]) -> None:
    own = {"licence": "MIT", "question": "q"}
    asked = [{"q": f"What is to be done about complaint number {i}, and when?"} for i in range(20)]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["q"])
        writer.writeheader()
        writer.writerows(asked)
    parquet.write_table(pyarrow.Table.from_pylist(asked), tmp_path / "b.parquet")
    (tmp_path / "c.json").write_text(json.dumps(asked))
    write_cases(tmp_path / "suite.parquet", make_cases(5, 0))
    names = {"medqa": "medqa", "pubmedqa": "pubmedqa/ori_pqal.json", "medquad": "medquad/9_CDC_QA"}
    sources = [{"name": name, "path": str(data / path)} for name, path in names.items()]
    sources += [own | {"name": file, "path": str(tmp_path / file)} for file in ("a.csv", "b.parquet", "c.json")]
    suites = [{"name": "clinic", "path": str(tmp_path / "suite.parquet")}]
    sieve = {"languages": ["en"], "licences": ["MIT", "CC BY 4.0"]}
    recipe = {"out": str(tmp_path / "out"), "sources": sources, "suites": suites, "sieve": sieve}
    done, spoken = guarded(written(recipe, tmp_path), server, tmp_path, environment)
    assert (done.returncode, spoken) == (0, []) and "waits for difficulty.url" in done.stdout, done.stderr
    assert not server.seen


@pytest.mark.parametrize(
    ("deed", "event"),
    [
        ("import socket; socket.create_connection(('127.0.0.1', 9), 1)", "socket.connect ('127.0.0.1', 9)"),
        ("import socket; socket.getaddrinfo('huggingface.co', 443)", "socket.getaddrinfo"),
        ("import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'fever', ('127.0.0.1', 53))", "socket.sendto"),
        ("import httpx2; httpx2.post('http://127.0.0.1:PORT/v1', json={})", "socket.connect ('127.0.0.1', 9)"),  # through the proxy
        ("from huggingface_hub import HfApi; HfApi().dataset_info('lavita/MedQuAD')", "socket.getaddrinfo"),
        ("import subprocess; subprocess.run(['curl', 'http://127.0.0.1:9'])", "subprocess.Popen"),
    ],
)
def test_the_guard_sees_who_speaks_to_others_also_where_the_error_is_swallowed(
    deed: str, event: str, server: Server, tmp_path: Path, environment: dict[str, str]
) -> None:
    lines = deed.replace("PORT", str(server.server.server_port)).split("; ")
    swallowed = "try:\n" + "".join(f"    {line}\n" for line in lines) + "except Exception: pass\n"
    if "hub" in deed:
        environment = {name: value for name, value in environment.items() if not name.endswith("_PROXY")}
    _, spoken = guarded(["-c", swallowed], server, tmp_path, environment)
    assert spoken and event in spoken[0]
    assert not server.seen


# The key


def texts_of(out: Path) -> dict[str, str]:
    """All that the files of a folder say, Parquet's pages and SQLite's rows and log among them."""
    said = {}
    for file in sorted(path for path in out.rglob("*") if path.is_file()):
        said[file.name] = file.read_bytes().decode("latin-1")
        if file.suffix == ".parquet":
            said[f"{file.name}, rows"] = str(parquet.read_table(file).to_pylist())
    with closing(sqlite3.connect(out / "replies.sqlite")) as store:
        said["replies"] = str(store.execute("SELECT * FROM replies").fetchall())
    return said


def telling(number: int, body: dict[str, Any]) -> tuple[int, str, dict[str, str]]:
    """Says the key wherever it can: in failures of every sort, in garbage that is then sent back for repair, and in sound answers."""
    fault = hashed(json.dumps(body["messages"][:2]), 30)
    if number == 0 and fault < 4:
        garbage = [KEY, json.dumps({"answer": 7, "key": KEY}), json.dumps({KEY: KEY})]
        texts = [json.dumps({"choices": [{"message": {"content": text}}]}) for text in garbage]
        status, text = ((200, texts[0]), (200, texts[1]), (200, texts[2]), (429, f"Bearer {KEY} is overloaded"))[fault]
        return status, text, {"Retry-After": KEY if status == 429 else "0", "X-Key": KEY}
    if TASKS.get(body["messages"][0]["content"]) == "answer":
        said = json.dumps({"answer": f"Take {KEY} and rest, says {body['model']}."}).replace("/", r"\/" if fault % 2 else "/")
        return 200, json.dumps({"choices": [{"message": {"content": said}}]}), {"X-Key": KEY}
    return reply(number, body)


def with_key(recipe: dict[str, Any]) -> dict[str, Any]:
    named = {name: recipe[name] | {"key": "CORPUS_KEY"} for name in ("difficulty", "topic", "rubric")}
    return recipe | named | {name: [one | {"key": "CORPUS_KEY"} for one in recipe[name]] for name in ("writers", "judges")}


def test_the_key_is_in_no_file_nor_message_however_often_the_endpoint_says_it(
    recipe: dict[str, Any], server: Server, tmp_path: Path, environment: dict[str, str]
) -> None:
    sent: list[str] = []
    server.reply = lambda number, body: (sent.append(json.dumps(body)), telling(number, body))[1]
    done, spoken = guarded(written(with_key(recipe), tmp_path), server, tmp_path, environment)
    assert (done.returncode, spoken) == (0, []), done.stderr
    assert all(headers["Authorization"] == f"Bearer {KEY}" for headers in server.headers)
    said = texts_of(Path(recipe["out"]))
    said |= {"stdout": done.stdout, "stderr": done.stderr, "sent back for repair": str(sent)}
    assert [name for name, text in said.items() if "verysecretkey" in text] == []
    assert "Take *** and rest" in said["cases.parquet, rows"] and "Take *** and rest" in said["replies"]  # it had been said
    assert "***" in said["sent back for repair"] and "garbage" in done.stderr


def test_the_key_is_not_in_the_log_of_a_database_whose_run_was_killed(
    recipe: dict[str, Any], server: Server, tmp_path: Path, environment: dict[str, str]
) -> None:
    server.reply = lambda number, body: (time.sleep(0.002), telling(number, body))[1]
    command = [sys.executable, "-m", "promedical_jax.cli", *written(with_key(recipe), tmp_path)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while sum(server.seen.values()) < 250 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    printed = "".join(process.communicate())
    out = Path(recipe["out"])
    assert process.returncode == -signal.SIGKILL and (out / "replies.sqlite-wal").stat().st_size > 0
    said = {file.name: file.read_bytes() for file in out.iterdir()} | {"printed": printed.encode()}
    assert [name for name, text in said.items() if b"verysecretkey" in text] == []
    assert b"Take *** and rest" in said["replies.sqlite-wal"]


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_the_key_is_not_in_the_error_of_an_endpoint_that_refuses_it(
    status: int, recipe: dict[str, Any], server: Server, tmp_path: Path, environment: dict[str, str]
) -> None:
    server.reply = lambda *_: (status, json.dumps({"error": f"no such key: {KEY}"}).replace("/", r"\/"), {})
    done, _ = guarded(written(with_key(recipe), tmp_path), server, tmp_path, environment)
    assert done.returncode == 2 and f"answers {status}" in done.stderr and "no such key: ***" in done.stderr
    assert "verysecretkey" not in done.stdout + done.stderr + str(texts_of(Path(recipe["out"])))
