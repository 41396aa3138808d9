"""Which logs are looked at for a mirror, and when; and the window of what is in flight."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventrec.mirroring import schedule as module
from eventrec.mirroring import served_run
from eventrec.mirroring.schedule import Schedule
from eventrec.mirroring.window import Window
from eventrec.runs.directory import DEAD, LogDirectory


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "monotonic", made)
    return made


@pytest.fixture
def schedule(tmp_path: Path) -> Iterator[Schedule]:
    made = Schedule(LogDirectory(tmp_path))
    yield made
    made.close()


def taken(schedule: Schedule) -> list[Any]:
    """What is due; each has its turn."""
    found = schedule.due()
    for number, key in enumerate(found, 1):
        run = schedule.runs[key]
        if not run.stream:
            run.begin(number, None)
        while run.turn(1 << 20).parts:
            pass
    return [key[0] for key in found]


def settled(schedule: Schedule) -> None:
    """Past the moment in which two changes of a file may have one time."""
    while schedule.due():
        taken(schedule)


def test_logs_are_due_till_they_begin_and_then_when_something_moves(
    schedule: Schedule, clock: Clock, tmp_path: Path, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_run, "_BETWEEN_LOOKS", math.inf)  # None is due because time went by.
    one, two, letters = kit.source(tmp_path), kit.source(tmp_path), kit.source(tmp_path / DEAD)
    one.write(1)

    assert taken(schedule) == [one.run.id, two.run.id, letters.run.id]
    settled(schedule)
    assert schedule.due() == []
    two.write(1)
    assert taken(schedule) == [two.run.id]
    settled(schedule)
    one.save(3)
    assert taken(schedule) == [one.run.id]
    for each in (one, two, letters):
        each.end()


def test_a_log_that_no_process_holds_is_looked_at_seldom_after_a_last_turn(
    schedule: Schedule, clock: Clock, tmp_path: Path, kit: Any
) -> None:
    held, ended = kit.source(tmp_path), kit.source(tmp_path)
    ended.end()
    settled(schedule)

    clock.now += 6
    last = [key[0] for key in schedule.due()]
    schedule.rest()
    clock.now += 6
    nothing = schedule.due()
    (tmp_path / str(ended.run.id) / "checkpoints" / "s.json").write_bytes(b"{}")
    at_once = schedule.due()
    clock.now += 6
    later = [key[0] for key in schedule.due()]

    assert last == [ended.run.id]
    assert nothing == at_once == []
    assert later == [ended.run.id]
    held.end()


def test_one_that_is_stopped_or_paused_is_left_alone(
    schedule: Schedule, clock: Clock, tmp_path: Path, kit: Any
) -> None:
    source = kit.source(tmp_path)
    (key,) = schedule.due()

    schedule.stop(key)
    stopped = schedule.due()
    schedule.resume(key)
    resumed = schedule.due()
    schedule.pause(key, 2)
    paused = schedule.due()
    clock.now += 3
    later = schedule.due()
    schedule.forget(key)

    assert (stopped, resumed, paused, later) == ([], [key], [], [key])
    assert schedule.runs == {}
    assert "0 logs" in repr(schedule)
    source.end()


async def test_a_window_has_room_again_once_enough_is_acknowledged() -> None:
    window = Window(10)
    window.begin(1, 0)
    window.note_sent(1, 5, 6)
    await window.wait_for_room()
    window.note_sent(1, 9, 6)

    async with anyio.create_task_group() as tasks:
        waited = anyio.Event()

        async def wait() -> None:
            await window.wait_for_room()
            waited.set()

        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert not waited.is_set()
        assert window.acknowledge(1, 5) == 5

    assert window.in_flight == 6


def test_a_mirror_cannot_have_what_it_was_not_sent() -> None:
    window = Window(10)
    window.begin(1, 3)
    window.note_sent(1, 9, 6)

    assert window.acknowledge(1, 1_000) == 9
    assert window.acknowledge(2, 5) is None
    assert repr(window) == "<Window 0 of 10 bytes>"


def test_what_is_in_flight_of_a_stream_that_is_over_is_not_waited_for() -> None:
    window = Window(10)
    window.begin(1, 0)
    window.note_sent(1, 9, 60)

    window.drop(1)
    window.drop(1)

    assert window.in_flight == 0
