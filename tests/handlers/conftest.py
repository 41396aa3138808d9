"""What tests of handlers share: real batches from real events, an endpoint, a certificate, a recorder on trial."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import UUID

import anyio
import anyio.to_thread
import pytest

from eventrec import (
    EVENT,
    GENERATED,
    TIMESTAMP,
    TYPE,
    Backoff,
    Batch,
    Event,
    EventHandler,
    EventRecorder,
    EventRecorderOptions,
    Layout,
    LayoutColumn,
    LayoutIndex,
    ReceivedEvent,
    from_payload,
)
from eventrec.events.encoder import Encoder
from eventrec.status import SubscriptionStatus
from eventrec.testing import assert_conserved
from eventrec.testing.conformance.log import Sample
from eventrec.testing.scripted import Numbered
from eventrec_handlers.sqlite import SqliteHandler

LOG = UUID("01990000-0000-7000-8000-000000000001")


def batch_of(
    *events: Event | ReceivedEvent,
    start: int = 0,
    log_id: UUID = LOG,
    subscription: str = "tested",
    context: bytes | None = None,
) -> Batch:
    """The batch that a worker would make of `events`, recorded one after the other from offset `start` on."""
    encode = Encoder(context=lambda: context).encode
    entries = [entry for event in events if not isinstance(entry := encode(event), str)]
    assert len(entries) == len(events)
    return Batch(
        log_id=log_id,
        subscription=subscription,
        start=start,
        end=start + len(entries),
        offsets=range(start, start + len(entries)),
        entries=entries,
    )


@pytest.fixture(name="event")
def _event() -> Callable[..., Event]:
    """An event that says whatever a test wants it to."""
    return partial(Sample, kind="happening")


@pytest.fixture(name="batch")
def _batch() -> Callable[..., Batch]:
    return batch_of


@pytest.fixture
def reference() -> Layout:
    """The table of an existing system, of which only the names of indexes are ours."""
    return Layout(
        "analytics_events",
        [
            LayoutColumn("id", GENERATED, "bigint"),
            LayoutColumn("timestamp", TIMESTAMP, "timestamptz", default="now"),
            LayoutColumn("event_type", TYPE, "varchar", length=100),
            LayoutColumn("service", from_payload("service"), "varchar", length=100, nullable=False, default="unknown"),
            LayoutColumn("user_id", from_payload("user_id"), "uuid"),
            LayoutColumn("data", EVENT, "jsonb"),
        ],
        primary_key=("timestamp", "id"),
        indexes=[
            LayoutIndex("idx_user", ("user_id", "timestamp"), descending=("timestamp",), where_not_null=("user_id",)),
            LayoutIndex("idx_type", ("event_type", "timestamp"), descending=("timestamp",)),
            LayoutIndex("idx_data", ("data",), kind="json"),
        ],
    )


@pytest.fixture
def received() -> Callable[..., ReceivedEvent]:
    """Makes events for that table as they arrive from elsewhere, with an id of their own where one is given."""

    def made(kind: str, *, at: int, id_: int | None = None, **payload: object) -> ReceivedEvent:
        return ReceivedEvent(
            kind,
            json.dumps(payload, separators=(",", ":")).encode(),
            timestamp=at,
            table="analytics_events",
            id=None if id_ is None else UUID(int=id_).bytes,
        )

    return made


@pytest.fixture
def log_id() -> UUID:
    return LOG


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of the test is, or will be."""
    return tmp_path / "events.db"


@pytest.fixture
async def handler(path: Path) -> AsyncIterator[SqliteHandler]:
    """A handler for `path`, open, whose checkpoint for the log of `batch` stands at 0."""
    handler = SqliteHandler(path, busy_timeout=0.2)
    await handler.open()
    await handler.resume(LOG, "tested", 0)
    yield handler
    await handler.close()


SCHEMA = """
SELECT 'column', c.relname || '.' || a.attname, format_type(a.atttypid, a.atttypmod) || a.attnotnull
 || coalesce(pg_get_expr(d.adbin, d.adrelid), '') FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
 LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relnamespace = to_regnamespace('{0}') AND a.attnum > 0
UNION ALL SELECT 'relation', relname, relkind::text || coalesce(reloptions::text, '')
 || coalesce(pg_get_partkeydef(oid), '') || coalesce(pg_get_expr(relpartbound, oid), '')
 FROM pg_class WHERE relnamespace = to_regnamespace('{0}')
UNION ALL SELECT 'index', c.relname, pg_get_indexdef(c.oid) || i.indisvalid FROM pg_index i
 JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = to_regnamespace('{0}')
UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE connamespace = to_regnamespace('{0}')
UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
 WHERE c.relnamespace = to_regnamespace('{0}')
UNION ALL SELECT 'function', proname, prosrc FROM pg_proc WHERE pronamespace = to_regnamespace('{0}')
UNION ALL SELECT 'comment', c.relname, obj_description(c.oid, 'pg_class') FROM pg_class c
 WHERE c.relnamespace = to_regnamespace('{0}') AND obj_description(c.oid, 'pg_class') IS NOT NULL
UNION ALL SELECT 'view', viewname, definition FROM pg_views WHERE schemaname = '{0}'
ORDER BY 1, 2, 3
"""


@pytest.fixture(scope="session")
def dump_of_schema() -> str:
    """The SQL that tells what stands in a schema `{0}` of PostgreSQL: kind, name, text."""
    return SCHEMA


PLATFORM = Path(__file__).parents[2] / "examples" / "platform_analytics"


class Migrate(Protocol):
    """Runs `eventrec migrate` with the catalogue of the platform: exit code, stdout, stderr. Secrets are not shown."""

    def __call__(self, *arguments: str, **variables: str) -> tuple[int, str, str]: ...


@pytest.fixture
def migrate_platform(tmp_path: Path) -> Migrate:
    """The command in a process of its own, in an empty directory."""

    def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "eventrec.cli", "migrate", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**_platform_environment(), "EVENTREC_CATALOGUE": "catalogue:catalogue", "COLUMNS": "200", **variables},
            timeout=200,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def commands_of_migrate(migrate_platform: Migrate) -> Callable[[str, Callable[[], object]], None]:
    """Goes through the commands, on the empty database `url`; `dump` is what stands in it."""

    def go(url: str, dump: Callable[[], object]) -> None:
        empty = dump()
        named = ("  0001 pre tables\n", "  0002 post rollups\n")
        code, out, said = migrate_platform("dry-run", DATABASE_URL=url)
        assert (code, said) == (0, "")
        assert "-- migration 0001 pre tables\n" in out
        assert "analytics_daily_active_users" in out
        pending = (0, f"Applied: 0\nPending: 2\n{named[0]}{named[1]}", "")
        assert migrate_platform("status", PLATFORM_DATABASE_URL=url) == pending
        code, out, said = migrate_platform("everything", DATABASE_URL=url)
        assert (code, out, said[:30]) == (1, "", "usage: eventrec migrate [all |")
        assert dump() == empty

        assert migrate_platform("all", "--to", url) == (0, "applied 0001 pre tables\napplied 0002 post rollups\n", "")
        made = dump()
        assert made != empty
        assert migrate_platform("all", "--to", url) == (0, "nothing to do\n", "")
        assert migrate_platform("dry-run", "--to", url) == (0, "-- nothing to do\n", "")
        assert migrate_platform("status", "--to", url) == (0, f"Applied: 2\n{named[0]}{named[1]}Pending: 0\n", "")
        assert dump() == made

    return go


@pytest.fixture
def killed_migrations() -> Callable[..., list[str]]:
    """Migrates places that `url` names where it has a `{}`, and is killed at every `every`th point: their names.

    The first of them was migrated in peace, the others are to be like it.
    """

    def run(url: str, every: int) -> list[str]:
        writer = Path(__file__).with_name("migration_writer.py")
        command = [sys.executable, "-W", "error", str(writer), url, str(every)]
        done = subprocess.run(
            [*command, "catalogue:catalogue"],
            capture_output=True,
            text=True,
            env=_platform_environment(),
            timeout=1_500,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        points, *killed_at = done.stdout.split()
        assert int(points) > 30
        return ["whole", *killed_at]

    return run


def _platform_environment() -> dict[str, str]:
    dropped = ("DATABASE_URL", "PLATFORM_DATABASE_URL", "EVENTREC_CATALOGUE")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, [str(PLATFORM), kept.get("PYTHONPATH")]))}


class Posted(NamedTuple):
    """A request that an `Endpoint` was sent."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Endpoint:
    """A real HTTP server on a free port of 127.0.0.1, in threads; `answer` gives status, headers and body."""

    def __init__(self, answer: Callable[[Posted], tuple[int, Mapping[str, str], bytes]]) -> None:
        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:
                    self.close_connection = True
                    return
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, more, content = answer(Posted(self.path, headers, body))
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass  # a client that is gone

        self._server = Server(("127.0.0.1", 0), Answers)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def endpoint_of() -> Iterator[Callable[..., Endpoint]]:
    """Makes an `Endpoint`; all are ended after the test."""
    made: list[Endpoint] = []

    def make(answer: Callable[[Posted], tuple[int, Mapping[str, str], bytes]]) -> Endpoint:
        made.append(Endpoint(answer))
        return made[-1]

    yield make
    for endpoint in made:
        endpoint.close()


@dataclass
class Trial:
    """A recorder that is given numbers, while something happens to its destination."""

    recorder: EventRecorder
    handler: EventHandler
    calls: list[str]
    read: Callable[[], list[int]] = list
    count: int = 0

    def record(self, count: int = 50) -> None:
        assert self.recorder.record_many(Numbered(n) for n in range(self.count, self.count + count)) == count
        self.count += count

    @property
    def part(self) -> SubscriptionStatus:
        (part,) = self.recorder.status().subscriptions.values()
        return part

    async def until(
        self, condition: Callable[[SubscriptionStatus], object], seconds: float = 120
    ) -> SubscriptionStatus:
        with anyio.move_on_after(seconds):
            while not condition(part := self.part):  # noqa: ASYNC110 - delivery changes it
                await anyio.sleep(0.02)
            return part
        pytest.fail(f"{self.part.state}: {self.part.last_error}\n{self.part}")

    async def settled(self) -> None:
        await self.until(lambda part: part.acknowledged == self.count and part.scanned == self.count)

    async def fails(self) -> str:
        """Record into a fault; what the state and the last error say, once it is met; and there is no hot loop."""
        self.record()
        await self.until(lambda part: not part.healthy and part.last_error is not None)
        before = len(self.calls)
        await anyio.sleep(0.5)
        # At most two calls an attempt, and five attempts while the pauses grow from 0.05 to 0.4 s.
        assert len(self.calls) - before <= 10
        part = self.part
        assert part.pending >= 50
        said = f"{part.state}: {part.last_error}"
        assert "\n" not in said
        return said

    async def stored(self) -> list[int]:
        """The numbers that the destination has, in their order, as `read` gives them."""
        return await anyio.to_thread.run_sync(self.read)


TRIAL = EventRecorderOptions(
    retry=Backoff(first=0.05, factor=2, max=0.4, jitter="none"), flush_interval=0.02, batch_rows=20
)


@asynccontextmanager
async def trial_of(
    handler: EventHandler, log: Path, *, name: str, read: Callable[[], list[int]] = list, is_up: bool = True
) -> AsyncIterator[Trial]:
    """Nothing is lost or dead at its end. `read` blocks; unless it `is_up`, nothing is delivered at first."""
    calls: list[str] = []
    for method in ("open", "handle"):
        setattr(handler, method, _noted(calls, getattr(handler, method)))
    recorder = EventRecorder(log=log, options=TRIAL)
    recorder.register(handler, name=name)
    async with recorder:
        trial = Trial(recorder, handler, calls, read)
        trial.record()
        if is_up:
            await trial.settled()
        yield trial
    assert_conserved(recorder.status(), offered=trial.count)
    assert (trial.part.dead, sum(trial.part.dropped.values())) == (0, 0)


def _noted(calls: list[str], method: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    def call(*arguments: Batch) -> Awaitable[None]:
        calls.append(method.__name__)
        return method(*arguments)

    return call


@pytest.fixture(name="delivering")
def _delivering() -> Callable[..., AbstractAsyncContextManager[Trial]]:
    """Begins a trial of a handler, see `trial_of`."""
    return trial_of


class Front:
    """Ends TLS in front of a server, in threads of its own."""

    def __init__(self, host: str, port: int, certificate: tuple[Path, Path]) -> None:
        self._place = host, port
        self._open: list[socket.socket] = []
        self.show(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def show(self, certificate: tuple[Path, Path]) -> None:
        """Show this one from now on; connections that are open are cut."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*certificate)
        self._cut()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()

    def _cut(self) -> None:
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            try:
                client = self._context.wrap_socket(plain, server_side=True)
            except OSError:  # it does not trust us
                plain.close()
                continue
            target = socket.create_connection(self._place)
            self._open += [client, target]
            for pair in ((client, target), (target, client)):
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(65_536):
                target.sendall(chunk)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def make_front() -> Iterator[Callable[..., Front]]:
    """Ends TLS in front of a server that cannot, and shows the certificate that it is given."""
    made: list[Front] = []

    def make(host: str, port: int, certificate: tuple[Path, Path]) -> Front:
        made.append(Front(host, port, certificate))
        return made[-1]

    yield make
    for front in made:
        front.close()
