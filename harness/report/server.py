"""The live page: what `harness ui` serves, on 127.0.0.1, to whoever has its address with the token.

It reads git and the events of a session, and writes nothing; it keeps what it read last, which can be read
again. Every request must name the token, a host that is this one, and only read: a page elsewhere, or a
coding agent with the network, gets nothing.
"""

import asyncio
import hmac
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from harness.errors import HarnessError
from harness.lock import holder
from harness.report import details, document, values
from harness.report.snapshot import Snapshot, snapshot
from harness.session.events import Tail
from harness.store.opening import open_repository

LOOK_SECONDS = 0.1
HOLDER_SECONDS = 1.0  # between two looks whether the session's process is there: killed, it says nothing
ALIVE_SECONDS = 15.0  # between two signs of life, where nothing happens
HEADERS = {
    "Content-Security-Policy": document.policy("'self'", "'self'", "'self'") + "; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}  # fmt: skip
TYPES = {".js": "text/javascript", ".css": "text/css"}


class Reader:
    """The repository, read again where something in it changed. One thread at a time."""

    def __init__(self, root: Path) -> None:
        """Of the repository that `root` lies in.

        Raises:
            HarnessError: it is no research repository.
        """
        self._root, self._lock, self._events_lock = root, threading.Lock(), threading.Lock()
        self._repository = open_repository(root)
        self._events = Tail(self._repository.events)
        common = self._repository.common
        names = "HEAD", "packed-refs", "refs/heads", "refs/heads/main", "refs/heads/exp"
        watched = [
            *(common / name for name in (*names, "refs/notes/autoresearch")),
            self._repository.paths.config,
        ]
        self._watched = [str(path) for path in watched]  # looked at ten times a second
        self._watched_events = [str(self._repository.events), str(self._repository.loop_lock)]
        self._known: tuple[Any, Snapshot] | None = None
        self._overview: tuple[Any, bytes] | None = None
        self.is_over: Callable[[], bool] = lambda: False  # the server is told to end

    def stamp(self) -> tuple[object, ...]:
        """Changes when a ref, the config or a session's beginning does; costs a few calls to the kernel."""
        return tuple(map(_changed, self._watched))

    def events_stamp(self) -> tuple[object, ...]:
        return tuple(map(_changed, self._watched_events))

    def overview(self) -> bytes:
        """As JSON."""
        with self._lock:
            stamp, now = self._now()
            if self._overview is None or self._overview[0] != stamp:
                self._overview = stamp, values.as_json(values.overview(now))
            return self._overview[1]

    def experiment(self, which: str) -> bytes:
        with self._lock:
            _, now = self._now()
            return values.as_json(details.experiment(now, now.known.find(which)))

    def compare(self, one: str, other: str) -> bytes:
        with self._lock:
            return values.as_json(details.comparison(self._now()[1], one, other))

    def process(self) -> int | None:
        """Of the session, while there is one."""
        return holder(self._repository.loop_lock)

    def running(self) -> bytes:
        with self._events_lock:
            process = self.process()
            return values.as_json(values.running(self._events.session() if process else None, process))

    def _now(self) -> tuple[Any, Snapshot]:
        stamp = self.stamp()
        if self._known is None or self._known[0] != stamp:
            before = self._known[1] if self._known else None
            self._known = stamp, snapshot(open_repository(self._root), before)
        return self._known


def _changed(path: str) -> tuple[int, int, int] | None:
    try:
        about = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size


class Guard:
    """Lets through what reads, names the token and comes from here."""

    def __init__(self, app: Any, token: str, port: int) -> None:
        self._app, self._token = app, token.encode()
        self._hosts = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        given, _, rest = scope["path"].lstrip("/").partition("/")
        if headers.get(b"host") not in self._hosts:
            await _refused(403, "this is not the host that the page is served on")(scope, receive, send)
        elif not hmac.compare_digest(given.encode(), self._token):
            await _refused(403, "the address lacks the token: harness ui prints it")(scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD"):
            await _refused(405, "this page changes nothing")(scope, receive, send)
        elif not self._is_from_here(headers):
            await _refused(403, "another page may not read this one")(scope, receive, send)
        else:
            await self._app({**scope, "path": f"/{rest}", "raw_path": None}, receive, _marked(send))

    def _is_from_here(self, headers: dict[bytes, bytes]) -> bool:
        origin = headers.get(b"origin")
        if origin is not None and origin.removeprefix(b"http://") not in self._hosts:
            return False
        site = headers.get(b"sec-fetch-site", b"none")
        return site in (b"none", b"same-origin") or headers.get(b"sec-fetch-mode") == b"navigate"


def _refused(status: int, why: str) -> Response:
    return PlainTextResponse(why, status, HEADERS)


def _marked(send: Send) -> Send:
    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return marked


def app(reader: Reader, token: str, port: int) -> Guard:
    """The whole server, for one repository."""
    static, index = document.files(), document.served()

    async def page(_: Request) -> Response:
        return Response(index, media_type="text/html")

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in static:
            return _refused(404, "there is no such file")
        return Response(static[name], media_type=TYPES[Path(name).suffix])

    def asked(answer: Callable[..., bytes]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                found = await run_in_threadpool(answer, **request.path_params)
            except HarnessError as error:
                return _refused(404, str(error))
            except Exception as error:  # noqa: BLE001 - the page says it; the others go on
                return _refused(500, f"this is a bug in the harness; please report it: {error!r}"[:300])
            return Response(found, media_type="application/json")

        return endpoint

    async def live(request: Request) -> Response:
        return StreamingResponse(_events(reader, request), media_type="text/event-stream")

    routes = [
        Route("/", page), Route("/live", live), Route("/overview", asked(reader.overview)),
        Route("/experiment/{which}", asked(reader.experiment)),
        Route("/compare/{one}/{other}", asked(reader.compare)), Route("/{name}", file),
    ]  # fmt: skip
    return Guard(GZipMiddleware(Starlette(routes=routes), minimum_size=1000, compresslevel=4), token, port)


async def _events(reader: Reader, request: Request) -> AsyncIterator[bytes]:
    """Server-sent: `running` for what a session says, `changed` when git has something new."""
    git = seen = reader.stamp()
    said = process = None
    asked = quiet = 0.0
    while not reader.is_over():
        if asked <= 0:
            now_held, asked = reader.process(), HOLDER_SECONDS
            process, said = now_held, said if now_held == process else None
        now = reader.events_stamp()
        if now != said:
            said, quiet = now, 0.0
            yield _event("running", await run_in_threadpool(reader.running))
        seen, before = reader.stamp(), seen
        if seen != git and seen == before:  # a result is several writes; once they are done
            git, quiet = seen, 0.0
            yield _event("changed", b"{}")
        if quiet >= ALIVE_SECONDS:
            if await request.is_disconnected():
                return
            quiet, said = 0.0, None
        await asyncio.sleep(LOOK_SECONDS)
        quiet, asked = quiet + LOOK_SECONDS, asked - LOOK_SECONDS


def _event(name: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
