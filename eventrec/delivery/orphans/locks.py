"""The locks of orphans that are taken and not among the adopted ones yet: a process that forks must know of each."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from eventrec.runs.directory import LOCK
from eventrec.runs.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager
    from uuid import UUID

    from eventrec.runs.directory import LogDirectory


class OrphanLocks:
    """Takes the locks of runs in `directory`. `locking` is held meanwhile: a process that forks waits for it."""

    def __init__(self, directory: LogDirectory, locking: AbstractContextManager[object]) -> None:
        self._directory = directory
        self._locking = locking
        self._runs: dict[UUID, Run] = {}
        self.is_followed: Callable[[UUID], bool] = lambda _: False
        """Whether a log is followed here, and so not to be locked: that its holder has let go, is noticed there."""

    def ids(self) -> list[UUID]:
        """Those whose locks are ours, and not handed on."""
        return list(self._runs)

    def take(self, ids: Iterable[UUID]) -> list[tuple[UUID, Run | Literal["held", "gone"]]]:
        """Lock what can be locked of `ids`; see `Run.try_adopt`. Blocking; where it raises, none is locked."""
        found: list[tuple[UUID, Run | Literal["held", "gone"]]] = []
        try:
            with self._locking:
                run: Run | Literal["held", "gone"]
                for id_ in ids:
                    run = "held" if self.is_followed(id_) else Run.try_adopt(self._directory, id_)
                    found.append((id_, run))
                    if isinstance(run, Run):
                        self._runs[id_] = run
        except BaseException:
            self.release(id_ for id_, _ in found)
            raise
        return found

    def still_held(self, ids: Iterable[UUID]) -> list[UUID]:
        """Those of `ids` that another process holds: a look, which takes no lock. Blocking."""
        held: list[UUID] = []
        with self._locking, suppress(OSError):
            storage = self._directory.opened()
            for id_ in ids:
                with suppress(OSError):
                    if storage.is_locked(f"{id_}/{LOCK}"):
                        held.append(id_)
        return held

    def release(self, ids: Iterable[UUID]) -> None:
        """Give those of `ids` back that are held here. A lock that stayed would seem another process's, for ever."""
        for id_ in ids:
            if (run := self._runs.pop(id_, None)) is not None:
                run.release()

    def release_all(self) -> None:
        """Give all of them back: nothing will hand them on."""
        self.release(list(self._runs))

    def hand_on(self, ids: Iterable[UUID]) -> None:
        """Others hold the locks of `ids` from now on, or have given them back."""
        for id_ in ids:
            self._runs.pop(id_, None)

    def abandon(self) -> None:
        """In the child of a fork: close what was inherited, and leave the locks to their owner."""
        for run in self._runs.values():
            with suppress(OSError):  # A daemon that closed every descriptor after the fork has closed these too.
                run.forget()
