"""The pages' server: files and JSON, for reading only, to browsers on this machine.

What it answers holds texts that a model, a tool or a web page wrote. They leave as JSON and are
shown as text; no page runs a script that is not one of the files in ``assets``.
"""

# No deferred annotations here: FastAPI reads those of functions within a function.

import ipaddress
import mimetypes
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic_core import to_json

from memory.inspector import pages, queries
from memory.inspector.bundle import assets, bundle
from memory.inspector.follow import Followed
from memory.ledger import LedgerError

if TYPE_CHECKING:
    from fastapi import FastAPI

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}

Scope = dict[str, Any]
Asgi = Callable[[Scope, Any, Any], Awaitable[None]]


def application(runs: Sequence[Followed], hosts: Sequence[str] = ()) -> "FastAPI":
    """The ASGI application.

    Args:
        runs: one, or two to be compared.
        hosts: names by which browsers may ask for it, beside this machine's own.

    Raises:
        ImportError: FastAPI is not installed.
    """
    from fastapi import FastAPI, HTTPException, Query, Response

    shipped = assets()
    sources = {name: body.decode() for name, body in shipped.items() if name.endswith(".js")}
    served = {name: body for name, body in shipped.items() if name not in sources}
    served["app.js"] = bundle(sources).encode()
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, hosts=tuple(hosts))

    def chosen(number: int) -> Followed:
        if not 0 <= number < len(runs):
            raise HTTPException(404, "there is no such run")
        return runs[number]

    def answer(value: Any, what: str = "") -> Response:
        if value is None:
            raise HTTPException(404, f"unknown {what}")
        return Response(to_json(value), media_type="application/json")

    @app.exception_handler(LedgerError)
    def unreadable(_request: Any, error: LedgerError) -> Response:
        return Response(to_json({"detail": str(error)}), 503, media_type="application/json")

    @app.get("/api/runs")
    def all_runs() -> Response:
        return answer([{"name": run.name} for run in runs])

    @app.get("/api/{r}/state")
    def state(r: int) -> Response:
        return answer(chosen(r).state())

    @app.get("/api/{r}/overview")
    def overview(r: int) -> Response:
        run = chosen(r)
        return answer(pages.overview(run.ledger, run.summary))

    @app.get("/api/{r}/timeline")
    def timeline(r: int) -> Response:
        return answer(queries.timeline(chosen(r).digest))

    @app.get("/api/{r}/facets")
    def facets(r: int) -> Response:
        return answer(queries.facets(chosen(r).digest))

    @app.get("/api/{r}/points")
    def points(r: int) -> Response:
        return answer(queries.points(chosen(r).digest))

    @app.get("/api/{r}/deltas")
    def deltas(r: int, since: int = -1) -> Response:
        return Response(queries.deltas(chosen(r).digest, since), media_type="application/json")

    @app.get("/api/{r}/label/{number}")
    def label(r: int, number: int) -> Response:
        return answer(queries.label(chosen(r).digest, number))

    @app.get("/api/{r}/items")
    def items(r: int, asked: Annotated[queries.Items, Query()]) -> Response:
        return answer(queries.items(chosen(r).digest, asked))

    @app.get("/api/{r}/item/{id_}")
    def item(r: int, id_: str) -> Response:
        run = chosen(r)
        return answer(pages.item(run.digest, run.ledger, id_), "item")

    @app.get("/api/{r}/episodes")
    def episodes(r: int, asked: Annotated[queries.Episodes, Query()]) -> Response:
        return answer(queries.episodes(chosen(r).digest, asked))

    @app.get("/api/{r}/episode")
    def episode(r: int, slot: str) -> Response:
        run = chosen(r)
        return answer(pages.episode(run.digest, run.ledger, slot), "episode")

    @app.get("/api/{r}/generation/{n}")
    def generation(r: int, n: int) -> Response:
        run = chosen(r)
        return answer(pages.generation(run.digest, run.ledger, n), "generation")

    @app.get("/api/{r}/changes")
    def changes(r: int, asked: Annotated[queries.Changes, Query()]) -> Response:
        return answer(queries.changes(chosen(r).digest, asked))

    @app.get("/{path:path}")
    def asset(path: str) -> Response:
        # One of our own files by its name; what is asked for is never a path.
        body = served.get(path or "index.html")
        if body is None:
            raise HTTPException(404, "there is no such page")
        kind = mimetypes.guess_type(path or "index.html")[0] or "text/plain"
        return Response(body, media_type="text/javascript" if path.endswith(".js") else kind)

    return app


class Guard:
    """Lets only reading requests through that ask for this machine by a name of its own.

    A name of somebody else that was made to point here (DNS rebinding) is refused, so that a
    web page elsewhere cannot read what is served here.

    Args:
        app: what is guarded.
        hosts: further names.
    """

    def __init__(self, app: Asgi, hosts: Sequence[str] = ()) -> None:
        self.app = app
        self.hosts = {"localhost", socket.gethostname().lower(), *(h.lower() for h in hosts)}

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if scope["method"] not in ("GET", "HEAD"):
            await _refuse(send, 405, "these pages are for reading only")
        elif not self.knows(headers.get(b"host", b"").decode("latin-1")):
            await _refuse(send, 421, "ask for 127.0.0.1 or localhost; see instar view --host")
        else:

            async def guarded(message: dict[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], *_raw(_HEADERS)]
                await send(message)

            await self.app(scope, receive, guarded)

    def knows(self, host: str) -> bool:
        """Whether a Host header names this machine: an address, or one of the known names."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name.lower() in self.hosts
        return True  # an address is nobody's name: it cannot be rebound


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


async def _refuse(send: Any, status: int, why: str) -> None:
    headers = _raw({"content-type": "text/plain; charset=utf-8", **_HEADERS})
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{why}\n".encode()})
