"""The log that the writer's takes go into: made when something comes, looked after, appended to, handed over."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Final

from eventrec.errors import LogError, LogFullError, LogLockedError, LogWriteError
from eventrec.intake.elsewhere import begin_elsewhere, fill_elsewhere
from eventrec.intake.takes import MAX_TAKE
from eventrec.log.head import DISK_FULL, SPARED, SPARED_AT_END, SPARED_FILES, SPARED_FILES_AT_END
from eventrec.log.log import LogOptions
from eventrec.runs.layouts import keep_layouts
from eventrec.runs.mounts import check_is_local
from eventrec.runs.own_log import OwnLog
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager
    from uuid import UUID

    from eventrec.events.layouts import RecordedLayouts
    from eventrec.intake.handover import Handover, Written
    from eventrec.intake.takes import Takes
    from eventrec.log.log import Log
    from eventrec.records.layout import Layout
    from eventrec.runs.directory import LogDirectory
    from eventrec.runs.run import Run

_logger = get_logger("eventrec.log")

_LOOK_SECONDS: Final = 1.0

_SMALL_ROOM: Final = 8 << 20
"""Bytes; as much as is taken before it is written."""

_SMALL_TAKE: Final = 64
"""Records of a commit where the room is small: one that is larger than what is left of it blocks all of that."""

_FILES_TO_BEGIN: Final = 6
"""A directory, a lock, a folder, a checkpoint, a segment and, for a moment, the lock on that."""


class WrittenLog:
    """A run of our own in `directory`, and its log. Blocking; all but `look_soon` is for the thread that writes.

    `new_id`, `guard` and `beginning` are those of `OwnLog`; `layouts` are kept beside the log.

    Attributes:
        handover: Where those who deliver in this process want what was written; None: they read it from the log.
    """

    def __init__(
        self,
        directory: LogDirectory,
        *,
        new_id: Callable[[], UUID],
        segment_bytes: int,
        guard: AbstractContextManager[object],
        beginning: Callable[[Run], AbstractContextManager[object]],
        layouts: RecordedLayouts,
    ) -> None:
        self.handover: Handover | None = None
        self._directory = directory
        self._new_id = new_id
        self._options = LogOptions(segment_bytes=segment_bytes)
        self._guard = guard
        self._layouts = layouts
        self._unkept: dict[str, Layout] = {}
        """Those that the disk refused, by table."""
        self._own = self._new_log(beginning)
        self._was_full = False
        """Whether the disk had no room for it when it was to be made last."""
        self._former: OwnLog | None = None
        """What was written before, where another run was begun at the end."""
        self._has_small_room = False
        self._look_at = 0.0
        self._to_be_written: list[Written] = []
        """Commits that are appended, and are handed over once they are written."""

    def __repr__(self) -> str:
        return f"<WrittenLog {self._own!r}>"

    def _new_log(self, beginning: Callable[[Run], AbstractContextManager[object]] = nullcontext) -> OwnLog:
        return OwnLog(
            self._directory,
            self._new_id,
            on_gone=_say_gone,
            options=self._options,
            guard=self._guard,
            beginning=beginning,
        )

    @property
    def run(self) -> Run | None:
        """The run that is written; None before it is made."""
        return self._own.run

    @property
    def log(self) -> Log | None:
        """The log that is written; None before it is made."""
        return self._own.log

    def make(self) -> Log:
        """The log, which is made now, and its run where there is none yet.

        Raises:
            OSError, LogError: They cannot be made, or should not be on this file system. Try again: on a disk that was
                full nothing is made before there is room, which others may need to make more.
        """
        try:
            self._check_room()
            if self.run is None:
                check_is_local(self._directory)
                self._keep_layouts(self._layouts.all())
            _, log = self._own.make()
        except LogFullError:
            self._was_full = True
            raise
        except OSError as exc:
            if exc.errno not in DISK_FULL:
                raise
            self._was_full = True
            raise LogFullError(f"make a log: {exc}") from exc
        return log

    def _check_room(self) -> None:
        if self._was_full and not self._directory.opened(create=True).has_room(size=SPARED, files=_FILES_TO_BEGIN):
            raise LogFullError("make a log: no room on the disk")

    def spare_the_rest(self, *, is_last: bool) -> None:
        """Leave a full disk what a checkpoint needs, also one of another process: else what is delivered stays.

        Where nothing will make room any more, `is_last`, what waits may have most of these too.

        Raises:
            LogFullError: There are fewer than these.
        """
        run, log = self._made()
        spared, files = (SPARED_AT_END, SPARED_FILES_AT_END) if is_last else (SPARED, SPARED_FILES)
        room, free_files = math.inf, math.inf
        with suppress(OSError):
            free, free_files = run.storage.room()
            room = free - spared
        log.limit(room, may_begin=free_files >= files)
        self._has_small_room = room < _SMALL_ROOM
        if room < 0:
            raise LogFullError(f"fewer than {spared:,} bytes are free")

    def look(self) -> bool:
        """Once a second: another program may have deleted the directory, or put another one in its place.

        Whether the log was moved into one that was made again.

        Raises:
            LogWriteError: It cannot be made again.
        """
        now = time.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + _LOOK_SECONDS
        try:
            is_moved = self._own.look()
        except (OSError, LogLockedError) as exc:
            raise LogWriteError(f"make the log again: {exc}") from exc
        if is_moved:
            self._keep_layouts(self._layouts.all())
        else:
            self.keep_refused()
        return is_moved

    def keep_refused(self) -> None:
        """Have beside the log what the disk refused to keep there, if it takes it now."""
        if self._unkept:
            self._keep_layouts(())

    def look_soon(self) -> None:
        """The disk refused to sync, perhaps since the directory is gone: the next `look` looks. From any thread."""
        self._look_at = 0.0

    def append(self, takes: Takes) -> None:
        """Append what `takes` has in hand.

        Raises:
            LogWriteError: The disk refuses; what is left stays there.
        """
        _, log = self._made()
        appended = takes.append_to(log)
        if self.handover is not None:
            self._to_be_written += appended

    def append_next(self, takes: Takes) -> bool:
        """Have `takes` take once more, and append it; False: there is nothing to take.

        Raises:
            LogWriteError: As `append`.
        """
        run, _ = self._made()
        if not takes.take(run.id, limit=_SMALL_TAKE if self._has_small_room else MAX_TAKE):
            return False
        if new := self._layouts.new():
            self._keep_layouts(new)
        self.append(takes)
        return True

    def write(self) -> None:
        """Write what is appended, and hand it over.

        Raises:
            LogWriteError: The disk refuses.
        """
        _, log = self._made()
        log.write()
        commits, self._to_be_written = self._to_be_written, []
        if self.handover is not None:
            for commit in commits:
                self.handover.add(commit)

    def note_refused(self) -> None:
        """The disk refused to write, perhaps since the directory is gone: the next `look` looks."""
        self._to_be_written.clear()  # Once the disk takes them, they are read from there.
        self._look_at = 0.0

    def write_elsewhere(self, takes: Takes) -> None:
        """At the end: where the directory's place is taken, write what waits in `takes` into another run.

        Raises:
            OSError, LogError: It cannot be done.
        """
        if not self._own.is_gone or self.log is None:
            return
        other = self._new_log()
        self.handover = None  # Its offsets are those of this log.
        if begin_elsewhere(takes, self.log, other):
            self._former, self._own = self._own, other
            fill_elsewhere(takes, other)

    def close(self) -> None:
        """Close the log: nothing is appended to it any more. What the disk refuses now is lost."""
        if self._former is not None:
            with suppress(LogError):
                self._former.let_go()
        if self.log is not None:
            with suppress(LogError):
                self.log.close()

    def leave(self, *, is_empty: bool) -> None:
        """Leave the run to the next process, or delete it where there is nothing in it."""
        if self.run is None:
            return
        if is_empty:
            with suppress(OSError):
                self.run.retire()
        else:
            self.run.release()

    def abandon(self) -> None:
        """In the child of a fork: close what was inherited, and touch nothing."""
        self._own.abandon()

    def _made(self) -> tuple[Run, Log]:
        assert self.run is not None and self.log is not None  # noqa: S101, PT018 - see `make`
        return self.run, self.log

    def _keep_layouts(self, layouts: Collection[Layout]) -> None:
        """Have `layouts` beside the log, and what was refused: what delivers it may be a process that declares none."""
        were_refused = bool(self._unkept)
        self._unkept |= {layout.table: layout for layout in layouts}
        try:
            keep_layouts(self._directory, self._unkept.values())
        except OSError as exc:
            # The records are safe without; only a process that knows no layout would not find one. The next look tries.
            if not were_refused:
                _logger.warning("layouts not kept beside the log", directory=str(self._directory), error=described(exc))
        else:
            self._unkept.clear()
            if were_refused:
                _logger.info("layouts kept beside the log", directory=str(self._directory))


def _say_gone(run: Run, log: Log) -> None:
    _logger.error("log directory gone", log=str(run.path), lost_below=log.kept_from)
