"""An OpenAI-compatible endpoint of this process's own, which replies as a test tells it."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Replies = Callable[[int, dict[str, Any]], tuple[int, str, dict[str, str]]]


def says(content: Any) -> Replies:
    return lambda *_: (200, json.dumps({"choices": [{"message": {"content": content}}]}), {})


class Patient(ThreadingHTTPServer):
    request_queue_size = 256  # connections that wait to be taken; more are refused
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A reply that raises drops the connection."""


class Server:
    """Replies as `reply` says, which is given the number of the request for the same question, from 0, and its body."""

    def __init__(self) -> None:
        self.reply: Replies = says("{}")
        self.seen: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.most = self.now = 0
        lock = threading.Lock()
        here = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # a connection serves one question after another, as with the servers that people use

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    roles = [message["role"] for message in body["messages"]]
                    asked = roles.index("assistant") if "assistant" in roles else None  # behind it stand a reply, and what was wrong with it
                    key = json.dumps(body["messages"][:asked])
                    number = here.seen[key]
                    here.seen[key] += 1
                    here.headers.append({"path": self.path, **self.headers})
                    here.now += 1
                    here.most = max(here.most, here.now)
                status, text, more = here.reply(number, body)
                with lock:
                    here.now -= 1
                try:
                    self.send_response(status)
                    for name, value in more.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(text.encode())))
                    self.end_headers()
                    self.wfile.write(text.encode())
                except OSError:
                    pass  # who asked has given up

            def log_message(self, *_: Any) -> None:
                pass

        self.server = Patient(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


async def at_once(_: float) -> None:
    await asyncio.sleep(0)
