"""Claims about what arrives: whole, in order, of any size, and at once when `handle` returns."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from eventrec import ColumnSchema, ColumnType, EventHandler
from eventrec.testing.conformance.claim import Claims, claim, deliver, opened
from eventrec.testing.conformance.harness import HandlerHarness, unsaid
from eventrec.testing.conformance.log import Log, Sample, numbered
from eventrec.testing.conformance.rows import assert_every_row, assert_holds, numbers
from eventrec.testing.conformance.watched import unwatched

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from eventrec import Batch

_TEXTS: Final = (
    "é",
    "日本語",
    "🎉👩‍👩‍👧",
    "עברית",
    "'; DROP TABLE events; --",
    'a"b',
    "back\\slash",
    "line\nbreak\ttab\r",
    "%s {} $1",
    "",
)
_NUMBERS: Final = (0, -1, 2**63 - 1, -(2**63), 0.1, 1e300, -2.5e-10)


class DeliveryClaims(Claims):
    """What a handler is given arrives."""

    @claim()
    async def test_harness_has_or_names_every_capability(self, harness: HandlerHarness) -> None:
        """Nothing is skipped in silence."""
        faults = unsaid(harness)

        assert not faults, "; ".join(faults)

    @claim()
    async def test_records_are_at_the_destination_when_handle_returns(self, harness: HandlerHarness) -> None:
        """Returning means: safe. Whatever is still on its way must be waited for."""
        log = Log(*numbered(0, 3))
        async with opened(harness) as handler:
            await log.resume(handler)

            await handler.handle(log.batch(0))

            await assert_holds(harness, log)

    @claim()
    async def test_one_record_arrives(self, harness: HandlerHarness) -> None:
        """A batch has one record, at least."""
        log = Log(Sample({"only": True}))
        async with opened(harness) as handler:
            await deliver(handler, log)

        await assert_holds(harness, log)

    @claim()
    async def test_records_of_several_batches_arrive_in_order(self, harness: HandlerHarness) -> None:
        """The order of a log is kept, in each table and type: a batch is written type by type."""
        log = Log(*(Sample({"n": n}, kind=f"kind_{n % 3}") for n in range(40)))
        async with opened(harness) as handler:
            await deliver(handler, log, rows=7)

        await assert_holds(harness, log)
        if "order" in harness.lacks:
            pytest.skip(f"they arrived; in which order is not known, it lacks order: {harness.lacks['order']}")

    @claim()
    async def test_largest_batch_arrives(self, harness: HandlerHarness) -> None:
        """As many records as the harness says, in one piece."""
        log = Log(*numbered(0, harness.largest_batch))
        async with opened(harness) as handler:
            await deliver(handler, log, rows=harness.largest_batch)

        await assert_holds(harness, log)

    @claim()
    async def test_large_payload_arrives(self, harness: HandlerHarness) -> None:
        """1 MiB, unless the harness says otherwise, beside small ones."""
        large = "x" * (harness.largest_payload - len(b'{"text":""}'))
        log = Log(Sample({"small": 1}), Sample({"text": large}), Sample({"small": 2}))
        async with opened(harness) as handler:
            await deliver(handler, log)

        await assert_holds(harness, log)

    @claim()
    async def test_any_text_arrives_in_payload_and_type(self, harness: HandlerHarness) -> None:
        """Every script, quotes, control characters, the text of a query: names and values are data."""
        log = Log(
            *(Sample({"text": text, text: [text]}) for text in _TEXTS),
            *(Sample({"kind": kind}, kind=kind) for kind in _TEXTS if kind),
        )
        async with opened(harness) as handler:
            await deliver(handler, log)

        await assert_holds(harness, log)

    @claim()
    async def test_any_json_value_arrives(self, harness: HandlerHarness) -> None:
        """A payload need not be an object, and its numbers keep their digits."""
        values: tuple[object, ...] = (None, True, [], {}, [[{"a": [None]}]], "text", *_NUMBERS)
        log = Log(*(Sample(value) for value in values))
        async with opened(harness) as handler:
            await deliver(handler, log)

        await assert_holds(harness, log)

    @claim()
    async def test_timestamps_are_those_of_the_events(self, harness: HandlerHarness) -> None:
        """Long ago, now, far ahead, and two that are equal: never the time of delivery."""
        second = 1_000_000_000
        moments = (0, -86_400 * second, 1_700_000_000_123_456_789, 1_700_000_000_123_456_789, 4_102_444_800 * second)
        log = Log(*(Sample({"at": at}, at=at) for at in (*moments, time.time_ns())))
        async with opened(harness) as handler:
            await deliver(handler, log)

        await assert_holds(harness, log)

    @claim("columns")
    async def test_extra_columns_arrive(self, harness: HandlerHarness) -> None:
        """With their values and their NULLs."""
        schema = (
            ColumnSchema("flag", ColumnType.BOOLEAN),
            ColumnSchema("count", ColumnType.INT64),
            ColumnSchema("share", ColumnType.FLOAT64),
            ColumnSchema("label", ColumnType.STRING),
        )
        rows = [(True, 2**53, 0.25, "é"), (None, None, None, None), (False, -1, -1.5, "")]
        log = Log(*(Sample(n, columns=schema, values=row) for n, row in enumerate(rows)))
        async with opened(harness) as handler:
            await deliver(handler, log)

        await assert_holds(harness, log)

    @claim("columns")
    async def test_every_row_of_an_event_arrives(self, harness: HandlerHarness) -> None:
        """An event may have several rows, which differ in their extra columns alone."""
        schema = (ColumnSchema("count", ColumnType.INT64), ColumnSchema("label", ColumnType.STRING))
        log = Log(
            Sample({"n": 0}, columns=schema, values=(1, "one")),
            Sample({"n": 1}, columns=schema, values=(2, "two"), more=((3, None), (4, "four"))),
            Sample({"n": 2}, columns=schema, values=(5, "five")),
        )
        async with opened(harness) as handler:
            await deliver(handler, log)

        assert_every_row(await harness.delivered(), log, harness=harness)

    @claim("columns")
    async def test_columns_that_come_later_arrive(self, harness: HandlerHarness) -> None:
        """A new release of the application adds columns; the old one still runs beside it."""
        one, two = ColumnSchema("one", ColumnType.INT64), ColumnSchema("two", ColumnType.STRING)
        log = Log(
            Sample(0),
            Sample(1, columns=(one,), values=(1,)),
            Sample(2, columns=(two, one), values=("x", 2)),
            Sample(3, columns=(two,), values=("y",)),
            Sample(4),
        )
        async with opened(harness) as handler:
            await deliver(handler, log, rows=1)

        await assert_holds(harness, log)

    @claim()
    async def test_several_tables_in_one_batch_arrive(self, harness: HandlerHarness) -> None:
        """Each record goes into the table of its own event."""
        log = Log(*(Sample({"n": n}, into=f"table_{n % 3}", kind=f"kind_{n % 2}") for n in range(12)))
        async with opened(harness) as handler:
            await deliver(handler, log)

        await assert_holds(harness, log)

    @claim()
    @pytest.mark.parametrize("at_once", [False, True], ids=["one after the other", "at once"])
    async def test_two_subscriptions_on_one_table_get_a_copy_each(
        self, harness: HandlerHarness, *, at_once: bool
    ) -> None:
        """Two handlers, two names, one log: neither takes the other's records for its own."""
        log = Log(*numbered(0, 30))
        other = log.for_subscription("other")
        async with opened(harness) as one, opened(harness) as two:
            if at_once:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(lambda: deliver(one, log, rows=7))
                    tasks.start_soon(lambda: deliver(two, other, rows=11))
            else:
                await deliver(one, log, rows=7)
                await deliver(two, other, rows=11)

        await assert_holds(harness, log, copies=2)

    # -- batches that are prepared while another one is handled

    @claim()
    async def test_batch_prepared_beside_another_one_arrives(self, harness: HandlerHarness) -> None:
        """As the worker does it: the next batch is prepared while this one is handled."""
        log = Log(*numbered(0, 40))
        async with opened(harness) as handler:
            prepare = _prepare_of(handler)
            await log.resume(handler)
            batches = [log.batch(start, start + 10) for start in range(0, 40, 10)]
            for batch, following in zip(batches, [*batches[1:], None], strict=True):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(handler.handle, batch)
                    if following is not None:
                        tasks.start_soon(prepare, following)

        await assert_holds(harness, log)

    @claim()
    async def test_batch_prepared_and_never_handled_changes_nothing(self, harness: HandlerHarness) -> None:
        """A failure in between makes another batch of the same records, or a part of it."""
        log = Log(*numbered(0, 20))
        async with opened(harness) as handler:
            prepare = _prepare_of(handler)
            await log.resume(handler)
            await prepare(log.batch(0, 20))
            await assert_holds(harness, log, end=0)

            await handler.handle(log.batch(0, 10))
            with anyio.CancelScope() as scope:
                scope.cancel()
                await prepare(log.batch(10, 20))
            await handler.handle(log.batch(10, 20))

        await assert_holds(harness, log)

    @claim()
    async def test_two_logs_arrive_side_by_side(self, harness: HandlerHarness) -> None:
        """Equal offsets of two processes are different records."""
        one, two = Log(*numbered(0, 20)), Log(*numbered(100, 120))
        async with opened(harness) as handler, opened(harness) as another, anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: deliver(handler, one, rows=3))
            tasks.start_soon(lambda: deliver(another, two, rows=4))

        found = await harness.delivered()
        assert sorted(numbers(found)) == [*range(20), *range(100, 120)]
        assert len({row.id for row in found}) == len(found)


def _prepare_of(handler: EventHandler) -> Callable[[Batch], Coroutine[Any, Any, None]]:
    """`prepare`, where the handler has one of its own; else the claim is skipped."""
    if getattr(type(unwatched(handler)), "prepare", None) is getattr(EventHandler, "prepare", None):
        pytest.skip("the handler prepares nothing")
    prepare: Callable[[Batch], Coroutine[Any, Any, None]] = handler.prepare  # type: ignore[attr-defined,unused-ignore]
    return prepare
