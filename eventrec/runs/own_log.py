"""A run of our own and the log in it: made when it is needed, and again where another program took it away."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

from eventrec.errors import LogError, LogFullError
from eventrec.log.log import Log
from eventrec.runs.run import Run

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from uuid import UUID

    from eventrec.log.log import LogOptions


class OwnLog:
    """What this process writes in `directory`: a run called `new_id()`, with its log. Blocking; from one thread.

    `on_gone` is called once with both when the run's directory is not in its place, and again after it was there
    meanwhile. `guard` is held while the lock of a run is taken. `beginning(run)` is around the making of the log in a
    run that was just made, before either is told of.

    Attributes:
        run: None before `make`.
        log: Likewise.
        is_gone: Whether the directory was not in its place at the last `look`, and could not be made again.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        new_id: Callable[[], UUID],
        *,
        on_gone: Callable[[Run, Log], object],
        options: LogOptions | None = None,
        guard: AbstractContextManager[object] | None = None,
        beginning: Callable[[Run], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._directory = directory
        self._new_id = new_id
        self._on_gone = on_gone
        self._options = options
        self._guard = guard or nullcontext()
        self._beginning = beginning
        self._is_named = False
        """Whether the run's name is on the disk."""
        self.run: Run | None = None
        self.log: Log | None = None
        self.is_gone = False

    def __repr__(self) -> str:
        return f"<OwnLog {self.run!r} {self.log!r}>"

    def make(self, *, first: int = 0) -> tuple[Run, Log]:
        """The run and its log, made where they are not yet; then `first` is the log's first offset.

        On return both are on the disk.

        Raises:
            OSError: The run cannot be made.
            LogError: Locks do not work in that file system, or the log cannot be made. The run stays, for the next try;
                but on a disk that is full, where it would have the last files that make room.
        """
        beginning: AbstractContextManager[object] = nullcontext()
        was_refused = self.run is not None
        if self.run is None:
            with self._guard:
                self.run = Run.create(self._directory, self._new_id(), sync=False)
            self._is_named = False
            beginning = self._beginning(self.run)
        if self.log is None:
            try:
                with beginning:
                    if was_refused:  # Its segment may be there.
                        log = Log.open(self.run.storage, self._options, at_least=first)
                    else:
                        log = Log.create(self.run.storage, self._options, first=first)
            except LogFullError:
                self._give_up(self.run)
                raise
            # Last: what was made before goes to the disk with the first sync, and this one finds little to do.
            self._sync_name(self.run, log)
            self.log = log
        return self.run, self.log

    def _sync_name(self, run: Run, log: Log) -> None:
        """Where the run's name cannot be had on the disk, give up the run: the next try makes another one."""
        if self._is_named:
            return
        try:
            run.sync_name()
        except OSError:
            with suppress(LogError):
                log.close()
            self._give_up(run)
            raise
        self._is_named = True

    def _give_up(self, run: Run) -> None:
        self.run = None
        with suppress(OSError):
            run.retire()

    def look(self) -> bool:
        """Where the directory is gone, make another one and go on there; whether the log was moved.

        Where its lock is, make that again.

        Raises:
            OSError, LogError: It cannot be made, or something else has its place. Look again.
        """
        run, log = self.run, self.log
        if run is None or log is None:
            return False
        if not run.is_in_place():
            if not self.is_gone:
                self._on_gone(run, log)
            self.is_gone = True
            with self._guard:
                run.make_again()
        else:
            with self._guard:
                run.restore_lock()
        self.is_gone = False
        if log.is_in(run.storage):
            return False
        log.move_to(run.storage)
        return True

    def let_go(self) -> None:
        """Close the log, and leave the run to the next process.

        Raises:
            LogError: What is written may not be on the disk. It is let go all the same.
        """
        run, log, self.run, self.log = self.run, self.log, None, None
        try:
            if log is not None:
                log.close()
        finally:
            if run is not None:
                run.release()

    def abandon(self) -> None:
        """In the child of a fork: close what was inherited, and touch nothing."""
        run, log, self.run, self.log = self.run, self.log, None, None
        # A program that closed every descriptor after the fork has closed these too.
        with suppress(OSError):
            if run is not None:
                run.forget()
        with suppress(OSError):
            if log is not None:
                log.abandon()
