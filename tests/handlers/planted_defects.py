"""Handlers with one defect each. Not collected by itself: `test_conformance_bites.py` runs it, and expects red.

`CAUGHT_BY` says for each defect the claims that must fail; others may.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from uuid import UUID, uuid4

import anyio
import pytest

from eventrec import Batch, BatchTooLargeError, EventPage, PermanentError, TransientError
from eventrec.testing.conformance import Claims, Delivered, HandlerConformance, HandlerHarness, failures
from eventrec.testing.conformance.model import Key, ModelDestination, ModelError, ModelHandler, ModelHarness, State
from eventrec.testing.conformance.model_reader import ModelReader

failures.CLOSES_WITHIN = 0.5  # type: ignore[misc]

CAUGHT_BY: dict[type[ModelHandler], set[str]] = {}
ALL_ARE_LEFT: list[object] = []
"""Keeps what a leaking handler leaks."""


def caught_by(*claims: str) -> Callable[[type[ModelHandler]], type[ModelHandler]]:
    """The claims that must turn red."""

    def noted(handler: type[ModelHandler]) -> type[ModelHandler]:
        CAUGHT_BY[handler] = set(claims)
        return handler

    return noted


# -- arriving once


@caught_by(
    "test_overlapping_redelivery_leaves_each_record_once",
    "test_repeated_batch_is_fenced",
    "test_two_handlers_with_the_same_batch_store_it_once",
    "test_commit_that_is_still_under_way_while_the_retry_arrives_stores_once",
)
class NoComparison(ModelHandler):
    """Moves the checkpoint without looking where it stands."""

    def move(self, state: State, batch: Batch) -> None:
        state.next[self.key(batch.log_id, batch.subscription)] = batch.end


@caught_by(
    "test_commit_whose_answer_is_lost_is_transient_and_stored_once",
    "test_recorder_survives_lost_answers",
    "test_overlapping_redelivery_leaves_each_record_once",
)
class Autocommit(ModelHandler):
    """Writes the rows in one transaction, and the checkpoint in the next."""

    async def handle(self, batch: Batch) -> None:
        rows = self.rows(batch)
        with self.translated(batch):
            await self.transact(lambda state: self.insert(state, rows))
            await self.transact(lambda state: self.move(state, batch))


@caught_by("test_commit_whose_answer_is_lost_is_transient_and_stored_once", "test_refused_batch_leaves_nothing_behind")
class CheckpointFirst(ModelHandler):
    """The checkpoint in a transaction before that of the rows."""

    async def handle(self, batch: Batch) -> None:
        rows = self.rows(batch)
        with self.translated(batch):
            await self.transact(lambda state: self.move(state, batch))
            await self.transact(lambda state: self.insert(state, rows))


@caught_by("test_cancelled_batch_is_whole_or_absent_and_the_handler_usable", "test_refused_batch_leaves_nothing_behind")
class RowByRow(ModelHandler):
    """A transaction for each record, each with its checkpoint."""

    async def handle(self, batch: Batch) -> None:
        with self.translated(batch):
            for number, row in enumerate(self.rows(batch)):
                await anyio.sleep(0.0001)
                await self.transact(lambda state, row=row: self.insert(state, [row]))  # type: ignore[misc]
                await self.transact(lambda state, at=batch.offsets[number] + 1: self._to(state, batch, at))  # type: ignore[misc]

    def _to(self, state: State, batch: Batch, at: int) -> None:
        state.next[self.key(batch.log_id, batch.subscription)] = at


@caught_by("test_checkpoint_moves_to_the_end_of_the_range")
class EndOfTheLastRecord(ModelHandler):
    """Takes the last record plus one for the end of the range."""

    def move(self, state: State, batch: Batch) -> None:
        super().move(state, batch)
        state.next[self.key(batch.log_id, batch.subscription)] = batch.offsets[-1] + 1


@caught_by("test_checkpoints_are_kept_per_log_and_subscription", "test_two_subscriptions_on_one_table_get_a_copy_each")
class OneCheckpointForAllNames(ModelHandler):
    """Keeps one checkpoint a log, for all subscriptions."""

    def key(self, log_id: UUID, subscription: str) -> Key:
        return log_id, ""


@caught_by("test_unknown_log_starts_where_it_is_told", "test_replaced_destination_has_another_id")
class AlwaysFromZero(ModelHandler):
    """Ignores where an unknown log is to start."""

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        return await super().resume(log_id, subscription, 0)


@caught_by("test_checkpoint_outlives_the_handler", "test_restored_destination_says_so_and_takes_what_it_lost")
class AnotherIdEachTime(ModelHandler):
    """Makes up the destination's id whenever it is asked."""

    async def destination_id(self) -> str:
        return str(uuid4())


@caught_by("test_replaced_destination_has_another_id")
class NameOfTheHost(ModelHandler):
    """Takes an address for an identity."""

    async def destination_id(self) -> str:
        return "localhost"


@caught_by("test_checkpoint_outlives_the_handler", "test_restore_under_an_open_handler_is_noticed")
class RemembersCheckpoints(ModelHandler):
    """Believes itself rather than the destination."""

    def __init__(self, destination: ModelDestination) -> None:
        super().__init__(destination)
        self.known: dict[Key, int] = {}

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        return self.known.setdefault(self.key(log_id, subscription), start)

    def move(self, state: State, batch: Batch) -> None:
        key = self.key(batch.log_id, batch.subscription)
        state.next[key] = self.known.get(key, batch.start)
        super().move(state, batch)
        self.known[key] = batch.end


@caught_by("test_retired_log_still_answers_resume")
class ForgetsRetiredLogs(ModelHandler):
    """Deletes the row of a finished log."""

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        self.destination.state.next.pop(self.key(log_id, subscription), None)


@caught_by("test_repeated_batch_keeps_its_ids", "test_records_are_at_the_destination_when_handle_returns")
class IdsOfItsOwn(ModelHandler):
    """Gives every row a new id."""

    def rows(self, batch: Batch) -> list[Delivered]:
        return [replace(row, id=str(uuid4())) for row in super().rows(batch)]


@caught_by("test_two_handlers_with_the_same_batch_store_it_once")
class ComparesTooEarly(ModelHandler):
    """Looks at the checkpoint in one transaction, and writes in the next."""

    async def handle(self, batch: Batch) -> None:
        rows = self.rows(batch)
        with self.translated(batch):
            await self.transact(lambda state: self.move(state.copy(), batch))
            await self.transact(lambda state: self._write_anyway(state, batch, rows))

    def _write_anyway(self, state: State, batch: Batch, rows: Sequence[Delivered]) -> None:
        self.insert(state, rows)
        state.next[self.key(batch.log_id, batch.subscription)] = batch.end


@caught_by("test_batch_of_an_unknown_log_is_fenced")
class TakesUnknownLogs(ModelHandler):
    """Makes the checkpoint's row when a batch comes, whichever subscription sends it."""

    def move(self, state: State, batch: Batch) -> None:
        state.next.setdefault(self.key(batch.log_id, batch.subscription), batch.start)
        super().move(state, batch)


# -- arriving whole


@caught_by("test_largest_batch_arrives", "test_recorder_delivers_every_event_once")
class OneRecordDropped(ModelHandler):
    """Loses the last record of a longer batch."""

    def rows(self, batch: Batch) -> list[Delivered]:
        rows = super().rows(batch)
        return rows[:-1] if len(rows) > 10 else rows


@caught_by("test_records_are_at_the_destination_when_handle_returns")
class NotYetThere(ModelHandler):
    """Returns as soon as the batch is in its own memory."""

    def __init__(self, destination: ModelDestination) -> None:
        super().__init__(destination)
        self.waiting: list[Batch] = []

    async def handle(self, batch: Batch) -> None:
        for earlier in self.waiting:
            await super().handle(earlier)
        self.waiting = [batch]

    async def close(self) -> None:
        with suppress(TransientError):
            for earlier in self.waiting:
                await super().handle(earlier)
        self.waiting = []
        await super().close()


@caught_by("test_records_of_several_batches_arrive_in_order")
class Backwards(ModelHandler):
    """Writes the newest record of a batch first."""

    def rows(self, batch: Batch) -> list[Delivered]:
        return super().rows(batch)[::-1]


@caught_by("test_any_text_arrives_in_payload_and_type")
class PlainAscii(ModelHandler):
    """Drops what is not ASCII."""

    def rows(self, batch: Batch) -> list[Delivered]:
        return [replace(row, payload=row.payload.decode("ascii", "ignore").encode()) for row in super().rows(batch)]


@caught_by("test_large_payload_arrives")
class ShortPayloads(ModelHandler):
    """Cuts payloads at 64 KiB."""

    def rows(self, batch: Batch) -> list[Delivered]:
        return [replace(row, payload=row.payload[:65_536]) for row in super().rows(batch)]


@caught_by("test_timestamps_are_those_of_the_events")
class TimeOfDelivery(ModelHandler):
    """Stamps again."""

    def rows(self, batch: Batch) -> list[Delivered]:
        return [replace(row, timestamp=time.time_ns()) for row in super().rows(batch)]


@caught_by("test_several_tables_in_one_batch_arrive")
class OneTable(ModelHandler):
    """Puts everything where the first record goes."""

    def rows(self, batch: Batch) -> list[Delivered]:
        rows = super().rows(batch)
        return [replace(row, table=rows[0].table) for row in rows]


@caught_by("test_every_row_of_an_event_arrives")
class FirstRows(ModelHandler):
    """Takes an event for one row."""

    def rows(self, batch: Batch) -> list[Delivered]:
        first = {record.id for record in batch.records}
        return [row for row in super().rows(batch) if row.id in first]


@caught_by("test_every_row_of_an_event_arrives")
class OneRowAnId(ModelHandler):
    """Writes each row under the id of its record, of which the destination keeps the last one."""

    def rows(self, batch: Batch) -> list[Delivered]:
        return list({row.id[:36]: replace(row, id=row.id[:36]) for row in super().rows(batch)}.values())


@caught_by("test_columns_that_come_later_arrive")
class ColumnsOfTheFirstBatch(ModelHandler):
    """Never looks again which columns there are."""

    def __init__(self, destination: ModelDestination) -> None:
        super().__init__(destination)
        self.columns: set[str] | None = None

    def rows(self, batch: Batch) -> list[Delivered]:
        rows = super().rows(batch)
        if self.columns is None:
            self.columns = {name for row in rows for name in row.columns}
        known = self.columns
        return [replace(row, columns={k: v for k, v in row.columns.items() if k in known}) for row in rows]


@caught_by("test_batch_prepared_beside_another_one_arrives")
class OneBuffer(ModelHandler):
    """Prepares the next batch where the one in flight still is."""

    async def prepare(self, batch: Batch) -> None:
        self.buffer = self.rows(batch)

    async def handle(self, batch: Batch) -> None:
        self.buffer = self.rows(batch)
        with self.translated(batch):
            await self.transact(lambda state: self.write(state, batch, self.buffer))


@caught_by("test_batch_prepared_and_never_handled_changes_nothing")
class WritesWhatWasPreparedLast(ModelHandler):
    """Takes any prepared rows for those of the batch at hand."""

    def prepared_rows(self, batch: Batch) -> list[Delivered]:
        return self.rows(batch) if self.prepared is None else self.prepared[1]


# -- calling failures by their names


@caught_by("test_outage_between_batches_is_transient", "test_outage_at_open_is_transient")
class RawDriverError(ModelHandler):
    """Lets the driver's errors out as they are."""

    def meaning(self, exc: ModelError, batch: Batch | None) -> Exception:
        return exc


@caught_by("test_outage_between_batches_is_transient")
class FailureSwallowed(ModelHandler):
    """Logs and goes on."""

    async def handle(self, batch: Batch) -> None:
        with suppress(TransientError):
            await super().handle(batch)


@caught_by("test_outage_during_a_batch_leaves_it_whole_or_absent")
class CutSwallowed(FailureSwallowed):
    """Likewise in the middle of a batch."""


@caught_by("test_outage_between_batches_is_transient")
class OutageCalledPermanent(ModelHandler):
    """Sets an outage's records aside."""

    def meaning(self, exc: ModelError, batch: Batch | None) -> Exception:
        meant = super().meaning(exc, batch)
        return PermanentError(str(exc)) if isinstance(meant, TransientError) else meant


@caught_by("test_outage_between_batches_is_transient", "test_recorder_survives_outages")
class NeverConnectsAgain(ModelHandler):
    """Waits to be closed and opened."""

    async def transact(self, change: Callable[[State], None]) -> None:
        if self.connection is None:
            raise ModelError("unreachable")
        await super().transact(change)


@caught_by("test_poison_alone_is_permanent", "test_poison_goes_alone_and_its_neighbours_arrive")
class PoisonCalledTransient(ModelHandler):
    """Tries without end what will never pass."""

    def meaning(self, exc: ModelError, batch: Batch | None) -> Exception:
        return TransientError(str(exc)) if exc.code == "refused" else super().meaning(exc, batch)


@caught_by("test_poison_goes_alone_and_its_neighbours_arrive")
class PoisonTakesItsNeighbours(ModelHandler):
    """Names the whole batch."""

    def meaning(self, exc: ModelError, batch: Batch | None) -> Exception:
        if exc.code == "refused" and batch is not None:
            return PermanentError(str(exc), records=dict.fromkeys(batch.offsets, str(exc)))
        return super().meaning(exc, batch)


@caught_by("test_poison_alone_is_permanent")
class PoisonByItsIndex(ModelHandler):
    """Names the row's number where the offset is asked for: right in the first batch, wrong from then on."""

    def meaning(self, exc: ModelError, batch: Batch | None) -> Exception:
        if exc.code == "refused" and exc.row is not None:
            return PermanentError(str(exc), records={exc.row + 1: str(exc)})
        return super().meaning(exc, batch)


@caught_by("test_poison_alone_is_permanent")
class PoisonSkipped(ModelHandler):
    """Leaves out what is refused, and says nothing."""

    def insert(self, state: State, rows: Sequence[Delivered]) -> None:
        super().insert(state, [row for row in rows if row.type != "poison"])


@caught_by("test_batch_that_is_too_large_is_named_so_and_its_records_arrive_alone")
class TooLargeCalledPermanent(ModelHandler):
    """Sets good records aside for their number."""

    def meaning(self, exc: ModelError, batch: Batch | None) -> Exception:
        meant = super().meaning(exc, batch)
        return PermanentError(str(exc)) if isinstance(meant, BatchTooLargeError) else meant


@caught_by("test_refused_credentials_pause_at_open", "test_rights_taken_away_meanwhile_pause")
class PauseCalledTransient(ModelHandler):
    """Knocks at a locked door at full speed."""

    def meaning(self, exc: ModelError, batch: Batch | None) -> Exception:
        return TransientError(str(exc)) if exc.code == "forbidden" else super().meaning(exc, batch)


@caught_by("test_refused_batch_leaves_nothing_behind")
class WritesTheOthersAndRefuses(ModelHandler):
    """Writes the good records, then says that nothing was written."""

    async def handle(self, batch: Batch) -> None:
        rows = self.rows(batch)
        bad = {at: "refused" for at, row in zip(batch.offsets, rows, strict=True) if row.type == "poison"}
        with self.translated(batch):
            await self.transact(lambda state: self.insert(state, [row for row in rows if row.type != "poison"]))
        if bad:
            raise PermanentError("refused", records=bad)


OUTAGE = (
    "test_outage_at_open_is_transient",
    "test_outage_between_batches_is_transient",
    "test_outage_during_a_batch_leaves_it_whole_or_absent",
)


class RaisesWhatEnds(ModelHandler):
    """Raises what ends a task or a program, where a driver fails."""

    error: type[BaseException]

    def meaning(self, exc: ModelError, batch: Batch | None) -> Exception:
        raise self.error


@caught_by(*OUTAGE)
class RaisesSystemExit(RaisesWhatEnds):
    """As `sys.exit` does."""

    error = SystemExit


@caught_by(*OUTAGE)
class RaisesKeyboardInterrupt(RaisesWhatEnds):
    """As Ctrl-C does, which nobody has pressed."""

    error = KeyboardInterrupt


@caught_by(*OUTAGE)
class RaisesGeneratorExit(RaisesWhatEnds):
    """As a generator that is closed."""

    error = GeneratorExit


@caught_by(*OUTAGE)
class RaisesCancelledError(RaisesWhatEnds):
    """As a task that is cancelled, which nobody has asked for."""

    error = asyncio.CancelledError


class OwnError(BaseException):
    """Of a driver that wants to be heard."""


@caught_by(*OUTAGE)
class RaisesItsOwnBaseException(RaisesWhatEnds):
    """Not an Exception."""

    error = OwnError


@caught_by(*OUTAGE[1:])
class HangsOutOfReach(ModelHandler):
    """Waits until the destination is back, by itself."""

    async def handle(self, batch: Batch) -> None:
        try:
            await super().handle(batch)
        except TransientError:
            await anyio.sleep_forever()

    async def open(self) -> None:
        """Later."""


@caught_by("test_close_works_out_of_reach")
class HangsInCloseOutOfReach(ModelHandler):
    """Says goodbye, and waits for an answer."""

    async def close(self) -> None:
        if not self.destination.is_reachable:
            await anyio.sleep_forever()
        await super().close()


@caught_by("test_one_record_arrives")
class EmptiesItsBatch(ModelHandler):
    """Takes out what is written."""

    async def handle(self, batch: Batch) -> None:
        await super().handle(batch)
        batch.entries.clear()  # type: ignore[attr-defined]


@caught_by("test_records_of_several_batches_arrive_in_order")
class TurnsItsBatchAround(ModelHandler):
    """Prepares it the other way round."""

    async def prepare(self, batch: Batch) -> None:
        """Nothing is prepared."""

    async def handle(self, batch: Batch) -> None:
        batch.entries.reverse()  # type: ignore[attr-defined]
        await super().handle(batch)


@caught_by("test_one_record_arrives")
class StretchesItsBatch(ModelHandler):
    """Says that it ends later."""

    async def handle(self, batch: Batch) -> None:
        await super().handle(batch)
        batch.end += 5  # type: ignore[misc]


# -- being a guest


@caught_by("test_closing_is_always_allowed")
class ClosesOnce(ModelHandler):
    """Cannot be closed twice."""

    async def close(self) -> None:
        if self.connection is None:
            raise RuntimeError("not open")
        await super().close()


@caught_by("test_handler_that_is_closed_and_opened_after_a_failure_goes_on")
class OpensOnce(ModelHandler):
    """Cannot be opened a second time."""

    was_opened = False

    async def open(self) -> None:
        if self.was_opened:
            raise RuntimeError("opened already")
        self.was_opened = True
        await super().open()


@caught_by("test_one_object_serves_one_loop_after_another")
class KeepsItsLoop(ModelHandler):
    """Remembers the loop it was first used on."""

    def __init__(self, destination: ModelDestination) -> None:
        super().__init__(destination)
        self.loop: asyncio.AbstractEventLoop | None = None

    async def handle(self, batch: Batch) -> None:
        if self.loop not in {None, asyncio.get_running_loop()}:
            raise RuntimeError("attached to a different loop")
        self.loop = asyncio.get_running_loop()
        await super().handle(batch)


@caught_by("test_nothing_is_left_after_close", "test_cancelled_open_leaves_nothing_and_may_be_repeated")
class LeavesAThread(ModelHandler):
    """Starts one at each open, and none ends."""

    async def open(self) -> None:
        await super().open()
        threading.Thread(target=threading.Event().wait, daemon=True).start()


@caught_by("test_nothing_is_left_after_close")
class LeavesASocket(ModelHandler):
    """Connects, and never disconnects."""

    async def open(self) -> None:
        await super().open()
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        ALL_ARE_LEFT.append(listener)


@caught_by(
    "test_batch_cancelled_by_its_task_is_whole_or_absent_and_the_handler_usable",
    "test_cancelled_batch_is_whole_or_absent_and_the_handler_usable",
)
class SwallowsItsCancellation(ModelHandler):
    """Returns as if the records were there."""

    async def handle(self, batch: Batch) -> None:
        with suppress(asyncio.CancelledError):
            await super().handle(batch)


# -- being a guest: the loop is for all


BLOCK = 0.1
"""Seconds for which the loop is kept: five times what the harness allows, also by the clocks of a busy machine."""


def block() -> None:
    """What a driver does that waits."""
    time.sleep(BLOCK)


@caught_by("test_loop_is_never_blocked")
class BlocksWithoutAwaiting(ModelHandler):
    """A driver that waits, and nothing that awaits."""

    async def handle(self, batch: Batch) -> None:
        block()
        with self.translated(batch):
            self.destination._commit(lambda state: self.write(state, batch, self.rows(batch)))


@caught_by("test_loop_is_never_blocked")
class BlocksBeforeItAwaits(ModelHandler):
    """A driver that waits, then one that awaits."""

    async def handle(self, batch: Batch) -> None:
        block()
        await super().handle(batch)


@caught_by("test_loop_is_never_blocked")
class BlocksBehindWhatItAwaited(ModelHandler):
    """The other way round: a commit that waits, say."""

    async def handle(self, batch: Batch) -> None:
        await super().handle(batch)
        block()


@caught_by("test_loop_is_never_blocked")
class BlocksBetweenTwoAwaits(ModelHandler):
    """Encodes for long, say."""

    async def handle(self, batch: Batch) -> None:
        await anyio.sleep(0.002)
        block()
        await super().handle(batch)


@caught_by("test_loop_is_never_blocked")
class BlocksOnceItHasReturned(ModelHandler):
    """Leaves the work to the loop."""

    async def handle(self, batch: Batch) -> None:
        await super().handle(batch)
        asyncio.get_running_loop().call_soon(block)


@caught_by("test_loop_is_never_blocked")
class BlocksInATaskOfItsOwn(ModelHandler):
    """Leaves it to a task, which `close` waits for."""

    async def handle(self, batch: Batch) -> None:
        await super().handle(batch)
        self.task = asyncio.create_task(self.work())

    async def work(self) -> None:
        await asyncio.sleep(0.05)
        block()

    async def close(self) -> None:
        if hasattr(self, "task"):
            await self.task
        await super().close()


@caught_by("test_loop_is_never_blocked")
class BlocksInOpen(ModelHandler):
    """Connects, and waits."""

    async def open(self) -> None:
        block()
        await super().open()


@caught_by("test_loop_is_never_blocked")
class BlocksInClose(ModelHandler):
    """Says goodbye, and waits."""

    async def close(self) -> None:
        block()


@caught_by("test_loop_is_never_blocked")
class BlocksInResume(ModelHandler):
    """Asks, and waits."""

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        block()
        return await super().resume(log_id, subscription, start)


@caught_by("test_loop_is_never_blocked")
class BlocksInDestinationId(ModelHandler):
    """Asks who is there, and waits."""

    async def destination_id(self) -> str:
        block()
        return await super().destination_id()


@caught_by("test_loop_is_never_blocked")
class BlocksInRetire(ModelHandler):
    """Tells it that a log is finished, and waits."""

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        await super().retire(log_id, subscription, end)
        block()


@caught_by("test_loop_is_never_blocked")
class BlocksInPrepare(ModelHandler):
    """Encodes while another batch is handled, and holds up that one too."""

    async def prepare(self, batch: Batch) -> None:
        block()
        await super().prepare(batch)


@caught_by("test_loop_is_never_blocked")
class BlocksInRemarks(ModelHandler):
    """Asks the destination what is wrong."""

    @property
    def remarks(self) -> Sequence[str]:
        block()
        return ()


@caught_by("test_loop_is_never_blocked_out_of_reach")
class BlocksOutOfReach(ModelHandler):
    """Waits for the time-out of its driver."""

    def meaning(self, exc: ModelError, batch: Batch | None) -> Exception:
        if exc.code == "unreachable":
            block()
        return super().meaning(exc, batch)


@caught_by("test_close_works_out_of_reach")
class BlocksInCloseOutOfReach(ModelHandler):
    """Waits for the last word of a destination that is gone, once."""

    async def close(self) -> None:
        if not self.destination.is_reachable and self.connection is not None:
            time.sleep(failures.CLOSES_WITHIN)  # noqa: ASYNC251 - the defect
        await super().close()


@caught_by("test_cancellation_ends_handle_soon")
class CannotBeCancelled(ModelHandler):
    """Finishes what it has begun, however long it takes."""

    async def handle(self, batch: Batch) -> None:
        with anyio.CancelScope(shield=True):
            if len(batch) >= 1_000:
                await anyio.sleep(2)
            await super().handle(batch)


@caught_by("test_batch_cancelled_by_its_task_is_whole_or_absent_and_the_handler_usable")
class BrokenByCancellation(ModelHandler):
    """A connection on which an answer is still outstanding is used again."""

    def __init__(self, destination: ModelDestination) -> None:
        super().__init__(destination)
        self.is_busy = False

    async def transact(self, change: Callable[[State], None]) -> None:
        if self.is_busy:
            raise ModelError("another operation is in progress")
        self.is_busy = True
        await anyio.sleep(0.001)
        await super().transact(change)
        self.is_busy = False


# -- reading back


def read_by(reader: type[ModelReader]) -> type[ModelHandler]:
    """A sound handler with this reader."""

    class Read(ModelHandler):
        def reader(self) -> ModelReader:
            return reader(self.destination)

    Read.__name__ = reader.__name__
    return Read


def reader_caught_by(*claims: str) -> Callable[[type[ModelReader]], type[ModelReader]]:
    """The claims that must turn red."""

    def noted(reader: type[ModelReader]) -> type[ModelReader]:
        CAUGHT_BY[read_by(reader)] = set(claims)
        return reader

    return noted


@reader_caught_by("test_reader_follows_each_event_once")
class MissesAfterAPage(ModelReader):
    """Goes on behind everything, though the page held only a part."""

    async def follow(self, cursor: str, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        page = await super().follow(cursor, limit=limit, types=types)
        return replace(page, cursor=self.cursor("rows", len(self.rows())))


@reader_caught_by("test_reader_follows_each_event_once")
class RepeatsTheLast(ModelReader):
    """Goes on with the last event again."""

    async def follow(self, cursor: str, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        page = await super().follow(cursor, limit=limit, types=types)
        at = self.number(page.cursor, "rows")
        return replace(page, cursor=self.cursor("rows", at - bool(page.events)))


@reader_caught_by("test_reader_gives_back_what_was_delivered")
class GivesTheOldest(ModelReader):
    """Takes a limit from the wrong end."""

    async def latest(self, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        page = await super().latest(limit=1_000, types=types)
        return replace(page, events=page.events[:limit])


@reader_caught_by("test_reader_gives_back_what_was_delivered")
class NewestFirst(ModelReader):
    """Gives a page the other way round."""

    async def latest(self, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        page = await super().latest(limit=limit, types=types)
        return replace(page, events=page.events[::-1])


@reader_caught_by("test_reader_gives_a_time_in_pages")
class ClosedRange(ModelReader):
    """Takes the end of a time in."""

    def is_within(self, row: Delivered, start: int | None, end: int | None) -> bool:
        return super().is_within(row, start, None if end is None else end + 1)


@reader_caught_by("test_reader_keeps_to_the_types_it_is_asked_for")
class AllTypes(ModelReader):
    """Gives every type."""

    def is_wanted(self, row: Delivered, types: Collection[str] | None) -> bool:
        return True


@reader_caught_by("test_reader_refuses_what_it_cannot_have_given")
class AnyCursor(ModelReader):
    """Takes what it cannot read for the beginning."""

    def number(self, cursor: str, kind: str) -> int:
        try:
            return super().number(cursor, kind)
        except ValueError:
            return 0


@reader_caught_by("test_reader_names_an_outage")
class RawOutage(ModelReader):
    """Lets an error of the driver out."""

    def rows(self) -> list[Delivered]:
        if not self.destination.is_reachable:
            raise ModelError("unreachable")
        return super().rows()


@reader_caught_by("test_reader_of_an_empty_destination_has_nothing")
class NothingIsAnError(ModelReader):
    """Needs a row."""

    def rows(self) -> list[Delivered]:
        if not (rows := super().rows()):
            raise PermanentError("no such table")
        return rows


@reader_caught_by("test_reader_never_blocks_the_loop")
class BlocksInLatest(ModelReader):
    """Reads, and waits."""

    async def latest(self, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        block()
        return await super().latest(limit=limit, types=types)


@reader_caught_by("test_reader_never_blocks_the_loop")
class BlocksInFollow(ModelReader):
    """Looks for more, and waits."""

    async def follow(self, cursor: str, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        await anyio.sleep(0.002)
        block()
        return await super().follow(cursor, limit=limit, types=types)


@reader_caught_by("test_reader_never_blocks_the_loop")
class BlocksWhereItIsOpened(ModelReader):
    """Connects, and waits."""

    async def open(self) -> None:
        block()


def _suite_of(handler: type[ModelHandler]) -> type:
    """Those claims of the suite that must catch `handler`."""

    class Harness(ModelHarness):
        handler_class = handler
        patience = 3.0
        longest_block = BLOCK / 5

    @pytest.fixture
    def harness(_: object) -> HandlerHarness:
        return Harness()

    claims = {name: getattr(HandlerConformance, name) for name in CAUGHT_BY[handler]}
    return type(handler.__name__, (Claims,), {"harness": harness, **claims})


for _handler in CAUGHT_BY:
    globals()[f"Test{_handler.__name__}"] = _suite_of(_handler)
