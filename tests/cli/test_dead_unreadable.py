"""`eventrec dead`, `status` and `doctor` where dead letters cannot be read: their log is never deleted."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import pytest

from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log
from eventrec.log.reader import LogReader
from eventrec.runs.directory import list_runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Main(Protocol):
    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]: ...


@pytest.fixture
def letters(dead_log: Path) -> Path:
    """The log of the letters about records 3 and 5."""
    (run,) = list_runs(dead_log / "dead")
    return dead_log / "dead" / str(run)


def damage(letters: Path) -> None:
    (segment,) = letters.glob("*.log")
    content = bytearray(segment.read_bytes())
    content[300:304] = b"XXXX"
    segment.write_bytes(content)


def damage_the_mark_of_the_version(letters: Path) -> None:
    """Write the same commits as a later version may."""
    write_again(letters, version=lambda _: b"\x7f")


def write_again(letters: Path, *, version: Callable[[int], bytes]) -> None:
    """Write the same commits, each with the mark of a version."""
    with closing(DiskStorage(letters)) as storage:
        with LogReader(storage) as reader:
            commits = list(reader.commits())
        for path in [*letters.glob("*.log"), *letters.glob("*.ofs")]:
            path.unlink()
        log = Log.create(storage)
        for number, commit in enumerate(commits):
            log.append_encoded(version(number) + bytes(commit.content)[1:], commit.n)
        log.write()
        log.sync()
        log.close()


def test_replay_moves_past_no_letter_that_a_later_eventrec_may_read(main: Main, letters: Path) -> None:
    with closing(DiskStorage(letters)) as storage, LogReader(storage) as reader:
        mark = bytes(next(iter(reader.commits())).content[:1])
    write_again(letters, version=lambda number: mark if number else b"\x7f")

    code, _, _ = main("dead", "replay", "log", "--to", "sqlite:///events.db")

    write_again(letters, version=lambda _: mark)
    assert code == 1
    assert main("dead", "list", "log")[1].endswith("2 dead letters wait\n")


@pytest.mark.parametrize("spoil", [damage, damage_the_mark_of_the_version])
@pytest.mark.parametrize(
    "command",
    [("list",), ("list", "--json"), ("purge", "--yes"), ("purge",), ("replay", "--to", "sqlite:///events.db")],
    ids=" ".join,
)
def test_what_cannot_be_read_is_named_and_kept(
    main: Main, letters: Path, spoil: object, command: tuple[str, ...]
) -> None:
    assert callable(spoil)
    spoil(letters)
    before = [path.read_bytes() for path in letters.glob("*.log")]

    code, _, err = main("dead", command[0], "log", *command[1:])

    assert code == 1
    (line,) = [line for line in err.splitlines() if "cannot" in line or "can be read" in line]
    assert letters.name in line
    assert "Traceback" not in err
    assert [path.read_bytes() for path in letters.glob("*.log")] == before


@pytest.mark.parametrize("spoil", [damage, damage_the_mark_of_the_version])
def test_status_and_doctor_name_what_cannot_be_read(main: Main, letters: Path, spoil: object) -> None:
    assert callable(spoil)
    spoil(letters)

    _, text, _ = main("status", "log")
    _, plain, _ = main("status", "log", "--json")
    code, found, _ = main("doctor", "log")

    assert f"{letters.name}: not all dead letters in it can be read" in text
    assert [path for path in json.loads(plain)["unreadable_dead_letters"] if path.endswith(letters.name)]
    assert (code, letters.name in found) == (1, True)


@pytest.mark.parametrize("age", ["-5", "nan", "inf", "-1e-9"])
def test_an_age_that_is_no_age_gives_up_nothing(main: Main, letters: Path, age: str) -> None:
    code, _, err = main("dead", "purge", "log", f"--older-than={age}", "--yes")

    assert (code, "--older-than" in err) == (2, True)
    assert letters.exists()
    assert main("dead", "list", "log")[1].endswith("2 dead letters wait\n")


def test_a_file_in_the_place_of_dead_letters_is_said(main: Main, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "dead").write_text("x")

    code, out, err = main("dead", "list", "log")

    assert (code, out) == (1, "0 dead letters wait\n")
    assert err == "eventrec: log/dead: not all dead letters in it can be read: it is not a directory; it is kept\n"
    assert "log/dead: not all" in main("status", "log")[1]
    assert main("doctor", "log")[0] == 1
