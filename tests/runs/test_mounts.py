"""A network file system is known by its name in the mount table."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventrec.errors import LogError
from eventrec.runs.mounts import check_is_local, file_system_of, network_file_system

TABLE = """\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:26 / /home rw shared:5 - nfs4 server:/home rw,vers=4.2
31 30 0:27 / /home/me/local rw - xfs /dev/sdb rw
32 22 0:28 / /mnt/with\\040space rw master:1 propagate_from:2 - fuse.sshfs me@host: rw
33 22 0:29 / /over rw - nfs server:/a rw
34 33 0:30 / /over rw - tmpfs none rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/events", "ext4"),
        ("/home", "nfs4"),
        ("/home/you/log", "nfs4"),
        ("/homeless/log", "ext4"),
        ("/home/me/local/log", "xfs"),
        ("/mnt/with space/log", "fuse.sshfs"),
        ("/over/log", "tmpfs"),
    ],
)
def test_the_longest_mount_point_rules(path: str, kind: str) -> None:
    assert file_system_of(path, TABLE) == kind


def test_an_empty_table_says_nothing() -> None:
    assert file_system_of("/", "") is None


def test_a_network_file_system_is_found_in_the_table_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: TABLE)

    assert network_file_system("/home/nobody/log") == "nfs4"
    assert network_file_system("/nowhere/log") is None
    with pytest.raises(LogError, match=r"/home/nobody/log is on a network file system \(nfs4\)"):
        check_is_local("/home/nobody/log")


def test_where_the_table_knows_no_network_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = "\n".join(line for line in TABLE.splitlines() if "nfs" not in line and "sshfs" not in line)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: table)
    monkeypatch.setattr("os.path.realpath", None)

    assert network_file_system(tmp_path) is None


def test_here_is_no_network(tmp_path: Path) -> None:
    assert network_file_system(tmp_path / "not" / "made" / "yet") is None


def test_where_the_system_has_no_table_of_mounts_every_path_counts_as_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: Path, **__: object) -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "read_text", missing)

    assert network_file_system(tmp_path) is None
    check_is_local(tmp_path)
