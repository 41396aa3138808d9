"""Many small logs that killed processes left: delivered by the group; what goes wrong costs no more than singly."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import anyio.to_thread
import pytest

from eventrec import Batch, EventRecorder, PartialError, PermanentError, TransientError
from eventrec.delivery.letters.log import letters_of
from eventrec.delivery.orphans.group_adoption import GROUP, GroupAdoption
from eventrec.delivery.orphans.small_orphans import SmallOrphans
from eventrec.events.encoder import Encoder
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log
from eventrec.log.segment import segment_name
from eventrec.records.content import encode_take
from eventrec.runs.checkpoint import Checkpoint, CheckpointFiles, Progress
from eventrec.runs.directory import DEAD, list_runs
from eventrec.runs.requests import OperatorRequest, save_request
from eventrec.runs.run import Run, new_run_id
from eventrec.testing.scripted import FencedHandler, Numbered, ScriptedHandler, numbers, quickly, raising, refusing

pytestmark = pytest.mark.usefixtures("looking_often")

FEW = 8
"""Orphans in a group, in all tests but that of many: two full groups and what is left for singles cost a third so."""
COUNT = 2 * FEW + 16
RECORDS = 3
ALL = list(range(COUNT * RECORDS))


def leave_one(
    directory: Path, first: int, checkpoints: Sequence[Checkpoint] = (), *, kinds: Sequence[str] = ("numbered",)
) -> UUID:
    """A log of `RECORDS` numbers from `first` on, whose process was killed."""
    encoder = Encoder(types=None, context=lambda: None, now=time.time_ns)
    encoded = [encoder.encode(Numbered(first + n, kinds[n % len(kinds)])) for n in range(RECORDS)]
    run = Run.create(directory, new_run_id())
    with Log.create(run.storage) as log:
        for content, count in encode_take(
            [each for each in encoded if isinstance(each, tuple)], run.id, written=time.time_ns()
        ):
            log.append_encoded(content, count)
    for checkpoint in checkpoints:
        CheckpointFiles(run.storage).save(checkpoint, sync=False)
    run.release()
    return run.id


async def leave(directory: Path, *names: str, count: int = COUNT, **options: Any) -> list[UUID]:
    """The ids of `count` such logs, oldest first."""

    def left() -> list[UUID]:
        found = [Checkpoint(subscription=name, progress=Progress(0, 0, 0)) for name in names]
        return sorted(leave_one(directory, n * RECORDS, found, **options) for n in range(count))

    return await anyio.to_thread.run_sync(left)


def recording(directory: Path, **handlers: ScriptedHandler) -> EventRecorder:
    recorder = EventRecorder(log=directory, options=quickly(flush_interval=0.02, close_timeout=1))
    for name, handler in handlers.items():
        recorder.register(handler, name=name)
    return recorder


async def until(condition: Callable[[], object], seconds: float = 120) -> None:
    with anyio.fail_after(seconds):
        while not await anyio.to_thread.run_sync(condition):  # noqa: ASYNC110 - a thread or a disk changes it
            await anyio.sleep(0.01)


def left(directory: Path) -> list[UUID]:
    return list_runs(directory)


def count_letters(directory: Path) -> int:
    return sum(len(list(letters_of(directory, id_))) for id_ in list_runs(directory))


def group(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("eventrec.delivery.orphans.group_adoption.GROUP", size)
    monkeypatch.setattr("eventrec.delivery.orphans.adoption.GROUP", size)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    group(monkeypatch, FEW)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many orphans each group had."""
    sizes: list[int] = []
    deliver = SmallOrphans.deliver

    async def counted(self: SmallOrphans, orphans: Sequence[Any]) -> None:
        sizes.append(len(orphans))
        await deliver(self, orphans)

    monkeypatch.setattr(SmallOrphans, "deliver", counted)
    return sizes


@pytest.mark.parametrize("handler", [ScriptedHandler, FencedHandler])
async def test_many_are_delivered_once_by_the_group_and_gone(
    tmp_path: Path, handler: Callable[[], ScriptedHandler], groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    group(monkeypatch, GROUP)
    count = 2 * GROUP + 16
    ids = await leave(tmp_path, "orders", count=count)
    orders = handler()

    async with recording(tmp_path, orders=orders) as recorder:
        recorder.record(Numbered(-1))
        await until(lambda: len(left(tmp_path)) == 1)
        await recorder.flush()

    assert sorted(orders.delivered) == list(range(-1, count * RECORDS))
    assert sum(groups) >= 2 * GROUP
    assert max(groups) == GROUP
    assert len(orders.batches) == count + 1
    if isinstance(orders, FencedHandler):
        assert {orders.next[id_, "orders"] for id_ in ids} == {RECORDS}


async def test_each_subscription_gets_what_it_wants_and_one_that_is_new_gets_it_too(
    tmp_path: Path, groups: list[int]
) -> None:
    await leave(tmp_path, "odd", kinds=("even", "odd", "none"))
    recorder = EventRecorder(log=tmp_path, options=quickly(flush_interval=0.02))
    odd, every = ScriptedHandler(), FencedHandler()
    recorder.register(odd, name="odd", types=["odd"])
    recorder.register(every, name="every")

    async with recorder:
        await until(lambda: len(left(tmp_path)) == 1)

    assert sorted(odd.delivered) == ALL[1::3]
    assert sorted(every.delivered) == ALL
    assert groups


@pytest.mark.parametrize("handler", [ScriptedHandler, FencedHandler])
async def test_a_destination_that_fails_in_between_gets_each_record_once_and_no_batch_again_at_once(
    tmp_path: Path, handler: Callable[..., ScriptedHandler]
) -> None:
    await leave(tmp_path, "orders")
    fine: Callable[[Batch], None] = lambda _: None  # noqa: E731 - an act
    orders = handler(acts=[*[fine] * 8, raising(TransientError("down")), *[fine] * 12, raising(OSError("odd"))])

    async with recording(tmp_path, orders=orders):
        await until(lambda: len(left(tmp_path)) == 1)

    assert sorted(orders.delivered) == ALL
    # One that is delivered singly afterwards may be so in two batches, on a busy machine.
    times = Counter(orders.tokens)
    assert sorted(times.values()) == [*[1] * (len(times) - 2), 2, 2]
    for failed in (token for token in times if times[token] == 2):
        first, second = (at for at, token in enumerate(orders.tokens) if token == failed)
        # One that is parked follows another that went through: then the destination is well again.
        assert second > first + 1 or orders.times[second] - orders.times[first] > 0.1


async def test_a_commit_that_looked_failed_is_not_made_again(tmp_path: Path) -> None:
    await leave(tmp_path, "orders")
    orders = FencedHandler(after_commit=[lambda _: None, raising(ConnectionError("cut"))])

    async with recording(tmp_path, orders=orders):
        await until(lambda: len(left(tmp_path)) == 1)

    assert sorted(orders.delivered) == ALL


async def test_what_is_refused_for_good_is_one_letter_and_the_rest_arrives(tmp_path: Path) -> None:
    await leave(tmp_path, "orders")
    orders = ScriptedHandler(always=refusing([4, 50], lambda: PermanentError("never")))

    async with recording(tmp_path, orders=orders):
        await until(lambda: len(left(tmp_path)) == 1)

    assert sorted(orders.delivered) == sorted(set(ALL) - {4, 50})
    assert await anyio.to_thread.run_sync(count_letters, tmp_path / DEAD) == 2


async def test_what_arrived_of_a_batch_that_failed_in_part_is_not_sent_again(tmp_path: Path) -> None:
    # So few are left for singles that none is parked: that forgets what arrived of a batch.
    await leave(tmp_path, "orders", count=14)
    arrived: list[int] = []

    class Partly(ScriptedHandler):
        async def handle(self, batch: Batch) -> None:
            here = numbers(batch)
            if 31 in here and len(here) > 1:
                arrived.extend(number for number in here if number != 31)
                raise PartialError({batch.offsets[here.index(31)]: TransientError("locked")})
            arrived.extend(here)

    async with recording(tmp_path, orders=Partly()):
        await until(lambda: len(left(tmp_path)) == 1)

    assert sorted(arrived) == ALL[: 14 * RECORDS]


async def test_where_a_destination_is_decides_and_another_one_is_waited_for(tmp_path: Path, groups: list[int]) -> None:
    """One is past the log, one went back, and of one the checkpoint names another destination."""
    there = [Checkpoint(subscription="orders", progress=Progress(0, 2, 2, delivered=2), destination="destination")]
    elsewhere = [Checkpoint(subscription="orders", progress=Progress(0, 2, 2, delivered=2), destination="other")]
    past, back = [await anyio.to_thread.run_sync(leave_one, tmp_path, 1_000 * n, there) for n in (1, 2)]
    changed = await anyio.to_thread.run_sync(leave_one, tmp_path, 3_000, elsewhere)
    await leave(tmp_path, "orders")
    orders = FencedHandler(next={(past, "orders"): 3, (back, "orders"): 1})

    async with recording(tmp_path, orders=orders) as recorder:
        await until(lambda: len(left(tmp_path)) == 2)
        await until(lambda: "destination changed" in str(recorder.status().adopted.get(str(changed))))

    assert sorted(orders.delivered) == [*ALL, 2_001, 2_002]
    assert groups


async def test_logs_that_need_a_closer_look_are_delivered_singly(tmp_path: Path) -> None:
    """Damaged ones, one that others need, one with a request, one that is skipped by who begins with what comes."""
    flipped, torn = [await anyio.to_thread.run_sync(leave_one, tmp_path, 1_000 * n) for n in (1, 2)]
    others = [
        Checkpoint(subscription="orders", progress=Progress(0, 0, 0)),
        Checkpoint(subscription="bills", progress=Progress(0, 0, 0)),
    ]
    kept = await anyio.to_thread.run_sync(leave_one, tmp_path, 3_000, others)
    changes: dict[UUID, Callable[[bytes], bytes]] = {
        flipped: lambda held: held[:-9] + b"\0" + held[-8:],
        torn: lambda held: held + held[10:30],
    }
    for id_, change in changes.items():
        path = tmp_path / str(id_) / segment_name(0)
        held = await anyio.to_thread.run_sync(path.read_bytes)
        await anyio.to_thread.run_sync(path.write_bytes, change(held))
    ids = await leave(tmp_path, "orders")
    request = OperatorRequest(subscription="orders", asked=time.time() + 1, skip=1, log=ids[3])
    await anyio.to_thread.run_sync(save_request, tmp_path, request)
    orders = ScriptedHandler()

    async with recording(tmp_path, orders=orders):
        await until(lambda: len(left(tmp_path)) == 2)

    skipped = [number for number in ALL if number not in orders.delivered]
    assert len(skipped) == 1
    assert sorted(orders.delivered) == sorted({*ALL, 2_000, 2_001, 2_002, 3_000, 3_001, 3_002} - {*skipped})
    assert await anyio.to_thread.run_sync(left, tmp_path) == [kept]


async def test_a_recorder_that_is_closed_meanwhile_repeats_nothing_later(tmp_path: Path) -> None:
    await leave(tmp_path, "orders")
    hanging = anyio.Event()

    class Hanging(FencedHandler):
        async def handle(self, batch: Batch) -> None:
            if len(self.batches) == 8:
                hanging.set()
                await anyio.sleep_forever()
            await super().handle(batch)

    class Plain(ScriptedHandler):
        async def handle(self, batch: Batch) -> None:
            if len(self.batches) == 10:
                await anyio.sleep_forever()
            await super().handle(batch)

    first, plain = Hanging(), Plain()
    recorder = recording(tmp_path, orders=first, plain=plain)
    await recorder.open()
    with anyio.fail_after(60):
        await hanging.wait()
        while len(plain.batches) < 10:  # noqa: ASYNC110 - the other subscription
            await anyio.sleep(0.01)
    await recorder.close(0.1)
    second, later = FencedHandler(next=dict(first.next)), ScriptedHandler()

    async with recording(tmp_path, orders=second, plain=later):
        await until(lambda: len(left(tmp_path)) == 1)

    assert sorted([*first.delivered, *second.delivered]) == ALL
    assert sorted([*plain.delivered, *later.delivered]) == ALL


async def test_a_handler_that_hangs_keeps_no_orphan_from_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec.delivery.orphans.group_adoption._STUCK_SECONDS", 0.1)
    await leave(tmp_path, "hangs", "orders", count=2 * FEW + 4)

    class Hanging(ScriptedHandler):
        async def handle(self, batch: Batch) -> None:
            del batch
            await anyio.sleep_forever()

    orders = ScriptedHandler()

    async with recording(tmp_path, hangs=Hanging(), orders=orders):
        await until(lambda: len(orders.delivered) >= (2 * FEW + 4) * RECORDS)

    assert len(set(orders.delivered)) == len(orders.delivered)


@pytest.mark.parametrize("call", ["move_folder", "sync_directory", "delete"])
async def test_a_disk_that_refuses_to_delete_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    monkeypatch.setattr("eventrec.delivery.orphans.queue.FIRST_PAUSE", 0.05)
    await leave(tmp_path, "orders")
    refused: list[object] = []
    real = getattr(DiskStorage, call)

    def refuse(self: DiskStorage, *arguments: Any) -> Any:
        if len(refused) < 5 and (call != "sync_directory" or self.directory == tmp_path):
            refused.append(arguments)
            raise OSError(5, "Input/output error")
        return real(self, *arguments)

    orders = FencedHandler()
    recorder = recording(tmp_path, orders=orders)
    await recorder.open()
    monkeypatch.setattr(DiskStorage, call, refuse)
    await until(lambda: len(left(tmp_path)) == 1 and not list(tmp_path.glob("gone-*")), 70)
    await recorder.close()

    assert sorted(orders.delivered) == ALL
    assert refused


async def test_one_that_grows_though_it_is_locked_is_never_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = await leave(tmp_path, "orders")
    grown = tmp_path / str(ids[5]) / segment_name(0)

    class Growing(ScriptedHandler):
        async def handle(self, batch: Batch) -> None:
            await super().handle(batch)
            if batch.log_id == ids[5]:
                await anyio.Path(grown).write_bytes(b"more")

    orders = Growing()

    async with recording(tmp_path, orders=orders) as recorder:
        await until(lambda: len(left(tmp_path)) == 2 and str(ids[5]) in str(recorder.status().to_dict()))

    assert grown.exists()
    assert "log grew though it is locked" in caplog.text


async def test_a_thread_that_cannot_be_had_or_a_disk_that_fails_meanwhile_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave(tmp_path, "orders")
    failures = [OSError(24, "Too many open files"), OSError(5, "Input/output error")]
    real = GroupAdoption._open

    def opened(self: GroupAdoption, ids: list[UUID]) -> Any:
        if failures:
            raise failures.pop()
        return real(self, ids)

    monkeypatch.setattr(GroupAdoption, "_open", opened)
    orders = ScriptedHandler()

    async with recording(tmp_path, orders=orders):
        await until(lambda: len(left(tmp_path)) == 1)

    assert sorted(orders.delivered) == ALL


async def test_the_loop_is_not_kept(tmp_path: Path) -> None:
    await leave(tmp_path, "orders")
    orders = ScriptedHandler()
    turns = 0

    async with recording(tmp_path, orders=orders), anyio.create_task_group() as tasks:

        async def tick() -> None:
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

        tasks.start_soon(tick)
        await until(partial(lambda: len(left(tmp_path)) == 1))
        tasks.cancel_scope.cancel()

    assert turns > COUNT
