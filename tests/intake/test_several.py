"""Several events at once: what is told of each, one wait for all, and all or none."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread
import pytest

from eventrec import (
    BatchRefusedError,
    EncodeError,
    Event,
    EventRecorder,
    EventRecorderOptions,
    InvalidEventError,
    LogFullError,
    NotDurableError,
    Position,
    RecorderClosedError,
)
from eventrec.errors import DurableTimeoutError, LogClosedError, LogWriteError
from eventrec.intake.queue import Intake
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log
from eventrec.log.reader import LogReader
from eventrec.records.content import ContentDecoder
from eventrec.records.entry import PAYLOAD, TIMESTAMP, Entry, make_entry
from eventrec.records.schema import Shape
from eventrec.runs.directory import list_runs
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly, raising

Until = Literal["written", "synced"]


def stored(directory: Path) -> list[tuple[int, int]]:
    """Offset and number of all records in the log, by its own reader."""
    found: list[tuple[int, int]] = []
    for run in list_runs(directory):
        with LogReader(DiskStorage(directory / str(run))) as reader:
            for commit in reader.commits():
                entries = ContentDecoder().decode(commit.content).entries
                found += [(commit.offset + at, int(entry[PAYLOAD][10:-1])) for at, entry in enumerate(entries)]
    return found


async def stored_now(directory: Path) -> list[tuple[int, int]]:
    return await anyio.to_thread.run_sync(stored, directory)


class Unencodable(Event):
    @property
    def payload(self) -> object:
        return object()


class Large(Event):
    @property
    def payload(self) -> object:
        return "x" * 2_000


class Typeless(Event):
    @property
    def type(self) -> str:
        return ""


MIXED: Sequence[Event] = [
    Numbered(0),
    Unencodable(),
    Numbered(1, kind="unwanted"),
    Large(),
    Typeless(),
    Numbered(2),
]
WANTED = ["numbered", "unencodable", "large", ""]


def choosy() -> EventRecorderOptions:
    return quickly(event_types=WANTED, max_event_bytes=1_000)


# -- one wait for all


@pytest.mark.parametrize("until", ["written", "synced"])
async def test_each_event_is_told_where_it_stands_once_all_are_there(tmp_path: Path, until: Until) -> None:
    async with EventRecorder(log=tmp_path, options=quickly(sync="never")) as recorder:
        outcomes = await recorder.record_all_durable((Numbered(n) for n in range(1_000)), until=until)

        positions = [each for each in outcomes if isinstance(each, Position)]
        assert [(each.offset, n) for n, each in enumerate(positions)] == await stored_now(tmp_path)
        assert len(positions) == 1_000

    assert_conserved(recorder.status(), offered=1_000)


async def test_what_is_refused_is_told_of_it_alone_and_counted_as_record_counts(tmp_path: Path) -> None:
    async with EventRecorder(log=tmp_path / "one", options=choosy()) as recorder:
        outcomes = await recorder.record_all_durable(MIXED, until="written")
    async with EventRecorder(log=tmp_path / "two", options=choosy()) as singly:
        taken = [singly.record(event) for event in MIXED]

    kinds = [type(each) for each in outcomes]
    assert kinds == [Position, EncodeError, type(None), EncodeError, InvalidEventError, Position]
    assert taken == [isinstance(each, Position) for each in outcomes]
    assert recorder.status().refused == singly.status().refused
    assert_conserved(recorder.status(), offered=len(MIXED))


async def test_without_waiting_the_same_is_told_at_once() -> None:
    recorder = EventRecorder(options=choosy())

    outcomes = recorder.record_each(MIXED)

    assert [each if isinstance(each, bool) else type(each) for each in outcomes] == [
        True,
        EncodeError,
        False,
        EncodeError,
        InvalidEventError,
        True,
    ]
    assert_conserved(recorder.status(), offered=len(MIXED))
    async with recorder:
        await recorder.flush()


async def test_what_newer_ones_push_out_is_told_as_lost(tmp_path: Path) -> None:
    options = quickly(queue_events=3, overflow="drop_old")
    async with EventRecorder(log=tmp_path, options=options) as recorder:
        outcomes = await recorder.record_all_durable([Numbered(n) for n in range(2_000)], until="written")

        kept = [(each.offset, n) for n, each in enumerate(outcomes) if isinstance(each, Position)]
        assert kept == await stored_now(tmp_path)
        assert kept[-1][1] == 1_999
        assert {type(each) for each in outcomes} == {Position, LogFullError}

    assert_conserved(recorder.status(), offered=2_000)


async def test_callers_in_several_threads_are_each_told_of_their_own(tmp_path: Path) -> None:
    found: dict[int, list[Position]] = {}

    async with EventRecorder(log=tmp_path, options=quickly()) as recorder:

        async def caller(first: int) -> None:
            numbers = range(first, first + 500)
            outcomes = await recorder.record_all_durable([Numbered(n) for n in numbers], until="written")
            found.update(zip(numbers, [[each] for each in outcomes if isinstance(each, Position)], strict=True))

        async with anyio.create_task_group() as tasks:
            for first in range(0, 2_000, 500):
                tasks.start_soon(anyio.to_thread.run_sync, anyio.run, caller, first)

        assert sorted((each.offset, n) for n, (each,) in found.items()) == await stored_now(tmp_path)

    assert len(found) == 2_000


async def test_it_needs_a_log_and_a_recorder_that_is_open(tmp_path: Path) -> None:
    async with EventRecorder() as recorder:
        with pytest.raises(NotDurableError):
            await recorder.record_all_durable([Numbered(0)])
    unopened = EventRecorder(log=tmp_path)
    with pytest.raises(RecorderClosedError):
        await unopened.record_all_durable([Numbered(0)])
    await unopened.close()

    assert recorder.status().offered == unopened.status().offered == 0


async def test_nothing_is_taken_while_the_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with EventRecorder(log=tmp_path, options=quickly(close_timeout=0.1)) as recorder:
        with monkeypatch.context() as patched:
            patched.setattr(Log, "write", raising(LogWriteError("the disk is ill")))
            with pytest.raises(LogWriteError, match="ill"):
                await recorder.record_all_durable([Numbered(0)], until="written")
            with pytest.raises(LogWriteError, match="ill"):
                await recorder.record_all_durable([Numbered(1)], until="written")
            assert recorder.status().offered <= 1

        with anyio.fail_after(120):
            while not isinstance(await _outcome(recorder), Position):  # noqa: ASYNC110 - the writer tries again
                await anyio.sleep(0.01)

    assert_conserved(recorder.status())


async def _outcome(recorder: EventRecorder) -> object:
    try:
        return (await recorder.record_all_durable([Numbered(2)], until="written"))[0]
    except LogWriteError as exc:
        return exc


async def test_what_waits_too_long_stays_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with EventRecorder(log=tmp_path, options=quickly(sync="never")) as recorder:
        with monkeypatch.context() as patched:
            # It says again and again that it has synced; without a pause the loop would do nothing but listen.
            patched.setattr(Log, "sync", lambda _: time.sleep(0.001))
            with pytest.raises(DurableTimeoutError):
                await recorder.record_all_durable([Numbered(0), Numbered(1)], timeout=0.05)

    assert_conserved(recorder.status(), offered=2)
    assert recorder.status().appended == 2


async def test_being_cancelled_retracts_nothing(tmp_path: Path) -> None:
    async with EventRecorder(log=tmp_path, options=quickly()) as recorder:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await recorder.record_all_durable([Numbered(n) for n in range(1_000)])

    status = recorder.status()
    assert 0 < status.offered == status.appended
    assert_conserved(status)


async def test_being_cancelled_before_all_are_taken_takes_none_where_it_is_all_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec.intake.several.TURN_SECONDS", 0.0)
    async with EventRecorder(log=tmp_path, options=quickly()) as recorder:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await recorder.record_all_durable([Numbered(n) for n in range(1_000)], atomic=True)

    assert recorder.status().offered == 0


async def test_closing_meanwhile_is_told_and_nothing_is_uncounted(tmp_path: Path) -> None:
    recorder = EventRecorder(log=tmp_path, options=quickly(sync="never"))
    await recorder.open()
    raised: list[Exception] = []

    async def record() -> None:
        try:
            await recorder.record_all_durable([Numbered(n) for n in range(50)])
        except (LogClosedError, RecorderClosedError) as exc:
            raised.append(exc)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(record)
        tasks.start_soon(recorder.close)

    assert_conserved(recorder.status())
    outcomes = recorder.record_each([Numbered(0)])
    assert isinstance(outcomes[0], RecorderClosedError)


def test_the_blocking_recorder_tells_the_same(tmp_path: Path) -> None:
    with EventRecorder(ScriptedHandler(), log=tmp_path, options=choosy()).sync() as recorder:
        outcomes = recorder.record_all_durable(iter(MIXED), until="written")
        at_once = recorder.record_each(iter(MIXED))
        with pytest.raises(BatchRefusedError):
            recorder.record_all_durable(MIXED, atomic=True)

    assert [isinstance(each, Position) for each in outcomes] == [each is True for each in at_once]
    assert_conserved(recorder.status(), offered=3 * len(MIXED))


# -- all or none


async def test_all_or_none_names_those_at_fault_and_records_none(tmp_path: Path) -> None:
    async with EventRecorder(log=tmp_path, options=choosy()) as recorder:
        with pytest.raises(BatchRefusedError, match="3 of 6") as caught:
            await recorder.record_all_durable(MIXED, atomic=True)

    assert {index: type(error) for index, error in caught.value.errors.items()} == {
        1: EncodeError,
        3: EncodeError,
        4: InvalidEventError,
    }
    status = recorder.status()
    assert status.refused == {"not_encodable": 1, "filtered": 1, "too_large": 1, "invalid": 1, "incomplete": 2}
    assert status.appended == 0
    assert_conserved(status, offered=len(MIXED))


async def test_all_or_none_takes_all_that_is_wanted(tmp_path: Path) -> None:
    events = [Numbered(0), Numbered(1, kind="unwanted"), Numbered(2)]
    async with EventRecorder(log=tmp_path, options=choosy()) as recorder:
        outcomes = await recorder.record_all_durable(events, atomic=True, until="written")

        assert [number for _, number in await stored_now(tmp_path)] == [0, 2]

    assert [type(each) for each in outcomes] == [Position, type(None), Position]


@pytest.mark.parametrize("bound", [{"queue_events": 4}, {"queue_bytes": 1_000}])
async def test_all_or_none_takes_none_where_there_is_no_room_for_all(bound: dict[str, int]) -> None:
    recorder = EventRecorder(options=quickly(**bound))
    assert recorder.record_each([Numbered(0)], atomic=True) == [True]

    with pytest.raises(BatchRefusedError, match="full"):
        recorder.record_each([Numbered(n) for n in range(1, 5)], atomic=True)

    assert recorder.record_each([Numbered(n) for n in range(1, 4)], atomic=True) == [True] * 3
    assert recorder.status().refused == {"overflow": 4}
    assert_conserved(recorder.status(), offered=8)
    async with recorder:
        await recorder.flush()


def test_what_ends_a_program_while_events_are_encoded_takes_none() -> None:
    class Ending(Event):
        @property
        def payload(self) -> object:
            raise KeyboardInterrupt

    recorder = EventRecorder(options=quickly())

    with pytest.raises(KeyboardInterrupt):
        recorder.record_each([Numbered(0), Ending()], atomic=True)

    assert recorder.status().refused == {"interrupted": 1}
    assert_conserved(recorder.status(), offered=1)


SHAPE = Shape("events", "t", ())
GROUP = 7


def entry_of(writer: int, number: int) -> Entry:
    return make_entry(SHAPE, writer, b"%d" % number)


@pytest.mark.parametrize("overflow", ["drop_new", "drop_old"])
def test_a_group_is_in_the_queue_as_a_whole_whatever_other_threads_record(
    overflow: Literal["drop_new", "drop_old"],
) -> None:
    intake = Intake(max_events=40, max_bytes=1 << 20, max_event_bytes=1_000, overflow=overflow, wake=lambda: None)
    taken: list[Entry] = []
    groups_taken: list[int] = []
    has_begun, are_done = threading.Barrier(5), threading.Event()

    def record_singly() -> None:
        has_begun.wait()
        for n in range(8_000):
            intake.offer(intake.cell(), entry_of(0, n))

    def record_groups(writer: int) -> None:
        has_begun.wait()
        cell = intake.cell()
        for n in range(100):
            group = [intake.keeps(entry_of(writer, n)) for _ in range(GROUP)]
            while intake.offer_all(cell, group) is not None:
                pass
            groups_taken.append(writer * 100_000 + n)

    def consume() -> None:
        has_begun.wait()
        while not are_done.is_set() or len(intake):
            found = intake.take(11)
            taken.extend(found)
            intake.freed_bytes += sum(entry[-1] for entry in found)

    producers = [threading.Thread(target=record_singly) for _ in range(2)]
    producers += [threading.Thread(target=record_groups, args=(writer,)) for writer in (1, 2)]
    consumer = threading.Thread(target=consume)
    for each in (*producers, consumer):
        each.start()
    for each in producers:
        each.join()
    are_done.set()
    consumer.join()

    found = Counter(entry[TIMESTAMP] * 100_000 + int(entry[PAYLOAD]) for entry in taken if entry[TIMESTAMP])
    assert len(groups_taken) == 200
    assert found == dict.fromkeys(groups_taken, GROUP)
    assert intake.waiting_bytes() == 0


def test_newer_events_do_not_push_out_what_was_taken_together() -> None:
    intake = Intake(max_events=4, max_bytes=1 << 20, max_event_bytes=1_000, overflow="drop_old", wake=lambda: None)
    cell = intake.cell()
    assert intake.offer(cell, entry_of(0, 0)) is None
    assert intake.offer_all(cell, [intake.keeps(entry_of(1, n)) for n in range(3)]) is None

    assert intake.offer(cell, entry_of(0, 1)) is None  # in the place of the oldest, which was taken singly
    assert intake.offer(cell, entry_of(0, 2)) == "overflow"
    assert intake.offer_all(cell, [intake.keeps(entry_of(2, n)) for n in range(5)]) == "overflow"

    assert [entry[TIMESTAMP] for entry in intake.take(10)] == [1, 1, 1, 0]
    assert intake.refused() == {"overflow": 2}


def test_a_group_that_no_writer_would_come_for_is_not_taken() -> None:
    intake = Intake(
        max_events=None, max_bytes=1 << 20, max_event_bytes=1_000, overflow="drop_new", wake=lambda: "no_writer"
    )
    assert intake.arm()

    assert intake.offer_all(intake.cell(), [entry_of(1, n) for n in range(3)]) == "no_writer"
    assert intake.offer_all(intake.cell(), [entry_of(1, n) for n in range(3)]) == "no_writer"

    assert len(intake) == 0
    assert intake.waiting_bytes() == 0
