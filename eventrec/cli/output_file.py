"""A file that a command writes as its result: whole, or as it was before."""

from __future__ import annotations

import os
import re
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Final

from eventrec.log.disk import DiskStorage
from eventrec.log.segment import replace_file
from eventrec.log.storage import write_all

if TYPE_CHECKING:
    from pathlib import Path

_DESCRIPTOR: Final = re.compile(r"/dev/(?:std(?:in|out|err)|fd/.*)|/proc/.*")
"""Names under which a process finds what it has open, which may be a file."""

_ANYBODYS: Final = 0o666
"""What a new file may be to others, less what the umask takes away."""


def write_output(path: Path, content: bytes) -> None:
    """Have `content` in the file `path`, durably, in the place of what it held. A link stays one, rights stay.

    What is not a file (a terminal, a pipe), and a descriptor (/dev/stdout), is written to as it is.

    Raises:
        OSError: It cannot be written, and names `path`. What was there stands.
    """
    try:
        if _is_written_to(path):
            path.write_bytes(content)
        else:
            _replace(path.resolve(), content)
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, str(path)) from exc


def _is_written_to(path: Path) -> bool:
    """Whether it is not a file, or the name of a descriptor, and so cannot be replaced."""
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False
    return not is_file or _DESCRIPTOR.fullmatch(str(path.absolute())) is not None


def _replace(target: Path, content: bytes) -> None:
    try:
        mode = stat.S_IMODE(target.stat().st_mode)
        os.close(os.open(target, os.O_WRONLY))  # one that may not be written to is not replaced either
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        mode = _ANYBODYS & ~umask
    with closing(DiskStorage(target.parent)) as storage:
        replace_file(storage, target.name, lambda file: write_all(file, content, 0))
    target.chmod(mode)
