"""Every route of the table needs the token that it says, and no other token does."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from eventrec import EventRecorder
from eventrec.analytics import Catalogue
from eventrec.server import Tokens, application
from eventrec.server.routes import Route
from eventrec.server.scopes import SCOPES
from eventrec.server.token_file import new_token

OPEN = {"/", "/health", "/health/live", "/health/ready", "/openapi.json", "/dashboard", "/dashboard/{version}/{name}"}
"""Routes that tell nothing of what is stored."""

Client = Any


@pytest.fixture(scope="module")
def served(serve_all: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Starlette, Any]:
    """A server, its application, and a token for each scope."""
    folder: Path = tmp_path_factory.mktemp("scopes")
    file, url = folder / "tokens.toml", f"sqlite:///{folder / 'events.db'}"
    tokens = {scope: new_token(file, scope, [scope], created=datetime.now(UTC)) for scope in SCOPES}
    app = application(
        EventRecorder(url, log=folder / "log"),
        to=url,
        log=folder / "log",
        catalogue=Catalogue(name="none", events=[], rollups=[]),
        tokens=Tokens(file),
    )
    return serve_all(app), app, tokens


def asked(running: Any, route: Route, token: str | None) -> int:
    path = re.sub(r"\{\w+\}", "x", route.path)
    if path.endswith("/follow"):
        path = f"{path}?cursor=none"  # else it has no end
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    if route.method == "GET":
        return int(running.get(path, **headers).status)
    body = b'{"batch":[]}' if route.is_checked_inside else b"{}"
    return int(running.post(path, body, Content_Type="application/json", **headers).status)


def test_every_route_needs_its_scope_and_no_other_scope_does(served: tuple[Any, Starlette, Any]) -> None:
    running, app, tokens = served
    wrong: list[str] = []
    for route in app.state.table:
        needed = None if route.path in OPEN else route.scope
        for scope in (None, "unknown", *SCOPES):
            status = asked(running, route, {"unknown": "evr_unknown"}.get(scope, tokens.get(scope)) if scope else None)
            if needed is None or scope == needed:
                is_right = status not in {401, 403} and status < 500
            else:
                is_right = status == (403 if scope in SCOPES else 401)
            if not is_right:
                wrong.append(f"{route.method} {route.path} with {scope}: {status}")

    assert wrong == []
    assert {route.path for route in app.state.table if route.scope is None} == OPEN
