"""A recorder that is switched off: each verb works and does nothing, and each event is counted."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

import pytest

from eventrec import EventRecorder, EventRecorderOptions, HandlerURLError, OptionsError, RecorderStateError
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly

OFF = EventRecorderOptions(enabled=False)


class Unreadable:
    """Whatever is asked of it is an error of the recorder's."""

    def __getattribute__(self, name: str) -> object:
        if name == "__class__":
            return object.__getattribute__(self, name)
        raise AssertionError(f"{name} was read")


async def test_each_verb_works_and_does_nothing(tmp_path: Path) -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, log=tmp_path / "log", options=OFF)

    async with recorder:
        assert recorder.record(Numbered(1)) is False
        assert recorder.record_many(Numbered(n) for n in range(3)) == 0
        assert await recorder.record_durable(Numbered(2)) is None
        assert await recorder.record_all_durable([Numbered(2)]) == [None]
        assert recorder.record_each([Numbered(2)]) == [False]
        with recorder.context(user_id=1):
            recorder.record(Numbered(3))
        assert await recorder.flush(timeout=0) is True
        recorder.resume("ScriptedHandler")
        status = recorder.status()
        with pytest.raises(RecorderStateError, match="open already"):
            await recorder.open()

    assert (status.state, status.offered, status.refused) == ("disabled", 8, {"disabled": 8})
    assert status.is_balanced
    assert (status.health.live, status.health.ready) == (True, True)
    assert status.health.reasons == ("the recorder is disabled",)
    assert (handler.opened, handler.batches) == (0, [])
    assert list(tmp_path.iterdir()) == []
    assert (await recorder.close()).state == "disabled"
    assert repr(recorder) == "<EventRecorder disabled to ScriptedHandler>"


async def test_it_may_be_opened_again_as_any_recorder() -> None:
    recorder = EventRecorder(ScriptedHandler(), options=OFF)

    async with recorder:
        recorder.record(Numbered(1))
    async with recorder:
        recorder.record(Numbered(2))

    assert recorder.status().refused == {"disabled": 2}


def test_blocking_verbs_start_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()

    with EventRecorder(ScriptedHandler(), log=tmp_path / "log", options=OFF).sync() as recorder:
        assert recorder.record(Numbered(1)) is False
        assert recorder.record_durable(Numbered(2)) is None
        assert recorder.record_all_durable([Numbered(2)]) == [None]
        assert recorder.flush() is True
        recorder.resume("ScriptedHandler")
        assert threading.active_count() <= before

    assert recorder.close().refused == {"disabled": 3}
    assert list(tmp_path.iterdir()) == []


def test_event_is_not_looked_at() -> None:
    recorder = EventRecorder(options=OFF)
    called: list[str] = []

    def profile(frame: FrameType, what: str, _: object) -> None:
        if what == "call":
            called.append(frame.f_code.co_name)

    record, event = recorder.record, Unreadable()
    sys.setprofile(profile)
    try:
        record(event)  # type: ignore[arg-type]
    finally:
        sys.setprofile(None)

    assert called == ["record"]
    assert recorder.status().refused == {"disabled": 1}


WATCHED = """
import sys
seen = []
def watch(event, args):
    if event.startswith(("socket.", "_thread.", "sqlite3.", "os.mkdir", "os.rename", "subprocess.")) or (
        event == "open" and isinstance(args[1], str) and args[1][0] in "wax"
    ):
        seen.append(event)
from eventrec import Event, EventRecorder, EventRecorderOptions
class Ping(Event): ...
sys.addaudithook(watch)
recorder = EventRecorder("sqlite:///events.db", log="log", options=EventRecorderOptions.load())
with recorder.sync() as blocking:
    for _ in range(1000):
        blocking.record(Ping())
print(blocking.status().refused, seen)
"""


def test_switched_off_by_the_environment_nothing_is_made(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCHED],
        cwd=tmp_path,
        env={**os.environ, "EVENTREC_DISABLED": "1"},
        check=False,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "{'disabled': 1000} []\n"
    assert list(tmp_path.iterdir()) == []


def test_switched_off_it_is_forgotten_without_a_word() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCHED.partition("with recorder")[0] + "recorder.record(Ping())"],
        env={**os.environ, "EVENTREC_ENABLED": "false"},
        check=False,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_environment_of_a_user_does_not_silence_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "1")

    with EventRecorder(ScriptedHandler(), options=quickly()).sync() as recorder:
        assert recorder.record(Numbered(1))

    assert_conserved(recorder.status(), offered=1)


def test_variables_that_are_no_options_are_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTREC_DISABLED", "0")
    monkeypatch.setenv("EVENTREC_FORCE", "1")
    assert EventRecorderOptions.load().enabled

    monkeypatch.setenv("EVENTREC_ENABLED", "false")
    assert not EventRecorderOptions.load().enabled

    monkeypatch.setenv("EVENTREC_DISABLE", "1")
    with pytest.raises(OptionsError, match="unknown option EVENTREC_DISABLE "):
        EventRecorderOptions.load()


async def test_disabled_while_it_runs_it_delivers_what_it_had_taken() -> None:
    handler = ScriptedHandler()
    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record(Numbered(1))

        recorder.disable()
        recorder.disable()

        assert recorder.record(Numbered(2)) is False
        assert await recorder.flush()
        status = recorder.status()

    assert handler.delivered == [1]
    assert (status.state, status.offered, status.refused) == ("open", 2, {"disabled": 1})
    assert_conserved(status, offered=2)


def test_threads_are_counted_each() -> None:
    recorder = EventRecorder(options=OFF)
    event = Numbered(1)

    def produce() -> None:
        for _ in range(20_000):
            recorder.record(event)

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert recorder.status().refused == {"disabled": 80_000}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_stays_off_and_counts_for_itself() -> None:
    for recorder in (EventRecorder(options=OFF), EventRecorder(ScriptedHandler(), options=quickly())):
        recorder.disable()
        recorder.record(Numbered(1))

        child = os.fork()
        if child == 0:
            recorder.record(Numbered(2))
            status = recorder.status()
            os._exit(0 if (status.offered, status.refused) == (1, {"disabled": 1}) else 1)

        assert os.waitpid(child, 0)[1] == 0
        assert recorder.status().refused == {"disabled": 1}


def test_handlers_are_checked_as_ever() -> None:
    recorder = EventRecorder(options=OFF)

    with pytest.raises(HandlerURLError, match="nonesuch"):
        recorder.register("nonesuch://here")
