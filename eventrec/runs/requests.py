"""What an operator asks of the processes that deliver from a log directory: small files, left where they look.

    <log>/requests/<subscription>.json    the requests of the last day for one subscription, in the order they were made

No process uses a request up: several may deliver the same subscription, and each applies it to what it holds at that
time. So a request is kept for a day, and does not concern a hold that began later than it was made.
"""

from __future__ import annotations

import os
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias
from uuid import UUID

import msgspec

from eventrec.errors import UnreadableFileError
from eventrec.log.disk import DiskStorage
from eventrec.runs.files import SUFFIX, file_name, is_forbidden, load, replace
from eventrec.runtime.decoding import decodable
from eventrec.runtime.logging import described, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from eventrec.runs.checkpoint import Checkpoint

REQUESTS: Final = "requests"

KEPT_SECONDS: Final = 86_400.0
"""How long a request is kept."""

_TRIES: Final = 100

_Offset: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


@decodable
class OperatorRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Resume `subscription`, at another destination from `start` on; or skip the record `skip` of `log`.

    `asked` is the time, in seconds since the epoch. Without `log` any log is meant.
    """

    subscription: str
    asked: float
    start: Literal["earliest", "latest"] | None = None
    skip: _Offset | None = None
    log: UUID | None = None


def is_asked_since(request: OperatorRequest, saved: float, *, now: float) -> bool:
    """Whether it was asked after what was `saved` then; all in seconds since the epoch, by the clocks of their time.

    A checkpoint that was saved at a time that has not come says nothing of that: the clock was ahead.
    """
    return request.asked > saved or saved > now


def asked_since(
    requests: Iterable[OperatorRequest], checkpoints: Mapping[str, Checkpoint], *, now: float
) -> Iterator[OperatorRequest]:
    """Those that were asked of a log while no process delivered it, which its `checkpoints` tell."""
    for each in requests:
        saved = checkpoints.get(each.subscription)
        if saved is not None and is_asked_since(each, saved.saved, now=now):
            yield each


def save_request(directory: os.PathLike[str], request: OperatorRequest) -> None:
    """Leave `request` in the log directory; those for its subscription that are older than a day go. Blocking.

    Raises:
        OSError: It could not be left; PermissionError also where those that it joins may not be read.
    """
    name = file_name(request.subscription)
    with closing(DiskStorage(directory)) as storage:
        for tries in range(_TRIES, 0, -1):
            try:
                with closing(storage.folder(REQUESTS, create=True)) as folder:
                    kept = [each for each in _joined(folder, name) if each.asked > request.asked - KEPT_SECONDS]
                    replace(folder, name, [*kept, request])
                break
            except FileNotFoundError:
                # While it was empty, a process that delivers swept the folder: else the directory itself is gone.
                if tries == 1 or not storage.is_there():
                    raise
        storage.sync_directory()


def load_requests(directory: os.PathLike[str], *, since: float) -> list[OperatorRequest]:
    """The requests that were made at or after `since`, in the order they were made; what can be read. Blocking."""
    return [request for request in read_requests(directory)[0] if request.asked >= since]


def read_requests(directory: os.PathLike[str]) -> tuple[list[OperatorRequest], dict[str, str]]:
    """All requests, in the order they were made; and why files, or their folder, cannot be read, by path. Blocking."""
    found: list[OperatorRequest] = []
    unreadable: dict[str, str] = {}
    try:
        with closing(DiskStorage(Path(directory) / REQUESTS)) as folder:
            for name in folder.list():
                if name.endswith(SUFFIX):
                    try:
                        found += _load(folder, name)
                    except UnreadableFileError as exc:
                        unreadable[text_of(f"{folder.directory}/{name}")] = text_of(exc)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as exc:
        unreadable[text_of(Path(directory) / REQUESTS)] = described(exc)
    return sorted(found, key=lambda request: request.asked), unreadable


def requests_changed(directory: os.PathLike[str]) -> float:
    """When a request was left in the log directory, or went, in seconds since the epoch; 0.0: there is none. Blocking.

    A request is left by putting a file in its place, which changes the folder.
    """
    try:
        return os.stat(os.path.join(directory, REQUESTS)).st_mtime  # noqa: PTH116, PTH118 - asked for every other second
    except OSError:
        return 0.0


def sweep_requests(directory: os.PathLike[str]) -> None:
    """Delete what is older than a day, of the files that are ours. Blocking."""
    with suppress(OSError), closing(DiskStorage(directory)) as storage:
        with closing(storage.folder(REQUESTS)) as folder:
            for name in folder.list():
                with suppress(UnreadableFileError):
                    if name.endswith(SUFFIX) and folder.size(name).age > KEPT_SECONDS and _load(folder, name):
                        folder.delete(name)
        storage.remove_folder(REQUESTS)


def _joined(folder: DiskStorage, name: str) -> list[OperatorRequest]:
    """Those that another one joins: none where they are damaged. PermissionError where they may not be read."""
    try:
        return _load(folder, name)
    except UnreadableFileError as exc:
        if exc.__cause__ is not None and is_forbidden(exc):
            raise exc.__cause__ from None
        return []


def _load(folder: DiskStorage, name: str) -> list[OperatorRequest]:
    """Empty where there is no such file. Raises UnreadableFileError."""
    try:
        requests, _ = load(folder, name, list[OperatorRequest])
    except FileNotFoundError:
        return []
    return [each for each in requests if file_name(each.subscription) == name]
