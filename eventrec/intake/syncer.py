"""The thread that syncs a log: by policy, or because a caller waits for it. Writing never waits for it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from eventrec.errors import LogClosedError, LogError
from eventrec.runtime.native import Signal, start_new_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.log.log import Log

_RETRY_SECONDS: Final = 1.0

Sync: TypeAlias = Literal["interval", "never", "take"]


class Syncer:
    """Syncs one log. Its thread is a daemon of the system's kind, also under gevent.

    `on_sync` is called when more is synced, `on_refusal` when the disk refuses: both from the thread that syncs.
    """

    def __init__(
        self,
        *,
        policy: Sync,
        interval: float,
        on_sync: Callable[[], object],
        on_refusal: Callable[[LogError], object],
    ) -> None:
        self.has_thread = False
        self._policy = policy
        self._interval = interval
        self._on_sync = on_sync
        self._on_refusal = on_refusal
        self._signal = Signal()
        self._synced_at = 0.0
        self._wanted = 0
        self._is_ended = False

    def start(self, log: Log) -> None:
        """Sync `log` in a thread; where the system gives none, the caller does it: see `sync_if_due`."""
        self.has_thread = True
        try:
            start_new_thread(self._sync_until_closed, log)
        except RuntimeError:
            self.has_thread = False

    def want(self, offset: int) -> None:
        """Sync at once, if what lies below `offset` is not. From any thread."""
        self._wanted = max(self._wanted, offset)
        self._signal.set()

    def look(self) -> None:
        """More is written."""
        self._signal.set()

    def end(self) -> None:
        """Sync no longer. Returns at once."""
        self._is_ended = True
        self._signal.set()

    def sync_if_due(self, log: Log) -> float | None:
        """Sync what policy or a waiting caller asks for; seconds until the next look, None: when there is more.

        Raises:
            LogClosedError: The log was closed.
        """
        while log.written > log.synced:
            now = time.monotonic()
            left = 0.0 if self._policy == "take" else self._synced_at + self._interval - now
            is_due = self._policy != "never" and left <= 0
            if not is_due and self._wanted <= log.synced:
                return left if self._policy == "interval" else None
            try:
                log.sync()
            except LogClosedError:
                raise
            except LogError as exc:
                self._on_refusal(exc)
                return _RETRY_SECONDS
            self._synced_at = now
            self._on_sync()
        return None

    def _sync_until_closed(self, log: Log) -> None:
        while not self._is_ended:
            try:
                pause = self.sync_if_due(log)
            except LogClosedError:
                return
            self._signal.wait(pause)
