"""Dead letters without a log: a JSON Lines file, or a line in the log that never shows the payload."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import logging
import os
import threading
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import anyio
import anyio.to_thread
import msgspec
import pytest

from eventrec import Backoff, ColumnSchema, ColumnType, EventRecorder, PermanentError, Settled
from eventrec.delivery.letters import dead_letters
from eventrec.delivery.letters.dead_letters import DeadLetter, DeadLetterFile, Notices, letter_document
from eventrec.delivery.letters.log import LetterLog, letters_of
from eventrec.records.entry import make_entry
from eventrec.records.schema import Shape
from eventrec.runs.directory import list_runs
from eventrec.runs.run import new_run_id
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly, refusing


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Real time: a file is written in a thread."""
    backend: str = request.param
    return backend


async def test_a_letter_says_what_why_where_and_when(tmp_path: Path) -> None:
    path = tmp_path / "new" / "dead.jsonl"
    handler = ScriptedHandler(always=refusing({1}, lambda: PermanentError("value out of range")))

    async with EventRecorder(handler, options=quickly(dead_letters=path, service="shop")) as recorder:
        with recorder.context(user="u1"):
            recorder.record_many(Numbered(n) for n in range(3))
        assert await recorder.flush(timeout=5)

    (letter,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert letter["payload"] == {"number": 1}
    assert letter["context"] == {"service": "shop", "user": "u1"}
    assert letter["reason"] == "value out of range"
    assert (letter["subscription"], letter["handler"], letter["offset"]) == ("ScriptedHandler", "ScriptedHandler", 1)
    assert (letter["type"], letter["table"]) == ("numbered", "events")
    assert handler.delivered == [0, 2]
    assert_conserved(recorder.status(), offered=3)


async def test_a_file_that_cannot_be_written_holds_and_drops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dead.jsonl"
    full = True
    write = os.write

    def write_unless_full(descriptor: int, data: bytes) -> int:
        if full and _is_letters(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", write_unless_full)
    handler = ScriptedHandler(always=refusing({1}, lambda: PermanentError("never")))

    async with EventRecorder(handler, options=quickly(dead_letters=path, retry=Backoff(max=30))) as recorder:
        recorder.record_many(Numbered(n) for n in range(3))
        assert await recorder.flush(timeout=5) is False
        state = recorder.status().subscriptions["ScriptedHandler"].state
        assert state.startswith("holding: dead letters cannot be written")
        full = False
        recorder.resume("ScriptedHandler")
        assert await recorder.flush(timeout=5)

    assert len(path.read_text().splitlines()) == 1
    assert sorted(handler.delivered) == [0, 2]
    assert_conserved(recorder.status(), offered=3)


@pytest.mark.parametrize("kind", ["pipe", "pipe that is read", "folder", "device"])
async def test_what_is_no_file_in_the_place_of_one_holds_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to(os.devnull)
    else:
        os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if kind == "pipe that is read" else None
    handler = ScriptedHandler(always=refusing({1}, lambda: PermanentError("never")))

    async with EventRecorder(handler, options=quickly(dead_letters=path)) as recorder:
        recorder.record_many(Numbered(n) for n in range(3))
        assert await recorder.flush(timeout=5) is False
        state = recorder.status().subscriptions["ScriptedHandler"].state

    assert state.startswith("holding: dead letters cannot be written")
    assert_conserved(recorder.status(), offered=3)
    if reader is not None:
        os.close(reader)


async def test_a_short_write_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dead.jsonl"
    short = True
    write = os.write

    def write_half(descriptor: int, data: bytes) -> int:
        nonlocal short
        if short and _is_letters(descriptor):
            short = False
            return write(descriptor, data[: len(data) // 2])
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", write_half)
    handler = ScriptedHandler(always=refusing({0}, lambda: PermanentError("never")))

    async with EventRecorder(handler, options=quickly(dead_letters=path, retry=Backoff(max=30))) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=5) is False
        recorder.resume("ScriptedHandler")
        assert await recorder.flush(timeout=5)

    assert [json.loads(line)["payload"] for line in path.read_text().splitlines()] == [{"number": 0}]


def test_a_write_that_is_cancelled_half_way_is_not_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dead.jsonl"
    file, letter = DeadLetterFile(path), letter_of(ColumnType.BINARY, b"a")
    syncing, may_end, sync = threading.Event(), threading.Event(), os.fsync

    def held(descriptor: int) -> None:
        syncing.set()
        assert may_end.wait(10)
        sync(descriptor)

    async def cancel_and_write_again() -> int:
        writing = asyncio.create_task(file.write([letter]))
        await asyncio.to_thread(syncing.wait, 10)
        writing.cancel()  # A scope of anyio's would let it return.
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await file.write([letter])
        once = len(path.read_text().splitlines())
        await file.write([letter])  # It died once more, after it was replayed.
        return once

    monkeypatch.setattr(os, "fsync", held)

    assert asyncio.run(cancel_and_write_again()) == 1
    assert len(path.read_text().splitlines()) == 2


async def test_a_letter_that_could_not_be_synced_is_there_once_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dead.jsonl"
    file, letters = DeadLetterFile(path), [letter_of(ColumnType.BINARY, b"a")]
    await file.write([replace(letters[0], offset=1)])

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                await file.write(letters)
    await file.write(letters)

    assert [json.loads(line)["offset"] for line in path.read_text().splitlines()] == [1, 3]


async def test_a_letter_whose_copy_is_refused_is_in_the_log_once(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    path.mkdir()
    log = LetterLog(tmp_path / "dead", new_run_id, max_bytes=1 << 20, copy=DeadLetterFile(path))
    letter = letter_of(ColumnType.BINARY, b"a")

    for _ in range(3):
        with pytest.raises(OSError, match="directory"):
            await log.write([letter])
    path.rmdir()
    await log.write([letter])
    await anyio.to_thread.run_sync(log.close)

    def found() -> list[int]:
        (run,) = list_runs(tmp_path / "dead")
        return [each.offset for _, each in letters_of(tmp_path / "dead", run)]

    assert await anyio.to_thread.run_sync(found) == [letter.offset]
    assert path.read_bytes().count(b"\n") == 1


async def test_without_a_file_type_reason_and_size_are_logged_and_never_the_payload(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handler = ScriptedHandler(always=refusing(range(5), lambda: PermanentError("never")))

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record_many(Numbered(n, kind="secret_thing") for n in range(5))
        assert await recorder.flush(timeout=5)

    (line,) = [record.getMessage() for record in caplog.records if record.name == "eventrec.dead_letters"]
    assert "type=secret_thing" in line
    assert "reason=never" in line
    assert "bytes=" in line
    assert "number" not in line


def _is_letters(descriptor: int) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").readlink().name == "dead.jsonl"


async def test_a_reason_that_no_file_takes_is_written_as_one_that_it_does(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    handler = ScriptedHandler(always=refusing({1}, lambda: PermanentError("no such file: \udcff.txt")))

    async with EventRecorder(handler, options=quickly(dead_letters=path)) as recorder:
        recorder.record_many(Numbered(n) for n in range(3))
        assert await recorder.flush(timeout=5)

    (letter,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert letter["reason"] == "no such file: \\udcff.txt"
    assert sorted(handler.delivered) == [0, 2]


@pytest.mark.parametrize("failure", [ValueError("no"), RecursionError(), MemoryError()], ids=repr)
async def test_letters_that_cannot_be_kept_for_any_reason_hold_and_are_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    handler = ScriptedHandler(always=refusing({1}, lambda: PermanentError("never")))
    path = tmp_path / "dead.jsonl"

    def fails(_: object) -> bytes:
        raise failure

    async with EventRecorder(handler, options=quickly(dead_letters=path, retry=Backoff(max=30))) as recorder:
        with monkeypatch.context() as patched:
            patched.setattr(dead_letters, "letter_document", fails)
            recorder.record_many(Numbered(n) for n in range(3))
            assert await recorder.flush(timeout=5) is False
            state = recorder.status().subscriptions["ScriptedHandler"].state
            assert state.startswith(f"holding: dead letters cannot be written: {type(failure).__name__}")
        recorder.resume("ScriptedHandler")
        assert await recorder.flush(timeout=5)

    assert len(path.read_text().splitlines()) == 1
    assert_conserved(recorder.status(), offered=3)


def letter_of(kind: ColumnType, value: bytes) -> DeadLetter:
    shape = Shape("events", "a", (ColumnSchema("data", kind),))
    entry = make_entry(shape, 1, b"{}", None, msgspec.msgpack.encode([[value]]))
    return DeadLetter(UUID(int=7), 3, "s", "Handler", "never", 1.0, entry)


@pytest.mark.parametrize(
    "value", [b"ok\xff", b'"\xff"', b"[" * 200_000, b"", b"123", b'{"a": 1}', b"\n", bytes(range(256))], ids=len
)
async def test_a_binary_column_is_base64_whatever_its_bytes_look_like(tmp_path: Path, value: bytes) -> None:
    path = tmp_path / "dead.jsonl"

    await DeadLetterFile(path).write([letter_of(ColumnType.BINARY, value)])

    (letter,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert base64.b64decode(letter["rows"][0][0]) == value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b'{"a": [1, 2]}', {"a": [1, 2]}),
        (b'{\n "a": 1\n}', {"a": 1}),
        (b"12345678901234567890123", 12345678901234567890123),
        (b'"\xff"', base64.b64encode(b'"\xff"').decode()),
        (b"[" * 200_000, base64.b64encode(b"[" * 200_000).decode()),
    ],
    ids=["object", "over lines", "large number", "bad byte", "too deep"],
)
async def test_a_json_column_is_json_where_it_can_be_on_one_line(tmp_path: Path, value: bytes, shown: object) -> None:
    path = tmp_path / "dead.jsonl"

    await DeadLetterFile(path).write([letter_of(ColumnType.JSON, value)])

    (letter,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert letter["rows"] == [[shown]]


@pytest.mark.parametrize("place", ["log", "file", "nowhere"])
async def test_a_dead_letter_is_said_in_the_logging_and_in_the_health(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="eventrec")
    handler = ScriptedHandler(always=refusing({1, 2}, lambda: PermanentError("out of range")))
    options = quickly(dead_letters=tmp_path / "dead.jsonl" if place == "file" else None)

    async with EventRecorder(handler, log=tmp_path / "log" if place == "log" else None, options=options) as recorder:
        recorder.record_many(Numbered(n) for n in range(3))
        assert await recorder.flush(timeout=10)
        status = recorder.status()

    said = [record.getMessage() for record in caplog.records if "refused for good" in record.getMessage()]
    assert len(said) == 1
    assert "subscription=ScriptedHandler type=numbered reason='out of range'" in said[0]
    assert (status.health.ready, status.health.reasons) == (True, ("ScriptedHandler: 2 dead letters",))
    assert status.subscriptions["ScriptedHandler"].last_error == "out of range"


def test_no_more_is_remembered_of_what_was_said_than_of_a_thousand_types(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="eventrec")
    now = 0.0
    notices = Notices(lambda: now)

    for number in range(3 * Notices.MAX_TYPES):
        entry = make_entry(Shape("events", f"t{number}"), 1, b"{}")
        notices.say([DeadLetter(UUID(int=7), number, "s", "Handler", "never", 1.0, entry)])

    assert len(notices) == Notices.MAX_TYPES


@pytest.mark.parametrize("has_log", [False, True])
async def test_a_flush_after_which_nothing_is_stored_does_not_say_that_it_is(tmp_path: Path, *, has_log: bool) -> None:
    handler = ScriptedHandler(always=refusing(range(500), lambda: PermanentError("never")))

    async with EventRecorder(handler, log=tmp_path if has_log else None, options=quickly(batch_rows=100)) as recorder:
        recorder.record_many(Numbered(n) for n in range(300))
        first = await recorder.flush(timeout=60)
        handler.always = lambda _: None
        recorder.record(Numbered(0))
        second = await recorder.flush(timeout=60)

    assert (first, bool(first), str(first)) == (Settled(dead=300, dropped=0), True, "settled: 300 dead, 0 dropped")
    assert second is True
    assert handler.delivered == [0]


async def test_what_died_before_the_flush_is_told_by_it(tmp_path: Path) -> None:
    handler = ScriptedHandler(always=refusing({1}, lambda: PermanentError("never")))

    async with EventRecorder(handler, options=quickly(dead_letters=tmp_path / "dead", flush_interval=0.01)) as recorder:
        recorder.record_many(Numbered(n) for n in range(3))
        with anyio.fail_after(5):
            while recorder.status().subscriptions["ScriptedHandler"].delivered < 2:  # noqa: ASYNC110 - a disk is waited for
                await anyio.sleep(0.01)

        assert await recorder.flush(timeout=5) == Settled(dead=1, dropped=0)
        assert await recorder.flush(timeout=5) is True


def test_half_a_line_that_another_process_wrote_behind_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting it off would cut off the other's line too."""
    path = tmp_path / "dead.jsonl"
    write = os.write

    def write_half(descriptor: int, data: bytes) -> int:
        done = write(descriptor, data[: len(data) // 2])
        with path.open("ab") as other:
            other.write(b"another\n")
        return done

    monkeypatch.setattr(os, "write", write_half)
    letters = DeadLetterFile(path)

    with pytest.raises(OSError, match="wrote 5 of 10 bytes"):
        letters._append(b"123456789\n")

    assert path.read_bytes() == b"12345another\n"


def test_a_letter_about_a_record_that_has_an_id_of_its_own_says_it() -> None:
    entry = make_entry(Shape("events", "a"), 1, b"{}", explicit_id=bytes(range(16)))
    about = DeadLetter(UUID(int=7), 3, "s", "Handler", "never", 1.0, entry, None)

    assert letter_document(about)["id"] == bytes(range(16)).hex()
