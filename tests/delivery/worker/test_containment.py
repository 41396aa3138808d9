"""Whatever a handler throws, answers or says ends in the state of its own subscription, and it recovers."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import anyio
import pytest

from eventrec import (
    Backoff,
    Batch,
    DestinationCheckpoints,
    EventHandler,
    EventRecorder,
    PartialError,
    PauseError,
    PermanentError,
    Settled,
    TransientError,
)
from eventrec.delivery.worker import retry
from eventrec.delivery.worker.containment import EndedFromWithinError, contained
from eventrec.delivery.worker.retry import seconds_asked
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered, ScriptedHandler, quickly


class UnprintableError(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class PrintedExitError(PermanentError):
    def __str__(self) -> str:
        raise SystemExit(3)


class HalfError(TransientError):
    """Never calls the constructor that sets `retry_after`."""

    def __init__(self) -> None:
        Exception.__init__(self, "half made")


class HalfPermanentError(PermanentError):
    def __init__(self) -> None:
        Exception.__init__(self, "half made")


class HalfPartialError(PartialError):
    def __init__(self) -> None:
        Exception.__init__(self, "half made")


class Mocking(dict[int, Any]):
    """A mapping that raises when it is looked at."""

    def __contains__(self, key: object) -> bool:
        raise ZeroDivisionError


def with_attribute(error: Exception, name: str, value: object) -> Exception:
    setattr(error, name, value)
    return error


def partial_of(errors: object) -> Exception:
    return with_attribute(PartialError({0: TransientError("x")}), "errors", errors)


def name_of(value: object) -> str:
    return f"{type(value).__name__} {value.args if isinstance(value, BaseException) else ascii(value)}"


THROWN: Mapping[str, Callable[[], BaseException]] = {
    "generator exit": GeneratorExit,
    "system exit": lambda: SystemExit(1),
    "keyboard interrupt": KeyboardInterrupt,
    "base exception": lambda: BaseException("who knows"),
    "base exception group": lambda: BaseExceptionGroup("several", [SystemExit(1), ValueError("a")]),
    "exception group": lambda: ExceptionGroup("several", [TransientError("a"), ValueError("b")]),
    "stop iteration": StopIteration,
    "stop async iteration": StopAsyncIteration,
    "memory error": MemoryError,
    "recursion error": RecursionError,
    "no descriptors": lambda: OSError(24, "Too many open files"),
    "a timeout": TimeoutError,
    "unprintable": UnprintableError,
    "exits when printed": lambda: PrintedExitError("x"),
    "lone surrogate": lambda: PermanentError("no such file: \udcff.txt"),
    "lone surrogate in the pause": lambda: PauseError("\ud800"),
    "lone surrogate unknown": lambda: ValueError("\udfff"),
    "NUL and line ends": lambda: PermanentError("a\x00b\r\nc"),
    "a megabyte": lambda: PermanentError("x" * 1_000_000),
    "surrogate in a record's reason": lambda: PermanentError("x", records={0: "\udcff"}),
    "a record's reason is not a text": lambda: PermanentError("x", records={0: UnprintableError()}),  # type: ignore[dict-item]
    "records that raise": lambda: with_attribute(PermanentError("x"), "records", Mocking({0: "a"})),
    "records by text": lambda: PermanentError("x", records={"0": "a"}),  # type: ignore[dict-item]
    "half transient": HalfError,
    "half permanent": HalfPermanentError,
    "half partial": HalfPartialError,
    "partial by text": lambda: PartialError({"text": TransientError("x")}),  # type: ignore[dict-item]
    "partial of texts": lambda: partial_of({0: "late"}),
    "partial of nothing": lambda: partial_of({}),
    "partial of None": lambda: partial_of(None),
    "partial that raises": lambda: partial_of(Mocking({0: TransientError("x")})),
    "partial of another batch": lambda: partial_of({-1: PermanentError("x")}),
    "partial by a number like it": lambda: partial_of({0.5: PermanentError("x")}),
    "retry after a text": lambda: TransientError("x", retry_after="5"),  # type: ignore[arg-type]
    "retry after a date": lambda: TransientError("x", retry_after="Wed, 21 Oct"),  # type: ignore[arg-type]
    "retry after NaN": lambda: TransientError("x", retry_after=float("nan")),
    "retry after for ever": lambda: TransientError("x", retry_after=float("inf")),
    "retry after less than nothing": lambda: TransientError("x", retry_after=-5.0),
    "retry after a number too large": lambda: TransientError("x", retry_after=10**400),
    "retry after an object": lambda: TransientError("x", retry_after=object()),  # type: ignore[arg-type]
}


@dataclass
class Broken(ScriptedHandler):
    """Throws at its first call of `method`, five times; then it works."""

    method: str = "handle"
    throw: Callable[[], BaseException] = ValueError
    left: int = 5

    def _maybe(self, method: str) -> None:
        if method == self.method and self.left:
            self.left -= 1
            raise self.throw()

    async def open(self) -> None:
        self._maybe("open")

    async def prepare(self, batch: Batch) -> None:
        self._maybe("prepare")

    async def handle(self, batch: Batch) -> None:
        await anyio.lowlevel.checkpoint()
        self._maybe("handle")
        if self.method == "close" and self.left:
            raise ValueError("so it is closed")
        self.keep(batch)

    async def close(self) -> None:
        self._maybe("close")


HOUR = 3600.0


@pytest.fixture(autouse=True)
def _at_most_an_hour_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a day, each second of which wakes the recorder."""
    monkeypatch.setattr(retry, "MAX_ASKED", HOUR)


async def deliver_beside(broken: EventHandler, *, seconds: float = 5 * HOUR) -> Any:
    """What became of ten events that went to `broken` and to a healthy handler, within `seconds`: the account."""
    good = ScriptedHandler()
    recorder = EventRecorder(options=quickly(flush_interval=0.1, retry=Backoff(max=8)))
    recorder.register(broken, name="broken")
    recorder.register(good, name="good")
    async with recorder:
        for number in range(10):
            assert recorder.record(Numbered(number))
            await anyio.sleep(1)
        assert good.delivered == list(range(10))
        for pause in (seconds / 2**power for power in range(20, 0, -1)):
            if recorder.status().subscriptions["broken"].pending:
                await anyio.sleep(pause)
        status = recorder.status()
        assert (status.state, status.defect) == ("open", None)
        assert recorder.record(Numbered(10))
    assert_conserved(recorder.status())
    return status.subscriptions["broken"]


@pytest.mark.parametrize("thrown", THROWN)
async def test_what_handle_throws_ends_in_its_own_subscription(thrown: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="eventrec")
    broken = Broken(throw=THROWN[thrown])

    part = await deliver_beside(broken)

    assert part.pending == 0
    assert part.delivered + part.dead == 10
    assert broken.delivered == sorted(set(broken.delivered))
    assert part.last_error is not None
    part.last_error.encode()


@pytest.mark.parametrize("method", ["open", "prepare", "close"])
@pytest.mark.parametrize(
    "thrown",
    ["generator exit", "system exit", "keyboard interrupt", "base exception group", "unprintable", "half partial"],
)
async def test_what_other_methods_throw_does_too(method: str, thrown: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="eventrec")
    broken = Broken(method=method, throw=THROWN[thrown])

    part = await deliver_beside(broken)

    assert (part.pending, part.delivered) == (0, 10)
    assert broken.delivered == list(range(11))


async def test_a_handler_that_lets_out_the_cancellation_of_a_task_of_its_own_harms_no_one(
    anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="eventrec")
    if anyio_backend_name == "trio":
        pytest.skip("trio's Cancelled cannot be made by a handler")

    class Careless(Broken):
        async def _cancel_its_own(self) -> None:
            task = asyncio.ensure_future(asyncio.sleep(3600))
            task.cancel()
            await task

        async def handle(self, batch: Batch) -> None:
            if self.left:
                self.left -= 1
                await self._cancel_its_own()
            self.keep(batch)

        async def close(self) -> None:
            await self._cancel_its_own()

    broken = Careless()
    part = await deliver_beside(broken)

    assert (part.pending, broken.delivered) == (0, list(range(11)))


@dataclass
class Cancelling(FencedHandler):
    """Cancels the task that it is called in, as a time limit written by hand does, whenever `method` is called."""

    method: str = "handle"

    async def _maybe(self, method: str) -> None:
        if method == self.method:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    async def open(self) -> None:
        await self._maybe("open")

    async def handle(self, batch: Batch) -> None:
        await self._maybe("handle")
        await super().handle(batch)

    async def destination_id(self) -> str:
        await self._maybe("destination_id")
        return await super().destination_id()

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        await self._maybe("resume")
        return await super().resume(log_id, subscription, start)

    async def close(self) -> None:
        await self._maybe("close")


@pytest.mark.parametrize("method", ["open", "handle", "destination_id", "resume"])
async def test_a_handler_that_cancels_the_task_it_is_called_in_stops_no_other(
    anyio_backend_name: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="eventrec")
    if anyio_backend_name == "trio":
        pytest.skip("trio's tasks cannot be cancelled so")

    part = await deliver_beside(Cancelling(method=method), seconds=HOUR)

    assert (part.pending, part.healthy) == (10, False)
    assert part.last_error == "EndedFromWithinError: the handler cancelled its own task"


@dataclass
class Unbalanced(ScriptedHandler):
    """Enters a cancel scope in `open`, as one does that keeps a task group open, and leaves it in `close`."""

    async def open(self) -> None:
        self.scope = anyio.CancelScope()
        self.scope.__enter__()

    async def close(self) -> None:
        self.scope.__exit__(None, None, None)


async def test_a_handler_that_leaves_no_scope_it_entered_interrupts_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    part = await deliver_beside(Unbalanced())

    assert (part.pending, part.healthy) == (0, True)
    assert "task interrupted" not in caplog.text


async def test_a_close_that_cancels_its_task_keeps_no_other_handler_from_closing(
    anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("trio's tasks cannot be cancelled so")

    class Slow(ScriptedHandler):
        is_closed = False

        async def close(self) -> None:
            await asyncio.sleep(1)
            self.is_closed = True

    slow = Slow()
    recorder = EventRecorder(options=quickly())
    recorder.register(Cancelling(method="close"), name="cancelling")
    recorder.register(slow, name="slow")
    async with recorder:
        assert recorder.record(Numbered(0))
        assert await recorder.flush()

    assert slow.is_closed
    assert "the handler cancelled its own task" in caplog.text


ANSWERS: Mapping[str, object] = {
    "none": None,
    "text": "0",
    "float": 0.0,
    "boolean": True,
    "negative": -1,
    "huge": 1 << 63,
    "beyond 48 bits": 1 << 48,
    "past the end": 1_000,
    "unprintable": UnprintableError("x"),
}


@dataclass
class Mistaken(FencedHandler):
    """Gives wrong answers, for a while."""

    answers: dict[str, object] = field(default_factory=dict)
    lies: int = 5

    def _lie(self, method: str, truth: Any) -> Any:
        if method in self.answers and self.lies:
            self.lies -= 1
            lie = self.answers[method]
            if isinstance(lie, BaseException) and not isinstance(lie, UnprintableError):
                raise lie
            return lie
        return truth

    @property
    def checkpoints(self) -> DestinationCheckpoints:
        answer: DestinationCheckpoints = self._lie("checkpoints", self)
        return answer

    async def destination_id(self) -> str:
        answer: str = self._lie("destination_id", await super().destination_id())
        return answer

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        answer: int = self._lie("resume", await super().resume(log_id, subscription, start))
        return answer


@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_next_offset_that_cannot_be_is_not_taken(answer: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="eventrec")
    mistaken = Mistaken(answers={"resume": ANSWERS[answer]})

    part = await deliver_beside(mistaken)

    assert (part.pending, part.delivered, mistaken.delivered) == (0, 10, list(range(11)))


@pytest.mark.parametrize(
    "answer", [None, 7, "", "\udcff", b"id", UnprintableError(), GeneratorExit(), SystemExit(1)], ids=name_of
)
async def test_an_id_that_cannot_be_kept_is_not_taken(answer: object, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="eventrec")
    mistaken = Mistaken(answers={"destination_id": answer})

    part = await deliver_beside(mistaken)

    assert (part.pending, part.delivered, mistaken.delivered) == (0, 10, list(range(11)))


@pytest.mark.parametrize("answer", [ValueError("no"), SystemExit(1), GeneratorExit(), 7, "text", object], ids=name_of)
async def test_checkpoints_that_are_none_or_raise_do_no_harm(answer: object, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="eventrec")
    mistaken = Mistaken(answers={"checkpoints": answer})

    part = await deliver_beside(mistaken)

    assert (part.pending, part.delivered, mistaken.delivered) == (0, 10, list(range(11)))


async def test_a_destination_that_answers_ever_differently_is_not_asked_in_a_hot_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="eventrec")
    asked = itertools.count()

    class Fickle(FencedHandler):
        async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
            self.next[log_id, subscription] = 99
            self.resumed.append(1)
            return next(asked) % 2

    fickle = Fickle()
    await deliver_beside(fickle, seconds=600)

    assert len(fickle.resumed) < 300


@pytest.mark.parametrize("thrown", [ValueError("no"), SystemExit(1), GeneratorExit(), KeyboardInterrupt()], ids=name_of)
async def test_a_logging_handler_that_raises_stops_nothing(thrown: BaseException) -> None:
    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise thrown

    handler = Raising()
    logging.getLogger("eventrec").addHandler(handler)
    try:
        part = await deliver_beside(Broken(throw=lambda: ValueError("who knows")))
    finally:
        logging.getLogger("eventrec").removeHandler(handler)

    assert (part.pending, part.delivered) == (0, 10)


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (None, 0.0),
        (0, 0.0),
        (2.5, 2.5),
        ("5", 5.0),
        (" 7 ", 7.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
        (-3, 0.0),
        (float("nan"), 0.0),
        (float("inf"), HOUR),
        (10**400, 0.0),
        (True, 1.0),
        (object(), 0.0),
        ([5], 0.0),
    ],
)
def test_how_long_a_destination_may_ask_for(asked: Any, seconds: float) -> None:
    assert seconds_asked(TransientError("busy", retry_after=asked)) == seconds
    assert seconds_asked(ValueError("not a word about it")) == 0.0


class OddPauseError(TransientError):
    """Cannot say for how long."""

    def __init__(self, thrown: BaseException) -> None:
        self.thrown = thrown

    @property
    def retry_after(self) -> Any:
        raise self.thrown

    @retry_after.setter
    def retry_after(self, seconds: Any) -> None: ...


@pytest.mark.parametrize("thrown", [RuntimeError("odd"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_destination_that_cannot_say_for_how_long_asks_for_nothing(thrown: BaseException) -> None:
    assert seconds_asked(OddPauseError(thrown)) == 0.0


class OddRefusalError(PermanentError):
    """Cannot say which records it is about."""

    def __init__(self) -> None: ...

    @property
    def records(self) -> Any:
        raise SystemExit(3)

    @records.setter
    def records(self, records: Any) -> None: ...


async def test_an_error_that_throws_what_ends_a_program_ends_neither_it_nor_a_neighbour() -> None:
    def refuse(_: Batch) -> None:
        raise OddRefusalError

    odd, neighbour = ScriptedHandler([refuse]), ScriptedHandler()

    recorder = EventRecorder(options=quickly())
    recorder.register(odd, name="odd")
    recorder.register(neighbour, name="neighbour")

    async with recorder:
        recorder.record(Numbered(1))
        assert await recorder.flush(timeout=5)

    assert len(odd.delivered) == len(neighbour.delivered) == 1


# -- errors to which nothing can be set


@dataclass(frozen=True)
class FrozenTransientError(TransientError):
    why: str
    retry_after: float = 7.0


@dataclass(frozen=True)
class FrozenPermanentError(PermanentError):
    why: str
    records: dict[int, str]


@dataclass(frozen=True)
class FrozenPauseError(PauseError):
    why: str


class SaidOnce(FencedHandler):
    """What `make` gives is thrown at the first call of `at`."""

    def __init__(self, at: str, make: Callable[[], Exception]) -> None:
        super().__init__()
        self.at = at
        self.make = make

    def strike(self, at: str) -> None:
        if self.at == at:
            self.at = ""
            raise self.make()

    async def open(self) -> None:
        self.strike("open")
        await super().open()

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        self.strike("resume")
        return await super().resume(log_id, subscription, start)

    async def handle(self, batch: Batch) -> None:
        self.strike("handle")
        await super().handle(batch)


@pytest.mark.parametrize("on_failure", ["retry", "stop"])
@pytest.mark.parametrize("at", ["open", "resume", "handle"])
async def test_a_frozen_pause_is_one(at: str, on_failure: Any) -> None:
    handler = SaidOnce(at, lambda: FrozenPauseError("401"))

    async with EventRecorder(handler, options=quickly(on_failure=on_failure)) as recorder:
        recorder.record(Numbered(1))
        await recorder.flush(timeout=1)
        part = recorder.status().subscriptions["SaidOnce"]
        assert recorder.status().is_balanced
        recorder.resume("SaidOnce")

    assert (part.state, part.held) == ("paused: 401", True)


@pytest.mark.parametrize("at", ["open", "resume", "handle"])
async def test_a_frozen_outage_lasts_as_long_as_it_says(at: str, caplog: pytest.LogCaptureFixture) -> None:
    handler = SaidOnce(at, lambda: FrozenTransientError("busy"))

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record(Numbered(1))
        await anyio.sleep(6)
        part = recorder.status().subscriptions["SaidOnce"]
        assert await recorder.flush(timeout=5)

    assert (part.state, part.delivered) == ("retrying in 7.0 s", 0)
    assert handler.delivered == [1]
    assert not [line for line in caplog.records if line.exc_info]


async def test_a_frozen_refusal_names_its_records() -> None:
    def refuse(batch: Batch) -> None:
        raise FrozenPermanentError("400", {batch.offsets[1]: "odd"})

    handler = ScriptedHandler([refuse])

    async with EventRecorder(handler, options=quickly()) as recorder:
        for number in range(3):
            recorder.record(Numbered(number))
        settled = await recorder.flush(timeout=5)

    assert settled == Settled(dead=1, dropped=0)
    assert handler.batches == [[0, 2]]


class Suspended:
    """Awaited, it waits for ever."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def test_a_coroutine_that_is_collected_is_not_kept_alive() -> None:
    ended: list[str] = []

    async def waits() -> None:
        with contained():
            await Suspended()
        ended.append("went on")

    coroutine = waits()
    coroutine.send(None)

    async def collect() -> None:
        coroutine.close()  # else: "coroutine ignored GeneratorExit"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collect)

    assert ended == []


async def test_a_generator_exit_of_the_running_task_is_an_error_like_any_other() -> None:
    with pytest.raises(EndedFromWithinError, match="GeneratorExit"), contained():
        raise GeneratorExit


async def test_a_cancellation_that_was_asked_for_ends_the_task_from_inside_a_group_too() -> None:
    ended: list[str] = []

    async def run() -> None:
        with contained():
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class() as exc:
                ended.append("inside")
                raise BaseExceptionGroup("of a handler's own tasks", [exc]) from None
        ended.append("after")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert ended == ["inside"]
