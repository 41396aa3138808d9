"""One process at a time follows a directory for a subscription: each of ours is remembered there, then locked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from eventrec.runs.follower_locks import FollowerLocks
from eventrec.runs.followers import Followers
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from contextlib import AbstractContextManager
    from uuid import UUID

    from eventrec.runs.directory import LogDirectory

LOCK_SECONDS: Final = 0.5
"""How often it is tried again to get the locks that another process has."""

IN_PLACE_SECONDS: Final = 2.0
"""How often it is looked whether another program has deleted ours."""

_AGAIN_SECONDS: Final = 0.05
"""What is locked for a moment by one that looks is free by then."""

_logger = get_logger("eventrec.delivery")


class SoleFollower:
    """Follows `directory` for the subscriptions `names`: for all of them, or for none. For the loop's thread.

    `guard` is held while locks are taken; `own_id()` is the log that is written here.
    """

    def __init__(
        self,
        directory: LogDirectory,
        names: Collection[str],
        *,
        guard: AbstractContextManager[object],
        own_id: Callable[[], UUID],
    ) -> None:
        self.refusals = 0
        """How often the directory refused to remember or to lock them."""
        self.since: dict[str, UUID] = {}
        """The log from which on each is followed: see `RememberedFollower`."""
        self._directory = directory
        self._names = list(names)
        self._own_id = own_id
        self._locks = FollowerLocks(directory, names, guard=guard)
        self._followers = Followers(directory)
        self._waits_for: Mapping[str, int | None] = {}
        self._refused: str | None = None
        self._is_forgotten: str | None = None
        """Why they are not remembered."""
        self._has_remembered = False
        self._has_them = False

    def __repr__(self) -> str:
        return f"<SoleFollower of {', '.join(self._names)}: {self.state}>"

    @property
    def state(self) -> str:
        """In words: following; `waiting: …` for another process; `refused: …` by the system."""
        if self._refused is not None:
            return f"refused: {self._refused}"
        if self._waits_for:
            return f"waiting: {_who_delivers(self._waits_for)}"
        return "following" if self._has_them else "waiting"

    @property
    def trouble(self) -> str | None:
        """What an operator has to mend, if there is something."""
        if self._refused is not None:
            return f"not followed: {self._refused}"
        return None if self._is_forgotten is None else f"followed, and not remembered: {self._is_forgotten}"

    def note_refused(self, why: str | None) -> None:
        """The system refuses what following takes, though the locks are ours; None: it does not any more."""
        self.refusals += why is not None
        self._refused = why

    async def take(self) -> None:
        """Return once all locks are ours. Waits while another process has one, or the directory gives none."""
        said: object = None
        while True:
            await self._remember()
            taken, why = await self._try()
            self._has_them = not taken and why is None
            if self._has_them:
                self._refused, self._waits_for = None, {}
                return
            if why is None:
                self._refused, self._waits_for = None, await in_thread(self._locks.holders, taken)
                if said != taken:
                    _logger.info(
                        "waiting: another process delivers",
                        subscriptions=taken,
                        processes=[self._waits_for[name] or "unknown" for name in taken],
                        directory=str(self._directory),
                    )
                said = taken
            else:
                self.refusals += 1
                self._refused, self._waits_for = why, {}
                if said != why:
                    _logger.warning("live logs cannot be followed", directory=str(self._directory), error=why)
                said = why
            await anyio.sleep(LOCK_SECONDS)

    async def _try(self) -> tuple[list[str], str | None]:
        """Those that other processes have, or why that is not known."""
        try:
            if taken := await self._take_once():
                await anyio.sleep(_AGAIN_SECONDS)
                taken = await self._take_once()
        except Exception as exc:  # noqa: BLE001 - whatever the system makes of a name: it is tried again
            return [], described(exc)
        return taken, None

    async def _take_once(self) -> list[str]:
        taken: list[str] = []
        # A lock is ours once it is taken, also where this task is cancelled meanwhile.
        with anyio.CancelScope(shield=True):
            taken += await in_thread(self._locks.take)
        return taken

    async def _remember(self) -> None:
        """Where the disk refuses, they are followed all the same: a full one has room again once they are delivered."""
        try:
            self.since = await in_thread(self._remember_all)
        except Exception as exc:  # noqa: BLE001 - likewise
            self.refusals += 1
            if self._has_remembered:
                return  # It stands there still, as far as is known.
            if self._is_forgotten is None:
                _logger.warning(
                    "subscriptions not remembered as followed",
                    subscriptions=self._names,
                    directory=str(self._directory),
                    error=described(exc),
                )
            self._is_forgotten = described(exc)
        else:
            self._is_forgotten, self._has_remembered = None, True

    def _remember_all(self) -> dict[str, UUID]:
        own = self._own_id()
        for name in self._names:
            self._followers.remember(name, own)
        return {name: self._followers.since(name) or own for name in self._names}

    async def until_lost(self) -> None:
        """Return once another program has deleted a lock, or the directory."""
        while await in_thread(self._locks.are_in_place):
            await self._remember()
            await anyio.sleep(IN_PLACE_SECONDS)
        self._has_them = self._has_remembered = False
        _logger.warning("locks of what follows live logs are gone", directory=str(self._directory))

    async def release(self) -> None:
        """Give the locks back. What the subscriptions lack is held for them still."""
        self._has_them = False
        await in_thread(self._locks.release)

    def release_stranded(self) -> None:
        """The same from any thread, once the loop is closed. Blocking."""
        self._locks.release()

    def abandon(self) -> None:
        """In the child of a fork: give back what was inherited, and touch nothing."""
        self._locks.abandon()


def _who_delivers(holders: Mapping[str, int | None]) -> str:
    """For an operator: which process has which subscription."""
    return ", ".join(
        f"{name!r} by process {pid}" if pid is not None else f"{name!r} by a process that does not say its number"
        for name, pid in sorted(holders.items())
    )
