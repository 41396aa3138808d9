"""What is particular about files of lines: their format, rotation, and a disk that fails in the middle."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from eventrec import (
    Batch,
    ColumnSchema,
    ColumnType,
    Event,
    FencedError,
    HandlerURLError,
    PauseError,
    PermanentError,
    ReceivedEvent,
    TransientError,
    safe_name,
)
from eventrec_handlers.jsonl import JsonlHandler, from_url
from eventrec_handlers.jsonl.disk import Disk, SyncError

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]


class Now:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.ns = 1_000

    def __call__(self) -> int:
        return self.ns


class WatchedDisk(Disk):
    """Notes what it does, and fails once at the step a test names."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []
        self.fails_at: str | None = None
        self.room: int | None = None

    def _step(self, step: str) -> None:
        self.steps.append(step)
        if step == self.fails_at:
            self.fails_at = None
            raise SyncError(errno.EIO, f"staged at {step}")

    def write(self, path: Path, at: int, content: bytes) -> None:
        self._step(f"write {path.name} at {at}")
        super().write(path, at, content)

    def replace(self, path: Path, content: bytes) -> None:
        self._step(f"replace {path.name}")
        super().replace(path, content)

    def sync_directory(self, path: Path) -> None:
        self._step("sync directory")
        super().sync_directory(path)

    def _write_all(self, descriptor: int, content: bytes) -> None:
        if self.room is not None and len(content) > self.room:
            os.write(descriptor, content[: self.room])
            raise OSError(errno.ENOSPC, "No space left on device")
        super()._write_all(descriptor, content)

    def _sync(self, descriptor: int, path: Path) -> None:
        self._step(f"sync {path.name}")
        super()._sync(descriptor, path)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "lines"


@pytest.fixture
def disk() -> WatchedDisk:
    return WatchedDisk()


@pytest.fixture
def now() -> Now:
    return Now()


async def opened(directory: Path, log_id: UUID, **options: Any) -> JsonlHandler:
    handler = JsonlHandler(directory, **options)
    await handler.open()
    await handler.resume(log_id, "tested", 0)
    return handler


def place(directory: Path, log_id: UUID) -> Path:
    return directory / str(log_id) / "tested"


def files(directory: Path, log_id: UUID) -> dict[str, list[Any]]:
    """The payloads in each file."""
    return {
        path.name: [json.loads(line)["payload"] for line in path.read_bytes().splitlines()]
        for path in sorted(place(directory, log_id).glob("*.jsonl"))
    }


# -- lines


async def test_line_reads_as_documented(directory: Path, event: Events, batch: Batches, log_id: UUID) -> None:
    handler = await opened(directory, log_id)
    columns = [ColumnSchema("n", ColumnType.INT64), ColumnSchema("raw", ColumnType.BINARY)]
    full = event({"é": 1}, kind='a"b', into="t", at=7, columns=columns, values=(5, b"\0\xff"))

    await handler.handle(batch(full, context=b'{"user":"u"}'))
    await handler.handle(batch(event(None, at=-8), start=1))
    await handler.close()

    (file,) = place(directory, log_id).glob("*.jsonl")
    first, second = file.read_text(encoding="utf-8").splitlines()
    id_ = json.loads(first)["id"]
    assert first == (
        f'{{"id":"{id_}","type":"a\\"b","timestamp":7,"table":"t","payload":{{"é":1}},'
        '"context":{"user":"u"},"columns":{"n":5,"raw":"AP8="}}'
    )
    assert (
        second
        == f'{{"id":"{json.loads(second)["id"]}","type":"happening","timestamp":-8,"table":"events","payload":null}}'
    )


async def test_json_columns_are_json_and_missing_values_null(
    directory: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    handler = await opened(directory, log_id)
    columns = [ColumnSchema("tags", ColumnType.LIST), ColumnSchema("when", ColumnType.DATE)]

    await handler.handle(batch(event(1, columns=columns, values=([1, "é"], None))))
    await handler.close()

    (file,) = place(directory, log_id).glob("*.jsonl")
    assert json.loads(file.read_bytes())["columns"] == {"tags": [1, "é"], "when": None}


async def test_lines_are_in_the_order_of_the_log_whatever_their_types(
    directory: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    handler = await opened(directory, log_id)

    await handler.handle(batch(*(event(n, kind=f"k{n % 3}", into=f"t{n % 2}") for n in range(12))))
    await handler.close()

    assert files(directory, log_id) == {"00000000000000000000.jsonl": list(range(12))}


async def test_line_breaks_between_tokens_become_spaces(directory: Path, batch: Batches, log_id: UUID) -> None:
    handler = await opened(directory, log_id)

    await handler.handle(batch(ReceivedEvent("received", b'{\n  "a":\r\n1, "b": "\\n"}')))
    await handler.close()

    assert files(directory, log_id) == {"00000000000000000000.jsonl": [{"a": 1, "b": "\n"}]}


@pytest.mark.parametrize("payload", [b"{", b"", b"1 2", b'"\xed\xa0\x80"', b'"\0"', b"NaN"])
async def test_payload_that_is_no_json_is_refused_alone(
    directory: Path, event: Events, batch: Batches, log_id: UUID, payload: bytes
) -> None:
    handler = await opened(directory, log_id)

    with pytest.raises(PermanentError, match="1 of 3 records cannot be lines of JSON; at offset 1") as caught:
        await handler.handle(batch(event(1), ReceivedEvent("received", payload), event(3)))
    await handler.close()

    assert list(caught.value.records) == [1]
    assert files(directory, log_id) == {}


# -- rotation


async def test_file_is_left_when_it_has_its_bytes(directory: Path, event: Events, batch: Batches, log_id: UUID) -> None:
    handler = await opened(directory, log_id, rotate_bytes=150)

    for start in range(4):
        await handler.handle(batch(event(start), start=start))
    await handler.close()

    assert files(directory, log_id) == {"00000000000000000000.jsonl": [0, 1], "00000000000000000002.jsonl": [2, 3]}


async def test_file_is_left_when_it_is_old_enough(
    directory: Path, event: Events, batch: Batches, log_id: UUID, now: Now
) -> None:
    handler = await opened(directory, log_id, rotate_age=60, now=now)

    for start, at in enumerate([0, 59, 61, 119, 122]):
        now.ns = at * 10**9
        await handler.handle(batch(event(at), start=start))
    await handler.close()

    assert list(files(directory, log_id).values()) == [[0, 59], [61, 119], [122]]


async def test_file_that_was_begun_while_the_clock_was_ahead_is_left_once_that_is_set(
    directory: Path, event: Events, batch: Batches, log_id: UUID, now: Now
) -> None:
    handler = await opened(directory, log_id, rotate_age=60, now=now)

    for start, at in enumerate([5_000, 100, 159, 160]):
        now.ns = at * 10**9
        await handler.handle(batch(event(at), start=start))
    await handler.close()

    assert list(files(directory, log_id).values()) == [[5_000], [100, 159], [160]]


async def test_rotated_files_may_be_taken_away(directory: Path, event: Events, batch: Batches, log_id: UUID) -> None:
    handler = await opened(directory, log_id, rotate_bytes=1)
    await handler.handle(batch(event(0)))
    await handler.handle(batch(event(1), start=1))

    (place(directory, log_id) / "00000000000000000000.jsonl").unlink()
    await handler.handle(batch(event(2), start=2))
    await handler.close()

    assert list(files(directory, log_id).values()) == [[1], [2]]


# -- what a crash or a failing disk leaves behind


async def test_bytes_past_what_counts_are_cut_off(directory: Path, event: Events, batch: Batches, log_id: UUID) -> None:
    handler = await opened(directory, log_id)
    await handler.handle(batch(event(0)))
    await handler.close()
    file = place(directory, log_id) / "00000000000000000000.jsonl"
    with file.open("ab") as torn:
        torn.write(b'{"id":"never said to be there","pay')

    handler = await opened(directory, log_id)
    cut = files(directory, log_id)
    await handler.handle(batch(event(1), start=1))
    await handler.close()

    assert cut == {file.name: [0]}
    assert files(directory, log_id) == {file.name: [0, 1]}


async def test_bytes_past_what_counts_are_cut_off_a_file_that_is_left(
    directory: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    handler = await opened(directory, log_id, rotate_bytes=1)
    await handler.handle(batch(event(0)))
    with (place(directory, log_id) / "00000000000000000000.jsonl").open("ab") as torn:
        torn.write(b'{"payload":"never said to be there"}\n')

    await handler.handle(batch(event(1), start=1))
    await handler.close()

    assert list(files(directory, log_id).values()) == [[0], [1]]


async def test_file_of_a_crash_before_the_sidecar_is_begun_again(
    directory: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    handler = await opened(directory, log_id)
    (place(directory, log_id) / "00000000000000000000.jsonl").write_bytes(b"written, but never said to be there\n")

    await handler.handle(batch(event(0)))
    await handler.close()

    assert files(directory, log_id) == {"00000000000000000000.jsonl": [0]}


async def test_full_disk_is_transient_and_leaves_nothing_half(
    directory: Path, event: Events, batch: Batches, log_id: UUID, disk: WatchedDisk
) -> None:
    handler = await opened(directory, log_id, _disk=disk)
    await handler.handle(batch(event(0)))
    file = place(directory, log_id) / "00000000000000000000.jsonl"
    before = file.read_bytes()

    disk.room = 300
    with pytest.raises(TransientError, match="No space left on device"):
        await handler.handle(batch(*(event("x" * 100) for _ in range(5)), start=1))
    left, stands = file.read_bytes(), await handler.resume(log_id, "tested", 0)
    disk.room = None
    await handler.handle(batch(event(1), start=1))
    await handler.close()

    assert (left, stands) == (before, 1)
    assert files(directory, log_id) == {file.name: [0, 1]}


async def test_full_disk_while_the_sidecar_is_replaced_moves_nothing(
    directory: Path, event: Events, batch: Batches, log_id: UUID, disk: WatchedDisk
) -> None:
    handler = await opened(directory, log_id, _disk=disk)

    disk.fails_at = "sync next.new"
    with pytest.raises(TransientError, match=r"staged at sync next\.new"):
        await handler.handle(batch(event(0)))
    stands = await handler.resume(log_id, "tested", 0)
    await handler.handle(batch(event(0)))
    await handler.close()

    assert stands == 0
    assert list(files(directory, log_id).values()) == [[0]]


async def test_lines_are_synced_before_the_sidecar_says_so_and_directories_after(
    directory: Path, event: Events, batch: Batches, log_id: UUID, disk: WatchedDisk
) -> None:
    handler = await opened(directory, log_id, _disk=disk)
    disk.steps.clear()

    await handler.handle(batch(event(0)))
    await handler.close()

    file = "00000000000000000000.jsonl"
    assert disk.steps == [
        f"write {file} at 0",
        f"sync {file}",
        "sync directory",
        "replace next",
        "sync next.new",
        "sync directory",
    ]


async def test_file_whose_sync_failed_is_never_synced_again(
    directory: Path, event: Events, batch: Batches, log_id: UUID, disk: WatchedDisk
) -> None:
    handler = await opened(directory, log_id, _disk=disk)
    await handler.handle(batch(event(0)))

    disk.fails_at = "sync 00000000000000000000.jsonl"
    with pytest.raises(TransientError):
        await handler.handle(batch(event(1), start=1))
    disk.steps.clear()
    await handler.handle(batch(event(1), start=1))
    await handler.handle(batch(event(2), start=2))
    await handler.close()

    assert "sync 00000000000000000000.jsonl" not in disk.steps
    found = files(directory, log_id)
    assert found["00000000000000000001.jsonl"] == [1, 2]


async def test_first_file_whose_sync_failed_gets_another_name(
    directory: Path, event: Events, batch: Batches, log_id: UUID, disk: WatchedDisk
) -> None:
    handler = await opened(directory, log_id, _disk=disk)

    disk.fails_at = "sync 00000000000000000000.jsonl"
    with pytest.raises(TransientError):
        await handler.handle(batch(event(0)))
    await handler.handle(batch(event(0)))
    await handler.close()

    stands = json.loads((place(directory, log_id) / "next").read_bytes())
    assert stands["file"] != "00000000000000000000.jsonl"
    assert files(directory, log_id)[stands["file"]] == [0]


async def test_file_that_is_shorter_than_it_was_pauses_and_says_what_to_do(
    directory: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    handler = await opened(directory, log_id)
    await handler.handle(batch(event(0)))
    file = place(directory, log_id) / "00000000000000000000.jsonl"
    whole = file.read_bytes()

    file.write_bytes(whole[:10])
    with pytest.raises(PauseError, match=r"has 10 bytes, but \d+ were written into it: put it back, or .*next"):
        await handler.handle(batch(event(1), start=1))
    file.unlink()
    with pytest.raises(PauseError, match="is gone"):
        await handler.handle(batch(event(1), start=1))
    file.write_bytes(whole)
    await handler.handle(batch(event(1), start=1))
    await handler.close()

    assert files(directory, log_id) == {file.name: [0, 1]}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version":2,"subscription":"tested","next":1}'])
async def test_sidecar_that_cannot_be_read_pauses(
    directory: Path, event: Events, batch: Batches, log_id: UUID, content: bytes
) -> None:
    handler = await opened(directory, log_id)
    (place(directory, log_id) / "next").write_bytes(content)

    with pytest.raises(PauseError, match=r"tested/next (cannot be read|is of version 2)"):
        await handler.handle(batch(event(0)))
    with pytest.raises(PauseError):
        await handler.resume(log_id, "tested", 0)
    await handler.close()


async def test_directory_that_is_removed_is_another_destination(
    directory: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    handler = await opened(directory, log_id)
    before = await handler.destination_id()
    directory.rename(directory.with_name("moved"))

    with pytest.raises(FencedError, match="is gone"):
        await handler.handle(batch(event(0)))
    assert await handler.destination_id() != before
    assert await handler.resume(log_id, "tested", 5) == 5
    await handler.close()


async def test_lock_of_another_process_is_waited_for_and_then_transient(
    directory: Path, event: Events, batch: Batches, log_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec_handlers.jsonl.subscription_directory.LOCK_SECONDS", 0.05)
    handler = await opened(directory, log_id)

    with Disk().locked(place(directory, log_id) / "lock", seconds=0), pytest.raises(TransientError, match="this lock"):
        await handler.handle(batch(event(0)))
    await handler.handle(batch(event(0)))
    await handler.close()

    assert list(files(directory, log_id).values()) == [[0]]


# -- names and addresses


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/etc", "é", "x" * 255, "%2E", "next", "a\nb", "COM1:"])
async def test_any_name_of_a_subscription_is_one_directory(directory: Path, log_id: UUID, name: str) -> None:
    handler = JsonlHandler(directory)
    await handler.open()

    await handler.resume(log_id, name, 3)
    answers = [await handler.resume(log_id, name, 0), await handler.resume(log_id, f"{name[:-1]}~", 0)]
    await handler.close()

    assert answers == [3, 0]
    assert {path.name for path in (directory / str(log_id)).iterdir()} == {
        safe_name(name),
        safe_name(f"{name[:-1]}~"),
    }
    assert {path.name for path in directory.parent.iterdir()} == {"lines"}


def test_url_names_a_directory_and_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert repr(from_url("jsonl:///var/lines")) == f"<JsonlHandler '{tmp_path}/var/lines' closed>"
    assert repr(from_url("jsonl:////var/lines")) == "<JsonlHandler '/var/lines' closed>"
    handler = from_url("jsonl:///x?rotate_bytes=1000&rotate_age=1h&fsync=false")
    assert (handler._rotation.bytes, handler._rotation.age, handler._disk.sync) == (1_000, 3_600 * 10**9, False)
    assert from_url("jsonl:///x?rotate_bytes=0")._rotation.bytes is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("jsonl:", "a jsonl URL is"),
        ("jsonl://host/x", "a jsonl URL is"),
        ("jsonl:///x?compress=1", "unknown option 'compress'"),
        ("jsonl:///x?rotate_age=soon", "must be a duration"),
        ("jsonl://user@/x", "has no user"),
    ],
)
def test_url_that_cannot_be_meant_is_refused(url: str, why: str) -> None:
    with pytest.raises(HandlerURLError, match=why):
        from_url(url)


@pytest.mark.parametrize("options", [{"path": ""}, {"rotate_bytes": 0}, {"rotate_age": -1}])
def test_argument_that_is_not_allowed_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"path must name|are positive, or None"):
        JsonlHandler(**{"path": "x", **options})


async def test_closed_handler_says_so(directory: Path, event: Events, batch: Batches) -> None:
    with pytest.raises(RuntimeError, match="is not open"):
        await JsonlHandler(directory).handle(batch(event(0)))


# -- killed


@pytest.mark.faults
@pytest.mark.slow
def test_writer_that_is_killed_at_any_instant_leaves_each_record_once(directory: Path) -> None:
    log_id = uuid4()
    script = Path(__file__).with_name("jsonl_writer.py")
    luck = random.Random(3)
    for _ in range(12):
        with _writing(script, directory, log_id):
            time.sleep(luck.uniform(0, 0.25))
    last = subprocess.run([sys.executable, script, directory, str(log_id)], check=False, timeout=200)

    written = [content["n"] for contents in files(directory, log_id).values() for content in contents]
    assert last.returncode == 0
    assert written == list(range(20_000))


@contextmanager
def _writing(script: Path, directory: Path, log_id: UUID) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, script, directory, str(log_id)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield
    process.kill()
    process.communicate()
