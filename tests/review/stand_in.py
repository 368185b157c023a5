"""A small Label Studio of this process's own: as much of its HTTP interface as a review uses, with replies in the shape of the real one's (see recorded/)."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PERSONAL = "header.payload.signature-of-a-refresh-token"
LEGACY = "0123456789abcdef0123456789abcdef01234567"

Refusal = Callable[[str, str], tuple[int, str] | None]  # method, path -> status and text where the server is to fail


class StandIn:
    """`projects`: what was made, by id; tasks hold their annotations. `refuse`: when to fail. `expire`: the next request finds its token run out."""

    def __init__(self) -> None:
        self.projects: dict[int, dict[str, Any]] = {}
        self.refuse: Refusal = lambda method, path: None
        self.expire = False
        self.access = 0  # short-lived tokens handed out
        self.asked: list[tuple[str, str]] = []
        here, count = self, [0]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer("GET", None)

            def do_POST(self) -> None:
                self.answer("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def answer(self, method: str, body: Any) -> None:
                url = urlsplit(self.path)
                here.asked.append((method, url.path))
                status, value = here.reply(method, url.path, parse_qs(url.query), body, self.headers.get("Authorization", ""))
                text = value if isinstance(value, str) else json.dumps(value)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.count = count
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def reply(self, method: str, path: str, query: dict[str, list[str]], body: Any, authorization: str) -> tuple[int, Any]:
        if failure := self.refuse(method, path):
            return failure
        if path == "/api/token/refresh/":
            if body != {"refresh": PERSONAL}:
                return 401, {"detail": "Token is invalid", "code": "token_not_valid"}
            self.access += 1
            return 200, {"access": f"access-{self.access}"}
        if self.expire:
            self.expire = False
            return 401, {"detail": "Token is expired"}
        if authorization not in (f"Bearer access-{self.access}", f"Token {LEGACY}"):
            return 401, {"detail": f"refused: {authorization}"}
        parts = path.strip("/").split("/")
        if method == "POST" and path == "/api/projects":
            number = self._next()
            self.projects[number] = body | {"id": number, "tasks": []}
            return 201, {"id": number, "title": body["title"], "description": body["description"], "task_number": 0}
        if path == "/api/projects":
            page, size = int(query["page"][0]), int(query["page_size"][0])
            every = [{"id": number, "title": one["title"], "description": one["description"], "task_number": len(one["tasks"])}
                     for number, one in sorted(self.projects.items(), reverse=True)]  # fmt: skip
            more = "more" if page * size < len(every) else None
            return 200, {"count": len(every), "next": more, "previous": None, "results": every[(page - 1) * size : page * size]}
        project = self.projects[int(parts[2])]
        if parts[3] == "import":
            project["tasks"] += [{"id": self._next(), "data": row["data"], "annotations": []} for row in body]
            return 201, {"task_count": len(body)}
        assert parts[3] == "export" and query == {"exportType": ["JSON"], "download_all_tasks": ["true"]}
        return 200, project["tasks"]

    def of(self, physician: str) -> dict[str, Any]:
        """The one project of a physician."""
        [project] = [one for one in self.projects.values() if f" of {physician}, " in one["description"]]
        return project

    def annotate(self, physician: str, say: Callable[[str], list[dict[str, Any]] | None]) -> None:
        """An annotation for each of a physician's tasks, by its code, where `say` gives one."""
        for task in self.of(physician)["tasks"]:
            result = say(task["data"]["code"])
            if result is not None:
                number = self._next()
                stamp = f"2026-01-01T00:{number // 60 % 60:02}:{number % 60:02}.000000Z"
                task["annotations"].append({"id": number, "result": result, "was_cancelled": False, "updated_at": stamp})

    def _next(self) -> int:
        self.count[0] += 1
        return self.count[0]
