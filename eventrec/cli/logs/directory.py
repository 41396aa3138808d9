"""What commands see of a log directory, or of any directory of segments; its errors in one line."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.log_directory import check_log_directory, refuse_url
from eventrec.errors import LogError
from eventrec.log.disk import DiskStorage
from eventrec.log.segment import list_segments, segment_name
from eventrec.log.verify import describe
from eventrec.registry import resolve_url, scheme_of
from eventrec.runs import survey
from eventrec.runs.directory import LOCK, LogDirectory
from eventrec.runs.followers import Followers
from eventrec.runs.survey import SeenLog

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from uuid import UUID

    from eventrec.runs.followers import Follower

__all__ = [
    "SeenLog",
    "described",
    "disk_storage",
    "existing",
    "followers_in",
    "listed",
    "logs_in",
    "names_in",
    "refuse_memory",
    "see",
    "see_again",
    "see_all",
]


def existing(directory: Path) -> Path:
    """`directory`.

    Raises:
        CommandError: It is not a directory, or this user may not look into it.
    """
    refuse_url(directory)
    if not directory.is_dir():
        raise CommandError(f"{directory} is not a directory", ExitCode.FILE)
    try:
        LogDirectory(directory).ids()
    except OSError as exc:
        raise CommandError(f"{directory}: {exc.strerror}", ExitCode.FILE) from exc
    return directory


def logs_in(directory: Path) -> list[Path]:
    """The directories of segments: those of its runs; `directory` itself where it has segments, or holds nothing.

    Raises:
        CommandError: It is neither a log directory nor a directory of segments, or this user may not look into it,
            or into a log in it.
    """
    log = LogDirectory(existing(directory))
    ids = log.runs()
    closed = [id_ for id_ in log.ids() if id_ not in ids and log.may_be_ours(id_)]
    if closed:
        more = f" (and {len(closed) - 1:,} more)" if len(closed) > 1 else ""
        raise CommandError(f"{directory / str(closed[0])}{more}: this user may not open it", ExitCode.FILE)
    runs = [directory / str(id_) for id_ in ids]
    if not runs:
        with closing(disk_storage(directory)) as storage:
            is_of_segments = bool(list_segments(storage)) or LOCK in storage.list()
        if not is_of_segments:
            check_log_directory(directory)
    return runs or [directory]


def disk_storage(directory: Path) -> DiskStorage:
    """The files of one log.

    Raises:
        CommandError: It cannot be opened.
    """
    try:
        return DiskStorage(directory)
    except OSError as exc:
        raise CommandError(f"{directory}: {exc.strerror}", ExitCode.FILE) from exc


def described(path: Path) -> dict[str, Any]:
    """The segments of one log: file, first record, bytes; and its first record, its end, its bytes.

    Raises:
        CommandError: It cannot be read.
    """
    with closing(disk_storage(path)) as storage:
        try:
            found, firsts = describe(storage), list_segments(storage)
            sizes = _sizes(storage)
        except (OSError, LogError) as exc:
            raise CommandError(f"{path}: {exc}", ExitCode.FILE) from exc
    names = [segment_name(first) for first in firsts]
    return {
        "log": path.name,
        "segments": [
            {"file": name, "first": first, "bytes": sizes[name]}
            for first, name in zip(firsts, names, strict=True)
            if name in sizes
        ],
        "first": firsts[0] if firsts else 0,
        "end": found.end if found is not None else firsts[-1] if firsts else 0,
        "bytes": sum(sizes.values()),
    }


def _sizes(storage: DiskStorage) -> dict[str, int]:
    """Of the files that are there: its owner may delete one at any time."""
    sizes = {}
    for name in storage.list():
        try:
            sizes[name] = storage.size(name).length
        except FileNotFoundError:
            continue
    return sizes


def see(directory: Path, id_: UUID) -> SeenLog | None:
    """Look at one log; None where it is gone.

    Raises:
        CommandError: It cannot be read.
    """
    try:
        return survey.see(directory, id_)
    except (OSError, LogError) as exc:
        raise CommandError(f"{directory / str(id_)}: {exc}", ExitCode.FILE) from exc


def see_all(directory: Path) -> list[SeenLog]:
    """Look at every log of `directory`, oldest first.

    Raises:
        CommandError: It is not a log directory, or it or a log in it cannot be read.
    """
    check_log_directory(directory)
    return see_again(directory)


def see_again(directory: Path) -> list[SeenLog]:
    """As `see_all`, of a log directory that was one before: what was ours in it may all be delivered by now.

    Raises:
        CommandError: It is gone, or it or a log in it cannot be read.
    """
    if not directory.is_dir():
        raise CommandError(f"{directory} is not a directory", ExitCode.FILE)
    try:
        return survey.see_all(directory)
    except (OSError, LogError) as exc:
        raise CommandError(f"{directory}: {exc}", ExitCode.FILE) from exc


def names_in(logs: Iterable[SeenLog]) -> list[str]:
    """The subscriptions that have a checkpoint in one of `logs`, or for which one is held."""
    return sorted({name for log in logs for name in log.names})


def followers_in(directory: Path) -> dict[str, Follower]:
    """The subscriptions for which the live logs of `directory` are followed, by name.

    Raises:
        CommandError: That cannot be told.
    """
    try:
        found = Followers(directory).by_file()
    except OSError as exc:
        raise CommandError(f"{directory}: {exc}", ExitCode.FILE) from exc
    return {each.name: each for each in found.values()}


def refuse_memory(to: str) -> None:
    """Raise CommandError where the URL `to` names a destination that ends with this process."""
    if scheme_of(resolve_url(to)) == "memory":
        raise CommandError(
            "memory: keeps nothing once this command ends: name another destination", ExitCode.DESTINATION
        )


def listed(names: Iterable[str]) -> str:
    """`names` in quotes, or "none"."""
    return ", ".join(map(repr, names)) or "none"
