"""The directory of one log and subscription: files of lines, and `next`, which says how far they count.

    next                          the sidecar (`sidecar.py`): which file is in use, how many bytes of it count
    00000000000000000000.jsonl    lines; named after the offset that the file begins with
    00000000000000042000.jsonl    the current one, which `next` names: its first `length` bytes count
    lock                          held while something is written

Lines are appended and synced first, then `next` is replaced: it alone says what was delivered. Bytes past `length` are
what a crash, or a failure, has left; they are cut off at the next `resume`, and before anything else is written. Files
other than the current one may be taken away at any time, `next` never.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from eventrec import FencedError, PauseError
from eventrec_handlers.jsonl.disk import Disk, ShortFileError, SyncError
from eventrec_handlers.jsonl.sidecar import SIDECAR, Next, UnreadableError, decoded, encoded, file_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOCK_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Rotation:
    """When a file is full: its bytes, or its age in nanoseconds; None: never."""

    bytes: int | None
    age: int | None

    def is_due(self, stands: Next, now: int) -> bool:
        """Whether the next batch begins a new file."""
        if stands.file is None:
            return True
        is_full = self.bytes is not None and stands.length >= self.bytes
        # One that was begun at a time that has not come is not young either: the clock was ahead.
        is_old = self.age is not None and abs(now - stands.started) >= self.age
        return stands.length > 0 and (is_full or is_old)


class SubscriptionDirectory:
    """One such directory. Everything here waits for the disk."""

    def __init__(
        self, path: Path, subscription: str, *, disk: Disk, rotation: Rotation, now: Callable[[], int]
    ) -> None:
        self._path = path
        self._subscription = subscription
        self._disk = disk
        self._rotation = rotation
        self._now = now
        self._distrusted: str | None = None
        """A file whose sync failed: nothing is added to it any more."""

    def begin(self, start: int) -> int:
        """The next offset; where there is none yet, `start` from now on."""
        self._disk.make_directory(self._path)
        with self._locked():
            stands = self._read()
            if stands is None:
                stands = Next(subscription=self._subscription, next=start)
                self._write(stands)
            self._cut(stands)
        return stands.next

    def append(self, lines: bytes, *, start: int, end: int) -> None:
        """Add `lines`, and move from `start` to `end`: both or neither.

        Raises:
            FencedError: It does not stand at `start`.
            PauseError: The current file is shorter than what was written into it.
        """
        with self._locked():
            stands = self._read()
            if stands is None or stands.next != start:
                where = None if stands is None else stands.next
                raise FencedError(f"{self._path}: next is {where}, the batch starts at {start}")
            now = self._now()
            if self._rotation.is_due(stands, now) or stands.file == self._distrusted:
                self._cut(stands)  # no batch will look at it again
                stands = msgspec.structs.replace(stands, file=file_name(start), length=0, started=now)
                if stands.file == self._distrusted:
                    stands = msgspec.structs.replace(stands, file=file_name(start, now))
            file = stands.file or ""
            try:
                self._disk.write(self._path / file, stands.length, lines)
            except ShortFileError as exc:
                raise PauseError(
                    f"{exc}: put it back, or to go on without it change {self._path / SIDECAR}: "
                    '"file": null, "length": 0, and take "crc32c" away'
                ) from exc
            except SyncError:
                self._distrusted = file
                raise
            self._write(msgspec.structs.replace(stands, length=stands.length + len(lines), next=end, retired_at=None))

    def retire(self, end: int) -> None:
        """Stamp `next` as finished at `end`, or later where it stands later."""
        self.begin(end)
        with self._locked():
            stands = self._read()
            if stands is not None:
                self._write(msgspec.structs.replace(stands, next=max(stands.next, end), retired_at=self._now()))

    # -- beneath

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with self._disk.locked(self._path / "lock", seconds=LOCK_SECONDS):
                yield
        except FileNotFoundError as exc:
            raise FencedError(f"{self._path} is gone") from exc

    def _read(self) -> Next | None:
        content = self._disk.read(self._path / SIDECAR)
        if content is None:
            return None
        try:
            stands = decoded(content)
        except UnreadableError as exc:
            raise PauseError(f"{self._path / SIDECAR} cannot be read: {exc}") from exc
        if stands.subscription != self._subscription:
            raise PauseError(
                f"{self._path / SIDECAR} is of subscription {stands.subscription!r}, not {self._subscription!r}"
            )
        return stands

    def _cut(self, stands: Next) -> None:
        """Take off what does not count."""
        if stands.file is not None and stands.file != self._distrusted:
            self._disk.cut(self._path / stands.file, stands.length)

    def _write(self, stands: Next) -> None:
        self._disk.replace(self._path / SIDECAR, encoded(stands))
