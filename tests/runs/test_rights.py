"""Log directories of one user in which another one, root above all, was at work."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from eventrec.delivery.orphans.opened_orphan import open_orphan
from eventrec.errors import LogError
from eventrec.log.disk import DiskStorage
from eventrec.runs.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFiles, Progress
from eventrec.runs.directory import LogDirectory
from eventrec.runs.files import file_name
from eventrec.runs.requests import REQUESTS, OperatorRequest, load_requests, read_requests, save_request
from eventrec.runs.run import Run, new_run_id

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can work in a directory of another user"
)

OWNER = 65_534


@pytest.fixture
def owned() -> Iterator[Path]:
    """A log directory of another user, who may reach it."""
    with TemporaryDirectory() as made:  # The parents of tmp_path are closed themselves.
        Path(made).chmod(0o755)
        directory = Path(made) / "log"
        directory.mkdir(0o700)
        os.chown(directory, OWNER, OWNER)
        yield directory


@contextmanager
def as_owner() -> Iterator[None]:
    os.setegid(OWNER)
    os.seteuid(OWNER)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def owners(directory: Path) -> set[tuple[int, int]]:
    return {(found.st_uid, found.st_gid) for path in directory.rglob("*") for found in [path.lstat()]}


def modes(directory: Path) -> set[int]:
    return {stat.S_IMODE(path.lstat().st_mode) for path in directory.rglob("*")}


def test_what_root_makes_in_the_directory_of_another_user_is_that_users(owned: Path) -> None:
    run = Run.create(owned, new_run_id())
    CheckpointFiles(run.storage).save(Checkpoint(subscription="a", progress=Progress(0, 0, 0)), sync=True)
    save_request(owned, OperatorRequest(subscription="a", asked=5.0))
    with closing(DiskStorage(owned)) as storage:
        storage.lock(".eventrec-quota").release()

    made = owners(owned), modes(owned), LogDirectory(owned).runs()
    run.release()

    assert made == ({(OWNER, OWNER)}, {0o600, 0o700}, [run.id])


def test_what_root_replaces_stays_its_owners(owned: Path) -> None:
    with as_owner():
        save_request(owned, OperatorRequest(subscription="a", asked=5.0))

    save_request(owned, OperatorRequest(subscription="a", asked=6.0))

    with as_owner():
        assert [each.asked for each in load_requests(owned, since=0.0)] == [5.0, 6.0]


def test_root_gives_nothing_away_that_was_there_before(owned: Path) -> None:
    (owned / "lock").write_bytes(b"of root")
    (owned / "folder").mkdir(0o700)

    with closing(DiskStorage(owned)) as storage:
        storage.lock("lock").release()
        storage.folder("folder", create=True).close()

    assert owners(owned) == {(0, 0)}


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_where_others_may_write_what_root_makes_is_roots(owned: Path, mode: int) -> None:
    owned.chmod(mode)

    run = Run.create(owned, new_run_id())
    run.release()

    assert owners(owned) == {(0, 0)}


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_root_may_give_nothing_away_it_keeps_it(
    owned: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fchown", refuse)

    run = Run.create(owned, new_run_id())
    run.release()

    assert owners(owned) == {(0, 0)}


def test_a_checkpoint_that_may_not_be_read_is_not_taken_for_a_damaged_one(
    owned: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with as_owner():
        made = Run.create(owned, new_run_id())
        CheckpointFiles(made.storage).save(Checkpoint(subscription="a", progress=Progress(0, 0, 0)), sync=True)
        made.release()
    file = owned / str(made.id) / CHECKPOINTS / file_name("a")
    os.chown(file, 0, 0)

    with as_owner():
        run = Run.adopt(owned, made.id)
        assert run is not None
        with pytest.raises(LogError, match=r"may not read: a\.json; chown them"):
            open_orphan(run)
        with pytest.raises(PermissionError, match=r"a\.json"):
            CheckpointFiles(run.storage).is_of_holder("a")
    # It is tried again and again, and said once: by what tries.
    assert "unreadable" not in caplog.text
    os.chown(file, OWNER, OWNER)
    with as_owner():
        opened = open_orphan(run)
        opened.log.close()
        run.release()

    assert list(opened.saved.checkpoints) == ["a"]


def test_requests_that_may_not_be_read_are_kept_from_being_replaced(owned: Path) -> None:
    with as_owner():
        save_request(owned, OperatorRequest(subscription="a", asked=5.0))
    file = owned / REQUESTS / file_name("a")
    os.chown(file, 0, 0)
    before = file.read_bytes()

    with as_owner():
        with pytest.raises(PermissionError, match=r"a\.json"):
            save_request(owned, OperatorRequest(subscription="a", asked=6.0))
        unreadable = read_requests(owned)

    assert unreadable == ([], {str(file): "PermissionError: Permission denied"})
    assert file.read_bytes() == before
