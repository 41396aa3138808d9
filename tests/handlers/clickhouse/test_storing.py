"""Batches in chunks, each under a token: what is stored once, what is sent again, what is set aside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from anyio import move_on_after, to_thread

from eventrec import (
    Batch,
    ColumnSchema,
    ColumnType,
    Event,
    PartialError,
    PauseError,
    PermanentError,
    ReceivedEvent,
    TransientError,
)
from eventrec.testing.clickhouse_http import ClickHouseDatabase, ClickHouseServer, need_clickhouse, new_database
from eventrec.testing.proxy import FaultProxy
from eventrec_handlers.clickhouse import ClickHouseHandler, UnknownCodeError

pytestmark = pytest.mark.handlers

Ask = Callable[[str], Awaitable[list[list[Any]]]]
Batches = Callable[..., Batch]
Open = Callable[..., Awaitable[ClickHouseHandler]]

COUNT = "SELECT toUInt32(count()), toUInt32(uniqExact(id)) FROM events"
ID = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")


def events(start: int, end: int, **members: Any) -> list[ReceivedEvent]:
    return [ReceivedEvent("e", b'{"n":%d}' % n, n, **members) for n in range(start, end)]


async def refuse(database: ClickHouseDatabase, code: int, **options: Any) -> None:
    await to_thread.run_sync(lambda: database.server.refuse(code, **options))


@pytest.fixture(autouse=True)
def _nothing_is_refused_any_more(clickhouse: ClickHouseDatabase) -> Any:
    yield
    clickhouse.server.refuse(0, times=0)


# -- chunks


async def test_four_events_in_chunks_of_two_are_two_inserts_of_two(opened: Open, asked: Ask, batch: Batches) -> None:
    handler = await opened(chunk_rows=2)

    await handler.handle(batch(*events(0, 4)))

    blocks = await asked("SELECT toUInt32(count()) FROM events GROUP BY _block_number")
    assert blocks == [[2], [2]]


async def test_chunk_of_one_makes_an_insert_for_each_event(opened: Open, asked: Ask, batch: Batches) -> None:
    handler = await opened(chunk_rows=1)

    await handler.handle(batch(*events(0, 3)))

    assert await asked("SELECT toUInt32(uniqExact(_block_number)) FROM events") == [[3]]


async def test_chunks_are_bounded_by_bytes_too(opened: Open, asked: Ask, batch: Batches) -> None:
    handler = await opened(chunk_bytes=1024)

    await handler.handle(batch(*(ReceivedEvent("e", b'"%s"' % (b"x" * 600), n) for n in range(4))))

    assert await asked("SELECT toUInt32(uniqExact(_block_number)), toUInt32(count()) FROM events") == [[4, 4]]


async def test_rows_of_one_record_are_never_parted(opened: Open, asked: Ask, batch: Batches) -> None:
    several = ReceivedEvent("e", b"1", 1, columns=(ColumnSchema("n", ColumnType.INT64),), rows=[(1,), (2,), (3,)])
    handler = await opened(chunk_rows=2)

    await handler.handle(batch(several, several))

    assert await asked("SELECT toUInt32(count()) FROM events GROUP BY _block_number") == [[3], [3]]


async def test_failing_insert_is_an_error_and_loses_nothing(
    opened: Open, asked: Ask, batch: Batches, clickhouse: ClickHouseDatabase
) -> None:
    handler, first = await opened(), batch(*events(0, 1))
    await refuse(clickhouse, 241)

    with pytest.raises(TransientError, match="241"):
        await handler.handle(first)
    await handler.handle(first)

    assert await asked(COUNT) == [[1, 1]]


async def test_later_chunk_that_fails_is_the_only_one_sent_again(
    opened: Open, asked: Ask, batch: Batches, clickhouse: ClickHouseDatabase
) -> None:
    handler = await opened(chunk_rows=2, concurrency=1)
    await handler.handle(batch(*events(100, 101), start=100))
    sent = batch(*events(0, 4))
    tokens: list[str] = []
    for node in handler._nodes:
        insert = node.insert

        async def noted(*args: Any, token: str, insert: Any = insert, **named: Any) -> None:
            tokens.append(token)
            if token.endswith(":2-4") and len(tokens) == 2:
                await refuse(clickhouse, 241)
            await insert(*args, token=token, **named)

        node.insert = noted  # type: ignore[method-assign]

    with pytest.raises(TransientError):
        await handler.handle(sent)
    await handler.handle(sent)

    parts = [token.partition("/")[2] for token in tokens]
    assert parts == ["events:0-2", "events:2-4", "events:2-4"]
    assert len({token.partition("/")[0] for token in tokens}) == 1, "one batch, one token"
    assert await asked(COUNT) == [[5, 5]]


async def test_batch_that_comes_again_from_another_process_is_there_once_also_in_views(
    opened: Open, asked: Ask, batch: Batches
) -> None:
    sent = batch(*events(0, 10))
    await (await opened()).handle(batch(*events(20, 21), start=20))
    await asked("CREATE MATERIALIZED VIEW counted ENGINE = MergeTree ORDER BY id AS SELECT id, payload FROM events")
    first, second = await opened(chunk_rows=3), await opened(chunk_rows=3)

    await first.handle(sent)
    await second.handle(sent)
    await second.handle(sent)

    assert await asked(COUNT) == [[11, 11]]
    assert await asked("SELECT toUInt32(count()) FROM counted") == [[10]], "the view was given a window as well"
    assert second.remarks == ()


async def test_batch_that_comes_again_is_there_once_in_views_of_views(opened: Open, asked: Ask, batch: Batches) -> None:
    await (await opened()).handle(batch(*events(100, 101), start=100))
    for name in ("first", "`sec (ond) TO x`"):
        await asked(f"CREATE TABLE {name} (n UInt64) ENGINE = MergeTree ORDER BY n")
    await asked("CREATE MATERIALIZED VIEW v1 TO first AS SELECT JSONExtractUInt(payload, 'n') AS n FROM events")
    await asked("CREATE MATERIALIZED VIEW `v (2)` TO `sec (ond) TO x` AS SELECT n FROM first")
    await asked("CREATE MATERIALIZED VIEW v3 ENGINE = MergeTree ORDER BY n AS SELECT n FROM `sec (ond) TO x`")
    sent = batch(*events(0, 4))

    for _ in range(2):
        await (await opened(chunk_rows=2)).handle(sent)

    counts = [await asked(f"SELECT toUInt32(count()) FROM {name}") for name in ("first", "`sec (ond) TO x`", "v3")]
    assert counts == [[[4]]] * 3


async def test_window_of_others_that_is_too_small_is_made_larger(opened: Open, asked: Ask, batch: Batches) -> None:
    await asked(
        "CREATE TABLE events (id UUID, type String, timestamp DateTime64(9), payload String)"
        " ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 2"
    )
    strict, sent = await opened(schema="strict"), batch(*events(0, 20))
    await strict.handle(batch(*events(20, 21), start=20))

    for _ in range(2):
        await (await opened(chunk_rows=2)).handle(sent)

    assert await asked(COUNT) == [[21, 21]]
    assert "window is less than 1000" in strict.remarks[0]


async def test_equal_content_in_another_batch_is_stored_again(opened: Open, asked: Ask, batch: Batches) -> None:
    handler = await opened()

    await handler.handle(batch(*events(0, 2)))
    await handler.handle(batch(*events(0, 2), start=2))

    assert await asked(COUNT) == [[4, 4]]


async def test_connection_cut_in_the_middle_of_an_insert_leaves_nothing_twice(
    opened: Open, asked: Ask, batch: Batches, clickhouse: ClickHouseDatabase
) -> None:
    proxy = FaultProxy("127.0.0.1", clickhouse.server.port)
    handler = await opened(clickhouse.url(port=proxy.port), chunk_rows=50, compression="none")
    sent = batch(*events(0, 200))
    for count in (3_000, 5_000, 9_000):
        proxy.cut_after(count=count, passes=count == 5_000)

    for _ in range(20):
        try:
            await handler.handle(sent)
            break
        except TransientError:
            continue

    assert await asked(COUNT) == [[200, 200]]
    assert proxy.cuts >= 1
    await to_thread.run_sync(proxy.close)


# -- what an error means


@pytest.mark.parametrize("code", [159, 160, 209, 210, 241, 242, 252, 319, 425, 999])
async def test_code_that_passes_by_itself_is_transient(
    opened: Open, batch: Batches, clickhouse: ClickHouseDatabase, code: int
) -> None:
    handler = await opened()
    await refuse(clickhouse, code)

    with pytest.raises(TransientError, match=str(code)):
        await handler.handle(batch(*events(0, 1)))


@pytest.mark.parametrize("code", [81, 164, 192, 193, 194, 497, 516])
async def test_code_that_an_operator_must_see_to_pauses(
    opened: Open, batch: Batches, clickhouse: ClickHouseDatabase, code: int
) -> None:
    handler = await opened()
    await refuse(clickhouse, code)

    with pytest.raises(PauseError, match=str(code)):
        await handler.handle(batch(*events(0, 1)))


async def test_too_many_queries_are_tried_again_in_place(
    opened: Open, asked: Ask, batch: Batches, clickhouse: ClickHouseDatabase
) -> None:
    handler = await opened()
    await refuse(clickhouse, 202, times=2)

    await handler.handle(batch(*events(0, 1)))

    assert await asked(COUNT) == [[1, 1]]


async def test_code_that_nobody_knows_is_not_blamed_on_records(
    opened: Open, asked: Ask, batch: Batches, clickhouse: ClickHouseDatabase
) -> None:
    handler = await opened()
    await refuse(clickhouse, 7_777, times=1_000)

    with pytest.raises(UnknownCodeError, match="7777"):
        await handler.handle(batch(*events(0, 40)))
    await refuse(clickhouse, 0, times=0)
    await handler.handle(batch(*events(0, 40)))

    assert await asked(COUNT) == [[40, 40]]


async def test_code_that_nobody_knows_after_rows_were_stored_divides_nothing(
    opened: Open, asked: Ask, batch: Batches, clickhouse: ClickHouseDatabase
) -> None:
    handler, sent = await opened(), batch(*events(0, 4))
    await handler.handle(batch(*events(100, 101), start=100))
    (node,) = handler._nodes
    insert = node.insert

    async def stored_and_refused(*args: Any, **named: Any) -> None:
        await insert(*args, **named)
        await refuse(clickhouse, 1_002)
        await insert(*args, **{**named, "token": "another"})

    node.insert = stored_and_refused  # type: ignore[method-assign]
    with pytest.raises(TransientError, match="1002"):
        await handler.handle(sent)
    node.insert = insert  # type: ignore[method-assign]
    await handler.handle(sent)

    assert await asked(COUNT) == [[5, 5]]


async def test_batch_that_is_cancelled_again_and_again_is_there_once(opened: Open, asked: Ask, batch: Batches) -> None:
    handler, sent = await opened(chunk_rows=50), batch(*events(0, 1_000))

    for seconds in (0.01, 0.03, 0.1):
        with move_on_after(seconds):
            await handler.handle(sent)
    await handler.handle(sent)

    assert await asked(COUNT) == [[1_000, 1_000]]


async def test_refused_request_for_its_size_is_divided(
    opened: Open, asked: Ask, batch: Batches, clickhouse: ClickHouseDatabase
) -> None:
    handler = await opened()
    await handler.handle(batch(*events(100, 101), start=100))
    await refuse(clickhouse, 252, message="Too many partitions for single INSERT block")

    await handler.handle(batch(*events(0, 4)))

    assert await asked(COUNT) == [[5, 5]]


@pytest.mark.parametrize("bad", [{0}, {3}, {9}, {2, 3, 7}])
async def test_records_that_break_a_constraint_are_named_and_all_others_stored(
    opened: Open, asked: Ask, batch: Batches, bad: set[int]
) -> None:
    handler = await opened(chunk_rows=4)
    await handler.handle(batch(*events(100, 101), start=100))
    await asked("ALTER TABLE events ADD CONSTRAINT fine CHECK type != 'bad'")
    sent = batch(*(ReceivedEvent("bad" if n in bad else "e", b"%d" % n, n) for n in range(10)))

    with pytest.raises(PartialError) as found:
        await handler.handle(sent)

    assert set(found.value.errors) == bad
    assert all(isinstance(error, PermanentError) and "469" in str(error) for error in found.value.errors.values())
    assert await asked(COUNT) == [[11 - len(bad)] * 2]


async def test_bad_record_beside_a_chunk_that_fails_for_now_is_told_once_all_is_stored(
    opened: Open, asked: Ask, batch: Batches, clickhouse: ClickHouseDatabase
) -> None:
    handler = await opened(chunk_rows=2, concurrency=1)
    await handler.handle(batch(*events(100, 101), start=100))
    await asked("ALTER TABLE events ADD CONSTRAINT fine CHECK type != 'bad'")
    sent = batch(ReceivedEvent("bad", b"0", 0), *events(1, 4))
    await refuse(clickhouse, 241, times=1, holding="INSERT")
    failures = []
    for _ in range(3):
        try:
            await handler.handle(sent)
        except (TransientError, PartialError) as exc:
            failures.append(exc)

    assert isinstance(failures[0], TransientError)
    assert isinstance(failures[1], PartialError)
    assert set(failures[1].errors) == {0}
    assert await asked(COUNT) == [[4, 4]]


async def test_view_that_fails_pauses_and_the_batch_is_there_once_when_it_is_mended(
    opened: Open, asked: Ask, batch: Batches
) -> None:
    handler = await opened()
    await handler.handle(batch(*events(100, 101), start=100))
    await asked(
        "CREATE MATERIALIZED VIEW broken ENGINE = MergeTree ORDER BY n AS SELECT toUInt64(payload) AS n FROM events"
    )
    sent = batch(*events(0, 3))

    with pytest.raises(PauseError, match="broken"):
        await handler.handle(sent)
    await asked("ALTER TABLE broken MODIFY QUERY SELECT JSONExtractUInt(payload, 'n') AS n FROM events")
    await handler.handle(sent)

    assert await asked(COUNT) == [[4, 4]]
    assert await asked("SELECT toUInt32(count()) FROM broken") == [[3]]


async def test_bad_record_in_a_table_with_a_view_is_named_alone(opened: Open, asked: Ask, batch: Batches) -> None:
    handler = await opened()
    await handler.handle(batch(*events(100, 101), start=100))
    await asked("CREATE MATERIALIZED VIEW seen ENGINE = MergeTree ORDER BY id AS SELECT id FROM events")
    await asked("ALTER TABLE events ADD CONSTRAINT fine CHECK type != 'bad'")

    with pytest.raises(PartialError) as found:
        await handler.handle(batch(*events(0, 3), ReceivedEvent("bad", b"0", 0), *events(4, 6)))

    assert set(found.value.errors) == {3}
    assert await asked(COUNT) == [[6, 6]]
    assert await asked("SELECT toUInt32(count()) FROM seen") == [[5]]


# -- ids


async def test_record_that_comes_again_under_its_id_is_stored_once(opened: Open, asked: Ask, batch: Batches) -> None:
    def brought(payload: bytes, number: int = 0, *, at: int = 1, **members: Any) -> ReceivedEvent:
        return ReceivedEvent("e", payload, at, id=UUID(int=ID.int + number).bytes, **members)

    handler = await opened(unique_ids=True)

    await handler.handle(batch(brought(b"1"), brought(b"2", 1), brought(b"3")))
    await handler.handle(batch(brought(b"4", 2, at=5), brought(b"5", at=9), start=3))
    await handler.handle(batch(brought(b"6", table="others"), *events(7, 8), start=5))

    assert await asked("SELECT payload FROM events FINAL ORDER BY payload") == [["1"], ["2"], ["4"], ['{"n":7}']]
    assert await asked("SELECT payload FROM others") == [["6"]]
    assert await asked("SELECT engine FROM system.tables WHERE name = 'events' AND database = currentDatabase()") == [
        ["ReplacingMergeTree"]
    ]


async def test_record_with_the_id_of_a_refused_one_is_refused_too(opened: Open, asked: Ask, batch: Batches) -> None:
    handler = await opened(unique_ids=True)
    await handler.handle(batch(*events(0, 1)))
    await asked("ALTER TABLE events ADD CONSTRAINT c CHECK payload != 'bad'")
    bad, good = (ReceivedEvent("e", payload, 1, id=ID.bytes) for payload in (b"bad", b"good"))

    with pytest.raises(PartialError) as found:
        await handler.handle(batch(bad, good, *events(1, 2), start=1))

    assert set(found.value.errors) == {1, 2}
    assert "id is that of a record that was refused" in str(found.value.errors[2])
    assert await asked(COUNT) == [[2, 2]]


# -- several nodes


async def test_node_that_is_killed_between_chunks_is_left_out_and_another_one_stores_the_rest(
    clickhouse_server: ClickHouseServer, batch: Batches, event: Callable[..., Event]
) -> None:
    need_clickhouse()
    other = await to_thread.run_sync(ClickHouseServer().start)
    try:
        ours = await to_thread.run_sync(new_database, clickhouse_server)
        await to_thread.run_sync(other.query, f"CREATE DATABASE {ours.name}")
        url = ours.url().replace("@127.0.0.1:", f"@127.0.0.1:{other.port},127.0.0.1:")
        handler = ClickHouseHandler(url, chunk_rows=1, timeout=10, connect_timeout=2)
        await handler.open()

        await handler.handle(batch(*events(0, 20)))
        on_other = await to_thread.run_sync(lambda: other.query(COUNT, database=ours.name))
        await to_thread.run_sync(other.kill)
        await handler.handle(batch(*events(20, 40), start=20))

        (mine, unique), (theirs, _) = (await to_thread.run_sync(ours.query, COUNT))[0], on_other[0]
        assert 0 < theirs < 20, "nodes take turns"
        assert mine == unique == 40 - theirs
        assert any("not replicated" in remark for remark in handler.remarks)
        await handler.close()
    finally:
        await to_thread.run_sync(other.stop)


async def test_nodes_out_of_reach_are_transient_and_named() -> None:
    handler = ClickHouseHandler("clickhouse://127.0.0.1:1,127.0.0.1:2/default", connect_timeout=1)

    with pytest.raises(TransientError, match=r"127\.0\.0\.1:[12]"):
        await handler.open()

    await handler.close()
