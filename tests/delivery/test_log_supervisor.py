"""What a recorder with a log waits for, and does not wait for: its writer comes from a thread of its own."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from eventrec import EventRecorderOptions
from eventrec.delivery.log_supervisor import LogSupervisor
from eventrec.errors import LogWriteError
from eventrec.intake.consumer import Counts
from eventrec.intake.drops import Drops
from eventrec.intake.queue import Intake
from eventrec.runs.directory import LogDirectory
from eventrec.runs.run import new_run_id
from eventrec.runtime.backend import current_backend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Writer:
    """Where the writer's thread is, as a test says. `logs` are what a look at `log` gives, one after another."""

    def __init__(self, directory: Path, *logs: object) -> None:
        self.directory = LogDirectory(directory)
        self.run_id = new_run_id
        self.fork_guard = threading.Lock()
        self.consumer: Any = SimpleNamespace(counts=Counts(appended=0, in_intake=10, in_hand=0))
        self.failure: LogWriteError | None = None
        self.is_ended = False
        self.unwritable = 0
        self.on_change: Callable[[], object] = lambda: None
        self.looks = 0
        self._logs = list(logs) or [None]

    @property
    def log(self) -> Any:
        self.looks += 1
        return self._logs[min(self.looks, len(self._logs)) - 1]

    def wake(self) -> None: ...

    def close(self) -> None: ...

    def give_back(self) -> int:
        return 0


def holding(written: int, appended: int | None = None) -> object:
    """A log that has taken so many records, and written so many."""
    return SimpleNamespace(written=written, appended=written if appended is None else appended)


def supervising(writer: Writer) -> LogSupervisor:
    intake = Intake(max_events=9, max_bytes=1 << 20, max_event_bytes=1 << 20, overflow="drop_new", wake=lambda: None)
    given: Any = writer
    return LogSupervisor(intake, given, current_backend(), EventRecorderOptions(), subscriptions=[], drops=Drops(None))


def begun(supervisor: LogSupervisor) -> LogSupervisor:
    """As it is once the log is delivered."""
    delivery: Any = SimpleNamespace(source=SimpleNamespace(note_growth=lambda: None), abandon=lambda: None)
    supervisor._own = delivery
    return supervisor


@pytest.mark.parametrize("why", ["refuses", "ended"])
async def test_a_flush_does_not_wait_for_a_disk_that_refuses_or_a_writer_that_ended(tmp_path: Path, why: str) -> None:
    writer = Writer(tmp_path)
    if why == "refuses":
        writer.failure = LogWriteError("full")
    writer.is_ended = why == "ended"

    assert not await supervising(writer).flush()


async def test_a_flush_waits_for_no_event_that_newer_ones_pushed_out(tmp_path: Path) -> None:
    writer = Writer(tmp_path, holding(2))

    class Pushed:
        """Ten wait, and at the next look two of them are numbered, and the others gone."""

        looks = iter([Counts(appended=0, in_intake=10, in_hand=0)])

        @property
        def counts(self) -> Counts:
            return next(self.looks, Counts(appended=2, in_intake=0, in_hand=0))

    writer.consumer = Pushed()

    with anyio.fail_after(5):
        assert await begun(supervising(writer)).flush()


async def test_what_is_written_between_two_looks_is_not_waited_for(tmp_path: Path) -> None:
    writer = Writer(tmp_path, None, holding(10), holding(10))

    with anyio.fail_after(5):
        assert await begun(supervising(writer)).flush()


@pytest.mark.parametrize("ends", [False, True])
async def test_a_flush_waits_until_the_log_is_delivered_unless_that_will_never_be(
    tmp_path: Path, *, ends: bool
) -> None:
    writer = Writer(tmp_path, holding(10))
    supervisor = supervising(writer)
    answers: list[bool] = []

    async def flush() -> None:
        answers.append(await supervisor.flush())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(flush)
        await anyio.wait_all_tasks_blocked()
        assert answers == []
        if ends:
            writer.is_ended = True
        else:
            begun(supervisor)
        supervisor._wake_here()

    assert answers == [not ends]


async def test_at_the_end_the_writer_is_waited_for(tmp_path: Path) -> None:
    writer = Writer(tmp_path, holding(10))
    supervisor = supervising(writer)
    ended: list[bool] = []

    async def let_go() -> None:
        await supervisor._let_go()
        ended.append(writer.is_ended)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(let_go)
        await anyio.wait_all_tasks_blocked()
        writer.is_ended = True
        supervisor._wake_here()

    assert ended == [True]


async def test_a_child_of_a_fork_that_came_before_the_log_inherits_nothing(tmp_path: Path) -> None:
    supervisor = supervising(Writer(tmp_path))

    supervisor.abandon()

    assert list(tmp_path.iterdir()) == []
