"""`SyncRecorder` from several threads at once, and from its own loop."""

from __future__ import annotations

import asyncio
import gc
import math
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from contextvars import Context
from pathlib import Path

import pytest

from eventrec import Batch, EventHandler, EventRecorder, RecorderStateError, Status
from eventrec.recorder import SyncRecorder
from eventrec.runtime.loop_thread import LoopEndedError, LoopThread
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly

THREADS = 4


def at_once(verb: Callable[[], object]) -> list[object]:
    """What each of some threads got, or what it raised; a thread that hangs is missing."""
    outcomes: list[object] = []
    gate = threading.Barrier(THREADS)

    def call() -> None:
        gate.wait()
        try:
            outcomes.append(verb())
        except Exception as exc:  # noqa: BLE001 - it is what is looked at
            outcomes.append(exc)

    threads = [threading.Thread(target=call, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    return outcomes


def test_of_threads_that_open_at_once_one_does() -> None:
    for _ in range(5):
        recorder = EventRecorder(ScriptedHandler(), options=quickly()).sync()

        outcomes = at_once(recorder.open)

        assert len(outcomes) == THREADS
        assert outcomes.count(None) == 1
        assert {type(outcome) for outcome in outcomes} == {type(None), RecorderStateError}
        assert recorder.record(Numbered(0))
        assert_conserved(recorder.close(), offered=1)


def test_threads_that_close_at_once_all_get_the_account() -> None:
    for _ in range(20):
        recorder = EventRecorder(ScriptedHandler(), options=quickly()).sync()
        recorder.open()
        recorder.record(Numbered(0))

        outcomes = at_once(lambda recorder=recorder: recorder.close().state)  # type: ignore[misc]

        assert outcomes == ["closed"] * THREADS
        assert_conserved(recorder.status(), offered=1)


def test_work_that_is_begun_while_the_loop_ends_is_refused_and_left_unbegun(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = LoopThread.start()
    late: list[Future[None]] = []
    begun: list[object] = []
    original = asyncio.BaseEventLoop.shutdown_asyncgens

    async def work() -> None:
        begun.append(None)

    async def begin_work_and_shut_down(self: asyncio.BaseEventLoop) -> None:
        """All tasks are cancelled by now, and the loop is not closed."""
        late.append(loop.begin(work))
        await original(self)

    monkeypatch.setattr(asyncio.BaseEventLoop, "shutdown_asyncgens", begin_work_and_shut_down)

    loop.stop(5)
    gc.collect()  # A task that was made and never run would warn.

    assert isinstance(late[0].exception(5), LoopEndedError)
    assert begun == []


def test_a_flush_that_waits_while_another_thread_closes_ends() -> None:
    recorder = EventRecorder(ScriptedHandler(), options=quickly()).sync()
    for _ in range(20):
        recorder.open()
        recorder.record(Numbered(0))
        answers: list[object] = []

        def flush(answers: list[object] = answers) -> None:
            try:
                answers.append(recorder.flush())
            except RecorderStateError as exc:
                answers.append(exc)

        thread = threading.Thread(target=flush, daemon=True)
        thread.start()
        recorder.close()
        thread.join(5)

        assert len(answers) == 1


class Calling(EventHandler):
    """Calls a blocking verb where its batches are handled: on the recorder's own loop."""

    def __init__(self, verb: Callable[[SyncRecorder], object]) -> None:
        self._verb = verb
        self.recorder: SyncRecorder | None = None
        self.raised: Exception | None = None

    async def handle(self, batch: Batch) -> None:
        assert self.recorder is not None
        try:
            self._verb(self.recorder)
        except Exception as exc:  # noqa: BLE001 - it is what is looked at
            self.raised = exc


@pytest.mark.parametrize("verb", ["open", "flush", "close", "record_durable", "record_all_durable", "resume"])
def test_a_blocking_verb_on_the_recorders_own_loop_is_refused_at_once(verb: str) -> None:
    durable = {"record_durable": (Numbered(1),), "record_all_durable": ([Numbered(1)],)}
    arguments = (durable | {"resume": ("Calling",)}).get(verb, ())
    handler = Calling(lambda recorder: getattr(recorder, verb)(*arguments))
    with EventRecorder(handler, options=quickly()).sync() as handler.recorder:
        handler.recorder.record(Numbered(0))
        assert handler.recorder.flush(timeout=60)

    assert isinstance(handler.raised, RecorderStateError)
    assert "another thread" in str(handler.raised)
    assert_conserved(handler.recorder.status(), offered=1)


@pytest.mark.parametrize("kind", ["memory", "log"])
def test_one_that_it_opened_is_closed_from_a_loop_of_the_application_at_once(kind: str, tmp_path: Path) -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, log=tmp_path if kind == "log" else None, options=quickly())
    delivering = recorder.sync()
    delivering.open()
    recorder.record(Numbered(0))
    began = time.monotonic()

    # In a context of its own: nothing that an earlier test left there says which library runs.
    status = Context().run(asyncio.run, recorder.close(20))

    assert time.monotonic() - began < 10
    assert handler.delivered == [0]
    assert_conserved(status, offered=1)
    assert delivering.close().state == "closed"


@pytest.mark.parametrize("kind", ["memory", "log"])
def test_one_that_a_loop_of_the_application_opened_is_closed_there(kind: str, tmp_path: Path) -> None:
    async def main() -> Status:
        await recorder.open()
        recorder.record(Numbered(0))
        with pytest.raises(RecorderStateError, match="await"):
            recorder.sync().close()
        with pytest.raises(RecorderStateError, match="on a loop that is not this one's"):
            recorder.sync().flush()
        return await asyncio.to_thread(recorder.sync().close, 20)

    handler = ScriptedHandler()
    recorder = EventRecorder(handler, log=tmp_path if kind == "log" else None, options=quickly())

    status = asyncio.run(main())

    assert handler.delivered == [0]
    assert handler.closed == 1
    assert status.state == "closed"
    assert_conserved(status, offered=1)


def test_a_second_one_of_the_same_recorder_takes_nothing_from_the_first() -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, options=quickly())
    first, second = recorder.sync(), recorder.sync()
    first.open()
    recorder.record(Numbered(0))

    with pytest.raises(RecorderStateError, match="open already"):
        second.open()
    status = second.close(20)

    assert handler.delivered == [0]
    assert_conserved(status, offered=1)
    assert first.close() == status


def test_what_is_kept_is_the_recorder_alone_and_it_is_closed_at_the_end_of_the_process(tmp_path: Path) -> None:
    program = f"""
import gc
from eventrec import EventRecorder, EventRecorderOptions
from eventrec.testing.scripted import Numbered

def made():
    recorder = EventRecorder("sqlite:///{tmp_path}/out.db", options=EventRecorderOptions(flush_interval=60))
    recorder.sync().open()
    return recorder

recorder = made()
gc.collect()
recorder.record(Numbered(0))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    with closing(sqlite3.connect(tmp_path / "out.db")) as database:
        assert database.execute("SELECT payload FROM events").fetchall() == [('{"number":0}',)]


@pytest.mark.parametrize("seconds", [math.inf, 1e20, 10**300])
def test_for_ever_is_a_timeout(seconds: float) -> None:
    recorder = EventRecorder(ScriptedHandler(), options=quickly())
    with recorder.sync() as delivering:
        recorder.record(Numbered(0))

        assert delivering.flush(seconds)
        assert delivering.close(seconds).state == "closed"
    assert EventRecorder(options=quickly()).sync().close(seconds).state == "closed"
