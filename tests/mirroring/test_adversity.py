"""What operators, disks, other people's files and one busy log do to all the others: nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import pytest
from anyio.abc import ByteStream, SocketStream
from anyio.to_thread import run_sync as in_thread

from eventrec.errors import LogError
from eventrec.log.log import Log, LogOptions
from eventrec.log.mirror import StreamReader
from eventrec.log.segment import list_segments
from eventrec.mirroring.addresses import Address
from eventrec.mirroring.frames import FROM_MIRROR, Frame, FrameParser, Kind
from eventrec.mirroring.messages import Ack, Begin, Hello, Runs, Stopped, Welcome, decode, encode, encode_data
from eventrec.runs.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFiles, Progress
from eventrec.runs.directory import list_runs
from eventrec.runs.mirrors import MIRRORS, Mirrors
from eventrec.runs.run import Run, new_run_id


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


async def test_a_log_that_always_has_more_keeps_no_other_waiting(
    here: Path, there: Path, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = await in_thread(kit.source, here)
    read = StreamReader.read_parts

    def write_and_read(self: StreamReader, *arguments: Any) -> list[bytes | memoryview]:
        if str(busy.run.id) in repr(self._storage):
            busy.write(1)
        return read(self, *arguments)

    monkeypatch.setattr(StreamReader, "read_parts", write_and_read)
    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: kit.acknowledged(here, busy.run.id) > 0)
        other = await in_thread(kit.source, here)
        end = await in_thread(other.write, 3)
        await kit.until(lambda: kit.acknowledged(here, other.run.id) == end)
    await in_thread(other.end)
    await in_thread(busy.end)


async def test_what_could_not_be_read_once_is_read_again_though_nothing_moves(
    here: Path, there: Path, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await in_thread(kit.source, here)
    end = await in_thread(source.write, 3)
    read, failures = StreamReader.read_parts, list[int]()

    def fail_once(self: StreamReader, *arguments: Any) -> list[bytes | memoryview]:
        if failures:
            raise OSError(failures.pop(), "no more descriptors")
        return read(self, *arguments)

    monkeypatch.setattr(StreamReader, "read_parts", fail_once)
    monkeypatch.setattr("eventrec.mirroring.session._RETRY_SECONDS", 0.3)
    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == end)
        failures.append(24)
        end = await in_thread(source.write, 3)
        await kit.until(lambda: not failures)
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == end)
    await in_thread(source.end)


@pytest.mark.parametrize("name", [b"\xff.json", b"other people's.json", b"x" * 250 + b".json", b"\n\x1b[2J.json"])
async def test_other_peoples_files_among_checkpoints_stop_nothing(
    here: Path, there: Path, kit: Any, name: bytes
) -> None:
    def prepare() -> Any:
        source = kit.source(here)
        source.write(3)
        source.save(3)
        folder = here / str(source.run.id) / CHECKPOINTS
        shutil.copy(folder / "s.json", os.fsdecode(os.fsencode(folder) + b"/" + name))
        return source

    source = await in_thread(prepare)
    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: kit.noted(here, source.run.id).checkpoints == {"s.json": 3})
        end = await in_thread(source.write, 3)
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == end)

    assert await in_thread(os.listdir, there / str(source.run.id) / CHECKPOINTS) == ["s.json"]
    await in_thread(source.end)


@pytest.mark.parametrize("host", ["\N{LATIN SMALL LETTER E WITH ACUTE}" * 64, "a..b", "x" * 70])
async def test_a_host_whose_name_cannot_be_one_is_a_source_that_is_not_there(there: Path, kit: Any, host: str) -> None:
    async with kit.mirroring(Address(host, 1), there) as mirror:
        await kit.until(lambda: mirror.state.startswith("waiting: no connection to"))


async def test_a_directory_does_not_mirror_itself(here: Path, tmp_path: Path, kit: Any) -> None:
    """It would say that another machine has what this one has."""
    source = await in_thread(kit.source, here)
    await in_thread(source.write, 3)
    await in_thread(source.end)
    link = tmp_path / "link"
    await in_thread(link.symlink_to, here)
    async with kit.serving(here) as served, kit.mirroring(served.address, link) as mirror:
        await kit.until(lambda: mirror.state.endswith("its directory is the one that is served"))

    assert not await in_thread((here / MIRRORS).exists)


# -- a source that is not one of ours


class FakeSource:
    """Welcomes one mirror, and says what it is told to."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._parser = FrameParser(FROM_MIRROR)
        self._frames = list[Frame]()

    async def greet(self) -> Hello:
        hello = decode(await self.hear(Kind.HELLO), Hello)
        await self.say(encode(Welcome()))
        return hello

    async def say(self, *frames: bytes) -> None:
        await self._stream.send(b"".join(frames))

    async def hear(self, kind: Kind) -> Frame:
        """The next frame of that kind."""
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                if frame.kind is kind:
                    return frame
            self._frames += self._parser.feed(await self._stream.receive())


async def with_source(there: Path, kit: Any, talk: Any) -> None:
    """Have `talk` be the source of a mirror in `there`, and return with it."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django's
    done = anyio.Event()

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await talk(FakeSource(stream))
            done.set()

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        async with kit.mirroring(Address("127.0.0.1", port), there):
            with anyio.fail_after(120):
                await done.wait()
        tasks.cancel_scope.cancel()


async def test_a_log_that_came_there_by_another_way_is_not_replaced(here: Path, there: Path, kit: Any) -> None:
    """As where two directories mirror each other, or one itself."""
    there.mkdir()

    async def talk(source: FakeSource) -> None:
        await source.greet()
        own = await in_thread(kit.source, there)
        end = await in_thread(own.write, 3)
        await in_thread(own.end)
        await source.say(encode(Begin(run=own.run.id, stream=1, is_fresh=True)))
        assert decode(await source.hear(Kind.STOP), Stopped).run == own.run.id
        # What is there is told: then the two can be compared.
        (claim,) = decode(await source.hear(Kind.RUNS), Runs).runs
        assert claim.last is not None
        assert (claim.run, claim.last.next_offset) == (own.run.id, end)

    await with_source(there, kit, talk)

    assert len(await in_thread(list_runs, there)) == 1


def stream_of(directory: Path, id_: UUID) -> list[bytes]:
    """A log's stream, a commit each, the header before the first."""
    run = Run.adopt(directory, id_)
    assert run is not None
    with StreamReader(run.storage) as reader:
        pieces = []
        while piece := reader.read(1):
            pieces.append(piece)
    run.release()
    return pieces


async def test_what_little_comes_all_the_time_is_acknowledged_all_the_same(here: Path, there: Path, kit: Any) -> None:
    def prepare() -> tuple[UUID, list[bytes]]:
        run = Run.create(here, new_run_id())
        log = Log.create(run.storage, LogOptions())
        for _ in range(1_000):
            log.append_encoded(b"x", 1)
            log.write()
        log.close()
        run.release()
        return run.id, stream_of(here, run.id)

    id_, pieces = await in_thread(prepare)

    async def talk(source: FakeSource) -> None:
        await source.greet()
        await source.say(encode(Begin(run=id_, stream=1, is_fresh=True)))
        acks = list[int]()

        async def listen() -> None:
            while True:
                acks.append(decode(await source.hear(Kind.ACK), Ack).next_offset)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            for piece in pieces:
                await source.say(encode_data(1, piece))
                await anyio.sleep(0.0005)
            seen = list(acks)
            tasks.cancel_scope.cancel()
        assert [each for each in seen if 0 < each < len(pieces)]

    await with_source(there, kit, talk)


async def test_a_mirror_that_ends_while_its_connection_is_lost_ends_without_an_error(there: Path, kit: Any) -> None:
    """Of its tasks one loses the connection, and the others are cancelled: both come as one group."""

    async def talk(source: FakeSource) -> None:
        await source.greet()

    await with_source(there, kit, talk)


async def test_a_log_that_could_not_be_given_out_is_tried_again_in_the_same_connection(
    here: Path, there: Path, kit: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = await in_thread(kit.source, here)
    end = await in_thread(source.write, 3)
    read, failures = StreamReader.read_parts, list(range(2))

    def fail(self: StreamReader, *arguments: Any) -> list[bytes | memoryview]:
        if failures:
            failures.pop()
            raise LogError("zstd is not installed")
        return read(self, *arguments)

    monkeypatch.setattr(StreamReader, "read_parts", fail)
    monkeypatch.setattr("eventrec.mirroring.pauses.FIRST_PAUSE", 0.01)
    async with kit.serving(here) as served, kit.mirroring(served.address, there) as mirror:
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == end)
        await kit.until(lambda: mirror.counts.diverged == {})
    await in_thread(source.end)

    assert failures == []
    assert mirror.connections == 1
    said = [each.message for each in caplog.records if each.message.startswith("log not mirrored")]
    # One line of each of the two; again, where it was over when it failed the second time.
    assert len(set(said)) == 2
    assert len(said) <= 4


async def test_checkpoints_with_more_names_than_fit_into_a_frame_come_along(here: Path, there: Path, kit: Any) -> None:
    names = [f"{number:03}{'x' * 190}" for number in range(330)]
    source = await in_thread(kit.source, here)
    end = await in_thread(source.write, 1)

    def save() -> None:
        files = CheckpointFiles(source.run.storage)
        for name in names:
            files.save(Checkpoint(subscription=name, progress=Progress(0, end, end, delivered=end)), sync=False)

    await in_thread(save)
    async with kit.serving(here) as served:
        for _ in range(2):
            async with kit.mirroring(served.address, there) as mirror:
                await kit.until(lambda: len(kit.noted(here, source.run.id).checkpoints) == len(names))
                assert mirror.connections == 1
            await in_thread(Mirrors(here).forget_log, "standby", source.run.id)
    await in_thread(source.end)

    assert await in_thread(kit.are_alike, here, there)


async def test_what_was_received_is_counted_in_records(here: Path, there: Path, kit: Any) -> None:
    source = await in_thread(kit.source, here, 2_000)
    end = await in_thread(source.write, 20)
    await in_thread(source.log.sync)
    await in_thread(source.log.delete_below, 30)
    first = (await in_thread(list_segments, source.run.storage))[0]

    async with kit.serving(here) as served, kit.mirroring(served.address, there) as mirror:
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == end)
        await kit.until(lambda: mirror.counts.records >= end - first)
        records = mirror.counts.records
    await in_thread(source.end)

    assert 0 < first < end
    assert records == end - first
