"""Whether a directory on the command line is a log directory; where not, what it is, and which one was meant."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.registry import known_schemes
from eventrec.runs.directory import DEAD, LogDirectory, id_in
from eventrec.runs.survey import list_foreign

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]+", re.IGNORECASE)
"""Of two letters at least: one is a drive of Windows."""

_MAX_HINTS: Final = 3
_MAX_LOOKED_AT: Final = 200
"""Directories in which a log directory is looked for, for a hint."""


def refuse_url(directory: Path) -> None:
    """Raise CommandError where `directory` is a URL, and nothing of that name is there. What it holds is not shown."""
    scheme, colon, rest = str(directory).partition(":")
    if not colon or _SCHEME.fullmatch(scheme) is None or os.path.lexists(directory):
        return
    if rest.startswith("/") or scheme.lower() in known_schemes():
        raise CommandError(
            f"that is a URL ({scheme}:…), where a log directory is meant; the URL of a destination stands behind --to",
            ExitCode.USAGE,
        )


def check_log_directory(directory: Path) -> None:
    """Return where `directory` holds something of eventrec's, or nothing at all: as one does whose logs are delivered.

    Raises:
        CommandError: It is something else: one log of a log directory, its dead letters, a file, another program's
            directory; or it is not there, is a URL, or this user may not look into it.
    """
    refuse_url(directory)
    if not directory.is_dir():
        raise CommandError(f"{directory} is not a directory", ExitCode.FILE)
    try:
        check_not_part_of_one(directory)
        names = LogDirectory(directory).names()
        foreign = list_foreign(directory)
    except OSError as exc:
        raise CommandError(f"{directory}: {exc.strerror}", ExitCode.FILE) from exc
    if len(foreign) == len(names) and any(_counts(name) for name in foreign):
        found = _log_directories_in(directory)
        hint = f"; did you mean {', '.join(map(str, found))}?" if found else ""
        raise CommandError(
            f"{directory} is not a log directory: nothing in it is eventrec's, {_shown(foreign)} is not{hint}",
            ExitCode.FILE,
        )


def _counts(name: str) -> bool:
    """Whether a directory that holds it is in use: not so for what a file system or a repository keeps there."""
    return not name.startswith(".") and name != "lost+found"


def check_not_part_of_one(directory: Path) -> None:
    """Return where `directory` is not one log of a log directory, nor what it keeps its dead letters in.

    Raises:
        CommandError: It is; or it is a URL.
        OSError: Its parent cannot be read.
    """
    refuse_url(directory)
    path = directory.resolve()
    parent = LogDirectory(path.parent)
    id_ = id_in(path.name)
    if id_ is not None and parent.is_ours(id_):
        raise CommandError(f"{directory} is one log; the log directory is {path.parent}", ExitCode.FILE)
    if path.name == DEAD and parent.runs():
        raise CommandError(f"{directory} holds dead letters; the log directory is {path.parent}", ExitCode.FILE)


def _log_directories_in(directory: Path) -> list[Path]:
    found = []
    for name in sorted(LogDirectory(directory).names())[:_MAX_LOOKED_AT]:
        below = directory / name
        if below.is_dir() and not below.is_symlink() and LogDirectory(below).runs():
            found.append(below)
    return found[:_MAX_HINTS]


def _shown(names: Sequence[str]) -> str:
    counting = [name for name in names if _counts(name)]
    return f"{counting[0]!r}" if len(counting) == 1 else f"{counting[0]!r} (with {len(counting) - 1:,} more)"
