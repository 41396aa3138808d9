"""`eventrec doctor`: what it finds, what it makes of it, and that it leaves nothing behind."""

import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from importlib.metadata import metadata
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from eventrec.cli.doctor.directory import (
    file_system,
    judged_file_system,
    judged_room,
    look_at_directory,
    look_at_locks,
    look_at_syncs,
)
from eventrec.cli.doctor.findings import Level
from eventrec.cli.doctor.logs import newest_log
from eventrec.cli.doctor.python import (
    look_at_checksum,
    look_at_clocks,
    look_at_environment,
    look_at_python,
    numbers_of,
    parsed,
)
from eventrec.runs.checkpoint import CHECKPOINTS
from eventrec.runs.directory import list_runs
from eventrec.runs.run import Run

Main = Callable[..., tuple[int, str, str]]
Leave = Callable[..., None]

MOUNTS = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /var rw - xfs /dev/sdb1 rw
31 30 0:40 / /var/shared rw,relatime shared:9 - nfs4 server:/export rw,vers=4.2
32 22 0:41 / /mnt/with\040space rw - tmpfs tmpfs rw
33 22 0:42 / /over rw - ext4 /dev/sdc1 rw
34 22 0:43 / /over rw - cifs //server/share rw
"""


def found(out: str) -> dict[str, dict[str, Any]]:
    """The findings that are not ok, by subject."""
    return {each["subject"]: each for each in json.loads(out)["findings"] if each["level"] != "ok"}


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tests run on, it is said to be a disk."""
    (tmp_path / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    monkeypatch.setattr("eventrec.cli.doctor.directory.MOUNTS", tmp_path / "mountinfo")


# -- the whole command


@pytest.mark.usefixtures("disk")
def test_all_is_well_with_an_empty_directory_and_nothing_stays_in_it(main: Main, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()

    code, out, err = main("doctor", "log", "--to", "sqlite:///e.db", "--json")

    told = json.loads(out)
    assert (code, err) == (0, "")
    assert "problem" not in {each["level"] for each in told["findings"]}
    assert {each["subject"] for each in told["findings"]} >= {
        *("python", "packages", "extras", "crc32c", "clock", "directory", "file system", "locks", "sync", "room"),
        *("logs", "destination"),
    }
    assert list((tmp_path / "log").iterdir()) == []


@pytest.mark.usefixtures("disk")
def test_directory_that_is_not_there_is_not_made(main: Main, tmp_path: Path) -> None:
    code, out, _ = main("doctor", "log")

    assert code == 0
    assert "log is not there yet: the first recorder makes it" in out
    assert not (tmp_path / "log").exists()


def test_each_finding_is_one_line_with_its_level_first(main: Main) -> None:
    code, out, _ = main("doctor", "--to", "sqlite:////none/here/e.db")

    levels = [line.split(" ")[0] for line in out.splitlines()]
    assert code == 1
    assert set(levels) <= {"ok", "warning", "problem"}
    assert levels[-1] == "problem"
    assert out.splitlines()[-1].startswith("problem  destination: sqlite: ")
    assert "there is no directory /none/here" in out.splitlines()[-1]


@pytest.mark.parametrize("url", ["nope:///x", "sqlite:///x.db?colour=red", "env:NOT_SET_AT_ALL"])
def test_wrong_url_is_a_problem(main: Main, url: str) -> None:
    code, out, _ = main("doctor", "--to", url, "--json")

    assert code == 1
    assert found(out)["destination"]["level"] == "problem"


@pytest.mark.usefixtures("disk")
def test_orphans_are_a_warning_that_says_how_to_deliver_them(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "a")

    code, out, _ = main("doctor", "log", "--json")

    assert code == 0
    assert found(out)["logs"]["said"] == "0 held by a process, 1 orphan; pending: 'a' 10"
    assert "eventrec drain log --to URL" in found(out)["logs"]["advice"]


@pytest.mark.usefixtures("disk")
def test_checkpoint_that_cannot_be_read_is_a_problem(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "a")
    (run,) = list_runs(tmp_path / "log")
    (tmp_path / "log" / str(run) / CHECKPOINTS / "a.json").write_text("{")

    code, out, _ = main("doctor", "log", "--json")

    assert code == 1
    assert found(out)["checkpoint"]["said"].startswith(f"{run}/checkpoints/a.json cannot be read")


@pytest.mark.usefixtures("disk")
def test_torn_tail_is_a_warning_and_damage_before_the_end_a_problem(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "a")
    (segment,) = (tmp_path / "log").glob("*/*.stdb.log")
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-3])
    torn = main("doctor", "log", "--json")
    segment.with_name("00000000000000000010.stdb.log").write_bytes(whole[:10])
    lost = main("doctor", "log", "--json")

    assert (torn[0], found(torn[1])["bytes"]["level"]) == (0, "warning")
    assert (lost[0], found(lost[1])["bytes"]["level"]) == (1, "problem")
    assert "1 fault, 10 records missing" in found(lost[1])["bytes"]["said"]


@pytest.mark.usefixtures("disk")
def test_end_of_a_log_that_is_being_written_is_no_finding(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "a")
    (segment,) = (tmp_path / "log").glob("*/*.stdb.log")
    segment.write_bytes(segment.read_bytes()[:-3])
    run = Run.adopt(tmp_path / "log", list_runs(tmp_path / "log")[0])
    assert run is not None

    code, out, _ = main("doctor", "log", "--json")
    run.release()

    assert (code, found(out)) == (0, {})


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.usefixtures("disk")
def test_files_of_somebody_else_are_a_problem(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "a")
    (segment,) = (tmp_path / "log").glob("*/*.stdb.log")
    segment.chmod(0)

    code, out, _ = main("doctor", "log", "--json")
    segment.chmod(0o600)

    assert code == 1
    assert {"logs", "permissions"} & set(found(out))


# -- the disk


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/x", "ext4"),
        ("/var", "xfs"),
        ("/var/log", "xfs"),
        ("/var/shared", "nfs4"),
        ("/var/shared/log", "nfs4"),
        ("/var/sharedlog", "xfs"),
        ("/mnt/with space/log", "tmpfs"),
        ("/over/log", "cifs"),
    ],
)
def test_file_system_is_that_of_the_nearest_mount_and_of_the_last_one_there(path: str, kind: str) -> None:
    assert file_system(MOUNTS, path) == kind


@pytest.mark.parametrize("text", ["", "garbage", "1 2 3 - ext4", "22 1 8:1 / / rw -"])
def test_mount_table_that_says_nothing_names_none(text: str) -> None:
    assert file_system(text, "/x") is None


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("ext4", Level.OK),
        (None, Level.OK),
        ("nfs4", Level.PROBLEM),
        ("fuse.sshfs", Level.PROBLEM),
        ("tmpfs", Level.WARNING),
        ("overlay", Level.WARNING),
    ],
)
def test_file_systems_are_judged_by_what_they_do_to_a_log(kind: str | None, level: Level) -> None:
    assert judged_file_system(kind).level is level


GiB = 1 << 30


@pytest.mark.parametrize(
    ("free", "size", "inodes", "level"),
    [
        (100 * GiB, GiB, 10, Level.OK),
        (100 * GiB, GiB, None, Level.OK),
        (100 * GiB, GiB, 0, Level.PROBLEM),
        (1 << 20, 0, 10, Level.PROBLEM),
        (GiB - 1, 0, 10, Level.WARNING),
        (2 * GiB, 3 * GiB, 10, Level.WARNING),
    ],
)
def test_room_is_judged_by_what_is_free_and_what_is_taken(
    *, free: int, size: int, inodes: int | None, level: Level
) -> None:
    assert judged_room(free=free, total=500 * GiB, size=size, inodes=inodes).level is level


def test_locks_that_keep_nobody_out_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    works = look_at_locks(tmp_path)
    monkeypatch.setattr("eventrec.log.descriptors.lock", lambda *_, **__: None)

    assert (works.level, look_at_locks(tmp_path).level) == (Level.OK, Level.PROBLEM)
    assert list(tmp_path.iterdir()) == []


def test_sync_that_fails_is_a_problem_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("eventrec.log.descriptors.sync", fails)

    finding = look_at_syncs(tmp_path)

    assert (finding.level, finding.said) == (Level.PROBLEM, "it fails: Input/output error")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(("refused", "left_out"), [("open_file", {"locks", "sync"}), ("_pwrite", {"sync"})])
def test_a_full_disk_is_told_of_its_room_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, refused: str, left_out: set[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(f"eventrec.log.descriptors.{refused}", fails)
    monkeypatch.setattr("eventrec.cli.doctor.directory._LITTLE", 0)

    findings = {finding.subject: finding for finding in look_at_directory(tmp_path)}

    assert findings.keys() == {"directory", "file system", "locks", "sync", "room"} - left_out
    assert findings["room"].level is Level.PROBLEM
    assert findings["room"].said.endswith(f"; a file is refused: {os.strerror(error)}")
    assert list(tmp_path.iterdir()) == []


def test_directory_that_everybody_may_write_is_a_warning(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    first = next(look_at_directory(tmp_path))

    assert (first.subject, first.level) == ("directory", Level.WARNING)


def test_file_in_its_place_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    (finding,) = look_at_directory(tmp_path / "file")

    assert finding.level is Level.PROBLEM


@pytest.mark.parametrize("below", ["", "events"])
@pytest.mark.parametrize("target", ["nowhere", "link"])
def test_link_that_leads_nowhere_in_its_place_is_a_problem(tmp_path: Path, target: str, below: str) -> None:
    (tmp_path / "link").symlink_to(target)

    (finding,) = look_at_directory(tmp_path / "link" / below)

    assert (finding.level, finding.said) == (
        Level.PROBLEM,
        f"{tmp_path / 'link'} is a link that leads nowhere: {target}",
    )


@pytest.mark.usefixtures("disk")
def test_directory_of_any_bytes_is_told_as_json(main: Main, tmp_path: Path) -> None:
    (tmp_path / "\udcff").mkdir()

    code, out, err = main("doctor", "\udcff", "--json")

    assert (code, err) == (0, "")
    assert any(finding["said"].startswith("\\udcff can be read") for finding in json.loads(out)["findings"])


# -- the interpreter


def ticking(*steps: int) -> Callable[[], int]:
    now = 1_800_000_000_000_000_000
    moves: Iterator[int] = iter(steps)

    def clock() -> int:
        nonlocal now
        now += next(moves, 20_000_000)
        return now

    return clock


def test_variable_that_switches_recorders_off_is_a_warning() -> None:
    found = look_at_environment({"EVENTREC_DISABLED": "1"})

    assert (found.level, found.said.partition(":")[0]) == (Level.WARNING, "EVENTREC_DISABLED is set")
    assert look_at_environment({"EVENTREC_DISABLED": "0", "CI": "1"}).level is Level.OK


def test_clocks_that_agree_are_ok_and_one_that_is_set_meanwhile_is_not() -> None:
    steady = look_at_clocks(ticking(), ticking(), lambda _: None)
    jumps = look_at_clocks(ticking(0, 20_000_000, -3_600_000_000_000), ticking(), lambda _: None)

    assert (steady.level, jumps.level) == (Level.OK, Level.WARNING)


def test_clock_before_2024_is_a_problem_and_one_before_the_newest_log_a_warning(tmp_path: Path) -> None:
    later = UUID(int=4_000_000_000_000 << 80 | 0x7 << 76 | 0x2 << 62)
    Run.create(tmp_path, later).release()

    early = look_at_clocks(lambda: 0, lambda: 0, lambda _: None)
    behind = look_at_clocks(ticking(), ticking(), lambda _: None, newest_log(tmp_path))

    assert newest_log(tmp_path) == 4_000_000_000_000 * 1_000_000
    assert (early.level, behind.level) == (Level.PROBLEM, Level.WARNING)
    assert "in the future" in behind.said


def test_slow_checksum_is_a_warning() -> None:
    assert (look_at_checksum("c").level, look_at_checksum("python").level) == (Level.OK, Level.WARNING)


def test_every_extra_of_users_is_told_and_none_of_developers(monkeypatch: pytest.MonkeyPatch) -> None:
    stated = set(metadata("eventrec").get_all("Provides-Extra") or ())

    (said,) = [each.said for each in look_at_python() if each.subject == "extras"]

    told = re.findall(r"[a-z-]+", said.replace("not installed", "").replace("installed", ""))
    assert set(told) == stated - {"dev", "docs", "contract", "testing", "web-example"}
    assert len(told) == len(set(told))
    assert {"clickhouse", "cli", "postgres", "redis", "server", "zstd"} <= set(told)


def test_room_counts_what_is_ours_alone(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "a")
    (tmp_path / "log" / ".cache").mkdir()
    (tmp_path / "log" / ".cache" / "foreign").write_bytes(b"x" * 1_000_000)

    (said,) = [each.said for each in look_at_directory(tmp_path / "log") if each.subject == "room"]

    taken = int(said.rpartition(" ")[2].replace(",", ""))
    assert 0 < taken < 1_000_000


def test_requirements_are_read_with_their_least_version_and_their_extra() -> None:
    plain, extra = parsed("anyio>=4.6"), parsed('anyio[trio]>=4.6; extra == "testing"')
    marked = parsed("backports.zstd>=1.0; python_version < '3.14' and extra == 'zstd'")

    assert plain is not None
    assert extra is not None
    assert marked is not None
    assert (plain.name, plain.least, plain.extra) == ("anyio", (4, 6), None)
    assert (extra.name, extra.extra) == ("anyio", "testing")
    assert (marked.name, marked.least, marked.extra) == ("backports.zstd", (1, 0), "zstd")
    assert numbers_of("1.12.0rc1") == (1, 12, 0)
