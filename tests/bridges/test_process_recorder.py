import os
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio.to_thread
import pytest

from eventrec import EventRecorder, OptionsError, ReceivedEvent
from eventrec.bridges.process_recorder import ProcessRecorder, recorder_of
from eventrec.testing import assert_conserved


@pytest.fixture
def of_process() -> Iterator[ProcessRecorder]:
    of_process = ProcessRecorder(EventRecorder("memory:"))
    yield of_process
    of_process.close()


def test_many_threads_open_it_once_and_its_close_is_for_good(of_process: ProcessRecorder) -> None:
    together = threading.Barrier(8)

    def use() -> None:
        together.wait()
        for _ in range(10):
            of_process.ensure_open()
            of_process.recorder.record(ReceivedEvent("said", b"{}"))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened = of_process.recorder.status().state
    status = of_process.close()
    of_process.ensure_open()

    assert (opened, of_process.recorder.status().state) == ("open", "closed")
    assert_conserved(status, offered=80)
    assert status.subscriptions["memory"].delivered == 80


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_loop_does_not_wait_while_it_is_opened(of_process: ProcessRecorder) -> None:
    for _ in range(10):
        of_process.ensure_open()
    of_process.recorder.record(ReceivedEvent("said", b"{}"))

    status = await anyio.to_thread.run_sync(of_process.close)

    assert_conserved(status, offered=1)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_moment_without_threads_is_no_error_of_who_asks_and_passes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    of_process = ProcessRecorder(EventRecorder("memory:"), now=lambda: now)

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        of_process.ensure_open()
    now += 11
    of_process.ensure_open()
    for opening in [each for each in threading.enumerate() if each.name == "eventrec opening"]:
        await anyio.to_thread.run_sync(opening.join)

    assert of_process.recorder.status().state == "open"
    await anyio.to_thread.run_sync(of_process.close)
    assert [line for line in caplog.messages if "can't start new thread" in line]


def test_what_cannot_be_opened_is_said_once_and_tried_again_after_ten_seconds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log").write_text("a file in its place", "utf-8")
    now = 100.0
    of_process = ProcessRecorder(EventRecorder("memory:", log=tmp_path / "log"), now=lambda: now)

    of_process.ensure_open()
    now += 9
    of_process.ensure_open()
    now += 2
    of_process.ensure_open()
    (tmp_path / "log").unlink()
    now += 9
    of_process.ensure_open()
    still_closed = of_process.recorder.status().state
    now += 2
    of_process.ensure_open()
    opened = of_process.recorder.status().state
    of_process.recorder.record(ReceivedEvent("said", b"{}"))
    status = of_process.close()

    told = [line for line in caplog.messages if line.startswith("the recorder is not open")]
    assert len(told) == 1
    assert "make a log" in told[0]
    assert (still_closed, opened) == ("closed", "open")
    assert status.subscriptions["memory"].delivered == 1


def test_settings_are_a_recorder_or_what_it_is_made_of(tmp_path: Path) -> None:
    given = EventRecorder("memory:")

    of_mapping = recorder_of({"to": "memory:", "log": tmp_path / "log", "batch_rows": 7}, name="EVENTREC")
    of_several = recorder_of({"to": ["memory:", f"sqlite:///{tmp_path}/x.db"]}, name="EVENTREC")

    assert recorder_of(given, name="EVENTREC") is given
    assert of_mapping.has_log
    assert repr(of_mapping).endswith("to memory>")
    assert repr(of_several).endswith("to memory, sqlite>")
    assert recorder_of({"enabled": False}, name="EVENTREC").is_switched_off


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("memory:", "EVENTREC is an EventRecorder, or a mapping, got str"),
        ({}, 'nothing says where events go: give EVENTREC "to", the URL of a destination, or "log"'),
        ({"to": "memory:", "log": 7}, '"log" in EVENTREC is the path of a directory, got int'),
        ({"to": "memory:", "lgo": "x"}, "unknown option 'lgo' in EVENTREC; known are to, log, batch_bytes"),
        ({"to": "memory:", "batch_rows": 0}, "options in EVENTREC: batch_rows: Input should be greater than"),
        (None, "nothing says where events go: set EVENTREC_TO"),
    ],
)
def test_wrong_settings_are_one_line(settings: object, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EVENTREC_")]:
        monkeypatch.delenv(name)

    with pytest.raises(OptionsError) as caught:
        recorder_of(settings, name="EVENTREC")

    assert str(caught.value).startswith(said)
