"""`eventrec log`: what a directory of segments holds, and what is wrong with it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import pytest

from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log, LogOptions
from eventrec.runs.run import Run, new_run_id


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three segments of ten records each and some."""
    path = tmp_path / "log"
    with Log.create(DiskStorage(path, create=True), LogOptions(segment_bytes=1_000)) as log:
        for n in range(30):
            log.append([f"record {n}".encode() * 8])
            log.write()
    return path


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eventrec.cli", "log", *arguments], capture_output=True, text=True, check=False
    )


def test_verify_of_a_whole_log_finds_nothing_and_exits_zero(directory: Path) -> None:
    done = run("verify", directory)

    assert (done.returncode, done.stdout) == (0, "no fault found\n")


def test_verify_names_a_flipped_byte_by_file_and_position(directory: Path) -> None:
    segment = min(directory.glob("*.stdb.log"))
    content = bytearray(segment.read_bytes())
    content[60] ^= 1
    segment.write_bytes(content)

    done = run("verify", directory, "--json")

    assert done.returncode == 1
    (fault,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (fault["file"], fault["position"], fault["reason"]) == (segment.name, 10, "checksum")


def test_verify_names_a_torn_tail(directory: Path) -> None:
    segment = max(directory.glob("*.stdb.log"))
    segment.write_bytes(segment.read_bytes()[:-3])

    done = run("verify", directory)

    assert done.returncode == 1
    assert segment.name in done.stdout


def test_list_names_each_segment_and_the_end(directory: Path) -> None:
    done = run("list", directory, "--json")

    listed = json.loads(done.stdout)
    assert listed["end"] == 30
    assert [segment["file"] for segment in listed["segments"]] == sorted(
        path.name for path in directory.glob("*.stdb.log")
    )
    assert "3 segments; the next record is 30\n" in run("list", directory).stdout


def test_what_is_no_directory_is_named(tmp_path: Path) -> None:
    done = run("verify", tmp_path / "nothing")

    assert done.returncode == 4
    assert "nothing is not a directory" in done.stderr


# One segment of one commit, records 1 and 2, as `eventrec/log/commit.py` writes it down; and the same in version 0.
DOCUMENTED = bytes.fromhex("286473295e320100000001000000000000000700000000000000020006000000") + bytes.fromhex(
    "61626364656649454f07"
)


def of_version_0() -> bytes:
    body = struct.pack("<QHI", 1, 2, 6) + b"abcdef"
    return bytes.fromhex("286473295e3200000000") + body + struct.pack("<I", google_crc32c.value(body))


@pytest.mark.parametrize("content", [DOCUMENTED, of_version_0()], ids=["version 1", "version 0"])
def test_directory_of_another_encoder_has_no_fault_until_a_byte_changes(
    main: Callable[..., tuple[int, str, str]], tmp_path: Path, content: bytes
) -> None:
    segment = tmp_path / "their" / "00000000000000000001.stdb.log"
    segment.parent.mkdir()
    segment.write_bytes(content)
    whole = main("log", "verify", "their")
    found = {}
    for byte in range(10, len(content)):
        segment.write_bytes(content[:byte] + bytes([content[byte] ^ 0x10]) + content[byte + 1 :])
        code, out, _ = main("log", "verify", "their", "--json")
        found[byte] = (code, json.loads(out.splitlines()[0])["position"], json.loads(out.splitlines()[0])["file"])

    assert whole == (0, "no fault found\n", "")
    assert set(found.values()) == {(1, 10, segment.name)}


def test_cat_passes_over_content_of_another_version_and_says_so(
    main: Callable[..., tuple[int, str, str]], leave: Callable[..., None], tmp_path: Path
) -> None:
    leave(tmp_path / "log", 0, 3)
    run = Run.create(tmp_path / "log", new_run_id())
    with Log.create(run.storage) as newer:
        for _ in range(2):
            newer.append([b"\x09 of a later version"])
        newer.write()
    run.release()

    code, out, err = main("log", "cat", "log")

    assert code == 1
    assert [json.loads(line)["payload"]["number"] for line in out.splitlines()] == [0, 1, 2]
    assert err == (
        f"eventrec: log/{run.id}: 2 records in 2 commits cannot be read; "
        "the first is record 0: content version 0x09 is unknown: this eventrec reads 0x01\n"
    )


def test_cat_of_another_programs_log_is_one_line(main: Callable[..., tuple[int, str, str]], directory: Path) -> None:
    code, out, err = main("log", "cat", directory)

    assert (code, out) == (1, "")
    assert "30 records in 30 commits cannot be read" in err
    assert len(err.splitlines()) == 1


def test_compressed_segments_without_zstd_are_one_line(directory: Path) -> None:
    assert run("compress", directory).returncode == 0
    hidden = (
        "import sys; sys.modules['compression.zstd'] = sys.modules['backports.zstd'] = None; "
        "from eventrec.cli import main; sys.exit(main(['log', sys.argv[1], sys.argv[2]]))"
    )

    for command in ("verify", "cat"):
        done = subprocess.run(
            [sys.executable, "-c", hidden, command, directory], capture_output=True, text=True, check=False
        )
        assert done.returncode == 6
        assert "pip install 'eventrec[zstd]'" in done.stderr
        assert len(done.stderr.splitlines()) == 1
