"""Chunks that are compressed, frozen or too old: they are read, held for, or dropped whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from eventrec import Batch, Event, EventReader, PauseError, ReceivedEvent, reader_from_url
from eventrec_handlers.postgres.expiry import Expiry
from eventrec_handlers.timescale import TimescaleHandler, from_url

pytestmark = [pytest.mark.handlers, pytest.mark.xdist_group("timescale"), pytest.mark.timeout(300)]  # it is fetched

DAY = 86_400 * 1_000_000_000
Batches = Callable[..., Batch]


async def opened(schema: Any, log_id: Any, **options: Any) -> TimescaleHandler:
    handler = from_url(schema.url() + "".join(f"&{name}={value}" for name, value in options.items()))
    await handler.open()
    await handler.resume(log_id, "tested", 0)
    return handler


def made_hypertable(schema: Any, table: str) -> None:
    schema.execute(
        f"SELECT create_hypertable('{table}', 'timestamp', chunk_time_interval => interval '1 day',"
        " migrate_data => true, create_default_indexes => false)",
        f"ALTER TABLE {table} SET (timescaledb.compress)",
    )


def compress(schema: Any, table: str, older: str = "5 days") -> int:
    found = schema.rows(
        f"SELECT count(compress_chunk(c)) FROM show_chunks('{table}', older_than => interval '{older}') c"
    )
    return int(found[0][0])


async def pages(reader: EventReader, limit: int) -> list[Any]:
    found: list[Any] = []
    cursor = None
    while True:
        page = await reader.range(limit=limit, cursor=cursor)
        found += page.events
        if len(page.events) < limit:
            return found
        cursor = page.cursor


@pytest.mark.parametrize("told_apart_by", ["number", "content", "id"])
async def test_compressed_events_are_read_and_new_ones_followed(
    schema: Any, platform_analytics: Any, batch: Batches, log_id: Any, *, told_apart_by: str
) -> None:
    layout = platform_analytics.layout.ANALYTICS_EVENTS
    if told_apart_by == "content":
        layout = replace(layout, columns=layout.columns[1:], primary_key=())
    table = "events" if told_apart_by == "id" else layout.table
    now = time.time_ns() // 1_000_000_000 * 1_000_000_000

    def event(n: int, at: int) -> ReceivedEvent:
        return ReceivedEvent("seen", b'{"n":%d}' % n, timestamp=at, table=table)

    handler = await opened(schema, log_id)
    if told_apart_by != "id":
        handler.use_layouts({table: layout})
    await handler.handle(batch(*(event(n, now - n % 9 * DAY) for n in range(45))))  # several of each moment
    made_hypertable(schema, table)
    async with reader_from_url(schema.url()) as reader:
        before = await pages(reader, 100)
        cursor = (await reader.latest(limit=1)).cursor

        assert compress(schema, table) >= 3
        await handler.handle(batch(event(45, now), event(46, now - 7 * DAY), start=45))  # one of them late
        after = await pages(reader, 4)
        latest = await reader.latest(limit=2)
        followed = await reader.follow(cursor, limit=10)
    await handler.close()

    ids = [one.id for one in after if one.id in {each.id for each in before}]
    assert len(before) == len({one.id for one in before}) == 45
    assert sorted(ids) == sorted(one.id for one in before)
    assert len(after) == len({one.id for one in after}) == 47
    assert [one.timestamp for one in after] == sorted(one.timestamp for one in after)
    assert sorted(one.timestamp for one in followed.events) == [now - 7 * DAY, now]
    assert {one.timestamp for one in latest.events} == {now}


async def test_old_chunks_are_dropped_whole_and_compressed_ones_too(
    schema: Any, batch: Batches, log_id: Any, event: Callable[..., Event]
) -> None:
    now = time.time_ns()
    handler = await opened(schema, log_id)
    await handler.handle(batch(*(event(n, at=now - n * DAY) for n in range(12))))
    made_hypertable(schema, "events")
    compress(schema, "events")
    await handler.close()
    handler = await opened(schema, log_id, ttl=6 * 86_400)
    clock = [0.0]
    handler._expiry = Expiry(6 * 86_400, clock=lambda: clock[0])

    for n in range(9):
        clock[0] += 1_000  # it is due again
        await handler.handle(batch(event(n, at=now), start=12 + n))
    await handler.close()

    oldest, number = schema.rows("SELECT max(now() - timestamp) < interval '7 days', count(*) FROM events")[0]
    assert oldest
    assert number in {6 + 9, 7 + 9}
    assert handler.remarks == ()


async def test_ttl_leaves_events_that_aggregates_may_need_and_says_so(
    schema: Any, batch: Batches, log_id: Any, event: Callable[..., Event]
) -> None:
    handler = await opened(schema, log_id, ttl=3_600)
    handler._expiry = Expiry(None)
    await handler.handle(batch(event(0, at=0)))
    made_hypertable(schema, "events")
    schema.execute(
        "CREATE MATERIALIZED VIEW per_day WITH (timescaledb.continuous) AS"
        " SELECT time_bucket('1 day', timestamp) AS day, count(*) FROM events GROUP BY 1 WITH NO DATA"
    )
    handler._expiry = Expiry(3_600)

    await handler.handle(batch(event(1), start=1))
    kept = handler.remarks
    schema.execute("SELECT add_retention_policy('events', interval '90 days')")
    handler._expiry = Expiry(3_600)
    await handler.handle(batch(event(2), start=2))
    await handler.close()

    (remark,) = kept
    assert remark.endswith("it is a hypertable with continuous aggregates: give it a policy of retention")
    assert handler.remarks == ()
    assert schema.rows("SELECT count(*) FROM events") == [(3,)]  # the policy is to remove the first


async def test_a_frozen_chunk_holds_the_batch_until_it_is_thawed(
    schema: Any, batch: Batches, log_id: Any, event: Callable[..., Event]
) -> None:
    handler = await opened(schema, log_id)
    await handler.handle(batch(event(0, at=0)))
    made_hypertable(schema, "events")
    schema.execute("SELECT _timescaledb_functions.freeze_chunk(c) FROM show_chunks('events') c")

    with pytest.raises(PauseError, match=r"frozen chunk .* \(0A000\)"):
        await handler.handle(batch(event(1, at=1_000), event(2), start=1))
    schema.execute("SELECT _timescaledb_functions.unfreeze_chunk(c) FROM show_chunks('events') c")
    await handler.handle(batch(event(1, at=1_000), event(2), start=1))
    await handler.close()

    assert schema.rows("SELECT count(*) FROM events") == [(3,)]
