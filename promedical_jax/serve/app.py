"""HTTP around a service: who may come in, how much they may send and how long that may take, and what they are told when something is wrong.

Every answer goes through `Gate`: without the key there is nothing behind it, and what goes wrong in there comes out as one JSON sentence.
"""

import asyncio
import hmac
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from time import monotonic
from types import FrameType
from typing import Any, TypeVar

import uvicorn
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from promedical_jax.errors import InputError
from promedical_jax.serve import chat
from promedical_jax.serve.protocol import ChatRequest, Fault, ScoreRequest, parse
from promedical_jax.serve.score import score
from promedical_jax.serve.service import Service

OPEN = "/health"  # the one path without a key: it says nothing but whether requests are taken
GONE = 499  # nginx's status for a client that did not wait; nobody sees it but the figures
DRAINED = 8  # times the largest body that is read and thrown away, so that a client who is still sending hears that it was too much
MARGIN = 10.0  # seconds over a request's own time in which a client may take what was written for it
POLL = 0.05  # seconds between two looks at whether all is done
STREAMED = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
log = logging.getLogger(__name__)
Made = TypeVar("Made")
Endpoint = Callable[[Request], Awaitable[Any]]


class Gate:
    """The outermost layer: the key, the end, the time, the figures, and faults as JSON."""

    def __init__(self, service: Service):
        self._service = service
        paths: dict[str, tuple[str, Endpoint]] = {
            "/v1/chat/completions": ("POST", self._chat), "/v1/score": ("POST", self._score), "/v1/models": ("GET", self._models),
            OPEN: ("GET", self._health), "/metrics": ("GET", self._metrics),
        }  # fmt: skip
        self._paths = {path: method for path, (method, _) in paths.items()}
        routes = [Route(path, endpoint, methods=[method]) for path, (method, endpoint) in paths.items()]
        self._app = Starlette(routes=routes, exception_handlers={HTTPException: self._unknown, Fault: _told, Exception: _failed})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status, service = monotonic(), 0, self._service

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        service.open += 1
        try:
            async with asyncio.timeout(service.config.timeout + MARGIN):
                self._let_in(scope)
                await self._app(scope, receive, watched)
        except Fault as fault:
            await _answer(fault)(scope, receive, watched)
        except ClientDisconnect:
            status = GONE
        except TimeoutError:  # it does not take what was written for it; uvicorn closes the connection of a response that is not whole
            status = GONE
        except Exception as error:  # which Starlette has answered with `_failed`
            log.error("a request failed: %s: %s", type(error).__name__, str(error).partition("\n")[0])
        finally:
            service.open -= 1
            path = scope["path"] if scope["path"] in self._paths else "other"
            service.counts["requests_total", f'{{path="{path}",status="{status or GONE}"}}'] += 1
            service.counts["request_seconds_sum", ""] += monotonic() - begun
            service.counts["request_seconds_count", ""] += 1

    def _let_in(self, scope: Scope) -> None:
        """Raises Fault for who has no key, and for all once the server ends."""
        service, path = self._service, scope["path"]
        if path == OPEN:
            return
        if service.key is not None:
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            if len(given) != 1 or not hmac.compare_digest(given[0], f"Bearer {service.key}".encode()):
                raise Fault(401, "no key, or a wrong one; send the header Authorization: Bearer KEY", "invalid_api_key", "authentication_error")
        if service.ending and path != "/metrics":
            raise Fault(503, "the server is about to end and takes no more requests; ask another one", "server_ending", "server_error")

    async def _chat(self, request: Request) -> "Response | Events":
        until = monotonic() + self._service.config.timeout
        asked = parse(ChatRequest, await self._body(request))
        taken = await chat.take(self._service, asked, until)
        if asked.stream:
            return Events(taken.events())
        return _json(await _unless_gone(request.receive, taken.whole()))

    async def _score(self, request: Request) -> Response:
        asked = parse(ScoreRequest, await self._body(request))
        return _json(await _unless_gone(request.receive, score(self._service, asked, self._service.config.timeout)))

    async def _models(self, _: Request) -> Response:
        service = self._service
        one = {"id": service.name, "object": "model", "created": service.started, "owned_by": "promedical", "max_model_len": service.config.longest}
        return JSONResponse({"object": "list", "data": [one]})

    async def _health(self, _: Request) -> Response:
        ending = self._service.ending
        return JSONResponse({"status": "ending" if ending else "ok"}, 503 if ending else 200)

    async def _metrics(self, _: Request) -> Response:
        return PlainTextResponse(self._service.figures(), media_type="text/plain; version=0.0.4")

    async def _body(self, request: Request) -> bytes:
        """Raises Fault for one that is too large, or takes too long to come."""
        most, body, size = self._service.config.max_body, bytearray(), 0
        too_large = Fault(413, f"the request has more than {most} bytes, the most that this server takes; shorten it", "request_too_large")
        try:
            if int(request.headers.get("content-length", 0)) > DRAINED * most:
                raise too_large
            async with asyncio.timeout(self._service.config.timeout):
                async for part in request.stream():
                    size += len(part)
                    if size > DRAINED * most:
                        break
                    body += part if size <= most else b""
        except TimeoutError:
            raise Fault(408, "the request did not come in time; send it in one go", "timeout") from None
        if size > most:
            raise too_large
        return bytes(body)

    async def _unknown(self, request: Request, error: Exception) -> Response:
        """No such path, or not with this method."""
        path, method = request.url.path, self._paths.get(request.url.path)
        said = f"{path} takes {method} alone" if method else f"there is nothing at {path}; there are {', '.join(self._paths)}"
        return _answer(Fault(405 if method else 404, said))


class Events:
    """A response of server-sent events."""

    def __init__(self, events: AsyncIterator[str]):
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _unless_gone(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": STREAMED})
            async for event in self._events:
                await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._events.aclose()  # type: ignore[attr-defined]


class Server(uvicorn.Server):
    """Told to end, it takes no more requests, and lets those under way come to theirs in their grace time. Told twice, it ends at once."""

    def __init__(self, service: Service):
        config = uvicorn.Config(Gate(service), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=5, server_header=False)
        super().__init__(config)
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """By a signal, in the main thread; or called by whoever runs the server in another one."""
        if self._service.ending or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self._service.ending = True
        self._loop.call_soon_threadsafe(self._begin_to_end)

    def _begin_to_end(self) -> None:
        self._end = asyncio.ensure_future(self._finish())

    async def _finish(self) -> None:
        until = monotonic() + self._service.config.grace
        while self._service.open and monotonic() < until:
            await asyncio.sleep(POLL)
        await asyncio.to_thread(self._service.engine.close)
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A socket at this address. Raises InputError where there can be none."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no name of a host"
        raise InputError(f"cannot listen at {host}, port {port} ({why}); give another --port or --host") from None
    return made


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, Made]) -> Made:
    """What `work` returns; once the client has gone, it is cancelled. Raises ClientDisconnect then."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _told(_: Request, fault: Exception) -> Response:
    assert isinstance(fault, Fault)
    return _answer(fault)


async def _failed(_: Request, __: Exception) -> Response:
    return _answer(Fault(500, "the server failed at this request; ask its operator", "server_error", "server_error"))


def _answer(fault: Fault) -> Response:
    headers = {"Retry-After": "1"} if fault.status in (429, 503) else {}
    headers |= {"WWW-Authenticate": "Bearer"} if fault.status == 401 else {}
    return Response(fault.json(), fault.status, headers, "application/json")


def _json(reply: BaseModel) -> Response:
    return Response(reply.model_dump_json(), 200, media_type="application/json")
