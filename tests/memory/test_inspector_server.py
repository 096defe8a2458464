"""What the inspector's server answers, and what it refuses."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from memory.inspector.bundle import assets
from memory.inspector.server import Guard
from tests.made_run import write_run
from tests.memory.inspector_pages import follow, served

PATHS = [
    "/", "/app.js", "/style.css", "/icon.svg", "/api/runs", "/api/0/state",
    "/api/0/overview", "/api/0/timeline", "/api/0/facets", "/api/0/points", "/api/0/deltas",
    "/api/0/deltas?since=2", "/api/0/label/3", "/api/0/items?generation=3", "/api/0/item/3",
    "/api/0/episodes?generation=2&outcome=error", "/api/0/episodes?generation=final",
    "/api/0/generation/3", "/api/0/changes?generation=1&event=added",
]  # fmt: skip
UNKNOWN = [
    "/../digest.py", "/..%2fdigest.py", "/%2e%2e/server.py", "/pages/../../server.py", "/pages",
    "/etc/passwd", "/main.js", "/pages/item.js", "/docs", "/openapi.json",
    "/api/0/item/nobody", "/api/0/item/99999",
    "/api/0/episode?slot=nowhere", "/api/0/generation/77", "/api/1/state", "/api/7/overview",
]  # fmt: skip


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    ledger = write_run(folder, items=30, episodes=80, generations=3)
    run = follow(ledger, folder)
    run.catch_up()
    with served(run) as url:
        yield url


def ask(
    address: str, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    try:
        connection.request(method, path, headers=headers)  # sent as it is, dots and all
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", PATHS)
def test_answers(address: str, path: str) -> None:
    status, headers, body = ask(address, path)
    assert status == 200
    assert body
    if path.startswith("/api"):
        json.loads(body)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", UNKNOWN)
def test_knows_nothing_else(address: str, path: str) -> None:
    status, _, body = ask(address, path)
    assert status == 404
    assert b"import" not in body


@pytest.mark.parametrize(
    "path",
    [
        "/api/0/items", "/api/0/items?generation=x", "/api/x/state",
        "/api/0/episodes?generation=last", "/api/0/episodes?outcome=odd",
        "/api/0/episodes?limit=501", "/api/0/changes?generation=1&event=added&offset=-1",
    ],
)  # fmt: skip
def test_says_what_a_question_lacks(address: str, path: str) -> None:
    assert ask(address, path)[0] == 422


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/api/0/state", "/api/0/item/3"])
def test_there_is_no_way_to_write(address: str, path: str, method: str) -> None:
    status, _, body = ask(address, path, method)
    assert status == 405
    assert b"for reading only" in body


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1234", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("LocalHost", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:80", 421),
        ("", 421),
    ],
)
def test_only_this_machines_names_are_answered(address: str, host: str, status: int) -> None:
    for path in ("/", "/api/0/overview"):
        answered, _, body = ask(address, path, Host=host)
        assert answered == status
        assert (b"generations" in body) == (status == 200 and path != "/")


def test_further_names_are_those_that_were_given() -> None:
    guard = Guard(app=None, hosts=["lab.example"])  # type: ignore[arg-type]
    assert guard.knows("lab.example:7447")
    assert not guard.knows("other.example:7447")


def test_no_asset_refers_to_another_machine_or_reads_markup() -> None:
    """They work offline, and every text is a text node."""
    for name, body in assets().items():
        text = body.decode()
        assert "https://" not in text, name
        assert text.count("http://") == text.count("http://www.w3.org/2000/svg"), name
        for markup in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert markup not in text, f"{name} uses {markup}"
        if name.endswith(".html"):
            assert "<style" not in text
            assert all("src=" in tag for tag in text.split("<script")[1:]), "no script in the page"


def test_a_ledger_that_is_gone_is_one_line(tmp_path: Path) -> None:
    ledger = write_run(tmp_path / "run", items=4, episodes=8, generations=1)
    run = follow(ledger, tmp_path)
    run.catch_up()
    shutil.rmtree(ledger.parent)
    with served(run) as url:
        status, _, body = ask(url, "/api/0/items?generation=1")
    assert status == 503
    assert "\n" not in json.loads(body)["detail"]
