"""Which small logs a group delivers, in whose turn, and what it leaves to a closer look."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
import pytest

from eventrec import Batch, TransientError
from eventrec.delivery.orphans import small_orphans
from eventrec.delivery.orphans.small_orphans import SmallOrphans
from eventrec.delivery.shared_handler import SharedHandler
from eventrec.delivery.subscription import Subscription
from eventrec.records.entry import SIZE, make_entry
from eventrec.records.schema import Shape
from eventrec.runs.checkpoint import Attempt, Checkpoint, Progress
from eventrec.runs.retention import Retain
from eventrec.runs.small_log import SmallLog
from eventrec.testing.scripted import FencedHandler, ScriptedHandler, quickly, raising

if TYPE_CHECKING:
    from eventrec.delivery.letters.dead_letters import DeadLetter
    from eventrec.delivery.sources.source import Start


class Letters:
    """Knows the letters of one log."""

    def __init__(self, *logs: UUID) -> None:
        self.logs = logs

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        raise AssertionError(letters)

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        return [0] if log_id in self.logs and subscription == "s" else []


class Kept(ScriptedHandler):
    """Keeps which log each batch was of."""

    logs: list[int]

    def keep(self, batch: Batch) -> None:
        self.logs = [*getattr(self, "logs", []), batch.log_id.int]


def small_log(number: int = 1, records: int = 3, saved: Sequence[Checkpoint] = ()) -> SmallLog:
    entries = [make_entry(Shape("events", "a"), n, b"%d" % n) for n in range(records)]
    run: Any = SimpleNamespace(id=UUID(int=number))
    size = sum(entry[SIZE] for entry in entries)
    return SmallLog(run, 0, entries, size, None, {each.subscription: each for each in saved}, 999)


def at(scanned: int, *, acknowledged: int | None = None, name: str = "s", **more: Any) -> Checkpoint:
    progress = Progress(0, scanned if acknowledged is None else acknowledged, scanned, delivered=scanned)
    return Checkpoint(subscription=name, progress=progress, **more)


def small(
    handler: ScriptedHandler, *, start: Start = "earliest", letters: Letters | None = None, rows: int = 5
) -> tuple[SmallOrphans, SharedHandler]:
    settings = quickly(batch_rows=rows).resolve(has_log=True).delivery
    shared = SharedHandler(handler)
    subscription = Subscription("s", handler, settings, start=start)
    return SmallOrphans([subscription], {"s": shared}, letters or Letters(), retain=Retain()), shared


@pytest.mark.parametrize(
    ("log", "options", "is_planned"),
    [
        (small_log(), {}, True),
        (small_log(saved=[at(2)]), {}, True),
        (small_log(records=6), {}, False),
        (small_log(), {"letters": Letters(UUID(int=1))}, False),
        (small_log(), {"start": "latest"}, False),
        (small_log(saved=[at(2)]), {"start": "latest"}, True),
        (small_log(saved=[at(2, attempt=Attempt(start=2, end=3, generation=0, offsets=[2]))]), {}, False),
        (small_log(saved=[at(4)]), {}, False),
        (small_log(saved=[at(2, name="others")]), {}, False),
        (small_log(saved=[at(3, name="others")]), {}, True),
    ],
    ids=[
        "plain",
        "begun",
        "more than a batch",
        "with letters",
        "new to a subscription that wants what comes",
        "begun by such a one",
        "with a batch that may have arrived",
        "with a checkpoint beyond its end",
        "with another's that is not done",
        "with another's that is done",
    ],
)
async def test_only_what_goes_as_it_mostly_does_is_for_a_group(
    log: SmallLog, options: dict[str, Any], *, is_planned: bool
) -> None:
    orphans, _ = small(ScriptedHandler(), **options)

    assert (orphans.plan(log) is not None) is is_planned


async def test_another_destination_than_the_one_before_gets_nothing_from_the_group() -> None:
    handler = FencedHandler(id="another")
    orphans, _ = small(handler)
    orphan = orphans.plan(small_log(saved=[at(2, destination="the first")]))
    assert orphan is not None

    await orphans.deliver([orphan])

    assert (handler.resumed, handler.batches, orphan.changed, orphan.is_done) == ([], [], set(), False)


async def test_a_destination_that_is_elsewhere_than_the_checkpoint_gets_nothing_from_the_group() -> None:
    handler = FencedHandler(next={(UUID(int=1), "s"): 3})
    orphans, _ = small(handler)
    orphan = orphans.plan(small_log(saved=[at(2, destination="destination")]))
    assert orphan is not None

    await orphans.deliver([orphan])

    assert (handler.resumed, handler.batches, orphan.changed) == ([3], [], set())


async def test_a_worker_that_waits_for_the_handler_has_it_between_two_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_orphans, "_SLICE_SECONDS", -1.0)
    handler = Kept()
    orphans, shared = small(handler)
    planned = [orphans.plan(small_log(number)) for number in (1, 2)]
    batch: Any = SimpleNamespace(log_id=UUID(int=99), token=b"")

    @asynccontextmanager
    async def worker_beside() -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:

            def begin(_: Batch) -> None:
                tasks.start_soon(shared.lease(is_orphan=False).handle, batch)

            handler.acts = [begin]
            handler.tokens = []
            yield

    async with worker_beside():
        real, handle = handler.handle, Kept.handle

        async def handle_slowly(given: Batch) -> None:
            await handle(handler, given)
            await anyio.wait_all_tasks_blocked()

        monkeypatch.setattr(handler, "handle", handle_slowly)
        await orphans.deliver([each for each in planned if each is not None])
        assert real is not None

    assert handler.logs == [1, 99, 2]


async def test_of_the_batches_that_failed_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_orphans, "_MAX_FAILED", 1)
    orphans, _ = small(ScriptedHandler(always=raising(TransientError("down"))))

    for number in (1, 2):
        orphan = orphans.plan(small_log(number))
        assert orphan is not None
        await orphans.deliver([orphan])

    assert orphans.failed(UUID(int=1), "s") is not None
    assert orphans.failed(UUID(int=1), "s") is None, "it is told once"
    assert orphans.failed(UUID(int=2), "s") is None
