"""A lease that is held: renewed at a third of its time, and lost where that fails for so long."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio

from eventrec.delivery.worker.outcome import error_text
from eventrec.errors import LeaseLostError

if TYPE_CHECKING:
    from eventrec.bus.bus import Lease, Shard


class HeldLease:
    """The last lease that a part was given on `shard`, by our clock, which runs while the process is paused."""

    def __init__(self, shard: Shard, *, seconds: float) -> None:
        self._shard = shard
        self._seconds = seconds
        self._until = 0.0
        """When it runs out, unless it is renewed."""
        self._ends = 0.0
        """The same by a clock that any thread reads."""
        self._renewed = anyio.Event()

    def __repr__(self) -> str:
        return f"<HeldLease of {self._shard!r}>"

    def note(self, asked: float) -> None:
        """It was given, or renewed: for so long since it was asked for."""
        self._until = asked + self._seconds
        self._ends = time.monotonic() + self._until - anyio.current_time()
        renewed, self._renewed = self._renewed, anyio.Event()
        renewed.set()

    @property
    def seconds_left(self) -> float:
        """How long it lasts, if it is not renewed. From any thread."""
        return max(0.0, self._ends - time.monotonic())

    async def certain(self) -> None:
        """Return while it has not run out: a process that was paused waits here until it knows."""
        while anyio.current_time() >= self._until:
            await self._renewed.wait()

    async def keep(self, lease: Lease) -> None:
        """Renew `lease`, until cancelled.

        Raises:
            LeaseLostError: It is lost, or may be.
        """
        pause = self._seconds / 3
        while True:
            await anyio.sleep(pause)
            asked = anyio.current_time()
            try:
                with anyio.fail_after(max(0.01, self._until - asked)):
                    await self._shard.renew(lease, seconds=self._seconds)
            except LeaseLostError:
                raise
            except Exception as exc:
                if anyio.current_time() >= self._until:
                    raise LeaseLostError(f"not renewed in time: {error_text(exc)}") from exc
                pause = self._seconds / 12
            else:
                pause = self._seconds / 3
                self.note(asked)
