"""A connection to an MCP server, used from threads that know nothing of asyncio.

The package's client lives in an event loop in a thread of its own, for as long as the session:
its task groups must be left where they were entered. Every call has a time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from environments.adapters.processes import last_line, supervised
from environments.base import EnvironmentFailure, SuiteError, Tool

T = TypeVar("T")
_CLOSE_S = 8.0  # the package itself waits 2 s for a server to leave, then kills it


class Target(NamedTuple):
    """Where a server is: a program to start, or an address.

    Args:
        command: program and arguments; speaks MCP on its standard streams.
        url: of a server that speaks streamable HTTP.
        environ: environment variables for the program, beside the few that are safe.
        headers: HTTP headers for the server at the address.
    """

    command: Sequence[str] = ()
    url: str = ""
    environ: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}


class Result(NamedTuple):
    """What a tool answered: text, and whether the server calls it an error."""

    text: str
    is_error: bool


class Session:
    """One session with a server; a program is started for it and ends with it.

    Args:
        target: the server.
        timeout_s: most seconds for connecting, and for each call.

    Raises:
        EnvironmentFailure: it cannot be reached.
    """

    def __init__(self, target: Target, timeout_s: float) -> None:
        logging.getLogger("mcp").addHandler(logging.NullHandler())  # its complaints are ours
        self._target, self._timeout_s = target, timeout_s
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._stop: asyncio.Event | None = None
        self._error: BaseException | None = None
        self._settled = threading.Event()
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._thread = threading.Thread(target=self._run, daemon=True, name="mcp session")
        self._thread.start()
        if not self._settled.wait(timeout_s) or self._client is None:
            error = self._error or TimeoutError(f"no answer within {timeout_s:g} s")
            said = last_line(self._stderr)
            self.close()
            raise EnvironmentFailure(
                f"no MCP session with {self._where()}: {_told(error)}{f'; {said}' if said else ''}"
            )

    def list_tools(self) -> list[Tool]:
        """The server's tools; names, descriptions and schemas unchanged."""

        async def listed(client: Any) -> list[Tool]:
            tools: list[Tool] = []
            cursor = None
            while True:
                page = await client.list_tools(cursor=cursor)
                tools += [
                    Tool(
                        name=tool.name,
                        description=tool.description or "",
                        parameters=json.loads(json.dumps(tool.input_schema)),
                    )
                    for tool in page.tools
                ]
                cursor = page.next_cursor
                if not cursor:
                    return tools

        return self._call("listing its tools", listed)

    def call_tool(self, name: str, arguments: Mapping[str, Any]) -> Result:
        """Call a tool. A protocol error of the server is a result as well.

        Raises:
            EnvironmentFailure: the connection is lost, or no answer in time.
        """

        async def called(client: Any) -> Result:
            from mcp import MCPError
            from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

            try:
                answer = await client.call_tool(name, dict(arguments))
            except MCPError as error:
                if error.code in (CONNECTION_CLOSED, REQUEST_TIMEOUT):
                    raise
                return Result(f"Error: {error}", is_error=True)
            return Result(as_text(answer.content), is_error=bool(answer.is_error))

        return self._call(f"calling {name}", called)

    def close(self) -> None:
        """End the session, and the program that was started for it; safe to call twice."""
        loop, main, stop = self._loop, self._main, self._stop
        if loop is not None and main is not None and stop is not None:
            for leave in (stop.set if self._client is not None else main.cancel, main.cancel):
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(leave)
                self._thread.join(_CLOSE_S)
        self._client = None
        self._stderr.close()

    def _where(self) -> str:
        return self._target.url or self._target.command[0]

    def _call(self, what: str, make: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        if self._client is None or self._loop is None or not self._thread.is_alive():
            raise EnvironmentFailure(f"{what}: the MCP session with {self._where()} is closed")
        future = asyncio.run_coroutine_threadsafe(make(self._client), self._loop)
        try:
            return future.result(self._timeout_s)
        except FutureTimeout:
            future.cancel()
            raise EnvironmentFailure(
                f"{what}: {self._where()} did not answer within {self._timeout_s:g} s"
            ) from None
        except (Exception, CancelledError) as error:
            said = last_line(self._stderr)
            raise EnvironmentFailure(
                f"{what}: {_told(error)}{f'; {self._where()}: {said}' if said else ''}"
            ) from error

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # told to whoever waits, in their thread
            self._error = error
        finally:
            self._settled.set()

    async def _serve(self) -> None:
        self._stop, self._main = asyncio.Event(), asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        async with self._connected() as client:
            self._client = client
            self._settled.set()
            await self._stop.wait()

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        from mcp import Client, StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client

        target = self._target
        if target.command:
            argv = supervised(target.command)
            server = StdioServerParameters(
                command=argv[0], args=argv[1:], env=dict(target.environ), cwd=Path.cwd()
            )
            # Bytes that are no text must not end the session.
            server.encoding_error_handler = "replace"
            transport: Any = stdio_client(server, errlog=self._stderr)  # type: ignore[arg-type]
            async with Client(transport, cache=None) as client:
                yield client
            return
        import httpx2

        timeout = httpx2.Timeout(self._timeout_s, read=self._timeout_s + 5)
        async with (
            httpx2.AsyncClient(headers=dict(target.headers), timeout=timeout) as http,
            Client(streamable_http_client(target.url, http_client=http), cache=None) as client,
        ):
            yield client


def as_text(content: Sequence[Any]) -> str:
    """The text of a tool's result; what is not text is named."""
    parts = []
    for block in content:
        if block.type == "text":
            parts.append(block.text)
        elif block.type == "resource" and hasattr(block.resource, "text"):
            parts.append(block.resource.text)
        elif block.type == "resource_link":
            parts.append(f"[link: {block.uri}]")
        else:
            parts.append(f"[{block.type}: {getattr(block, 'mime_type', None) or 'no text'}]")
    return "\n".join(parts)


def check_package() -> None:
    """Fail early where the package is missing.

    Raises:
        SuiteError: it is not installed, or too old.
    """
    try:
        import mcp.client.client  # noqa: F401
    except ImportError as error:
        raise SuiteError(
            f"the suite mcp needs the package mcp, 2 or newer ({error}): pip install 'mcp>=2'"
        ) from error


def _told(error: BaseException) -> str:
    """An error in one line; of a group, the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
