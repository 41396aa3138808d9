"""The front ends of a GreptimeDB: one is drawn for each call; one that is out of reach is left out, and comes back."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc

from eventrec import TransientError
from eventrec_handlers._thread import WorkThread
from eventrec_handlers.greptimedb.channel import Channel, credentials_of
from eventrec_handlers.greptimedb.errors import is_of_the_database, meaning_of_call

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventrec_handlers.greptimedb.options import CallOptions

FIRST_ABSENCE: Final = 1.0
"""Seconds for which a front end is left out after it could not be reached; then twice as long each time."""

LONGEST_ABSENCE: Final = 30.0

_MAX_FAILURES: Final = 16
_GONE: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class FrontEnds:
    """Calls `addresses`. `where` is how errors call them; `draw` chooses one of several, `clock` is in seconds."""

    def __init__(
        self,
        addresses: Sequence[str],
        options: CallOptions,
        *,
        where: str,
        draw: Callable[[Sequence[FrontEnd]], FrontEnd] = random.choice,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._front_ends = [FrontEnd(address) for address in addresses]
        self._options = options
        self._where = where
        self._draw = draw
        self._clock = clock
        self._credentials: grpc.ChannelCredentials | None = None
        self._thread = WorkThread("eventrec-greptimedb")
        self.is_open = False

    async def open(self) -> None:
        """Get ready; nothing is connected yet.

        Raises:
            PauseError: A certificate or a key cannot be used.
        """
        if self._options.tls:
            self._credentials = await self._thread.run(lambda: credentials_of(self._options, self._where))
        self.is_open = True

    async def call(self, request: bytes, metadata: Sequence[tuple[str, str]]) -> bytes:
        """The answer of a front end that is drawn; where it cannot be reached, of another one, each asked once.

        Raises:
            DeliveryError: What the failure of the last one means.
            UnknownStatusError: The database says that it failed, and no more.
        """
        if not self.is_open:
            raise RuntimeError(f"closed: the connection to {self._where} is not open")
        deadline = self._clock() + self._options.timeout
        asked: list[FrontEnd] = []
        while True:
            front_end = self._drawn(asked)
            asked.append(front_end)
            answer, failure, is_gone = await self._ask(front_end, request, metadata, deadline)
            if failure is None:
                return answer
            if not is_gone or len(asked) == len(self._front_ends) or self._clock() >= deadline:
                raise failure

    async def close(self) -> None:
        """Disconnect. May be called again."""
        self.is_open = False
        for front_end in self._front_ends:
            front_end.failures, front_end.absent_until = 0, 0.0
            await self._disconnect(front_end)
        self._thread.end()

    def _drawn(self, asked: Sequence[FrontEnd]) -> FrontEnd:
        """One that was not asked yet: of those that are not left out, else the one that comes back first."""
        rest = [one for one in self._front_ends if one not in asked]
        now = self._clock()
        present = [one for one in rest if one.absent_until <= now]
        return self._draw(present) if present else min(rest, key=lambda one: one.absent_until)

    async def _ask(
        self, front_end: FrontEnd, request: bytes, metadata: Sequence[tuple[str, str]], deadline: float
    ) -> tuple[bytes, Exception | None, bool]:
        """Its answer; or what its failure means, and whether it was out of reach."""
        channel = front_end.channel
        if channel is None:
            channel = front_end.channel = Channel(front_end.address, self._options, self._credentials, self._thread)
        where = self._where if len(self._front_ends) == 1 else f"{self._where} at {front_end.address}"
        try:
            outcome = await channel.call(request, metadata, seconds=max(deadline - self._clock(), 0.001))
        except TimeoutError:
            await self._leave_out(front_end, channel)
            return b"", TransientError(f"{where}: no answer in time"), True
        if outcome.status is grpc.StatusCode.OK:
            front_end.failures, front_end.absent_until = 0, 0.0
            return outcome.answer, None, False
        failure = meaning_of_call(
            outcome.status, outcome.details, outcome.metadata, where=where, request_bytes=len(request)
        )
        is_gone = outcome.status in _GONE and not is_of_the_database(outcome.metadata)
        if is_gone:
            await self._leave_out(front_end, channel)
        return b"", failure, is_gone

    async def _leave_out(self, front_end: FrontEnd, channel: Channel) -> None:
        """It could not be reached through `channel`; several calls may find so at once, which counts once."""
        if front_end.channel is not channel:
            return
        absence = min(FIRST_ABSENCE * 2.0**front_end.failures, LONGEST_ABSENCE)
        front_end.failures = min(front_end.failures + 1, _MAX_FAILURES)
        front_end.absent_until = self._clock() + absence
        await self._disconnect(front_end)

    async def _disconnect(self, front_end: FrontEnd) -> None:
        channel, front_end.channel = front_end.channel, None
        if channel is not None:
            await channel.give_up()


@dataclass(slots=True, eq=False)
class FrontEnd:
    """One of them.

    Attributes:
        address: Its host and port.
        channel: What leads to it, once it was needed.
        failures: How often in a row it could not be reached.
        absent_until: When it may be drawn again, by the monotonic clock.
    """

    address: str
    channel: Channel | None = None
    failures: int = 0
    absent_until: float = 0.0
