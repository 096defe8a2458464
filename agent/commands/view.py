"""The command ``instar view``: a run as web pages on this machine, or as one HTML file."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from memory.embed import Embedder
    from memory.inspector.follow import Followed

_PORT = 7447
_TRIED = 20  # ports after it, where that one is taken


def view(
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="The run folder.")] = Path(
        "runs/default"
    ),
    compare: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A second run, to be compared.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help=f"Default: {_PORT}, or the next that is free."),
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="Whoever reaches this address can read the run; default: only you."),
    ] = "127.0.0.1",
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE|DIR", help="Write the pages as one HTML file, serve nothing."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the address, or what was written, as JSON.")
    ] = False,
) -> None:
    """Look at a run in a browser; works while it goes on, and changes nothing.

    Example: instar view --run runs/quickstart
    """
    out = Console(highlight=False, soft_wrap=True)
    with ExitStack() as closing:
        runs = []
        for folder in (run, compare):
            if folder is not None:
                followed = _followed(folder)
                closing.callback(followed.close)
                runs.append(followed)
        if export is not None:
            from memory.inspector.export import export as write

            try:
                missing = write(runs, export)
            except OSError as error:
                from agent.config import ConfigError

                raise ConfigError(
                    f"{export}: cannot be written ({error.strerror or error})"
                ) from error
            path = export if export.suffix == ".html" else export / "index.html"
            size = path.stat().st_size
            if as_json:
                found = {"path": str(path), "bytes": size, "left_out": missing}
                typer.echo(json.dumps(found, indent=1))
                return
            out.print(f"{path} ({size / 2**20:.1f} MiB)")
            for what in missing:
                out.print(f"left out: {what}")
            return
        _serve(runs, host, port, out, as_json)


def _followed(folder: Path) -> Followed:
    from agent.run_folder import LEDGER, SUMMARY, open_ledger
    from memory.inspector.follow import Followed

    open_ledger(folder).close()  # says what is wrong with the folder, if anything is
    name = folder.resolve().name
    return Followed(name, folder / LEDGER, lambda: _embedder(folder), folder / SUMMARY)


def _embedder(folder: Path) -> Embedder:
    """The embedder that the run itself uses."""
    from agent.config import ConfigError
    from agent.run_folder import settle_config
    from memory.embed import EmbedderError, load_embedder

    try:
        return load_embedder(settle_config(folder, None).memory.embedder)
    except (ConfigError, OSError) as error:
        raise EmbedderError(str(error)) from error


def _serve(runs: list[Followed], host: str, port: int | None, out: Console, as_json: bool) -> None:
    from agent.config import ConfigError

    try:
        import uvicorn

        from memory.inspector.server import application

        app = application(runs, [host])
    except ImportError as error:
        raise ConfigError(f"instar view needs {error.name}: pip install fastapi uvicorn") from error
    listener = _listen(host, port)
    number = listener.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    for followed in runs:
        followed.start()
    url = f"http://{shown}:{number}/"
    if as_json:
        print(json.dumps({"url": url}), flush=True)  # noqa: T201
    else:
        out.print(f"{url}  [dim](Ctrl-C ends it)[/dim]")
    if not as_json and host not in ("127.0.0.1", "localhost", "::1"):
        out.print("[yellow]everybody who reaches this address can read the run[/yellow]")
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        return  # it ends as it is meant to


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens, on the given port or on one that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ports = range(_PORT, _PORT + _TRIED) if port is None else [port]
    for tried in ports:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, tried))
            listener.listen()
            return listener
        except OSError as error:
            listener.close()
            if tried == ports[-1]:
                from agent.config import ConfigError

                raise ConfigError(
                    f"cannot listen on {host}, port {tried} ({error.strerror}); try --port 0"
                ) from error
    raise AssertionError("there is a port to try")
