"""A log goes over a connection while it is written, on disks, on either loop."""

from __future__ import annotations

import contextlib
import filecmp
import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.abc import ByteReceiveStream, SocketAttribute, SocketStream

from eventrec.errors import CorruptCommitError, LogClosedError
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log, LogOptions
from eventrec.log.mirror import StreamReader, StreamWriter
from eventrec.log.segment import list_segments
from eventrec.runtime.backend import in_thread
from eventrec.testing.storage import FaultyStorage

if TYPE_CHECKING:
    pass


def _assert_identical(source: Path, mirror: Path) -> None:
    names = sorted(path.name for path in source.iterdir() if path.stat().st_size > 10)
    assert sorted(path.name for path in mirror.iterdir()) == names
    assert filecmp.cmpfiles(source, mirror, names, shallow=False) == (names, [], [])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[DiskStorage, DiskStorage]:
    return DiskStorage(tmp_path / "source", create=True), DiskStorage(tmp_path / "mirror", create=True)


class ShortPieces(ByteReceiveStream):
    """What a connection delivers, cut by chance, and an error at its end where one is given."""

    def __init__(self, stream: bytes, error: Exception | None = None) -> None:
        self._stream, self._error = stream, error
        self._random = random.Random(len(stream))

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        if not self._stream:
            raise self._error or anyio.EndOfStream
        size = self._random.choice([1, 3, 9, 40, 300])
        piece, self._stream = self._stream[:size], self._stream[size:]
        return piece

    async def aclose(self) -> None:
        """Nothing is held."""


@pytest.fixture
def stream() -> bytes:
    """100 records in several segments."""
    storage = FaultyStorage()
    with Log.create(storage, LogOptions(segment_bytes=500)) as log:
        for _ in range(100):
            log.append([bytes(20)])
            log.write()
    return b"".join(iter(StreamReader(storage).read, b""))


@pytest.fixture
def recorded(folders: tuple[DiskStorage, DiskStorage]) -> tuple[DiskStorage, DiskStorage]:
    """The first of them holds 900 records."""
    with Log.create(folders[0], LogOptions(segment_bytes=100_000)) as log:
        for n in range(300):
            log.append([bytes([n % 256]) * 500] * 3)
            log.write()
    return folders


async def test_a_log_goes_over_a_socket(recorded: tuple[DiskStorage, DiskStorage]) -> None:
    source, target = recorded
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - of a socket
    seen: list[range] = []

    async def serve(connection: SocketStream) -> None:
        async with connection:
            await StreamReader(source).send(connection, max_bytes=10_000)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        async with await anyio.connect_tcp("127.0.0.1", port) as connection:
            writer = await in_thread(StreamWriter.create, target)
            await writer.append_all(connection, seen.append)
        tasks.cancel_scope.cancel()
    await in_thread(writer.close)

    assert writer.synced == 900
    assert [(one.start, one.stop) for one in seen] == [(n * 3, n * 3 + 3) for n in range(300)]
    _assert_identical(source.directory, target.directory)


async def test_pieces_of_any_size_are_taken_and_progress_is_told_on_the_loop(stream: bytes) -> None:
    threads: set[int] = set()
    records: list[int] = []

    def progress(of_commit: range) -> None:
        threads.add(threading.get_ident())
        records.extend(of_commit)

    with StreamWriter.create(FaultyStorage()) as writer:
        await writer.append_all(ShortPieces(stream), progress)
        await writer.append_all(ShortPieces(b""))

    assert records == list(range(100))
    assert threads == {threading.get_ident()}


async def test_a_connection_that_breaks_consumes_the_writer_and_loses_nothing_that_was_written(stream: bytes) -> None:
    storage = FaultyStorage()
    writer = StreamWriter.create(storage)

    with pytest.raises(anyio.BrokenResourceError):
        await writer.append_all(ShortPieces(stream[: len(stream) // 2], anyio.BrokenResourceError()))

    with pytest.raises(LogClosedError):
        await writer.append_all(ShortPieces(stream))
    assert StreamWriter.create(storage).next_offset == writer.next_offset > 40


async def test_a_connection_that_ends_inside_of_a_commit_is_an_error(stream: bytes) -> None:
    writer = StreamWriter.create(FaultyStorage())

    with pytest.raises(CorruptCommitError, match="incomplete"):
        await writer.append_all(ShortPieces(stream[:-1]))

    assert writer.next_offset == 99


async def test_being_cancelled_consumes_the_writer(stream: bytes) -> None:
    storage = FaultyStorage()
    writer = StreamWriter.create(storage)

    with anyio.CancelScope() as scope:
        await writer.append_all(ShortPieces(stream), lambda records: scope.cancel() if 50 in records else None)

    with pytest.raises(LogClosedError):
        writer.write(b"")
    assert 50 < StreamWriter.create(storage).next_offset < 100


async def test_a_failing_progress_consumes_the_writer(stream: bytes) -> None:
    writer = StreamWriter.create(FaultyStorage())

    def fail(records: range) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await writer.append_all(ShortPieces(stream), fail)

    with pytest.raises(LogClosedError):
        writer.finish()


@pytest.mark.parametrize("sync", [False, True])
def test_a_log_is_mirrored_while_it_is_written_rotated_compressed_and_deleted(
    folders: tuple[DiskStorage, DiskStorage], *, sync: bool
) -> None:
    source, target = folders
    log = Log.create(source, LogOptions(segment_bytes=4000, index_interval=300))
    acknowledged = [0]
    errors: list[BaseException] = []
    is_half_mirrored = threading.Event()

    def write() -> None:
        try:
            for n in range(600):
                if n == 400:  # However fast the disk is, there is something to delete from here on.
                    assert is_half_mirrored.wait(60)
                log.append([bytes([n % 256]) * (n % 97)] * (1 + n % 3))
                log.write()
                if n % 50 == 0:
                    log.sync()
                    log.delete_below(acknowledged[0] // 2)
                    log.compress_below(acknowledged[0])
            log.close()
        except BaseException as exc:
            errors.append(exc)
            raise

    thread = threading.Thread(target=write)
    thread.start()
    with StreamReader(source, sync=sync) as reader, StreamWriter.create(target, index_interval=300) as writer:
        while thread.is_alive() or writer.next_offset < log.written:
            writer.write(reader.read(1500))
            acknowledged[0] = writer.sync_all()
            if acknowledged[0] >= 400:
                is_half_mirrored.set()
        writer.finish()
    thread.join()

    assert errors == []
    assert writer.next_offset == log.written
    kept = list_segments(source)
    assert kept[0] > 0
    assert _stream(source, kept[0]) == _stream(target, kept[0])
    assert list_segments(target)[-len(kept) :] == kept


def _stream(storage: DiskStorage, start: int) -> bytes:
    return b"".join(iter(StreamReader(storage, start=start).read, b""))


def _open_files(directory: Path) -> int:
    """How many files in `directory` this process holds open."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # The one that lists them is gone.
            found += directory in descriptor.readlink().parents
    return found


def test_descriptors_are_given_back(folders: tuple[DiskStorage, DiskStorage], stream: bytes) -> None:
    _, target = folders

    for broken in (stream, stream[:200] + b"?" + stream[201:], stream[:-1]):
        writer = StreamWriter.create(target)
        writer.write(broken[:100])
        assert _open_files(target.directory) > 0
        with contextlib.suppress(CorruptCommitError):
            writer.write(broken[100:])
            writer.finish()
            writer.close()
        assert _open_files(target.directory) == 0
        with StreamReader(target, sync=True) as reader:
            while reader.read():
                pass
        assert _open_files(target.directory) == 0
        for path in target.directory.iterdir():
            path.unlink()
