"""Waits until what was recorded is delivered: all requests that wait at once share a flush."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from eventrec.recorder import EventRecorder
    from eventrec.status import Settled


class _Round:
    """Requests whose events were taken before one flush began."""

    def __init__(self) -> None:
        self.answer: bool | Settled | None = None


class DeliveryRounds:
    """One flush after the other, each for all requests that came before it began. For one loop."""

    def __init__(self) -> None:
        self._next = _Round()
        self._ended: anyio.Event | None = None
        """Set when the flush that runs has ended; None: none runs."""

    async def wait(self, recorder: EventRecorder, *, seconds: float) -> bool | Settled:
        """What `recorder.flush` answers for what was recorded before; False where that takes longer than that many."""
        mine = self._next
        with anyio.move_on_after(seconds):
            while mine.answer is None:
                if self._ended is not None:
                    await self._ended.wait()
                else:
                    await self._flush(mine, recorder, seconds)
            return mine.answer
        return False

    async def _flush(self, round_: _Round, recorder: EventRecorder, seconds: float) -> None:
        """For all requests of `round_`. Where this one is cancelled, another one of them begins again."""
        ended = self._ended = anyio.Event()
        if round_ is self._next:
            self._next = _Round()
        try:
            round_.answer = await recorder.flush(seconds)
        finally:
            self._ended = None
            ended.set()
