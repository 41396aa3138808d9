"""What stands before a handler with `on_failure="stop"`: it passes everything on, until a send has failed."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from eventrec import Batch, DestinationCheckpoints, EventHandler, Layout, LayoutColumn, PauseError, PermanentError
from eventrec.delivery.stopping import FailureStop
from eventrec.records.layout_columns import EVENT
from eventrec.testing.scripted import FencedHandler, ScriptedHandler

ID = UUID(int=7)
LAYOUT = Layout("orders", [LayoutColumn("data", EVENT, "jsonb")])


@dataclass
class WithEverything(FencedHandler):
    """Has all that a handler may have."""

    forgets: bool = False
    prepared: list[Batch] = field(default_factory=list)
    seconds: float = 0
    rows: int = 0
    layouts: list[str] = field(default_factory=list)
    read_by: Any = field(default_factory=object)

    @property
    def checkpoints(self) -> DestinationCheckpoints:
        return None if self.forgets else self  # type: ignore[return-value]

    @property
    def idle_check_seconds(self) -> float | None:
        return 5.0

    @property
    def remarks(self) -> tuple[str, ...]:
        return ("a remark",)

    def reader(self) -> Any:
        return self.read_by

    def inherit_ttl(self, seconds: float) -> None:
        self.seconds = seconds

    def inherit_chunk_rows(self, rows: int) -> None:
        self.rows = rows

    def use_layouts(self, layouts: Mapping[str, Layout]) -> None:
        self.layouts += layouts

    def assume_layouts(self, layouts: Mapping[str, Layout]) -> None:
        self.layouts += layouts

    async def prepare(self, batch: Batch) -> None:
        self.prepared.append(batch)


class Owner:
    """What is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def stopped(self, reason: str) -> None:
        self.told.append(reason)


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
def stop(owner: Owner) -> FailureStop:
    return FailureStop(weakref.WeakMethod(owner.stopped))


@pytest.fixture
def handler() -> WithEverything:
    return WithEverything()


@pytest.fixture
def guarded(stop: FailureStop, handler: WithEverything) -> EventHandler:
    return stop.guarded(handler)


@pytest.fixture
def batch() -> Batch:
    return Batch(log_id=ID, subscription="s", start=0, end=0, offsets=(), entries=())


async def test_everything_is_passed_on(guarded: EventHandler, handler: WithEverything, batch: Batch) -> None:
    guarded.inherit_ttl(60)
    guarded.inherit_chunk_rows(7)
    guarded.use_layouts({"used": LAYOUT})
    guarded.assume_layouts({"assumed": LAYOUT})
    await guarded.open()
    assert isinstance(guarded, DestinationCheckpoints)
    assert await guarded.destination_id() == handler.id
    assert await guarded.resume(ID, "s", 0) == 0
    await guarded.prepare(batch)
    await guarded.handle(batch)
    await guarded.retire(ID, "s", 3)
    await guarded.close()

    assert (handler.seconds, handler.rows, handler.opened, handler.closed) == (60, 7, 1, 1)
    assert handler.layouts == ["used", "assumed"]
    assert (handler.prepared, handler.batches) == ([batch], [[]])
    assert handler.next == {(ID, "s"): 3}
    assert guarded.idle_check_seconds == 5.0
    assert (guarded.remarks, guarded.reader()) == (("a remark",), handler.read_by)
    assert repr(guarded) == f"<stops after a failure: {handler!r}>"


async def test_after_a_failure_nothing_is_asked_any_more_but_to_close(
    guarded: EventHandler, handler: WithEverything, stop: FailureStop, owner: Owner, batch: Batch
) -> None:
    checkpoints = guarded.checkpoints
    assert checkpoints is not None
    stop.stop(OSError("no route"))
    stop.stop(OSError("and again"))
    asked: list[Callable[[], Awaitable[object]]] = [
        guarded.open,
        lambda: guarded.prepare(batch),
        lambda: guarded.handle(batch),
        checkpoints.destination_id,
        lambda: checkpoints.resume(ID, "s", 0),
        lambda: checkpoints.retire(ID, "s", 3),
    ]

    for ask in asked:
        with pytest.raises(PauseError, match="stopped after a failed send: OSError: no route"):
            await ask()
    with pytest.raises(PauseError, match="no route"):
        _ = guarded.checkpoints
    await guarded.close()

    assert owner.told == ["OSError: no route"]
    assert (handler.opened, handler.prepared, handler.batches, handler.next, handler.closed) == (0, [], [], {}, 1)


@pytest.mark.parametrize("thrown", [RuntimeError("odd"), SystemExit(3)])
async def test_an_error_that_cannot_say_which_records_it_is_about_stops(
    stop: FailureStop, batch: Batch, thrown: BaseException
) -> None:
    class OddError(PermanentError):
        def __init__(self) -> None: ...

        @property
        def records(self) -> Any:
            raise thrown

        @records.setter
        def records(self, records: Any) -> None: ...

    def refuse(_: Batch) -> None:
        raise OddError

    with pytest.raises(OddError):
        await stop.guarded(ScriptedHandler([refuse])).handle(batch)

    assert stop.reason is not None


async def test_a_destination_that_keeps_no_checkpoints_any_more_pauses(
    guarded: EventHandler, handler: WithEverything, stop: FailureStop
) -> None:
    checkpoints = guarded.checkpoints
    assert checkpoints is not None
    handler.forgets = True

    with pytest.raises(PauseError, match="keeps no checkpoints any more"):
        await checkpoints.resume(ID, "s", 0)

    assert stop.reason is not None


async def test_without_its_owner_it_stops_all_the_same(handler: WithEverything, batch: Batch) -> None:
    owner = Owner()
    stop = FailureStop(weakref.WeakMethod(owner.stopped))
    guarded = stop.guarded(handler)
    del owner

    stop.stop(OSError("no route"))

    with pytest.raises(PauseError, match="no route"):
        await guarded.handle(batch)
