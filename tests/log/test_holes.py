"""Segments with holes of many GiB: what is in them is found in the time that it takes alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.log import holes
from eventrec.log.commit import header_size
from eventrec.log.crc import extend_by_zeros
from eventrec.log.descriptors import DiskFile
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log
from eventrec.log.reader import LogReader
from eventrec.log.segment import HEADER_SIZE, index_name, segment_name
from eventrec.log.verify import Fault, describe, verify

GIB = 1 << 30
FAR = 40 * GIB
NEAR = 80 << 20
"""Enough for a hole to be asked about, and little enough to be read."""

COMMIT = header_size(1) + 100 + 4


def written(directory: Path, commits: int = 20) -> Path:
    """The one segment of a log of so many commits, of one record of 100 bytes each."""
    with Log.create(DiskStorage(directory, create=True)) as log:
        for n in range(commits):
            log.append([bytes([n]) * 100])
    return directory / segment_name(0)


def hole_behind(path: Path, size: int) -> None:
    os.truncate(path, size)


def hole_behind_a_torn_commit(path: Path, size: int) -> None:
    os.truncate(path, path.stat().st_size - 5)
    os.truncate(path, size)


def hole_in_the_middle(path: Path, size: int) -> None:
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(HEADER_SIZE + 10 * COMMIT)
        file.seek(size)
        file.write(content[HEADER_SIZE + 11 * COMMIT :])


def hole_inside_a_commit(path: Path, size: int) -> None:
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(HEADER_SIZE + 10 * COMMIT + 50)
        file.seek(size)
        file.write(content[HEADER_SIZE + 10 * COMMIT + 50 :])


def length_that_claims_a_hole(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(HEADER_SIZE + 10 * COMMIT + header_size(1) - 4)
        file.write((min(size, 0xFFFF_0000) - 10_000).to_bytes(4, "little"))
    os.truncate(path, size)


DAMAGE = pytest.mark.parametrize(
    ("damage", "readable"),
    [
        (hole_behind, range(20)),
        (hole_behind_a_torn_commit, range(19)),
        (hole_in_the_middle, [n for n in range(20) if n != 10]),
        (hole_inside_a_commit, [n for n in range(20) if n != 10]),
        (length_that_claims_a_hole, [n for n in range(20) if n != 10]),
    ],
)

Damage = Callable[[Path, int], None]


def records(directory: Path) -> list[int]:
    with LogReader(DiskStorage(directory)) as reader:
        return [commit.content[0] for commit in reader.commits()]


def faults(directory: Path, size: int) -> list[Fault]:
    """The faults, with what depends on the size left out."""
    return [
        fault._replace(size=fault.size // size, position=fault.position // size)
        for fault in verify(DiskStorage(directory))
    ]


@pytest.fixture
def read_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes were read, read by read."""
    counts: list[int] = []
    read = DiskFile.read

    def counted(self: DiskFile, position: int, size: int) -> bytes:
        piece = read(self, position, size)
        counts.append(len(piece))
        return piece

    monkeypatch.setattr(DiskFile, "read", counted)
    return counts


@DAMAGE
def test_a_hole_is_passed_over_and_what_is_around_it_found(
    tmp_path: Path, read_bytes: list[int], damage: Damage, readable: list[int]
) -> None:
    damage(written(tmp_path), FAR)

    assert records(tmp_path) == list(readable)
    found = faults(tmp_path, FAR)
    described = describe(DiskStorage(tmp_path))
    assert described is not None

    assert len(found) == (len(readable) < 20)
    assert sum(read_bytes) < 128 << 20
    assert max(read_bytes) <= 2 << 20


def _refused(_fd: int, _position: int, _how: int) -> int:
    raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.parametrize("how", ["unknown", "refused"])
@DAMAGE
def test_where_the_system_does_not_tell_of_holes_all_is_found_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, damage: Damage, readable: list[int]
) -> None:
    damage(written(tmp_path), NEAR)
    told = faults(tmp_path, NEAR), describe(DiskStorage(tmp_path)), records(tmp_path)
    if how == "unknown":
        monkeypatch.setattr("eventrec.log.descriptors._SEEK_DATA", None)
    else:
        monkeypatch.setattr(os, "lseek", _refused)

    assert (faults(tmp_path, NEAR), describe(DiskStorage(tmp_path)), records(tmp_path)) == told
    assert told[2] == list(readable)


@DAMAGE
def test_an_owner_that_opens_it_fills_no_disk(
    tmp_path: Path, read_bytes: list[int], damage: Damage, readable: list[int]
) -> None:
    damage(written(tmp_path), FAR)

    with Log.open(DiskStorage(tmp_path)) as log:
        log.append([b"\x63" * 100])
        log.write()
        with log.reader() as reader:
            assert [commit.content[0] for commit in reader.commits()] == [*readable, 0x63]

    assert sum(each.stat().st_blocks * 512 for each in tmp_path.iterdir()) < 16 << 20
    assert sum(read_bytes) < 128 << 20


def test_an_index_with_a_hole_costs_what_it_says(tmp_path: Path, read_bytes: list[int]) -> None:
    written(tmp_path)
    (tmp_path / index_name(0)).touch()
    os.truncate(tmp_path / index_name(0), FAR)

    with Log.open(DiskStorage(tmp_path)) as log, log.reader(10) as reader:
        assert [commit.content[0] for commit in reader.commits()] == list(range(10, 20))
    assert faults(tmp_path, FAR) == []
    assert sum(read_bytes) < 128 << 20


@given(st.binary(max_size=50), st.integers(0, 5_000))
def test_zeros_behind_other_bytes_need_not_be_looked_at(before: bytes, zeros: int) -> None:
    assert extend_by_zeros(google_crc32c.value(before), zeros) == google_crc32c.value(before + bytes(zeros))


def test_a_file_that_is_cut_while_it_is_read_ends_where_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(NEAR))

    with path.open("rb+") as file:
        found = DiskFile(os.dup(file.fileno()))
        pieces = holes.pieces(found, 0, 2 * NEAR)
        first, _ = next(pieces)
        file.truncate(0)
        rest = list(pieces)
        found.close()

    assert (first, rest) == (0, [])
