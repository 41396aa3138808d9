"""The page's files over HTTP: kept for ever under a version, found again by a tag, and nothing else."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from eventrec import EventRecorder
from eventrec.server import ServerOptions, application, running
from eventrec.server.dashboard import files
from eventrec.server.dashboard.files import Files

STATIC = Path(files.__file__).with_name("static")


@pytest.fixture
def server(serve: Any) -> Any:
    return serve(application(EventRecorder("memory:", environment={})))


def version_in(page: bytes) -> str:
    (version,) = set(re.findall(rb"dashboard/(\w+)/", page))
    return str(version.decode())


def test_the_page_is_asked_for_again_and_is_not_sent_again(server: Any) -> None:
    first = server.get("/")

    assert (first.status, first.headers["cache-control"]) == (200, "no-cache")
    assert first.headers["content-type"].startswith("text/html")
    again = server.get("/", If_None_Match=first.headers["etag"])
    assert (again.status, again.content) == (304, b"")
    assert server.get("/", If_None_Match='W/"other", W/' + first.headers["etag"]).status == 304
    assert server.get("/", If_None_Match='"other"').status == 200


def test_its_policy_lets_nothing_in_from_elsewhere(server: Any) -> None:
    policy = dict(part.split(" ", 1) for part in server.get("/").headers["content-security-policy"].split("; "))

    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["img-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert not [
        value for value in policy.values() if "unsafe-inline" in value or "unsafe-eval" in value or "//" in value
    ]


def test_another_address_leads_to_it_under_any_path(server: Any) -> None:
    found = server.get("/dashboard")

    assert (found.status, found.headers["location"]) == (307, "./")
    page = server.get("/").content.decode()
    addresses = re.findall(r"""(?:href|src)="([^"]+)\"""", page)
    assert addresses
    assert not [each for each in addresses if each.startswith("/") or "//" in each]


def test_mounted_in_another_application_it_is_the_same(serve: Any) -> None:
    ours = application(EventRecorder("memory:", environment={}))
    other = Starlette(routes=[Mount("/analytics", ours)], lifespan=lambda _: running(ours))
    server = serve(other)

    page = server.get("/analytics/").content
    file = server.get(f"/analytics/dashboard/{version_in(page)}/main.js")

    assert (file.status, file.content) == (200, (STATIC / "main.js").read_bytes())
    assert server.get("/").status == 404


def test_every_file_is_sent_kept_for_ever_and_compressed(server: Any) -> None:
    version = version_in(server.get("/").content)

    for path in STATIC.iterdir():
        if path.name == files.PAGE:
            continue
        plain = server.get(f"/dashboard/{version}/{path.name}", Accept_Encoding="identity")
        assert (plain.status, plain.content) == (200, path.read_bytes())
        assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert plain.headers["x-content-type-options"] == "nosniff"
        packed = server.get(f"/dashboard/{version}/{path.name}", Accept_Encoding="gzip, br")
        if packed.headers.get("content-encoding") == "gzip":
            assert gzip.decompress(packed.content) == path.read_bytes()
            assert packed.headers["vary"] == "Accept-Encoding"
        again = server.get(f"/dashboard/{version}/{path.name}", If_None_Match=plain.headers["etag"])
        assert (again.status, again.content) == (304, b"")
    plotly = server.get(f"/dashboard/{version}/{files.PLOTLY}", Accept_Encoding="gzip")
    assert (plotly.status, plotly.headers["content-encoding"]) == (200, "gzip")
    assert b"plotly.js v" in gzip.decompress(plotly.content)[:200]


@pytest.mark.parametrize(
    "path",
    [
        "/dashboard/0000000000000000/main.js",
        "/dashboard/{version}/index.html",
        "/dashboard/{version}/nothing.js",
        "/dashboard/{version}/..%2fpage.py",
        "/dashboard/{version}/..%2f..%2faccess.py",
        "/dashboard/{version}/%2fetc%2fpasswd",
        "/dashboard/{version}/main.js%00",
        "/dashboard/{version}/",
    ],
)
def test_nothing_else_is_sent(server: Any, path: str) -> None:
    version = version_in(server.get("/").content)

    found = server.get(path.replace("{version}", version))

    assert found.status == 404
    assert found.headers["content-type"] == "application/problem+json"
    assert found.headers["cache-control"] == "no-store"


def test_without_the_option_there_is_no_page(serve: Any) -> None:
    server = serve(application(EventRecorder("memory:", environment={}), options=ServerOptions(dashboard=False)))

    assert [server.get(path).status for path in ("/", "/dashboard", "/dashboard/x/main.js")] == [404] * 3


def test_another_plotly_is_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Files.read()

    monkeypatch.setattr(files, "_plotly", lambda: b'document.getElementById("' + b"a" * 64 + b'")')
    other = Files.read()
    monkeypatch.setattr(files, "_plotly", lambda: None)
    without = Files.read()

    assert len({before.version, other.version, without.version}) == 3
    assert other.brought_styles == ("a" * 64,)
    assert files.PLOTLY not in without.by_name


def test_a_page_of_a_server_with_tokens_says_that_it_wants_one(serve: Any, make_tokens: Callable[..., Any]) -> None:
    tokens, _ = make_tokens("read")
    recorder = EventRecorder("memory:", environment={})

    assert b'data-tokens="needed"' in serve(application(recorder, tokens=tokens)).get("/").content
