"""A ClickHouse that is reached over HTTP, for tests of handlers: the engine of the wheel `chdb-core`, one process each.

`from eventrec.testing.clickhouse_http import clickhouse, clickhouse_server` in a conftest.py is all it takes: a server
for the session, and a database of its own for each test. Several servers are several nodes. Without the wheel the
fixtures skip, visibly; with `CI=true` they fail. Everything here blocks.
"""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import sys
import tempfile
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

import pytest

from eventrec.testing.server_process import ServerWithPipes, absent, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

_SCRIPT: Final = Path(__file__).with_name("clickhouse_server.py")
_ANSWERING: Final = 60.0


class ClickHouseServer(ServerWithPipes):
    """A ClickHouse of one's own, user `default`.

        with ClickHouseServer() as server:
            ClickHouseHandler(server.url())

    With `keeps` its tables lie in a directory of its own, so that they outlive `kill()`: `start()` brings it back on
    the same port. Else they are in memory.
    """

    def __init__(self, *, password: str = "", keeps: bool = False) -> None:
        super().__init__()
        self.password = password
        self._operator = secrets.token_hex(8)
        self._home = tempfile.mkdtemp(prefix="eventrec-clickhouse-") if keeps else None

    def start(self) -> Self:
        """Start it; on return it answers.

        Raises:
            ServerError: It does not.
        """
        self.port = self.port or free_port(self.host)
        arguments = ["--port", str(self.port), "--password", self.password, "--operator", self._operator]
        if self._home is not None:
            arguments += ["--path", str(Path(self._home, "data"))]
        self._begin(sys.executable, str(_SCRIPT), *arguments)
        self._said()
        return self

    def stop(self) -> None:
        """End it; nothing of it is left."""
        super().stop()
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)

    def url(self, database: str = "default", *, options: str = "", port: int | None = None) -> str:
        """What a handler is given; `port` where it is reached through another one."""
        secret = f":{quote(self.password, safe='')}" if self.password else ""
        return f"clickhouse://default{secret}@{self.host}:{port or self.port}/{database}{options and '?' + options}"

    def query(self, sql: str, *, database: str = "default", body: bytes = b"", **settings: str) -> list[list[Any]]:
        """The rows that a statement gives, as an operator: nothing is refused. `body` are the rows of an insert.

        Raises:
            AssertionError: The server refuses it; the message is the server's.
        """
        options = {"database": database, "default_format": "JSONCompactEachRow", **settings}
        secret = base64.b64encode(f"operator:{self._operator}".encode()).decode()
        connection = HTTPConnection(self.host, self.port, timeout=_ANSWERING)
        try:
            if body:
                options["query"] = sql
            connection.request(
                "POST", f"/?{urlencode(options)}", body or sql.encode(), {"Authorization": f"Basic {secret}"}
            )
            answer = connection.getresponse()
            said = answer.read().decode(errors="replace")
        finally:
            connection.close()
        assert answer.status == 200, f"{said}\n{sql:.2000}"  # noqa: PLR2004 - OK
        return [json.loads(line) for line in said.splitlines()]

    def refuse(self, code: int, *, holding: str = "INSERT", times: int = 1, message: str = "staged") -> None:
        """Refuse the next statements that hold this text with this error, so often. It replaces the one before."""
        self._order({"refuse": [{"code": code, "holding": holding, "times": times, "message": message}]})

    def lose_answers(self, *, times: int = 1, late: float = 0.0, holding: str = "INSERT") -> None:
        """Break the connection of the next statements that hold this text, and carry each out `late` seconds later."""
        self._order({"lose": {"times": times, "late": late, "holding": holding}})

    def change_password(self, password: str) -> None:
        """Ask for another one from now on; `url` still has that of the start."""
        self._order({"password": password})

    def _order(self, order: dict[str, Any]) -> None:
        self._tell(json.dumps(order))


@dataclass(frozen=True, slots=True)
class ClickHouseDatabase:
    """A database of one's own on a server."""

    server: ClickHouseServer
    name: str

    def url(self, *, options: str = "", port: int | None = None) -> str:
        """What a handler is given."""
        return self.server.url(self.name, options=options, port=port)

    def query(self, sql: str) -> list[list[Any]]:
        """The rows that a statement gives."""
        return self.server.query(sql, database=self.name)


_numbers: Final = count(1)


def new_database(server: ClickHouseServer) -> ClickHouseDatabase:
    """A database that was not there before. Nothing removes it but the end of the server."""
    name = f"own_{next(_numbers)}"
    server.query(f"CREATE DATABASE {name}")
    return ClickHouseDatabase(server, name)


def need_clickhouse() -> None:
    """Skip, or fail in CI, where the wheel is missing."""
    if find_spec("chdb") is None:
        absent("ClickHouse", "chdb-core is not installed: pip install 'eventrec[dev]'")


@pytest.fixture(scope="session")
def clickhouse_server() -> Iterator[ClickHouseServer]:
    """ClickHouse for the whole session, running."""
    need_clickhouse()
    with ClickHouseServer() as server:
        yield server


@pytest.fixture
def clickhouse(clickhouse_server: ClickHouseServer) -> Iterator[ClickHouseDatabase]:
    """A database for a test."""
    database = new_database(clickhouse_server)
    yield database
    clickhouse_server.query(f"DROP DATABASE {database.name}")
