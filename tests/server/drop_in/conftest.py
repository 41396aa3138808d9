"""A server that takes into memory, by way of a log: what clients of others are answered, and what became of it."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import msgspec
import posthog.request
import pytest
import segment.analytics.request
from opentelemetry._logs import LogRecord
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from posthog import Posthog
from segment.analytics import Client as SegmentClient

from eventrec import EventRecorder, EventRecorderOptions, Record
from eventrec.server import ServerOptions, Tokens, application
from eventrec.server.token_file import new_token
from eventrec.testing.account import assert_conserved
from eventrec.testing.proxy import FaultProxy
from eventrec.testing.server_process import ServerWithPipes
from eventrec_handlers.memory import MemoryHandler


@dataclass
class Taking:
    """A server with tokens: `token` may ingest, `reader` may read alone."""

    web: Any
    token: str
    reader: str
    recorder: EventRecorder
    memory: MemoryHandler
    until: Callable[..., None]
    offered: int = field(default=0)

    def post(self, path: str, content: Any, **headers: str) -> Any:
        return self.web.post(path, content, **headers)

    def events(self, count: int) -> list[Record]:
        """The events that were taken, of which there are `count`; the account balances then."""
        self.until(lambda: len(self.memory.records) >= count)
        assert len(self.memory.records) == count
        assert_conserved(self.recorder.status())
        return sorted(self.memory.records, key=lambda record: record.offset)

    def values(self, count: int) -> list[tuple[str, Any, Any]]:
        """Type, payload and context of each."""
        return [
            (record.type, msgspec.json.decode(record.payload), msgspec.json.decode(record.context or b"null"))
            for record in self.events(count)
        ]


@pytest.fixture
def start(serve: Callable[..., Any], until: Callable[..., None], tmp_path: Path) -> Callable[..., Taking]:
    def begin(**options: Any) -> Taking:
        path = tmp_path / "tokens.toml"
        token = new_token(path, "ingest", ["ingest"], created=datetime.now(UTC))
        reader = new_token(path, "read", ["read"], created=datetime.now(UTC))
        memory = MemoryHandler()
        recorder = EventRecorder(memory, log=tmp_path / "log", options=EventRecorderOptions(flush_interval=0.01))
        app = application(recorder, tokens=Tokens(path), options=ServerOptions(**options))
        return Taking(serve(app), token, reader, recorder, memory, until)

    return begin


@pytest.fixture
def taking(start: Callable[..., Taking]) -> Taking:
    return start()


# -- the official clients, and a process that they are pointed at

NAMES = ("posthog", "segment", "otlp")


class TakingServer(ServerWithPipes):
    """A process of `taking_server.py`: one port, and a life for each test, with a `directory` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path()

    def start(self) -> Self:
        self._begin(sys.executable, str(Path(__file__).with_name("taking_server.py")))
        self.port = int(self._said())
        return self

    def live(self) -> None:
        """Begin a life."""
        self.tell(f"live {self.directory}")

    def tell(self, command: str) -> str:
        """What it answers to `command`."""
        return self._tell(command)

    def stored(self) -> Counter[tuple[str, int]]:
        """How often each event is in the database: its type and number."""
        database = self.directory / "events.db"
        if not database.exists():
            return Counter()
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            try:
                rows = connection.execute(
                    "SELECT type, json_extract(payload, '$.number'), count(*) FROM events GROUP BY 1, 2"
                )
                return Counter({(kind, number): times for kind, number, times in rows})
            except sqlite3.OperationalError:
                return Counter()  # there is no table yet, or it is being made

    def end(self) -> dict[str, Any]:
        """End the life, and return the account of its recorder."""
        account: dict[str, Any] = msgspec.json.decode(self.tell("end"))
        return account


class OfficialClients:
    """The three, unmodified, each behind a proxy of its own: what was `said` to them, and what they gave up."""

    def __init__(self, port: int) -> None:
        self.said: list[tuple[str, int]] = []
        self.failed: list[object] = []
        self.proxies = {name: FaultProxy("127.0.0.1", port) for name in NAMES}
        url = {name: f"http://127.0.0.1:{proxy.port}" for name, proxy in self.proxies.items()}
        self._posthog = Posthog(
            "phc_test", host=url["posthog"], flush_interval=0.02, max_retries=10, on_error=self._fail, timeout=5
        )
        self._segment = SegmentClient(
            "write-key", host=url["segment"], upload_interval=0.02, on_error=self._fail, max_retries=10, timeout=5
        )
        self._otlp = LoggerProvider(shutdown_on_exit=False)
        exporter = OTLPLogExporter(f"{url['otlp']}/v1/logs", timeout=60)
        self._otlp.add_log_record_processor(BatchLogRecordProcessor(exporter, schedule_delay_millis=20))
        self._logger = self._otlp.get_logger("test")

    def _fail(self, *what: object) -> None:
        self.failed.append(what)

    def say(self, number: int) -> None:
        """Say an event of this number to each."""
        self._posthog.capture("posthog", distinct_id="ada", properties={"number": number})
        self._segment.track("ada", "segment", {"number": number})
        self._logger.emit(
            LogRecord(timestamp=time.time_ns(), event_name="otlp", body={"number": number}, context=Context())
        )
        self.said += [(name, number) for name in NAMES]

    def flush(self) -> None:
        """Wait until each has an answer to all that was said."""
        self._posthog.flush(60)
        self._segment.flush()
        assert self._otlp.force_flush(60_000)

    def close(self) -> None:
        self._posthog.shutdown()
        self._segment.join()
        self._otlp.shutdown()
        posthog.request.reset_sessions()
        segment.analytics.request._session.close()
        for proxy in self.proxies.values():
            proxy.close()


@pytest.fixture(scope="module")
def process() -> Iterator[TakingServer]:
    with TakingServer() as started:
        yield started


@pytest.fixture
def server_process(process: TakingServer, tmp_path: Path) -> TakingServer:
    process.directory = tmp_path
    process.live()
    return process


@pytest.fixture
def clients(server_process: TakingServer) -> Iterator[OfficialClients]:
    found = OfficialClients(server_process.port)
    yield found
    found.close()
