"""Appends lines of JSON to files in a directory: for `jq`, for a log shipper, for an archive.

Effectively once: lines are synced before the sidecar `next`, replaced atomically, says that they count; what a crash
leaves behind is cut off. A directory for each log and subscription, `<log id>/<name>/`: what is in it stands in
`subscription_directory.py`, what a line holds in `_lines.py`. Several processes may share the directory, on a local
file system; on Windows, where there is no lock, a log belongs to one process.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID, uuid4

from anyio import CancelScope

from eventrec import Batch, DestinationCheckpoints, EventHandler, HandlerURL, HandlerURLError, PauseError, safe_name
from eventrec_handlers._lines import lines_of
from eventrec_handlers._thread import WorkThread
from eventrec_handlers.jsonl.disk import Disk, errors_translated
from eventrec_handlers.jsonl.reader import JsonlReader
from eventrec_handlers.jsonl.subscription_directory import LOCK_SECONDS, Rotation, SubscriptionDirectory

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = ["JsonlHandler", "JsonlReader", "from_url"]

T = TypeVar("T")

ROTATE_BYTES: Final = 64 << 20
DESTINATION: Final = "destination"


def from_url(url: str) -> JsonlHandler:
    """The handler for `jsonl:///relative/directory` or `jsonl:////absolute`; its keyword arguments are the options.

    Raises:
        HandlerURLError: It names no directory, an unknown option, or a value that is not allowed.
    """
    given = HandlerURL(url)
    given.accept("rotate_bytes", "rotate_age", "fsync", parts=("host", "path"))
    if given.host is not None or not given.path:
        raise HandlerURLError(
            "a jsonl URL is jsonl:///relative/directory, or with four slashes jsonl:////absolute/directory"
        )
    return JsonlHandler(
        given.path,
        rotate_bytes=given.integer("rotate_bytes", default=ROTATE_BYTES) or None,
        rotate_age=given.seconds("rotate_age", default=0) or None,
        fsync=given.boolean("fsync", default=True),
    )


class JsonlHandler(EventHandler, DestinationCheckpoints):
    """Appends batches below the directory `path`, made if need be; a relative one counts from where it is constructed.

    The file in use is left for a new one when it has `rotate_bytes` bytes, or is `rotate_age` seconds old, and the next
    batch arrives; None: never. Files that were left may be taken away.

    `fsync=False` leaves it to the system when bytes reach the disk: exact as long as the machine runs, whatever becomes
    of the process; after a power cut the last batches may be missing or there twice, so it is at least once at best.

    `now` gives nanoseconds since the epoch.

    Raises:
        ValueError: `path` is empty, or a bound of the rotation is not positive.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        rotate_bytes: int | None = ROTATE_BYTES,
        rotate_age: float | None = None,
        fsync: bool = True,
        now: Callable[[], int] = time.time_ns,
        _disk: Disk | None = None,
    ) -> None:
        if not os.fspath(path):
            raise ValueError("path must name a directory")
        if (rotate_bytes is not None and rotate_bytes <= 0) or (rotate_age is not None and rotate_age <= 0):
            raise ValueError(f"rotate_bytes and rotate_age are positive, or None: got {rotate_bytes} and {rotate_age}")
        self._path = Path(path).absolute()
        self._disk = Disk(sync=fsync) if _disk is None else _disk
        self._disk.keep_below(self._path)
        self._rotation = Rotation(rotate_bytes, None if rotate_age is None else int(rotate_age * 1e9))
        self._now = now
        self._thread = WorkThread("eventrec-jsonl")
        self._is_open = False
        self._places: dict[tuple[UUID, str], SubscriptionDirectory] = {}

    def __repr__(self) -> str:
        return f"<JsonlHandler {str(self._path)!r} {'open' if self._is_open else 'closed'}>"

    @property
    def checkpoints(self) -> Self:
        return self

    def reader(self) -> JsonlReader:
        return JsonlReader(self._path)

    async def open(self) -> None:
        """Make the directory, and give it an id.

        Raises:
            PauseError: It cannot be a directory of ours: no rights, or something else is in its place.
            TransientError: The disk is full, or fails.
        """
        await self._thread.run(partial(_translated, self._id))
        self._is_open = True

    async def handle(self, batch: Batch) -> None:
        await self._run(
            lambda: self._place(batch.log_id, batch.subscription).append(
                lines_of(batch), start=batch.start, end=batch.end
            )
        )

    async def close(self) -> None:
        """Wait for what is still being written."""
        if self._is_open:
            self._is_open = False
            with CancelScope(shield=True):
                await self._thread.run(self._places.clear)
        self._thread.end()

    async def destination_id(self) -> str:
        return await self._run(self._id)

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        def begin() -> int:
            self._id()  # the directory may have been replaced
            return self._place(log_id, subscription).begin(start)

        return await self._run(begin)

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        await self._run(lambda: self._place(log_id, subscription).retire(end))

    # -- from here on everything runs in a worker thread, one job at a time

    async def _run(self, job: Callable[[], T]) -> T:
        if not self._is_open:
            raise RuntimeError(f"{self!r} is not open")
        return await self._thread.run(partial(_translated, job))

    def _id(self) -> str:
        path = self._path / DESTINATION
        found = self._disk.read(path)
        if found is None:
            self._disk.make_directory(self._path)
            with self._disk.locked(self._path / "lock", seconds=LOCK_SECONDS):
                found = self._disk.read(path)
                if found is None:  # the first of several
                    found = str(uuid4()).encode()
                    self._disk.replace(path, found)
        try:
            return str(UUID(found.decode("ascii").strip()))
        except ValueError as exc:
            raise PauseError(
                f"{path} does not hold the id of this directory: put it back, or take it away to begin another one"
            ) from exc

    def _place(self, log_id: UUID, subscription: str) -> SubscriptionDirectory:
        key = (log_id, subscription)
        if key not in self._places:
            self._places[key] = SubscriptionDirectory(
                self._path / str(log_id) / safe_name(subscription),
                subscription,
                disk=self._disk,
                rotation=self._rotation,
                now=self._now,
            )
        return self._places[key]


def _translated(job: Callable[[], T]) -> T:
    with errors_translated():
        return job()
