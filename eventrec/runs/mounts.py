"""Which file system a path is on, by the mount table: a log needs one whose locks and syncs mean something."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from eventrec.errors import LogError

_NETWORK: Final = """
    9p acfs afs beegfs ceph cifs coda fuse.ceph fuse.glusterfs fuse.rclone fuse.s3fs fuse.sshfs glusterfs gpfs lustre
    ncpfs nfs nfs4 orangefs smb3 smbfs virtiofs
"""

NETWORK: Final = frozenset(_NETWORK.split())
"""Names of file systems whose files another machine may change."""

_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_LEAST_FIELDS: Final = 10
_KIND: Final = re.compile(r" - ([^ ]+)")


def file_system_of(path: str, mountinfo: str) -> str | None:
    """The type of the file system that `path`, absolute and resolved, is on; None where the table does not say.

    `mountinfo` is the content of /proc/self/mountinfo; see proc(5).
    """
    best: tuple[int, str] | None = None
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) < _LEAST_FIELDS or "-" not in fields[6:]:
            continue
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
        kind = fields[fields.index("-", 6) + 1]
        is_above = point in ("/", path) or path.startswith(point + "/")
        # Of mounts on the same point the last one hides those before it.
        if is_above and (best is None or len(point) >= best[0]):
            best = len(point), kind
    return best[1] if best is not None else None


def network_file_system(path: str | os.PathLike[str]) -> str | None:
    """The type of the file system of `path`, which need not exist yet, if it is a network one."""
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    if NETWORK.isdisjoint(_KIND.findall(mountinfo)):
        return None  # As on most machines: nothing to be resolved.
    kind = file_system_of(os.path.realpath(path), mountinfo)
    return kind if kind in NETWORK else None


def check_is_local(path: str | os.PathLike[str]) -> None:
    """Raise LogError where `path` is on a network file system: a log there cannot trust its lock."""
    kind = network_file_system(path)
    if kind is not None:
        raise LogError(f"{os.fspath(path)} is on a network file system ({kind}): a log needs a local disk")
