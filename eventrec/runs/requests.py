"""What an operator requests of the processes that deliver from a log directory: small files, left where they look.

    <log>/requests/<subscription>.json    the last wish of each kind for one subscription

A wish is never used up by one process: several may deliver the same subscription, and each applies it to what it holds
at that time. So it is kept for a day, and a hold that began later than it was asked is none of its business.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal
from uuid import UUID

import msgspec

from eventrec.runs.checkpoint import file_name
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from pathlib import Path

REQUESTS: Final = "requests"

_KEPT_SECONDS: Final = 86_400.0

_logger = get_logger("eventrec.delivery")


class OperatorRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Resume `subscription`, at another destination from `start` on; or skip the record `skip` of `log`.

    `asked` is the time, in seconds since the epoch. Without `log` any log is meant.
    """

    subscription: str
    asked: float
    start: Literal["earliest", "latest"] | None = None
    skip: int | None = None
    log: UUID | None = None


def save_request(directory: Path, request: OperatorRequest) -> None:
    """Leave `request` in the log directory; older ones than a day go. Blocking.

    Raises:
        OSError: It could not be left.
    """
    folder = directory / REQUESTS
    folder.mkdir(exist_ok=True)
    kept = [
        each for each in _load(folder / file_name(request.subscription)) if each.asked > request.asked - _KEPT_SECONDS
    ]
    path = folder / file_name(request.subscription)
    new = path.with_suffix(f".{os.getpid()}.new")
    new.write_bytes(msgspec.json.encode([*kept, request]))
    new.replace(path)


def load_requests(directory: Path, *, since: float) -> list[OperatorRequest]:
    """The requests that were asked at or after `since`, in the order they were asked. Blocking."""
    found: list[OperatorRequest] = []
    folder = directory / REQUESTS
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.suffix == ".json":
                found += [request for request in _load(path) if request.asked >= since]
    return sorted(found, key=lambda request: request.asked)


def sweep_requests(directory: Path) -> None:
    """Delete what is older than a day. Blocking."""
    folder = directory / REQUESTS
    with suppress(OSError):
        for path in folder.iterdir():
            if path.stat().st_mtime < time.time() - _KEPT_SECONDS:
                path.unlink()
        folder.rmdir()


def _load(path: Path) -> list[OperatorRequest]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[OperatorRequest])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as exc:
        _logger.warning("requests unreadable", file=str(path), error=str(exc))
        return []
