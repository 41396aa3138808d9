"""`eventrec log`: what a directory of segments holds, and what is wrong with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eventrec.log.log import Log, LogOptions
from eventrec.log.storage import DiskStorage


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
    assert "nothing is no directory" in done.stderr
