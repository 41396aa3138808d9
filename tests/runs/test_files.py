"""Small files: the bytes that must be readable for ever, and what is made of every other byte."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from eventrec.errors import UnreadableFileError
from eventrec.log.disk import DiskStorage
from eventrec.runs.checkpoint import Checkpoint, CheckpointFiles, Progress, Saved
from eventrec.runs.files import decode, encode, file_name, load, replace
from eventrec.runs.requests import REQUESTS, OperatorRequest, load_requests, read_requests, save_request, sweep_requests

GOLDEN = bytes.fromhex("7b2261223a317d0a7b22637263333263223a226366663764353661227d0a")
"""`{"a":1}` as the first version with a checksum wrote it."""

FIRST_VERSION = (
    b'{"subscription":"orders","progress":{"start":0,"acknowledged":7,"scanned":9,"delivered":7,"filtered":2,"dead":0,'
    b'"dropped":{},"replayed":0,"rewound":0},"destination":null,"attempt":null,"generation":3,"saved":1.5,"version":1}'
)
"""A checkpoint as it was written before there was a checksum."""


def test_golden_bytes() -> None:
    assert encode({"a": 1}) == GOLDEN
    assert decode(GOLDEN, dict[str, int]) == ({"a": 1}, True)


def test_a_file_of_before_the_checksum_is_read() -> None:
    checkpoint, is_checked = decode(FIRST_VERSION, Checkpoint)

    assert not is_checked
    assert checkpoint == Checkpoint(
        subscription="orders", progress=Progress(0, 7, 9, delivered=7, filtered=2), generation=3, saved=1.5
    )


def test_every_flipped_bit_is_noticed() -> None:
    content = encode({"scanned": 123, "name": "ü"})

    for at in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[at] ^= 1 << bit
            with pytest.raises(UnreadableFileError):
                decode(bytes(flipped), dict[str, object])


def test_every_length_but_that_of_the_value_alone_is_noticed() -> None:
    content = encode({"scanned": 123})
    value = content.index(b"\n")

    for length in range(len(content)):
        if length in {value, value + 1}:
            assert decode(content[:length], dict[str, int]) == ({"scanned": 123}, False)
        else:
            with pytest.raises(UnreadableFileError):
                decode(content[:length], dict[str, int])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 200,
        b"\xf3",
        b'{"a":"\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":1e999}',
        b'{"a":' + b"9" * 10_000 + b"}",
        b"nonsense",
    ],
    ids=lambda content: repr(content[:8]),
)
def test_whatever_stands_there_is_one_error_of_ours(content: bytes) -> None:
    with pytest.raises(UnreadableFileError):
        decode(content, dict[str, int])


@pytest.mark.parametrize(
    "numbers",
    [
        {"scanned": -1},
        {"scanned": 1 << 63},
        {"scanned": 1 << 64},
        {"delivered": -5},
        {"scanned": 3},
        {"scanned": 99},
        {"acknowledged": 10},
    ],
)
def test_an_old_checkpoint_whose_numbers_cannot_be_is_not_believed(tmp_path: Path, numbers: dict[str, int]) -> None:
    document = msgspec.json.decode(FIRST_VERSION)
    document["progress"].update(numbers)
    (tmp_path / file_name("orders")).write_bytes(msgspec.json.encode(document))

    saved = CheckpointFiles(tmp_path).look()

    assert saved.checkpoints == {}
    assert saved.unreadable == {file_name("orders")}
    assert saved.is_lost("orders")
    assert not saved.is_lost("others")


def test_a_checkpoint_under_the_name_of_another_subscription_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / file_name("others")).write_bytes(FIRST_VERSION)

    assert CheckpointFiles(tmp_path).look() == Saved({}, frozenset({file_name("others")}))


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = DiskStorage(tmp_path)
    replace(storage, "a.json", [1])

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("eventrec.runs.files.write_all", refuse)
    with pytest.raises(OSError, match="No space"):
        replace(storage, "a.json", [2])

    assert load(storage, "a.json", list[int]) == ([1], True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    storage.close()


def test_what_the_disk_does_not_give_is_unreadable_and_what_is_not_there_is_not(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    (tmp_path / "target").write_bytes(encode([1]))
    (tmp_path / "link.json").symlink_to(tmp_path / "target")
    (tmp_path / "folder.json").mkdir()

    for name in ("link.json", "folder.json"):
        with pytest.raises(UnreadableFileError):
            load(storage, name, list[int])
    with pytest.raises(FileNotFoundError):
        load(storage, "nothing.json", list[int])
    storage.close()


def test_one_bad_request_costs_that_one_alone(tmp_path: Path) -> None:
    for name in ("bad", "good"):
        save_request(tmp_path, OperatorRequest(subscription=name, asked=5.0))
    path = tmp_path / "requests" / file_name("bad")
    path.write_bytes(path.read_bytes().replace(b"bad", b"b\xffd"))

    found = load_requests(tmp_path, since=0.0)

    assert [request.subscription for request in found] == ["good"]
    assert read_requests(tmp_path) == (found, {str(path): "its checksum is wrong"})


def test_a_file_that_is_far_too_large_is_not_read_whole(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    with (tmp_path / "f.json").open("wb") as file:
        file.truncate(1 << 40)

    with pytest.raises(UnreadableFileError, match="it has more than"):
        load(storage, "f.json", dict)


def test_one_spoilt_checkpoint_leaves_all_of_them_for_a_closer_look(tmp_path: Path) -> None:
    files = CheckpointFiles(tmp_path / "checkpoints")
    for name in ("orders", "others"):
        files.save(Checkpoint(subscription=name, progress=Progress(0, 0, 0)), sync=False)
    assert sorted(files.load_all() or ()) == ["orders", "others"]

    (tmp_path / "checkpoints" / file_name("others")).write_bytes(b"?")

    assert files.load_all() is None


def test_a_request_older_than_a_day_is_swept_and_a_new_one_stays(tmp_path: Path) -> None:
    now = time.time()
    for name, asked in (("old", now - 2 * 86_400), ("new", now)):
        save_request(tmp_path, OperatorRequest(subscription=name, asked=asked))
        os.utime(tmp_path / REQUESTS / file_name(name), (asked, asked))
    (tmp_path / REQUESTS / "notes.txt").touch()

    sweep_requests(tmp_path)

    assert sorted(path.name for path in (tmp_path / REQUESTS).iterdir()) == [file_name("new"), "notes.txt"]


def test_a_loss_of_nothing_is_none() -> None:
    progress = Progress(0, 2, 2)

    progress.drop("retention", 0)
    assert progress.dropped == {}
    progress.drop("retention", 2)

    assert (progress.dropped, progress.is_balanced) == ({"retention": 2}, True)
