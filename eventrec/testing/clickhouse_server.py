"""ClickHouse's engine behind ClickHouse's own HTTP interface, as a process of its own: started by `clickhouse_http.py`.

One statement runs at a time. Standard input takes orders, one JSON object a line: see `_Orders`. At its end the process
ends.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import os
import re
import socket
import sys
import tempfile
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import chdb

CONTROL: Final = frozenset(
    {
        "query",
        "database",
        "user",
        "password",
        "session_id",
        "session_timeout",
        "session_check",
        "query_id",
        "compress",
        "decompress",
        "default_format",
        "client_protocol_version",
        "buffer_size",
        "wait_end_of_query",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "enable_http_compression",
        "cancel_http_readonly_queries_on_client_close",
        "role",
        "quota_key",
    }
)
"""Parameters of a request that are not settings of its statement."""

_INSERT: Final = re.compile(rb"(?is)\s*insert\s+into\s.{1,100000}?\sformat\s+\w+[ \t]*\r?\n?")
_INSERTED: Final = re.compile(r"(?is)\s*insert\s+into\s+(.+?)\s+format\s+(\w+)\s*$")
_FORMAT: Final = re.compile(r"(?is)\bformat\s+(\w+)\s*;?\s*$")
_CODE: Final = re.compile(r"Code: (\d+)")
_STATUS: Final = {16: 404, 60: 404, 81: 404, 159: 408, 192: 403, 193: 403, 194: 403, 202: 429, 497: 403, 516: 403}
"""Of some errors, as ClickHouse answers them; of all others 500."""


class _RefusedError(Exception):
    """The server's word that it does not do what was asked."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {message}")
        self.code = code


class _Orders:
    """What the tests want to go wrong; each member of an order replaces the one before.

    password    the one that is asked for, of the user `default`
    lose        {times, late, holding}: the next statements that hold this text are carried out, that many seconds
                after the connection of their client was broken
    refuse      a list of {code, message, times, holding}: the next statements that hold this text are refused so
    """

    def __init__(self, password: str, operator: str) -> None:
        self.lock = threading.Lock()
        self.password = password
        self.operator = operator
        self.refusals: list[dict[str, Any]] = []
        self.losing: dict[str, Any] = {"times": 0}

    def take(self, order: dict[str, Any]) -> None:
        with self.lock:
            self.password = order.get("password", self.password)
            self.refusals = order.get("refuse", self.refusals)
            self.losing = order.get("lose", self.losing)

    def take_loss(self, statement: str) -> float | None:
        """The answer to it is to be lost, so many seconds before it is carried out; None: it is not."""
        with self.lock:
            if not self.losing["times"] or self.losing["holding"] not in statement:
                return None
            self.losing["times"] -= 1
            return float(self.losing["late"])

    def check(self, statement: str) -> None:
        with self.lock:
            for refusal in self.refusals:
                if refusal["times"] and refusal["holding"] in statement:
                    refusal["times"] -= 1
                    raise _RefusedError(refusal["code"], refusal["message"])


class _Engine:
    """The one connection: a statement with its settings, in its database."""

    def __init__(self, path: str) -> None:
        self._connection = chdb.connect(path)
        self._lock = threading.Lock()
        self._settings: dict[str, str] = {}
        self._database = "default"

    def run(
        self, statement: str, body: bytes, *, database: str, settings: dict[str, str], params: dict[str, str], form: str
    ) -> bytes:
        with self._lock:
            if database != self._database:
                self._connection.query(f"USE `{database}`")
                self._database = database
            self._set(settings)
            if body and (found := _INSERTED.match(statement)) is not None:
                with tempfile.NamedTemporaryFile() as file:
                    file.write(body)
                    file.flush()
                    inserted = f"INSERT INTO {found[1]} FROM INFILE '{file.name}' FORMAT {found[2]}"
                    return bytes(self._connection.query(inserted, form).bytes())
            return bytes(self._connection.query(statement + body.decode(), form, params=params or {}).bytes())

    def _set(self, settings: dict[str, str]) -> None:
        changes = [f"{name} = DEFAULT" for name in self._settings if name not in settings]
        for name, value in settings.items():
            if self._settings.get(name) != value:
                text = value if re.fullmatch(r"-?\d+(\.\d+)?", value) else "'" + value.replace("'", "\\'") + "'"
                changes.append(f"{name} = {text}")
        if changes:
            self._connection.query(f"SET {', '.join(changes)}")
        self._settings = dict(settings)


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    engine: _Engine
    orders: _Orders

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """`/ping`, or a statement."""
        if urlsplit(self.path).path == "/ping":
            self._answer(200, b"Ok.\n", {})
        else:
            self.do_POST()

    def do_POST(self) -> None:
        """A statement, in the parameter `query`, in the body, or both."""
        body = self._body()
        if body is None:  # the client is gone
            self.close_connection = True
            return
        given = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        try:
            user = self._checked_user(given)
            out, form = self._run(given, body, is_checked=user == "default")
        except (_RefusedError, RuntimeError) as exc:
            found = _CODE.search(str(exc))
            code = int(found[1]) if found else 0
            self._answer(
                _STATUS.get(code, 500), str(exc).encode(), {"X-ClickHouse-Exception-Code": str(code)} if code else {}
            )
            return
        summary = json.dumps({"read_rows": "0", "written_rows": "0"})
        self._answer(
            200,
            out,
            {
                "X-ClickHouse-Format": form,
                "X-ClickHouse-Summary": summary,
                "X-ClickHouse-Timezone": "UTC",
                "X-ClickHouse-Query-Id": given.get("query_id", "none"),
            },
        )

    def _body(self) -> bytes | None:
        """The body, whole and unpacked."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while True:
                line = self.rfile.readline()
                if not line.endswith(b"\n"):
                    return None
                size = int(line.split(b";")[0], 16)
                part = self.rfile.read(size)
                if len(part) != size or not self.rfile.readline().endswith(b"\n"):
                    return None
                if not size:
                    break
                parts.append(part)
            body = b"".join(parts)
        else:
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size)
            if len(body) != size:
                return None
        return _unpacked(body, self.headers.get("Content-Encoding", ""))

    def _checked_user(self, given: dict[str, str]) -> str:
        user, password = given.get("user", "default"), given.get("password", "")
        header = self.headers.get("Authorization", "")
        if header.startswith("Basic "):
            user, _, password = base64.b64decode(header[6:]).decode().partition(":")
        user = self.headers.get("X-ClickHouse-User", user)
        password = self.headers.get("X-ClickHouse-Key", password)
        if (user, password) not in {("default", self.orders.password), ("operator", self.orders.operator)}:
            raise _RefusedError(516, f"{user}: Authentication failed: password is incorrect. (AUTHENTICATION_FAILED)")
        return user

    def _run(self, given: dict[str, str], body: bytes, *, is_checked: bool) -> tuple[bytes, str]:
        statement = given.get("query", "")
        if not statement:
            found = _INSERT.match(body)
            statement, body = (found[0].decode(), body[found.end() :]) if found else (body.decode(), b"")
        elif body and not re.match(r"(?is)\s*insert", statement):
            statement, body = f"{statement}\n{body.decode()}", b""
        if is_checked:
            self.orders.check(statement)
            if (late := self.orders.take_loss(statement)) is not None:
                self.connection.shutdown(socket.SHUT_RDWR)
                time.sleep(late)
        form = given.get("default_format", "TabSeparated")
        named = _FORMAT.search(statement)
        if named and not re.match(r"(?is)\s*insert", statement):
            form = named[1]
        out = self.engine.run(
            statement,
            body,
            database=given.get("database") or "default",
            settings={
                name: value for name, value in given.items() if name not in CONTROL and not name.startswith("param_")
            },
            params={name[6:]: value for name, value in given.items() if name.startswith("param_")},
            form=form,
        )
        return out, form

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        with suppress(OSError):  # the client is gone
            self._send_answer(status, body, headers)

    def _send_answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _unpacked(body: bytes, encoding: str) -> bytes:
    match encoding:
        case "gzip":
            return gzip.decompress(body)
        case "zstd":
            if sys.version_info >= (3, 14):
                from compression import zstd  # noqa: PLC0415 - as the client asks for it
            else:
                from backports import zstd  # noqa: PLC0415

            return bytes(zstd.decompress(body))
        case "lz4":
            import lz4.frame  # noqa: PLC0415

            return bytes(lz4.frame.decompress(body))
        case _:
            return body


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Clients may break off."""


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--path", default=":memory:")
    parser.add_argument("--password", default="")
    parser.add_argument("--operator", required=True, help="the password of a user whose statements always pass")
    given = parser.parse_args()
    _Handler.engine = _Engine(given.path if given.path == ":memory:" else str(Path(given.path).absolute()))
    _Handler.orders = _Orders(given.password, given.operator)
    with _Server(("127.0.0.1", given.port), _Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdout.write(json.dumps({"port": server.server_address[1]}) + "\n")
        sys.stdout.flush()
        for line in sys.stdin:
            _Handler.orders.take(json.loads(line))
            sys.stdout.write("{}\n")
            sys.stdout.flush()
        # The engine's threads need not be waited for.
        os._exit(0)


if __name__ == "__main__":
    main()
