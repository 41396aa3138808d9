from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import Any, Final

import pytest

from eventrec import Batch, Event
from eventrec_handlers.postgres.expiry import Expiry

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]

HOUR: Final = 3_600 * 1_000_000_000


def stored(database: Any, table: str = "events") -> list[str]:
    return [payload for (payload,) in database.rows(f"SELECT payload FROM {table} ORDER BY id")]


async def test_what_is_older_than_the_ttl_is_deleted(opened: Any, database: Any, event: Events, batch: Batches) -> None:
    handler = await opened(database.url(), ttl=3_600)
    now = time.time_ns()

    await handler.handle(
        batch(
            event("old", kind="a", at=now - 2 * HOUR),
            event("young", kind="a", at=now),
            event("old", kind="b", at=now - 3 * HOUR),
            event("young", kind="c", at=now - HOUR // 2),
            event("future", kind="c", at=now + HOUR),
        )
    )

    assert stored(database) == ['"young"', '"young"', '"future"']


async def test_only_tables_that_are_written_to_are_looked_at(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    forever = await opened(database.url())
    await forever.handle(batch(event("old", at=0, into="kept"), event("old", at=0, into="swept")))
    handler = await opened(database.url(), ttl=3_600)
    clock = count(step=1_000)
    handler._expiry = Expiry(3_600, clock=lambda: float(next(clock)))  # always due

    for start in range(2, 5):
        await handler.handle(batch(event("young", into="swept"), start=start))

    assert stored(database, "kept") == ['"old"']
    assert stored(database, "swept") == ['"young"'] * 3


async def test_deleting_goes_on_in_slices_with_pauses_between_them(
    opened: Any, database: Any, event: Events, batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec_handlers.postgres.expiry.SLICE", 10)
    handler = await opened(database.url(), ttl=3_600)
    clock = [0.0]
    handler._expiry = Expiry(3_600, clock=lambda: clock[0])

    async def old_ones_after(start: int) -> int:
        await handler.handle(batch(event("young"), start=start))
        ((left,),) = database.rows("SELECT count(*) FROM events WHERE payload <> '\"young\"'")
        return int(left)

    await handler.handle(batch(*(event(n, kind=f"k{n % 4}", at=0) for n in range(25))))
    left = [await old_ones_after(25), await old_ones_after(26), await old_ones_after(27)]
    # Nothing more is old: it is time to look again only after a hundredth of the time to live.
    await handler.handle(batch(event("old", at=0), start=28))
    left.append(await old_ones_after(29))
    clock[0] = 37
    left.append(await old_ones_after(30))

    assert left == [5, 0, 0, 1, 0]


async def test_a_sweep_that_fails_is_no_batchs_failure(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    handler = await opened(database.url(), ttl=3_600)
    await handler.handle(batch(event("young")))
    database.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'kept'; END $$",
        "CREATE TRIGGER t BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION no()",
    )
    handler._expiry = Expiry(3_600)

    await handler.handle(batch(event("old", at=0), start=1))
    handler._expiry = Expiry(3_600)
    await handler.handle(batch(event("young"), start=2))

    assert stored(database) == ['"young"', '"old"', '"young"']


async def test_a_sweep_waits_for_no_lock(opened: Any, database: Any, event: Events, batch: Batches) -> None:
    handler = await opened(database.url(), ttl=3_600)
    handler._expiry = Expiry(None)
    await handler.handle(batch(event("old", at=0)))
    other = database.session()
    database.run(other.execute("BEGIN; SELECT FROM events FOR UPDATE"))
    handler._expiry = Expiry(3_600)

    before = time.perf_counter()
    await handler.handle(batch(event("young"), start=1))
    took = time.perf_counter() - before
    database.run(other.close())
    handler._expiry = Expiry(3_600)
    await handler.handle(batch(event("young"), start=2))

    assert took < 2
    assert stored(database) == ['"young"', '"young"']
