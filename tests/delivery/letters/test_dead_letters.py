"""Dead letters without a log: a JSON Lines file, or a line in the log that never shows the payload."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from eventrec import Backoff, EventRecorder, PermanentError
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

    async with EventRecorder(handler, options=quickly(dead_letters=path)) as recorder:
        with recorder.context(user="u1"):
            recorder.record_many(Numbered(n) for n in range(3))
        assert await recorder.flush(timeout=5)

    (letter,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert letter["payload"] == {"number": 1}
    assert letter["context"] == {"user": "u1"}
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
