"""Label Studio over HTTP: projects are made and filled, found again by what their description says, and read back.

Of its two kinds of access token both work. A personal one is a refresh token, which buys a short-lived one; a legacy one, where it is allowed, is sent as it
is. Neither reaches a message, a file or a log.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from promedical_jax.errors import InputError
from promedical_jax.review.page import INSTRUCTIONS, labelling
from promedical_jax.review.recipe import StudioRecipe, What
from promedical_jax.review.seal import Sealed

TIMEOUT = 300.0  # seconds; an export of a large project takes a while
PAGE = 100  # projects in one reply
TITLE = 38  # letters of a name; Label Studio allows 50 in a title
MARK = re.compile(r"Review (\w+) of (.+), seal (\w+)")


@dataclass(frozen=True)
class Project:
    """A project of some review, as its description marks it: a title may be changed by who works with it. `tasks`: how many it has."""

    id: int
    physician: str
    review: str
    seal: str
    tasks: int


class Studio:
    """A connection. Raises InputError for a url that is none, for a key's variable that is not set, and for whatever the server does not do."""

    def __init__(self, recipe: StudioRecipe):
        assert recipe.url and recipe.key
        try:
            url = httpx2.URL(recipe.url)
        except (httpx2.InvalidURL, ValueError):
            url = httpx2.URL("")
        if url.scheme not in ("http", "https") or not url.host:
            raise InputError(f"studio.url: {recipe.url!r} is no address; write it as http://localhost:8080")
        token = os.environ.get(recipe.key, "").strip()
        if not token:
            raise InputError(f"studio.key: the environment has no {recipe.key}; set it to an access token of Label Studio (Account & Settings)")
        if not token.isascii() or not token.isprintable() or " " in token:
            raise InputError(f"studio.key: what {recipe.key} holds is no access token; set it to the token alone")
        self._recipe, self._token, self._access = recipe, token, ""
        self._client = httpx2.Client(base_url=recipe.url.rstrip("/"), timeout=TIMEOUT)

    def projects(self, review: str) -> list[Project]:
        """Those of one review."""
        found, page = [], 1
        while True:
            reply = self._json("GET", "/api/projects", params={"page": page, "page_size": PAGE})
            for one in _rows(reply, "results", self._recipe):
                marked = MARK.search(one.get("description") or "")
                if marked and marked[1] == review:
                    found.append(Project(one["id"], marked[2], marked[1], marked[3], one.get("task_number") or 0))
            if not reply.get("next"):
                return found
            page += 1

    def make(self, physician: str, what: What, sealed: Sealed) -> Project:
        """An empty project."""
        settings = {
            "title": f"{physician[:TITLE]} ({sealed.key.review[:8]})",
            "description": f"Review {sealed.key.review} of {physician}, seal {sealed.seal}",
            "label_config": labelling(what),
            "expert_instruction": INSTRUCTIONS[what],
            "show_instruction": True,
            "maximum_annotations": 1,
            "show_collab_predictions": False,
            "sampling": "Sequential sampling",
        }
        made = self._json("POST", "/api/projects", json=settings)
        return Project(made["id"], physician, sealed.key.review, sealed.seal, 0)

    def add(self, project: Project, tasks: Sequence[dict[str, Any]]) -> None:
        self._json("POST", f"/api/projects/{project.id}/import", json=list(tasks))

    def export(self, project: Project) -> list[Any]:
        """All tasks of a project with their annotations, as Label Studio's JSON export has them."""
        rows = self._json("GET", f"/api/projects/{project.id}/export", params={"exportType": "JSON", "download_all_tasks": "true"})
        if not isinstance(rows, list):
            raise InputError(f"studio.url: {self._recipe.url} sends no list of tasks for project {project.id}; see that Label Studio is what runs there")
        return rows

    def _json(self, method: str, path: str, **what: Any) -> Any:
        reply = self._send(method, path, **what)
        if reply.status_code == 401 and self._is_personal:
            self._access = ""  # the short-lived token has run out
            reply = self._send(method, path, **what)
        if reply.status_code in (401, 403):
            raise InputError(self._refused(reply))
        if not reply.is_success:
            said = self._without_tokens(reply.text)
            raise InputError(f"studio.url: {self._recipe.url} answers {reply.status_code} to {method} {path}: {said!r}; see its log")
        try:
            return reply.json()
        except ValueError:
            raise InputError(f"studio.url: {self._recipe.url} replies to {method} {path} with no JSON; see that Label Studio is what runs there") from None

    def _send(self, method: str, path: str, **what: Any) -> httpx2.Response:
        try:
            return self._client.request(method, path, headers={"Authorization": self._authorization()}, **what)
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            what_now = f"does not reply ({type(error).__name__}); see that Label Studio runs there, and run again"
            raise InputError(f"studio.url: {self._recipe.url} {what_now}") from None

    @property
    def _is_personal(self) -> bool:
        return self._token.count(".") == 2  # a JSON web token has three parts

    def _authorization(self) -> str:
        if not self._is_personal:
            return f"Token {self._token}"
        if not self._access:
            reply = self._client.post("/api/token/refresh/", json={"refresh": self._token})
            try:
                self._access = str(reply.json()["access"])
            except (ValueError, LookupError, TypeError):
                raise InputError(self._refused(reply)) from None
        return f"Bearer {self._access}"

    def _refused(self, reply: httpx2.Response) -> str:
        what_now = "make a new access token (Account & Settings), of a user who may make projects"
        return f"studio.key: {self._recipe.url} does not accept what {self._recipe.key} holds ({reply.status_code}); {what_now}"

    def _without_tokens(self, text: str) -> str:
        for token in (self._token, self._access):
            text = text.replace(token, "***") if token else text
        return text[:200]


def _rows(reply: Any, name: str, recipe: StudioRecipe) -> list[Any]:
    if not isinstance(reply, dict) or not isinstance(reply.get(name), list):
        raise InputError(f"studio.url: {recipe.url} sends no list of projects; see that Label Studio is what runs there")
    return reply[name]
