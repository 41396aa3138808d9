"""What the doctor looks at on the disk: the directory, its file system, locks, syncs, room. It leaves no file."""

from __future__ import annotations

import os
import shutil
import stat
import statistics
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eventrec.cli.doctor.findings import Finding, ok, problem, warning
from eventrec.errors import LogLockedError
from eventrec.log.disk import DiskStorage
from eventrec.log.head import DISK_FULL
from eventrec.log.storage import write_all
from eventrec.runs.survey import tree_size

if TYPE_CHECKING:
    from collections.abc import Iterator

MOUNTS: Final = Path("/proc/self/mountinfo")

_NETWORK: Final = frozenset(
    {"9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "cvmfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs"}
    | {"nfs4", "orangefs", "panfs", "prl_fs", "pvfs2", "smb3", "smbfs", "vboxsf"}
    | {"fuse.ceph", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"}
)
_MEMORY: Final = frozenset({"ramfs", "tmpfs"})
_LAYERED: Final = frozenset({"aufs", "overlay"})

_SYNCS: Final = 8
_SLOW_SYNC: Final = 0.1
_LITTLE: Final = 64 << 20
"""A segment."""
_KEPT_SHARE: Final = 0.05
_KEPT_MAX: Final = 1 << 30


def file_system(mounts: str, path: str) -> str | None:
    """The type of the file system that `path`, absolute and without links, lies in, by the text of the mount table.

    Format: proc(5), /proc/[pid]/mountinfo. The last one mounted at a place hides those before it.
    """
    best: tuple[int, str] | None = None
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")[0]
        if len(fields) < 5 or not kind:  # noqa: PLR2004 - the fifth field is the place
            continue
        place = fields[4]
        for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
            place = place.replace(code, char)
        is_above = path == place or path.startswith(place.rstrip("/") + "/")
        if is_above and (best is None or len(place) >= best[0]):
            best = len(place), kind
    return None if best is None else best[1]


def look_at_directory(directory: Path) -> Iterator[Finding]:
    """Everything about `directory` but the logs in it. Writes two small files into it, and deletes them."""
    if directory.exists() and not directory.is_dir():
        yield problem("directory", f"{directory} is not a directory", "name another one")
        return
    place = directory
    while not place.exists():
        if place.is_symlink():
            yield problem("directory", f"{place} is a link that leads nowhere: {place.readlink()}", "make it lead")
            return
        place = place.absolute().parent
    yield _rights(directory, place)
    yield _kind(place)
    refusal = None
    if directory == place and os.access(place, os.W_OK | os.X_OK):
        for look in (look_at_locks, look_at_syncs):
            try:
                finding = look(place)
            except OSError as exc:
                refusal = exc.strerror
            else:
                yield finding
    yield look_at_room(place, tree_size(directory), refusal=refusal)


def _rights(directory: Path, place: Path) -> Finding:
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        who = f"user {os.getuid()}" if hasattr(os, "getuid") else "this user"
        return problem("directory", f"{place} cannot be read and written by {who}", "chown it, or run as its owner")
    if directory != place:
        return ok("directory", f"{directory} is not there yet: the first recorder makes it in {place}")
    mode = stat.S_IMODE(place.stat().st_mode)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return warning("directory", f"{directory} can be written by every user (mode {mode:o})", "chmod o-w")
    return ok("directory", f"{directory} can be read and written (mode {mode:o})")


def _kind(place: Path) -> Finding:
    try:
        kind = file_system(MOUNTS.read_text(encoding="utf-8", errors="replace"), str(place.resolve()))
    except OSError:
        kind = None
    return judged_file_system(kind)


def judged_file_system(kind: str | None) -> Finding:
    """What a file system of this type does to a log."""
    subject = "file system"
    if kind is None:
        return ok(subject, "unknown: this system has no mount table to read")
    if kind in _NETWORK:
        return problem(subject, f"{kind}, a network file system: locks and syncs are not to be trusted", "use a disk")
    if kind in _MEMORY:
        return warning(subject, f"{kind}: what is synced there does not survive a power cut", "use a disk")
    if kind in _LAYERED:
        return warning(subject, f"{kind}: what is stored there is deleted with its container", "mount a volume")
    return ok(subject, kind)


def look_at_locks(place: Path) -> Finding:
    """Whether a lock keeps another one out.

    Raises:
        OSError: The disk is full, which says nothing about its locks.
    """
    name = f".doctor-{os.getpid()}.lock"
    try:
        with closing(DiskStorage(place)) as storage, closing(DiskStorage(place)) as other:
            lock = storage.lock(name)
            try:
                other.lock(name).release()
            except LogLockedError:
                return ok("locks", "a lock keeps others out")
            finally:
                lock.release(delete=True)
    except (OSError, LogLockedError) as exc:
        if isinstance(exc, OSError) and exc.errno in DISK_FULL:
            raise
        return problem("locks", f"no lock can be taken: {exc}", "use a local disk")
    return problem(
        "locks",
        "the file system granted one lock twice: who owns a log is unknown",
        "use a local disk",
    )


def look_at_syncs(place: Path) -> Finding:
    """How long a sync of 4 KiB takes.

    Raises:
        OSError: The disk is full, which says nothing about its syncs.
    """
    name = f".doctor-{os.getpid()}.sync"
    seconds = []
    try:
        with closing(DiskStorage(place)) as storage:
            file = storage.open(name, "create")
            try:
                for number in range(_SYNCS):
                    write_all(file, b"\0" * 4096, number * 4096)
                    started = time.perf_counter()
                    file.sync()
                    seconds.append(time.perf_counter() - started)
            finally:
                file.close()
                storage.delete(name)
    except OSError as exc:
        if exc.errno in DISK_FULL:
            raise
        return problem("sync", f"it fails: {exc.strerror}", "use another disk: what is recorded would not survive")
    middle, worst = statistics.median(seconds), max(seconds)
    said = f"{middle * 1e3:,.2f} ms median, {worst * 1e3:,.2f} ms at worst, of {_SYNCS}"
    if middle > _SLOW_SYNC:
        return warning("sync", said, "record_durable waits that long; use a faster disk, or a longer sync_interval")
    return ok("sync", said)


def look_at_room(place: Path, size: int, *, refusal: str | None = None) -> Finding:
    """Whether a directory of `size` bytes may grow. `refusal`: what a small file was refused with for want of room."""
    try:
        usage, inodes = shutil.disk_usage(place), _free_inodes(place)
    except OSError as exc:
        return problem("room", f"unknown: {exc.strerror}", "see what is mounted there")
    return judged_room(free=usage.free, total=usage.total, size=size, inodes=inodes, refusal=refusal)


def judged_room(*, free: int, total: int, size: int, inodes: int | None, refusal: str | None = None) -> Finding:
    """Whether a directory of `size` bytes may grow on a file system of `total` bytes.

    `inodes` are the free ones, None where the file system does not count them. `refusal` is what a small file was
    refused with for want of room, as by a quota, of which the file system does not tell.
    """
    said = f"{free:,} of {total:,} bytes free, the logs take {size:,}"
    advice = "make room: a full disk refuses what is recorded"
    if inodes == 0:
        return problem("room", f"{said}; no more files can be made, all inodes are taken", advice)
    if refusal is not None:
        return problem("room", f"{said}; a file is refused: {refusal}", advice)
    if free < _LITTLE:
        return problem("room", said, advice)
    if free < min(total * _KEPT_SHARE, _KEPT_MAX) or free < size:
        return warning("room", said, "make room, and see what is not delivered: eventrec status")
    return ok("room", said)


def _free_inodes(place: Path) -> int | None:
    counts = os.statvfs(place) if hasattr(os, "statvfs") else None
    return counts.f_favail if counts is not None and counts.f_files else None
