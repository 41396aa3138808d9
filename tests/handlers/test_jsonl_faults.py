"""What goes wrong around files of lines: payloads that nothing has looked at, bad bytes, links in the way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import anyio
import pytest

from eventrec import Batch, Event, PauseError, PermanentError, ReceivedEvent
from eventrec_handlers.jsonl import JsonlHandler
from eventrec_handlers.jsonl.folder import HAS_DESCRIPTORS, Folder
from eventrec_handlers.jsonl.sidecar import Next, UnreadableError, decoded, encoded

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "lines"


async def opened(directory: Path, log_id: UUID) -> JsonlHandler:
    handler = JsonlHandler(directory)
    await handler.open()
    await handler.resume(log_id, "tested", 0)
    return handler


def lines_in(directory: Path) -> list[bytes]:
    return [line for file in sorted(directory.rglob("*.jsonl")) for line in file.read_bytes().splitlines()]


@pytest.mark.skipif(not HAS_DESCRIPTORS, reason="folders have no descriptors here")
def test_a_folder_whose_names_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = os.open(tmp_path / "file", os.O_RDONLY | os.O_CREAT)
    try:
        with pytest.raises(NotADirectoryError) as caught:
            Folder(tmp_path / "lines", file).names()
    finally:
        os.close(file)

    assert caught.value.filename == str(tmp_path / "lines")


@pytest.mark.usefixtures("without_stdin")
def test_nothing_that_is_opened_keeps_the_number_of_a_standard_stream(directory: Path) -> None:
    directory.mkdir()

    with Folder.opened(directory) as folder:
        folder.make("place")
        with folder.folder("place") as place, place.file("1.jsonl", os.O_RDWR | os.O_CREAT) as descriptor:
            numbers = [folder._descriptor, place._descriptor, descriptor]

            with pytest.raises(OSError, match="Bad file"):
                os.write(0, b"progress")
            assert not os.get_inheritable(descriptor)
    assert min(number for number in numbers if number is not None) > 2


# -- payloads that nothing has looked at


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 90_000,
        b'"\xff"',
        b'"a\nb"',
        b'["\\ud800",NaN]',
        b"NaN",
        b"",
        b"{} {}",
        b"\xef\xbb\xbf{}",
    ],
    ids=lambda payload: repr(payload[:20]),
)
async def test_payload_that_no_reader_takes_is_named_and_its_neighbours_are_stored(
    directory: Path, batch: Batches, log_id: UUID, payload: bytes
) -> None:
    handler = await opened(directory, log_id)
    neighbours = [ReceivedEvent("t", b'{"n":%d}' % n) for n in range(40)]

    with pytest.raises(PermanentError) as refused:
        await handler.handle(batch(*neighbours[:20], ReceivedEvent("t", payload), *neighbours[20:]))
    await handler.handle(batch(*neighbours))
    await handler.close()

    assert list(refused.value.records) == [20]
    assert len(lines_in(directory)) == 40


@pytest.mark.parametrize(
    "payload", [b'{"a":"\\ud800"}', b"1" * 5_000, b"1e999", b'{"a":1,"a":2}', b'"\\u0000"', b" null\t"]
)
async def test_payload_that_is_odd_but_json_is_stored_as_it_is(
    directory: Path, batch: Batches, log_id: UUID, payload: bytes
) -> None:
    handler = await opened(directory, log_id)

    await handler.handle(batch(ReceivedEvent("t", payload)))
    page = await handler.reader().latest(limit=9)
    await handler.close()

    (file,) = directory.rglob("*.jsonl")
    assert b'"payload":' + payload + b"}\n" in file.read_bytes()
    assert len(page.events) == 1


# -- files that another program changed

needs_descriptors = pytest.mark.skipif(not HAS_DESCRIPTORS, reason="the system has no descriptors of folders")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xf3",
        b'{"subscription":"tes\xf3ed","next":1}',
        b"[]",
        b"[" * 90_000,
        b'{"subscription":"tested","next":1e400}',
        b'{"subscription":"tested","next":-1}',
        b'{"subscription":"tested","next":9223372036854775808}',
        b'{"subscription":"tested","next":1,"length":-1}',
        b'{"subscription":"tested","next":1,"file":"../../../x","length":0}',
        b'{"subscription":"tested","next":1,"file":"/etc/passwd","length":0}',
        b'{"subscription":"tested","next":1,"file":"next","length":0}',
        b'{"subscription":"tested","next":1,"file":"00000000000000000000.jsonl\\u0000","length":0}',
        b'{"subscription":"tested","next":1,"file":"\\u06600000000000000000000.jsonl"}',
        b'{"subscription":"other","next":1}',
        b'{"version":2,"subscription":"tested","next":1}',
    ],
    ids=lambda content: repr(content[-60:]),
)
async def test_sidecar_with_bad_bytes_holds_delivery_and_nothing_is_written(
    directory: Path, event: Events, batch: Batches, log_id: UUID, content: bytes
) -> None:
    handler = await opened(directory, log_id)
    await handler.handle(batch(event(0)))
    sidecar = directory / str(log_id) / "tested" / "next"
    good = sidecar.read_bytes()
    sidecar.write_bytes(content)
    before = {path: path.read_bytes() for path in directory.parent.rglob("*") if path.is_file()}

    for attempt in (handler.handle(batch(event(1), start=1)), handler.resume(log_id, "tested", 0)):
        with pytest.raises(PauseError, match="next"):
            await attempt
    after = {path: path.read_bytes() for path in directory.parent.rglob("*") if path.is_file()}
    sidecar.write_bytes(good)
    await handler.handle(batch(event(1), start=1))
    await handler.close()

    assert after == before
    assert len(lines_in(directory)) == 2


def test_golden_sidecar_is_read_and_written_for_ever() -> None:
    stands = Next(subscription="tested", file="00000000000000000000.jsonl", length=117, next=1, started=1_000)

    assert encoded(stands) == GOLDEN
    assert decoded(GOLDEN) == stands
    assert decoded(GOLDEN.replace(b',"crc32c":"35097236"', b"")) == stands  # as versions before wrote it


GOLDEN = (
    b'{"version":1,"subscription":"tested","file":"00000000000000000000.jsonl","length":117,"next":1,"started":1000,'
    b'"retired_at":null,"crc32c":"35097236"}\n'
)


def test_flip_of_any_bit_of_a_sidecar_is_noticed() -> None:
    for position in range(len(GOLDEN)):
        for bit in range(8):
            flipped = bytearray(GOLDEN)
            flipped[position] ^= 1 << bit

            with pytest.raises(UnreadableError):
                decoded(bytes(flipped))


@pytest.mark.parametrize("length", range(len(GOLDEN)))
def test_sidecar_that_was_cut_is_noticed(length: int) -> None:
    with pytest.raises(UnreadableError):
        decoded(GOLDEN[:length])


@pytest.mark.parametrize("content", [b"", b"\xf3", b"no uuid", b"0" * 100_000])
async def test_id_with_bad_bytes_holds_delivery(directory: Path, log_id: UUID, content: bytes) -> None:
    handler = await opened(directory, log_id)
    (directory / "destination").write_bytes(content)

    with pytest.raises(PauseError, match=r"destination does not hold the id of this directory"):
        await handler.destination_id()
    await handler.close()


@needs_descriptors
@pytest.mark.parametrize(
    "swapped", ["{log}", "{log}/tested", "{log}/tested/{file}", "{log}/tested/next", "{log}/tested/lock"]
)
async def test_link_in_the_place_of_what_was_made_is_not_written_through(  # noqa: PLR0917
    directory: Path, tmp_path: Path, event: Events, batch: Batches, log_id: UUID, swapped: str
) -> None:
    handler = await opened(directory, log_id)
    await handler.handle(batch(event(0)))
    target = directory / swapped.format(log=log_id, file=f"{0:020}.jsonl")
    elsewhere = tmp_path / "elsewhere"
    target.rename(elsewhere)
    target.symlink_to(elsewhere)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    with pytest.raises(PauseError):
        await handler.handle(batch(event(1), start=1))
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    target.unlink()
    elsewhere.rename(target)
    await handler.handle(batch(event(1), start=1))
    await handler.close()

    assert after == before
    assert len(lines_in(directory)) == 2


@needs_descriptors
@pytest.mark.parametrize("kind", ["symlink", "hard link"])
async def test_link_that_waits_for_the_next_sidecar_is_not_written_through(  # noqa: PLR0917
    directory: Path, tmp_path: Path, event: Events, batch: Batches, log_id: UUID, kind: str
) -> None:
    handler = await opened(directory, log_id)
    theirs = tmp_path / "theirs"
    theirs.write_text("theirs")
    fresh = directory / str(log_id) / "tested" / "next.new"
    if kind == "symlink":
        fresh.symlink_to(theirs)
    else:
        fresh.hardlink_to(theirs)

    await handler.handle(batch(event(0)))
    await handler.close()

    assert theirs.read_text() == "theirs"
    assert not fresh.exists()


@needs_descriptors
async def test_pipe_in_the_place_of_a_file_holds_delivery_at_once(
    directory: Path, event: Events, batch: Batches, log_id: UUID
) -> None:
    handler = await opened(directory, log_id)
    await handler.handle(batch(event(0)))
    for name in (f"{0:020}.jsonl", "lock", "next"):
        path = directory / str(log_id) / "tested" / name
        path.rename(path.with_suffix(".away"))
        os.mkfifo(path)

        with pytest.raises(PauseError), anyio.fail_after(120):
            await handler.handle(batch(event(1), start=1))
        path.with_suffix(".away").replace(path)
    await handler.handle(batch(event(1), start=1))
    await handler.close()

    assert len(lines_in(directory)) == 2
