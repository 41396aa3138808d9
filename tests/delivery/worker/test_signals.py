"""What a signal handler of the application raises while code of ours runs is the application's, and reaches it."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType

import anyio
import pytest

from eventrec import Batch, EventRecorder
from eventrec.runtime.logging import get_logger
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

Handling = Callable[..., AbstractContextManager[None]]


class AlarmError(Exception):
    """Raised by a signal handler."""


def leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(7)


def alarm(_number: int, _frame: FrameType | None) -> None:
    raise AlarmError


def signalled(number: signal.Signals) -> ScriptedHandler:
    """A destination that is reached when the signal comes, and works the next time."""

    def act(_: Batch) -> None:
        signal.raise_signal(number)

    return ScriptedHandler(acts=[act])


def test_a_signal_handler_that_leaves_the_program_leaves_it_though_a_destination_was_at_work(
    handling: Handling,
) -> None:
    async def main() -> None:
        await recorder.open()
        recorder.record(Numbered(0))
        await anyio.sleep(30)

    handler = signalled(signal.SIGTERM)
    recorder = EventRecorder(handler, options=quickly())

    with handling(signal.SIGTERM, leave), pytest.raises(SystemExit, match="7"):
        asyncio.run(main())

    assert handler.delivered == [0]
    assert_conserved(recorder.status(), offered=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
def test_on_trio_it_ends_the_program_as_ctrl_c_does(number: signal.Signals, handling: Handling) -> None:
    """Its main task takes nothing else."""

    async def main() -> None:
        await recorder.open()
        recorder.record(Numbered(0))
        await anyio.sleep(30)

    handler = signalled(number)
    recorder = EventRecorder(handler, options=quickly())

    with (
        handling(signal.SIGINT, signal.default_int_handler),
        handling(number, leave if number is signal.SIGTERM else signal.default_int_handler),
        pytest.raises(KeyboardInterrupt),
    ):
        anyio.run(main, backend="trio")

    assert handler.delivered == [0]
    assert_conserved(recorder.status(), offered=1)


def test_ctrl_c_that_python_handles_ends_a_loop_though_a_destination_was_at_work(handling: Handling) -> None:
    async def main() -> None:
        await recorder.open()
        recorder.record(Numbered(0))
        await anyio.sleep(30)

    handler = signalled(signal.SIGINT)
    recorder = EventRecorder(handler, options=quickly())
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(main())

    with handling(signal.SIGINT, signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(waiting)

    waiting.cancel()
    status = loop.run_until_complete(recorder.close(30))
    loop.close()
    assert handler.delivered == [0]
    assert_conserved(status, offered=1)


def test_any_other_error_of_a_signal_handler_is_given_to_the_loop_once(handling: Handling) -> None:
    seen = list[object]()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context["exception"]))
        async with recorder:
            recorder.record(Numbered(0))
            assert await recorder.flush(timeout=20)

    handler = signalled(signal.SIGUSR1)
    recorder = EventRecorder(handler, options=quickly())

    with handling(signal.SIGUSR1, alarm):
        asyncio.run(main())

    assert [type(each) for each in seen] == [AlarmError]
    assert handler.delivered == [0]


@pytest.mark.parametrize("thrown", [SystemExit(1), KeyboardInterrupt()], ids=lambda each: type(each).__name__)
def test_what_a_destination_throws_itself_is_not_taken_for_a_signals(thrown: BaseException, handling: Handling) -> None:
    def act(_: Batch) -> None:
        raise thrown

    async def main() -> None:
        async with recorder:
            recorder.record(Numbered(0))
            assert await recorder.flush(timeout=20)

    recorder = EventRecorder(ScriptedHandler(acts=[act]), options=quickly())
    with handling(signal.SIGTERM, leave):
        asyncio.run(main())

    assert_conserved(recorder.status(), offered=1)


@pytest.mark.parametrize("where", ["on a loop", "without one"])
def test_a_signal_that_comes_while_a_line_is_logged_is_not_lost(where: str, handling: Handling) -> None:
    class Signalling(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            del record
            signal.raise_signal(signal.SIGTERM)

    async def main() -> None:
        get_logger("eventrec.delivery").warning("a line")
        await anyio.sleep(30)

    def say() -> None:
        if where == "on a loop":
            asyncio.run(main())
        else:
            get_logger("eventrec.delivery").warning("a line")

    logger, handler = logging.getLogger("eventrec"), Signalling()
    logger.addHandler(handler)
    try:
        with handling(signal.SIGTERM, leave), pytest.raises(SystemExit, match="7"):
            say()
    finally:
        logger.removeHandler(handler)


async def test_what_on_drop_throws_stays_with_it(caplog: pytest.LogCaptureFixture) -> None:
    """Out of a callback of trio's loop it would end the application."""

    def leave_it(reason: str, count: int) -> None:
        told.append((reason, count))
        raise SystemExit(1)

    told = list[tuple[str, int]]()
    recorder = EventRecorder(
        ScriptedHandler(), on_drop=leave_it, options=quickly(queue_events=2, overflow="drop_old", close_timeout=30)
    )
    async with recorder:
        recorder.record_many(Numbered(n) for n in range(30))
        await recorder.flush(timeout=20)

    assert [reason for reason, _ in told] == ["overflow"]
    assert "on_drop failed" in caplog.text
    assert recorder.status().is_balanced
