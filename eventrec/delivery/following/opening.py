"""A log that another process holds, looked into: whether there is something in it for us, and from where on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventrec.delivery.following.followed_delivery import open_followed
from eventrec.runs.followed import FollowedRun, find_held
from eventrec.runs.requests import load_requests
from eventrec.runs.survey import knows
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from contextlib import AbstractContextManager
    from uuid import UUID

    from eventrec.delivery.following.sole_follower import SoleFollower
    from eventrec.delivery.letters.log import LetterLog
    from eventrec.delivery.log_layouts import LogLayouts
    from eventrec.delivery.orphans.opened_orphan import OpenedOrphan
    from eventrec.runs.directory import LogDirectory
    from eventrec.runs.requests import OperatorRequest

_logger = get_logger("eventrec.delivery")


@dataclass(frozen=True, slots=True)
class OpenedLive:
    """A log that can be followed, opened.

    Attributes:
        run: It, without its lock.
        opened: What its bytes and its checkpoints say.
        names: For which of our subscriptions.
        requests: What operators asked for, be it of this log or not.
    """

    run: FollowedRun
    opened: OpenedOrphan
    names: frozenset[str]
    requests: Sequence[OperatorRequest]

    def discard(self) -> None:
        """Give it back."""
        self.opened.log.close()
        self.run.release()


class LiveOpener:
    """Opens logs in `directory` for the subscriptions `names`. Blocking, but for `forget`; from one thread at a time.

    `latest` are those of them that begin with what comes, if they are new; `sole` knows from which log on each of ours
    is followed, and `since` is the log that is written here. `guard` is held while it is asked for locks.
    """

    def __init__(
        self,
        directory: LogDirectory,
        names: Collection[str],
        *,
        letters: LetterLog,
        layouts: LogLayouts,
        guard: AbstractContextManager[object],
        sole: SoleFollower,
        latest: Collection[str],
        since: UUID,
    ) -> None:
        self._directory = directory
        self._names = frozenset(names)
        self._letters = letters
        self._layouts = layouts
        self._guard = guard
        self._sole = sole
        self._latest = set(latest)
        """Those that begin with what comes, and that are new."""
        self._since = since
        self._from_first: set[UUID] = set()
        """Logs in which there was nothing yet when they were seen first."""
        self._said: set[str] = set()

    def __repr__(self) -> str:
        return f"<LiveOpener for {', '.join(sorted(self._names))} in {self._directory}>"

    def begin(self, since: UUID) -> None:
        """It is the turn of our subscriptions: look which of them are new. `since` is the log that is written here."""
        self._since = since
        self._latest -= {name for name in self._latest if knows(self._directory, name, before=since)}

    def open(self, id_: UUID) -> tuple[OpenedLive | None, frozenset[str]]:
        """The log, if another process holds it and there is something in it for us; and which of ours it delivers.

        Raises:
            OSError: The disk refused, or descriptors ran out.
            LogError: The log or a checkpoint cannot be read.
        """
        run = find_held(self._directory, id_, guard=self._guard)
        if not isinstance(run, FollowedRun):
            return None, frozenset()
        try:
            self._letters.learn()
            self._layouts.learn()
            opened, holders = open_followed(run, list(self._names), new=self._new_in(id_))
            requests = [] if opened is None else load_requests(self._directory, since=0.0)
        except BaseException:
            run.release()
            raise
        if opened is None:
            self._from_first.add(id_)
            run.release()
        self._say_holders(holders)
        return None if opened is None else OpenedLive(run, opened, self._names - holders, requests), holders

    def _new_in(self, id_: UUID) -> set[str]:
        """Those for which what stands in that log now is nothing that comes."""
        if id_ in self._from_first:
            return set()
        return {name for name in self._latest if id_ < self._sole.since.get(name, self._since)}

    def _say_holders(self, names: Collection[str]) -> None:
        if new := set(names) - self._said:
            self._said |= new
            _logger.warning(
                "live logs left to their owners, which deliver themselves",
                subscriptions=sorted(new),
                directory=str(self._directory),
            )

    def forget(self, id_: UUID) -> None:
        """The log is not another process's any more. From any thread."""
        self._from_first.discard(id_)
