"""The recorder from outside: its life, its threads, and what it does with what it cannot take."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from pydantic import ValidationError

from eventrec import (
    Backoff,
    Batch,
    EncodeError,
    Event,
    EventHandler,
    EventRecorder,
    EventRecorderOptions,
    HandlerURLError,
    LogError,
    RecorderStateError,
    Settled,
    SubscriptionError,
    TransientError,
)
from eventrec.records.entry import SIZE
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly, raising


class Said(Event):
    """An event with a payload of the test's choice."""

    def __init__(self, payload: object) -> None:
        self._payload = payload

    @property
    def payload(self) -> object:
        return self._payload


# -- life


@pytest.mark.parametrize("make", [lambda recorder: recorder, EventRecorder.sync])
@pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, pickle.dumps, lambda recorder: copy.deepcopy([recorder])])
def test_recorder_is_not_copied_or_pickled(
    take: Callable[[object], object], make: Callable[[EventRecorder], object]
) -> None:
    recorder = make(EventRecorder(ScriptedHandler()))

    with pytest.raises(TypeError, match=r"Recorder is not copied or pickled: .* make one where it is needed"):
        take(recorder)


async def test_events_recorded_before_open_wait_in_the_intake() -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, options=quickly())
    recorder.record_many(Numbered(n) for n in range(3))
    assert recorder.status().in_intake == 3

    async with recorder:
        assert await recorder.flush(timeout=60)

    assert handler.delivered == [0, 1, 2]
    assert_conserved(recorder.status(), offered=3)


async def test_after_close_events_are_refused_and_counted() -> None:
    handler = ScriptedHandler()
    async with EventRecorder(handler, options=quickly()) as recorder:
        pass

    assert recorder.record(Numbered(0)) is False

    assert recorder.status().refused == {"closed": 1}
    assert_conserved(recorder.status(), offered=1)


async def test_close_is_idempotent_and_gives_the_account_from_any_task() -> None:
    recorder = EventRecorder(ScriptedHandler(), options=quickly())
    await recorder.open()
    recorder.record_many(Numbered(n) for n in range(100))
    statuses = []

    async def close() -> None:
        statuses.append(await recorder.close(timeout="5s"))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(close)

    assert [status.subscriptions["ScriptedHandler"].delivered for status in statuses] == [100] * 3
    assert {status.state for status in statuses} == {"closed"}


async def test_open_and_close_from_different_tasks() -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, options=quickly())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.open)
    recorder.record(Numbered(0))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.close)

    assert handler.delivered == [0]


async def test_a_recorder_is_opened_once() -> None:
    recorder = EventRecorder(ScriptedHandler(), options=quickly())
    await recorder.open()
    with pytest.raises(RecorderStateError, match="open already"):
        await recorder.open()

    await recorder.close()


async def test_a_closed_recorder_may_be_opened_again_and_counts_on(tmp_path: Path) -> None:
    for log in (None, tmp_path):
        handler = ScriptedHandler()
        recorder = EventRecorder(handler, log=log, options=quickly())
        for life in range(3):
            async with recorder:
                assert recorder.record(Numbered(life))
                assert await recorder.flush(timeout=60)
            assert not recorder.record(Numbered(-1)), "closed in between"

        assert handler.delivered == [0, 1, 2]
        assert_conserved(recorder.status(), offered=6)
        assert recorder.status().refused == {"closed": 3}


async def test_closing_what_was_never_opened_leaves_the_account_balanced() -> None:
    recorder = EventRecorder(ScriptedHandler())
    recorder.record(Numbered(0))

    status = await recorder.close()

    assert_conserved(status, offered=1)
    assert status.in_intake == 1


async def test_the_exit_is_bounded_while_the_destination_is_down_and_says_what_is_left() -> None:
    handler = ScriptedHandler(always=raising(TransientError("down")))
    recorder = EventRecorder(handler, options=quickly())
    await recorder.open()
    recorder.record_many(Numbered(n) for n in range(10))

    start = time.monotonic()
    status = await recorder.close(timeout=0.3)

    assert time.monotonic() - start < 20
    assert status.subscriptions["ScriptedHandler"].dropped == {"closed": 10}
    assert_conserved(status, offered=10)


async def test_a_handler_that_hangs_does_not_hang_the_exit() -> None:
    class Hanging(EventHandler):
        async def handle(self, batch: object) -> None:
            await anyio.sleep_forever()

        async def close(self) -> None:
            await anyio.sleep_forever()

    recorder = EventRecorder(Hanging(), options=quickly())
    await recorder.open()
    recorder.record(Numbered(0))

    start = time.monotonic()
    status = await recorder.close(timeout=0.2)

    assert time.monotonic() - start < 20
    assert_conserved(status, offered=1)


async def test_cancellation_flushes() -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, options=quickly(flush_interval=3600))

    with anyio.move_on_after(0.1):
        async with recorder:
            recorder.record_many(Numbered(n) for n in range(50))
            await anyio.sleep_forever()

    assert handler.delivered == list(range(50))
    assert_conserved(recorder.status(), offered=50)


async def test_an_exception_in_the_block_flushes_and_comes_out() -> None:
    handler = ScriptedHandler()

    async def fail() -> None:
        async with EventRecorder(handler, options=quickly(flush_interval=3600)) as recorder:
            recorder.record_many(Numbered(n) for n in range(50))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()

    assert handler.delivered == list(range(50))


def test_the_end_of_an_asyncio_program_that_never_closes_flushes() -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, options=quickly(flush_interval=3600))

    async def main() -> None:
        await recorder.open()
        recorder.record_many(Numbered(n) for n in range(50))

    asyncio.run(main())

    assert handler.delivered == list(range(50))
    assert_conserved(recorder.status(), offered=50)


def test_the_end_of_a_trio_program_that_never_closes_flushes() -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, options=quickly(flush_interval=3600))

    async def main() -> None:
        await recorder.open()
        recorder.record_many(Numbered(n) for n in range(50))

    anyio.run(main, backend="trio")

    assert handler.delivered == list(range(50))
    assert_conserved(recorder.status(), offered=50)


def test_repeated_cancels_of_everything_do_not_cut_the_flush_short() -> None:
    handler = ScriptedHandler(acts=[raising(TransientError("once"))])
    recorder = EventRecorder(handler, options=quickly(flush_interval=3600, retry=Backoff(first=0.2, jitter="none")))

    async def main() -> None:
        await recorder.open()
        recorder.record_many(Numbered(n) for n in range(50))
        (supervisor,) = [task for task in asyncio.all_tasks() if task.get_name() == "eventrec supervisor"]
        await asyncio.sleep(0.05)
        for _ in range(5):
            supervisor.cancel()
            await asyncio.sleep(0.02)
        with pytest.raises(asyncio.CancelledError):
            await supervisor

    asyncio.run(main())

    assert handler.delivered == list(range(50))
    assert_conserved(recorder.status(), offered=50)


async def test_a_cancelled_batch_is_handled_again_in_the_last_flush() -> None:
    scope = anyio.CancelScope()

    class Slow(ScriptedHandler):
        async def handle(self, batch: Batch) -> None:
            scope.cancel()
            await anyio.sleep(0.2)
            await super().handle(batch)

    handler = Slow()
    recorder = EventRecorder(handler, options=quickly(flush_interval=0.01))

    with scope:
        async with recorder:
            recorder.record_many(Numbered(n) for n in range(50))
            await anyio.sleep_forever()

    assert handler.delivered == list(range(50))


async def test_flush_times_out_honestly() -> None:
    handler = ScriptedHandler(always=raising(TransientError("down")))

    async with EventRecorder(handler, options=quickly(close_timeout=0.1)) as recorder:
        recorder.record(Numbered(0))
        start = time.monotonic()
        assert await recorder.flush(timeout=0.2) is False
        assert 0.15 < time.monotonic() - start < 20


async def test_flush_before_open_is_false() -> None:
    recorder = EventRecorder(ScriptedHandler())
    recorder.record(Numbered(0))

    assert await recorder.flush(timeout=1) is False
    await recorder.close()


def test_open_without_a_loop_says_what_to_use() -> None:
    recorder = EventRecorder(ScriptedHandler())
    opening = recorder.open()

    with pytest.raises(RuntimeError, match=r"recorder\.sync\(\)"):
        opening.send(None)


# -- threads, signals, forks, finalizers


async def test_events_from_many_threads_are_all_delivered_in_each_threads_order() -> None:
    handler = ScriptedHandler()

    def produce(start: int) -> None:
        for n in range(start, start + 1_000):
            assert recorder.record(Numbered(n))

    async with EventRecorder(handler, options=quickly(queue_events=20_000)) as recorder:
        async with anyio.create_task_group() as tasks:
            for start in range(0, 8_000, 1_000):
                tasks.start_soon(anyio.to_thread.run_sync, produce, start)
        assert await recorder.flush(timeout=20)

    assert sorted(handler.delivered) == list(range(8_000))
    for start in range(0, 8_000, 1_000):
        own = [n for n in handler.delivered if start <= n < start + 1_000]
        assert own == sorted(own)
    assert_conserved(recorder.status(), offered=8_000)


def test_the_byte_bound_holds_under_several_threads_without_drift() -> None:
    bound = 1_000_000
    recorder = EventRecorder(options=EventRecorderOptions(queue_bytes=bound, queue_events=1_000_000))

    def produce() -> None:
        for n in range(20_000):
            recorder.record(Numbered(n))

    threads = [threading.Thread(target=produce) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    status = recorder.status()
    waiting = recorder._life.intake.waiting_bytes()
    held = sum(entry[SIZE] for entry in recorder._life.intake.take(1 << 30))
    assert waiting == held
    assert bound * 0.9 < held <= bound + 8 * 64 * 1024
    assert_conserved(status, offered=160_000)
    assert status.refused == {"overflow": 160_000 - status.in_intake}


async def test_record_from_a_signal_handler() -> None:
    handler = ScriptedHandler()

    async with EventRecorder(handler, options=quickly()) as recorder:
        before = signal.signal(signal.SIGUSR1, lambda *_: recorder.record(Numbered(1)))
        try:
            for _ in range(200):
                os.kill(os.getpid(), signal.SIGUSR1)
                recorder.record(Numbered(0))
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert await recorder.flush(timeout=60)

    assert sorted(handler.delivered) == [0] * 200 + [1] * 200
    assert_conserved(recorder.status(), offered=400)


async def test_record_from_a_finaliser_inside_record() -> None:
    handler = ScriptedHandler()

    class Recording:
        def __del__(self) -> None:
            recorder.record(Numbered(1))

    class Littering(Event):
        @property
        def payload(self) -> object:
            cycle = [Recording()]
            cycle.append(cycle)  # type: ignore[arg-type]
            del cycle
            gc.collect(0)
            return {"number": 0}

    async with EventRecorder(handler, options=quickly()) as recorder:
        for _ in range(20):
            assert recorder.record(Littering())
        assert await recorder.flush(timeout=60)

    assert sorted(handler.delivered) == [0] * 20 + [1] * 20
    assert_conserved(recorder.status(), offered=40)


async def test_record_from_a_logging_handler_does_not_recurse(caplog: pytest.LogCaptureFixture) -> None:
    handler = ScriptedHandler(acts=[raising(TransientError("down"))] * 2)
    recorder = EventRecorder(handler, options=quickly(retry=Backoff(first=0.01)))

    class Recording(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            recorder.record(Said({"number": 1, "bad": float("nan")}))

    recording = Recording()
    logging.getLogger("eventrec").addHandler(recording)
    try:
        async with recorder:
            recorder.record(Numbered(0))
            assert await recorder.flush(timeout=60)
    finally:
        logging.getLogger("eventrec").removeHandler(recording)

    assert handler.delivered == [0]
    assert len(caplog.records) < 10
    assert_conserved(recorder.status())


async def test_a_forked_child_refuses_and_counts_while_the_parent_goes_on() -> None:
    handler = ScriptedHandler()

    async with EventRecorder(handler, options=quickly(flush_interval=3600)) as recorder:
        recorder.record(Numbered(0))
        child = os.fork()
        if child == 0:
            taken = recorder.record(Numbered(1))
            status = recorder.status()
            os._exit(0 if not taken and status.refused == {"forked": 1} and status.is_balanced else 1)
        _, code = await anyio.to_thread.run_sync(os.waitpid, child, 0)
        recorder.record(Numbered(2))
        assert await recorder.flush(timeout=60)

    assert os.waitstatus_to_exitcode(code) == 0
    assert handler.delivered == [0, 2]
    assert_conserved(recorder.status(), offered=2)


def test_a_loop_that_was_closed_over_our_heads_does_not_make_record_raise() -> None:
    program = """
import asyncio
from eventrec import EventRecorder
from eventrec.testing.scripted import Numbered, ScriptedHandler
recorder = EventRecorder(ScriptedHandler())
loop = asyncio.new_event_loop()
loop.run_until_complete(recorder.open())
loop.run_until_complete(asyncio.sleep(0.1))
loop.close()
assert recorder.record(Numbered(0))
assert recorder.status().is_balanced and recorder.status().in_intake == 1
"""

    code = subprocess.run([sys.executable, "-c", program], check=False).returncode

    assert code == 0


# -- programs without a loop


def test_sync_records_flushes_and_closes() -> None:
    handler = ScriptedHandler()

    with EventRecorder(handler, options=quickly()).sync() as recorder:
        assert recorder.record_many(Numbered(n) for n in range(100)) == 100
        assert recorder.flush(timeout="5s")
        assert handler.delivered == list(range(100))
        with recorder.context(user="u1"):
            recorder.record(Numbered(100))

    assert handler.delivered == list(range(101))
    assert_conserved(recorder.status(), offered=101)
    assert not [thread for thread in threading.enumerate() if thread.name == "eventrec"]


def test_sync_works_from_other_threads() -> None:
    handler = ScriptedHandler()
    flushed: list[bool | Settled] = []

    with EventRecorder(handler, options=quickly()).sync() as recorder:

        def work() -> None:
            recorder.record(Numbered(0))
            flushed.append(recorder.flush(timeout=60))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    assert flushed == [True]
    assert handler.delivered == [0]


def test_sync_refuses_verbs_after_close_and_closes_twice() -> None:
    recorder = EventRecorder(ScriptedHandler()).sync()
    recorder.open()
    recorder.close()

    assert recorder.close().state == "closed"
    with pytest.raises(RecorderStateError):
        recorder.flush()


def test_a_closed_sync_recorder_may_be_opened_again() -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, options=quickly()).sync()
    for life in range(2):
        with recorder:
            recorder.record(Numbered(life))
            with pytest.raises(RecorderStateError, match="open already"):
                recorder.open()

    assert handler.delivered == [0, 1]
    assert_conserved(recorder.status(), offered=2)


def test_a_program_that_forgets_to_close_a_sync_recorder_delivers_at_exit(tmp_path: Path) -> None:
    database = tmp_path / "events.db"
    program = f"""
from eventrec import EventRecorder
from eventrec.testing.scripted import Numbered
recorder = EventRecorder("sqlite:///{database}").sync()
recorder.open()
for n in range(10):
    recorder.record(Numbered(n))
"""

    code = subprocess.run([sys.executable, "-c", program], check=False).returncode

    assert code == 0
    import sqlite3  # noqa: PLC0415

    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (10,)
    connection.close()


# -- what cannot be taken


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (float("nan"), "nan"),
        ({"deep": [1, {"x": float("inf")}]}, "inf"),
        (b"bytes", "bytes"),
        ({"deep": (b"x",)}, "bytes"),
        (10**5_000, "ValueError"),
        ("\ud800", "surrogates not allowed"),
        (object(), "object"),
    ],
    ids=["nan", "infinity", "bytes", "deep bytes", "5,001 digits", "lone surrogate", "object"],
)
async def test_a_payload_that_cannot_be_encoded_is_refused_alone(
    payload: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    handler = ScriptedHandler()

    async with EventRecorder(handler, options=quickly()) as recorder:
        assert recorder.record(Numbered(0))
        assert recorder.record(Said(payload)) is False
        assert recorder.record(Said(payload)) is False
        assert recorder.record(Numbered(1))
        assert await recorder.flush(timeout=60)
        await anyio.sleep(0.05)

    assert handler.delivered == [0, 1]
    assert recorder.status().refused == {"not_encodable": 2}
    lines = [record.getMessage() for record in caplog.records if "Said" in record.getMessage()]
    assert len(lines) == 1
    assert said in lines[0]
    assert_conserved(recorder.status(), offered=4)


async def test_a_cycle_is_refused() -> None:
    cycle: list[object] = []
    cycle.append(cycle)

    async with EventRecorder(ScriptedHandler(), options=quickly()) as recorder:
        assert recorder.record(Said(cycle)) is False

    assert recorder.status().refused == {"not_encodable": 1}


@pytest.mark.parametrize("kind", ["", "x" * 256, "nul\0", "\ud800"])
async def test_a_bad_type_is_refused(kind: str) -> None:
    async with EventRecorder(ScriptedHandler(), options=quickly()) as recorder:
        assert recorder.record(Numbered(0, kind=kind)) is False

    assert recorder.status().refused == {"invalid": 1}
    assert_conserved(recorder.status(), offered=1)


async def test_an_event_whose_own_code_raises_is_refused() -> None:
    class Broken(Event):
        @property
        def payload(self) -> object:
            raise ZeroDivisionError("mine")

    async with EventRecorder(ScriptedHandler(), options=quickly()) as recorder:
        assert recorder.record(Broken()) is False
        assert recorder.record("no event at all") is False  # type: ignore[arg-type]
        assert recorder.record(None) is False  # type: ignore[arg-type]

    assert recorder.status().refused == {"not_encodable": 1, "invalid": 2}
    assert_conserved(recorder.status(), offered=3)


async def test_an_event_over_max_event_bytes_is_refused() -> None:
    async with EventRecorder(ScriptedHandler(), options=quickly(max_event_bytes=1_000)) as recorder:
        assert recorder.record(Said({"number": 1, "text": "x" * 700}))
        assert recorder.record(Said("x" * 800)) is False

    assert recorder.status().refused == {"too_large": 1}
    assert_conserved(recorder.status(), offered=2)


async def test_event_types_are_filtered_before_their_payload_is_looked_at() -> None:
    looked: list[str] = []

    class Looked(Event):
        def __init__(self, kind: str) -> None:
            self.kind = kind

        @property
        def type(self) -> str:
            return self.kind

        @property
        def payload(self) -> object:
            looked.append(self.kind)
            return {"number": 0}

    handler = ScriptedHandler()
    async with EventRecorder(handler, options=quickly(event_types=["a"])) as recorder:
        assert recorder.record(Looked("a"))
        assert recorder.record(Looked("b")) is False

    assert looked == ["a"]
    assert recorder.status().refused == {"filtered": 1}
    assert_conserved(recorder.status(), offered=2)


def test_two_handlers_of_one_name_ask_for_another() -> None:
    with pytest.raises(SubscriptionError, match=r"'ScriptedHandler'.*name="):
        EventRecorder(ScriptedHandler(), ScriptedHandler())


@pytest.mark.parametrize(
    ("url", "said"),
    [("nonsense:///x", "nonsense"), ("sqlite:///x.db?colour=red", "colour"), ("sqlite:///x.db?schema=odd", "odd")],
)
def test_an_unknown_scheme_or_option_is_named(url: str, said: str) -> None:
    with pytest.raises(HandlerURLError, match=said):
        EventRecorder(url)


def test_a_wrong_option_value_is_named() -> None:
    with pytest.raises(ValidationError, match="batch_rows"):
        EventRecorder(options=EventRecorderOptions(batch_rows=0))
    with pytest.raises(ValidationError, match="flush_interval"):
        EventRecorder().register(ScriptedHandler(), flush_interval="soon")


def test_types_given_as_plain_text_are_refused() -> None:
    with pytest.raises(SubscriptionError, match=r"\['page_view'\]"):
        EventRecorder().register(ScriptedHandler(), types="page_view")


@pytest.mark.parametrize("kind", ["", "a\0", "\ud800", "x" * 256])
def test_types_that_no_event_can_have_are_refused(kind: str) -> None:
    with pytest.raises(SubscriptionError, match="an event type"):
        EventRecorder().register(ScriptedHandler(), types=[kind])


@pytest.mark.parametrize("log", ["", "a\0b"])
def test_log_without_a_path_is_refused_and_is_not_the_working_directory(log: str) -> None:
    with pytest.raises(LogError, match="not the path"):
        EventRecorder(log=log)


async def test_registering_late_is_refused() -> None:
    async with EventRecorder() as recorder:
        with pytest.raises(RecorderStateError, match="before"):
            recorder.register(ScriptedHandler())


def test_context_refuses_what_is_no_json_value() -> None:
    with pytest.raises(EncodeError), EventRecorder().context(bad=float("nan")):
        pass


async def test_resume_of_an_unknown_name_is_refused() -> None:
    async with EventRecorder() as recorder:
        with pytest.raises(SubscriptionError, match="nobody"):
            recorder.resume("nobody")


@pytest.mark.parametrize("start", ["latests", "Earliest", "", 1])
async def test_resume_at_a_word_that_it_does_not_know_is_refused(start: Any) -> None:
    """Else a typing error would skip all that is kept."""
    async with EventRecorder(ScriptedHandler()) as recorder:
        with pytest.raises(SubscriptionError, match="start is one of earliest, latest"):
            recorder.resume("ScriptedHandler", start=start)


async def test_context_and_static_fields_reach_the_handler() -> None:
    seen: list[bytes | None] = []

    class Looking(EventHandler):
        async def handle(self, batch: Batch) -> None:
            seen.extend(record.context for record in batch.records)

    options = EventRecorderOptions(service="shop", environment="test")
    async with EventRecorder(Looking(), options=options) as recorder:
        recorder.record(Numbered(0))
        with recorder.context(user_id=7, service="other"):
            recorder.record(Numbered(1))

    assert seen == [
        b'{"service":"shop","environment":"test"}',
        b'{"service":"other","environment":"test","user_id":7}',
    ]


class BrokenClockError(Exception):
    """What a clock of the application raises."""


@pytest.mark.parametrize("kind", ["log", "memory"])
@pytest.mark.parametrize("wrong", [2**70, -(2**70), "noon", None, 1.5, float("nan"), True, BrokenClockError()])
async def test_a_clock_that_gives_no_time_costs_the_event_and_nothing_else(
    wrong: Any, kind: str, tmp_path: Path
) -> None:
    answers = [wrong]

    def clock() -> Any:
        if isinstance(answers[0], Exception):
            raise answers[0]
        return answers[0]

    handler = ScriptedHandler()
    recorder = EventRecorder(handler, log=tmp_path if kind == "log" else None, options=quickly(), clock=clock)
    await recorder.open()
    assert not recorder.record(Numbered(0))
    answers[0] = 10**18
    assert recorder.record(Numbered(1))
    answers[0] = wrong
    assert not recorder.record(Numbered(2))
    assert await recorder.flush(timeout=60)

    status = await recorder.close()
    assert handler.delivered == [1]
    assert status.refused == {"not_encodable" if isinstance(wrong, Exception) else "invalid": 2}
    assert (status.failure, status.defect) == (None, None)
    assert_conserved(status, offered=3)
