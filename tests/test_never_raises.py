"""`record()` raises nothing of its own, loses no wake-up, and counts every call in one term; whatever interrupts it."""

from __future__ import annotations

import gc
import itertools
import signal
import sys
import threading
import time
import traceback
import typing
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, cast

import anyio
import pytest

from eventrec import Column, Event, EventModel, EventRecorder, EventRecorderOptions, EventStruct
from eventrec.intake.consumer import Counts
from eventrec.intake.queue import Intake
from eventrec.runtime.signals import error_of_signal_handler
from eventrec.status import Status
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly

if TYPE_CHECKING:
    from eventrec.delivery.supervisor import Supervisor

Handling = Callable[..., AbstractContextManager[None]]


class Model(EventModel):
    number: int
    who: Annotated[str, Column()] = "ada"


class Struct(EventStruct, frozen=True):
    number: int


class Raising(Event):
    """Raises what it is given when its payload is asked for."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    @property
    def payload(self) -> object:
        raise self._error


def deep(levels: int, call: Callable[[], Any]) -> Any:
    """What `call` returns, called that many frames below."""
    return deep(levels - 1, call) if levels else call()


def raises_in_there(levels: int, call: Callable[[], Any]) -> bool:
    """Whether `call` raises by itself; not where there was no room left to call it."""
    try:
        deep(levels, call)
    except RecursionError as exc:
        return traceback.extract_tb(exc.__traceback__)[-1].name not in {"deep", "<lambda>"}
    return False


# -- the recursion limit

counts_frames = pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer is called at the limit too")


@counts_frames
@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("event", [Numbered(0), Model(number=0), Struct(number=0)], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("has_log", [False, True])
async def test_at_the_recursion_limit_nothing_is_raised_and_nothing_stalls(
    event: Any,
    has_log: bool,  # noqa: FBT001 - pytest gives it by its name
    tmp_path: Path,
) -> None:
    handler = ScriptedHandler(always=lambda _: None)
    recorder = EventRecorder(handler, log=tmp_path if has_log else None, options=quickly())
    recorder.record(event)
    async with recorder:
        assert await recorder.flush(timeout=60)
        here = len(traceback.extract_stack())
        levels = range(sys.getrecursionlimit() - here - 60, sys.getrecursionlimit() - here)

        raised = [level for level in levels if raises_in_there(level, lambda: recorder.record(event))]

        assert raised == []
        status = recorder.status()
        assert status.is_balanced
        assert recorder.record(Numbered(77, kind="last"))
        assert await recorder.flush(timeout=60)
    assert recorder.status().appended + sum(recorder.status().refused.values()) == recorder.status().offered
    assert_conserved(recorder.status())


@counts_frames
@pytest.mark.usefixtures("without_collector")
def test_a_first_record_at_the_recursion_limit_does_not_keep_the_writer_from_starting(tmp_path: Path) -> None:
    here = len(traceback.extract_stack())
    event = Numbered(0)
    for level in range(sys.getrecursionlimit() - here - 45, sys.getrecursionlimit() - here):
        recorder = EventRecorder(log=tmp_path / str(level))
        assert not raises_in_there(level, lambda each=recorder: each.record(event))  # type: ignore[misc]

        assert recorder.record(Numbered(1))
        deadline = time.monotonic() + 30
        while recorder.status().in_intake and time.monotonic() < deadline:
            time.sleep(0.002)
        assert recorder.status().in_intake == 0
        assert recorder.sync().close(1).is_balanced


# -- what is not the event's


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()], ids=lambda e: type(e).__name__)
def test_what_ends_a_program_is_counted_and_goes_on(error: BaseException) -> None:
    recorder = EventRecorder()

    with pytest.raises(type(error)) as caught:
        recorder.record(Raising(error))

    assert caught.value is error
    assert recorder.status().refused == {"interrupted": 1}
    assert_conserved(recorder.status(), offered=1)


class AlarmError(Exception):
    """What the program's own signal handler raises."""


def raise_alarm(number: int, frame: FrameType | None) -> None:
    raise AlarmError


def few_within_each_other(handler: Callable[[], object]) -> Callable[[int, FrameType | None], None]:
    """A signal handler that is interrupted by its own signal, but not until the stack is full.

    On a busy machine a timer's next signal comes before the handler has dealt with the last one, again and again.
    """
    within: list[None] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if len(within) >= 10:
            return
        within.append(None)
        try:
            handler()
        finally:
            within.pop()

    return handle


class Caller:
    """A handler as an object, and as a method."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        raise AlarmError

    def method(self, number: int, frame: FrameType | None) -> None:
        raise AlarmError


class Signalling(Event):
    """A signal arrives while it is encoded."""

    @property
    def payload(self) -> object:
        signal.raise_signal(signal.SIGUSR1)
        return 1


@pytest.mark.parametrize("handler", [raise_alarm, Caller(), Caller().method], ids=["function", "object", "method"])
def test_what_a_signal_handler_raises_reaches_the_program(
    handler: Callable[[int, FrameType | None], Any], handling: Handling
) -> None:
    recorder = EventRecorder()

    with handling(signal.SIGUSR1, handler), pytest.raises(AlarmError):
        recorder.record(Signalling())

    assert sum(recorder.status().refused.values()) == 1
    assert_conserved(recorder.status(), offered=1)


def test_an_error_of_the_event_is_not_taken_for_a_signal_handlers(handling: Handling) -> None:
    recorder = EventRecorder()
    with handling(signal.SIGUSR1, raise_alarm):
        assert recorder.record(Raising(AlarmError())) is False

    assert recorder.status().refused == {"not_encodable": 1}


def test_in_another_thread_no_signal_handler_runs(handling: Handling) -> None:
    found: list[object] = []

    def work() -> None:
        try:
            raise_alarm(0, None)
        except AlarmError as exc:
            found.append(error_of_signal_handler(exc))

    with handling(signal.SIGUSR1, raise_alarm):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    assert found == [None]


@pytest.mark.parametrize("before", range(3))
@pytest.mark.parametrize("base", [Numbered, Struct, Model], ids=lambda each: each.__name__)
def test_what_a_signal_handler_raises_while_a_class_is_read_reaches_the_program(
    base: type[Any], before: int, monkeypatch: pytest.MonkeyPatch, handling: Handling
) -> None:
    """So many of the looks at its annotations `before` are not interrupted."""
    event = type("New", (base,), {"__module__": __name__})(number=1)
    read = typing.get_type_hints
    looks: list[None] = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        looks.append(None)
        if len(looks) == before + 1:
            signal.raise_signal(signal.SIGUSR1)
        return read(*arguments, **options)

    monkeypatch.setattr(typing, "get_type_hints", interrupted)
    recorder = EventRecorder()
    raised = 0
    with handling(signal.SIGUSR1, raise_alarm):
        for _ in range(2):
            try:
                recorder.record(event)
            except AlarmError:
                raised += 1

    assert raised == (len(looks) > before)
    assert recorder.status().offered == 2
    assert recorder.status().is_balanced
    recorder._life.stay_unopened()


def test_a_signal_that_raises_at_any_moment_neither_stalls_nor_unbalances(tmp_path: Path, handling: Handling) -> None:
    recorder = EventRecorder(log=tmp_path)
    calls, taken, raised = 0, 0, 0
    end = 0.0

    def raise_alarm_in_time(number: int, frame: FrameType | None) -> None:
        if time.monotonic() < end:  # Once the loop is over, what it raises has no caller.
            raise AlarmError

    def record_until_interrupted(delay: float) -> None:  # By itself, so that nothing of it stands beside the `try`.
        nonlocal calls, taken
        signal.setitimer(signal.ITIMER_REAL, delay)
        while time.monotonic() < end:
            calls += 1
            taken += recorder.record(Numbered(calls))

    gc.disable()  # Nor has it in a callback of the collector.
    with handling(signal.SIGALRM, raise_alarm_in_time):
        end = time.monotonic() + 0.3
        for delay in itertools.cycle([0.0001, 0.00013, 0.00017]):
            try:
                record_until_interrupted(delay)
                break
            except AlarmError:
                raised += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
    gc.enable()

    status = recorder.sync().close(20)
    assert raised > 10
    assert status.is_balanced
    assert status.in_intake == 0
    # A call that was interrupted at its very beginning, or at its end, left no count, or a count without an answer.
    assert 0 <= calls - status.offered <= raised
    assert taken <= status.appended <= taken + raised


# -- calls within calls


def test_records_of_signal_handlers_and_finalizers_are_counted_exactly(handling: Handling) -> None:
    recorder = EventRecorder(
        options=EventRecorderOptions(queue_events=1_000, overflow="drop_old", event_types=frozenset({"numbered"}))
    )
    # Appended to, since `count += 1` is two steps where lines are traced, and what comes between them is forgotten.
    inner: list[None] = []
    outer: list[None] = []

    @few_within_each_other
    def record_within() -> None:
        for each in (Numbered(1), Numbered(1, kind="other"), Raising(ValueError())):
            recorder.record(each)
            inner.append(None)

    class Dying:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            recorder.record(Numbered(2))
            inner.append(None)

    with handling(signal.SIGALRM, record_within):
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            for each in (Numbered(0), Numbered(0, kind="other"), Raising(ValueError())):
                recorder.record(each)
                outer.append(None)
            Dying()
        signal.setitimer(signal.ITIMER_REAL, 0)
    gc.collect()

    status = recorder.status()
    assert status.offered == len(inner) + len(outer)
    assert status.is_balanced
    assert len(inner) > 100
    recorder._life.stay_unopened()


async def test_the_account_balances_in_a_signal_handler_and_in_other_threads(tmp_path: Path) -> None:
    for log in (None, tmp_path):
        recorder = EventRecorder(log=log, options=quickly(batch_rows=50, queue_events=100_000))
        recorder.register(ScriptedHandler(), name="all")
        recorder.register(ScriptedHandler(), name="some", types=["b"])
        recorder.record_many(Numbered(n, kind="ab"[n % 3 == 0]) for n in range(20_000))
        asked: list[Status] = []
        done = threading.Event()

        def ask(recorder: EventRecorder = recorder, asked: list[Status] = asked, done: threading.Event = done) -> None:
            while not done.is_set():
                asked.append(recorder.status())

        thread = threading.Thread(target=ask)
        thread.start()
        async with recorder:
            assert await recorder.flush(timeout=30)
        done.set()
        await anyio.to_thread.run_sync(thread.join)

        assert [each for each in asked if not each.is_balanced] == []
        assert len(asked) > 10


def test_opened_while_another_thread_asks_it_gives_counts_of_one_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = EventRecorder()
    recorder.record_many(Numbered(n) for n in range(20))
    life, length = recorder._life, Intake.__len__

    def opened_meanwhile(intake: Intake) -> int:
        # What was there is moved by a supervisor that was not there yet.
        monkeypatch.setattr(Intake, "__len__", length)
        life.supervisor = cast("Supervisor", SimpleNamespace(counts=Counts(5, 15, 0)))
        intake.take(5)
        return length(intake)

    monkeypatch.setattr(Intake, "__len__", opened_meanwhile)

    assert life.counts == Counts(5, 15, 0)
    life.stay_unopened()


@pytest.mark.parametrize("kind", ["memory", "log"])
async def test_the_account_balances_in_a_signal_handler_that_interrupts_delivery(
    kind: str, tmp_path: Path, handling: Handling
) -> None:
    recorder = EventRecorder(log=tmp_path if kind == "log" else None, options=quickly(batch_rows=20))
    recorder.register(ScriptedHandler(), name="all")
    recorder.register(ScriptedHandler(), name="none", types=["other"])
    asked: list[bool] = []

    @few_within_each_other
    def ask() -> None:
        asked.append(all(part.is_balanced for part in recorder.status().subscriptions.values()))

    async with recorder:
        with handling(signal.SIGALRM, ask):
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            recorder.record_many(Numbered(n) for n in range(8_000))
            assert await recorder.flush(timeout=20)
            signal.setitimer(signal.ITIMER_REAL, 0)

    assert len(asked) > 20
    assert all(asked)
    assert_conserved(recorder.status())
