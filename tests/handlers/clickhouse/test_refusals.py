"""What a server refuses of a batch: found in few requests, told without the values of its rows."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from eventrec import (
    Batch,
    ColumnSchema,
    ColumnType,
    EventRecorder,
    PartialError,
    PermanentError,
    ReceivedEvent,
    TransientError,
)
from eventrec.bus.memory import MemoryBus
from eventrec.relay import RelayOptions
from eventrec.testing.clickhouse_http import ClickHouseDatabase
from eventrec_handlers.clickhouse import ClickHouseHandler
from eventrec_handlers.clickhouse.errors import Failure, without_values
from eventrec_handlers.clickhouse.node import Node
from eventrec_handlers.clickhouse.options import Options
from eventrec_handlers.clickhouse.target import Target

pytestmark = pytest.mark.handlers

Ask = Callable[[str], Awaitable[list[list[Any]]]]
Batches = Callable[..., Batch]
Open = Callable[..., Awaitable[ClickHouseHandler]]

SECRET = "4111-secret-1111"


def events(start: int, end: int, said: str = SECRET) -> list[ReceivedEvent]:
    return [ReceivedEvent("e", b'{"card":"%s","n":%d}' % (said.encode(), n), n) for n in range(start, end)]


@pytest.fixture
def inserts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each insert that is sent."""
    rows: list[int] = []
    insert = Node.insert

    async def counted(self: Node, table: str, names: Any, types: Any, columns: Any, *, token: str) -> None:
        rows.append(len(columns[0]))
        await insert(self, table, names, types, columns, token=token)

    monkeypatch.setattr(Node, "insert", counted)
    return rows


async def test_each_bad_record_costs_one_request_at_most(
    opened: Open, asked: Ask, batch: Batches, inserts: list[int]
) -> None:
    handler = await opened()
    await handler.handle(batch(*events(0, 1)))
    await asked("ALTER TABLE events ADD CONSTRAINT fits CHECK JSONExtractInt(payload, 'n') % 2 = 1")
    inserts.clear()

    with pytest.raises(PartialError) as caught:
        await handler.handle(batch(*events(1, 101), start=1))

    assert sorted(caught.value.errors) == list(range(2, 101, 2))
    assert await asked("SELECT toUInt32(count()), toUInt32(uniqExact(id)) FROM events") == [[51, 51]]
    assert len(inserts) <= 102  # a request for each bad record, and one for each run of good ones between them


async def test_batch_of_bad_records_alone_costs_a_request_for_each(
    opened: Open, asked: Ask, batch: Batches, inserts: list[int]
) -> None:
    handler = await opened()
    await handler.handle(batch(*events(0, 1)))
    await asked("ALTER TABLE events ADD CONSTRAINT never CHECK timestamp < '1960-01-01'")
    inserts.clear()

    with pytest.raises(PermanentError) as caught:
        await handler.handle(batch(*events(1, 65), start=1))

    assert sorted(caught.value.records or ()) == list(range(1, 65))
    assert len(inserts) <= 64
    assert sum(inserts) <= 64 * 8  # halves: not the whole rest, again and again


async def test_no_value_of_a_row_is_in_what_is_said_of_a_constraint(opened: Open, asked: Ask, batch: Batches) -> None:
    handler = await opened()
    await handler.handle(batch(*events(0, 1)))
    await asked("ALTER TABLE events ADD CONSTRAINT fits CHECK NOT (payload LIKE '%secret%')")

    with pytest.raises(PermanentError, match="fits") as caught:
        await handler.handle(batch(*events(1, 3), start=1))

    said = "".join(traceback.format_exception(caught.value)) + repr(caught.value.records)
    assert SECRET not in said


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "Code: 469. `fits` violated at row 2. Column values: n = 7, s = 'a \\' b'. (VIOLATED_CONSTRAINT)",
            "Code: 469. `fits` violated at row 2. (VIOLATED_CONSTRAINT)",
        ),
        ("Code: 6. Cannot parse string '4111' as Int8", "Code: 6. Cannot parse string … as Int8"),
        ('unknown element "x y" for enum', "unknown element … for enum"),
        ("value -12.5e3 of column `a 1` of DateTime64", "value … of column `a 1` of DateTime64"),
    ],
)
def test_values_are_cut_out_of_messages(said: str, told: str) -> None:
    assert without_values(said) == told


class _NotFound(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_POST()


@pytest.fixture
def stranger() -> Iterator[int]:
    """The port of a web server that is not a ClickHouse."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _NotFound) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


async def test_node_that_is_not_a_clickhouse_is_passed_over(
    clickhouse: ClickHouseDatabase, stranger: int, opened: Open, asked: Ask, batch: Batches
) -> None:
    port = clickhouse.server.port
    url = clickhouse.url().replace(f"127.0.0.1:{port}", f"127.0.0.1:{stranger},localhost:{port}")
    handler = await opened(url, chunk_rows=5)

    await handler.handle(batch(*events(0, 40)))

    assert await asked("SELECT toUInt32(count()), toUInt32(uniqExact(id)) FROM events") == [[40, 40]]


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (b'[1,"a"]\n[2,"b', "transient", None),
        (b"<html>It works!</html>", "transient", None),
        (b"[1]\nCode: 241. DB::Exception: memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)", "transient", 241),
        (b"[1]\nCode: 497. DB::Exception: not enough privileges. (ACCESS_DENIED)", "pause", 497),
        (b"\xff\xfe", "transient", None),
    ],
)
async def test_half_an_answer_is_a_failure_of_the_node(
    clickhouse: ClickHouseDatabase, monkeypatch: pytest.MonkeyPatch, answer: bytes, kind: str, code: int | None
) -> None:
    node = Node(Target(clickhouse.url()), ("127.0.0.1", clickhouse.server.port), Options())

    async def broken(_: object) -> bytes:
        return answer

    monkeypatch.setattr(node, "_call", broken)

    with pytest.raises(Failure) as caught:
        await node.query("SELECT 1")

    assert (caught.value.kind, caught.value.code) == (kind, code)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("ALTER TABLE events MODIFY COLUMN x Nullable(Int8)", "it is not from -128 to 127"),
        ("ALTER TABLE events MODIFY COLUMN x Nullable(String)", "the table declares it Nullable.String"),
        ("RENAME TABLE events TO moved; CREATE VIEW events AS SELECT * FROM moved", "its name is taken: a View"),
    ],
)
async def test_what_others_change_while_we_write_is_seen_by_the_next_batch(
    opened: Open, asked: Ask, batch: Batches, change: str, why: str
) -> None:
    """ClickHouse would put 300 as 44 into an Int8."""
    columns = (ColumnSchema("x", ColumnType.INT64),)
    handler = await opened()
    await handler.handle(batch(ReceivedEvent("e", b"{}", 1, columns=columns, rows=((1,),))))
    for statement in change.split("; "):
        await asked(statement)
    sent = batch(ReceivedEvent("e", b"{}", 2, columns=columns, rows=((300,),)), start=1)

    with pytest.raises(TransientError):
        await handler.handle(sent)
    with pytest.raises(PermanentError, match=why):
        await handler.handle(sent)

    assert await asked(f"SELECT toUInt32(count()) FROM {'moved' if 'moved' in change else 'events'}") == [[1]]


async def test_view_made_while_we_write_has_a_window_within_a_second(opened: Open, asked: Ask, batch: Batches) -> None:
    handler = await opened()
    await handler.handle(batch(*events(0, 1)))
    await asked("CREATE TABLE fed (n Int64) ENGINE = MergeTree ORDER BY n")
    await asked("CREATE MATERIALIZED VIEW feeding TO fed AS SELECT JSONExtractInt(payload, 'n') AS n FROM events")
    handler._tables._clock = lambda: 1e9  # a second later
    sent = batch(*events(1, 11), start=1)

    await handler.handle(sent)
    await (await opened()).handle(sent)  # by a process that knows nothing of it

    assert await asked("SELECT toUInt32(count()), toUInt32(uniqExact(n)) FROM fed") == [[10, 10]]


async def test_chunks_are_as_large_as_the_relay_says(clickhouse: ClickHouseDatabase, tmp_path: Any) -> None:
    told, own = ClickHouseHandler(clickhouse.url()), ClickHouseHandler(clickhouse.url(), chunk_rows=7)
    recorder = EventRecorder(log=tmp_path / "log", bus=MemoryBus(), relay=RelayOptions(chunk_rows=3))

    recorder.register(told, name="told")
    recorder.register(own, name="own")

    assert told._inserter.chunk_rows == 3
    assert own._inserter.chunk_rows == 7
