"""Live tails: one look at the destination for all who follow the same types, and what each of them has still to get.

    a follower    reads by itself from its cursor on until it is up to date, then joins the look of its types
    a look        every `follow_interval`; what arrived is encoded once, and given to each follower's buffer
    a slow one    whose buffer is full is dropped: it comes again with the id of the last event that it has got

No event is left out: a follower joins first, and reads then once more by itself. What it gets twice by that is told by
its id, and left out.
"""

from __future__ import annotations

from contextlib import aclosing
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import anyio
from anyio.lowlevel import RunVar

from eventrec.runtime.backend import current_backend
from eventrec.server.reading.followers import PAGE, Arrived, TailFollower
from eventrec.server.refusals import RefusedError, wait_header

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from eventrec.reading import Cursor, EventPage, EventReader
    from eventrec.server.options import ServerOptions

MAX_PAUSE: Final = 5.0
"""Seconds between two looks at most: while the destination cannot be read, or where each takes long."""

_FULL_SECONDS: Final = 5.0
"""How long a client waits that cannot follow now: those who follow stay for long."""

Read: TypeAlias = "Callable[[Callable[[EventReader], Awaitable[EventPage]]], Awaitable[EventPage]]"

Key: TypeAlias = "tuple[str, ...] | None"
"""The types that are followed, sorted; None: all."""


class Tails:
    """The live tails of a destination; `read` puts a question to one of its readers."""

    def __init__(self, read: Read, options: ServerOptions) -> None:
        self._read = read
        self._max = options.max_followers
        self._interval = cast("float", options.follow_interval)
        self._looks: RunVar[dict[Key, _Look]] = RunVar(f"eventrec tails {id(self)}")
        self._followers: set[TailFollower] = set()
        self._is_ended = False

    def __len__(self) -> int:
        return len(self._followers)

    def enter(self, table: str | None, cursor: Cursor) -> TailFollower:
        """A follower from `cursor` on; it has to `leave`. Raises as `check_room`."""
        self.check_room()
        follower = TailFollower(table, cursor)
        self._followers.add(follower)
        return follower

    def check_room(self) -> None:
        """Refuse one more follower where there are too many, or the server ends.

        Raises:
            RefusedError: 503 with Retry-After.
        """
        if self._is_ended or len(self._followers) >= self._max:
            detail = "the server ends" if self._is_ended else f"{self._max} clients follow already, as many as may"
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=wait_header(_FULL_SECONDS))

    def leave(self, follower: TailFollower) -> None:
        """It does not follow any longer."""
        self._followers.discard(follower)
        looks = self._here()
        for key, look in tuple(looks.items()):
            look.leave(follower)
            if not look.followers:
                look.scope.cancel()
                del looks[key]

    def begin(self) -> None:
        """From here on there may be followers."""
        self._is_ended = False

    def end(self) -> None:
        """Tell all followers to end, and let no more come: before the server waits for its last answers."""
        self._is_ended = True
        for follower in tuple(self._followers):
            follower.drop()

    async def follow(
        self, follower: TailFollower, types: Key, *, heartbeat: float
    ) -> AsyncGenerator[Arrived | None, None]:
        """What arrives after its cursor; None after `heartbeat` seconds without anything. It ends where it is dropped.

        Raises:
            RefusedError: 400: the cursor is not one.
        """
        async with aclosing(self._read_up(follower, types, heartbeat)) as pages:
            async for arrived in pages:
                yield arrived
        look = self._joined(follower, types)
        async with aclosing(self._read_up(follower, types, heartbeat)) as pages:
            async for arrived in pages:
                yield arrived
        look.note_caught_up(follower)
        while not follower.is_dropped:
            yield await follower.next(heartbeat)

    async def _read_up(
        self, follower: TailFollower, types: Key, heartbeat: float
    ) -> AsyncGenerator[Arrived | None, None]:
        """What it has to read by itself, until there is nothing more."""
        pause, outage = self._interval, ""
        while not follower.is_dropped:
            try:
                page = await self._read(_asking(follower.cursor, types))
            except RefusedError as exc:
                if exc.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise
                yield Arrived((), None, exc.detail) if outage != exc.detail else None
                outage = exc.detail
                await anyio.sleep(min(pause, heartbeat))
                pause = min(2 * pause, MAX_PAUSE)
                continue
            if outage:
                outage = ""
                yield Arrived((), None, outage)
            found = follower.read(page)
            if found.events:
                yield found
            if len(page.events) < PAGE:
                return

    def _joined(self, follower: TailFollower, types: Key) -> _Look:
        looks = self._here()
        look = looks.get(types)
        if look is None:
            look = looks[types] = _Look(self._read, types, follower.cursor, self._interval)
            current_backend().spawn(look.run, "eventrec follows")
        look.followers.add(follower)
        return look

    def _here(self) -> dict[Key, _Look]:
        looks = self._looks.get(None)
        if looks is None:
            looks = {}
            self._looks.set(looks)
        return looks


class _Look:
    """Looks again and again for what arrived of some types, until its scope is cancelled."""

    def __init__(self, read: Read, types: Key, cursor: Cursor, interval: float) -> None:
        self.followers: set[TailFollower] = set()
        self.scope = anyio.CancelScope()
        self._read = read
        self._types = types
        self._cursor = cursor
        self._interval = interval
        self._begun = 0
        self._joining: dict[TailFollower, int] = {}

    def leave(self, follower: TailFollower) -> None:
        self.followers.discard(follower)
        self._joining.pop(follower, None)

    def note_caught_up(self, follower: TailFollower) -> None:
        """A look that begins later, and finds all there is, is the last to find what `follower` has read by itself."""
        self._joining[follower] = self._begun

    async def run(self) -> None:
        with self.scope:
            await self._run()

    async def _run(self) -> None:
        pause, outage = self._interval, ""
        while True:
            await anyio.sleep(pause)
            self._begun += 1
            number, before = self._begun, anyio.current_time()
            try:
                page = await self._read(_asking(self._cursor, self._types))
                arrived = Arrived.of(page)
            except Exception as exc:  # noqa: BLE001 - the followers are told
                detail = exc.detail if isinstance(exc, RefusedError) else type(exc).__name__
                if outage != detail:
                    outage = detail
                    self._give(Arrived((), None, outage))
                pause = min(max(2 * pause, self._interval), MAX_PAUSE)
                continue
            self._cursor = page.cursor
            if outage:
                outage = ""
                self._give(Arrived((), None, outage))
            if arrived.events:
                self._give(arrived)
            if len(page.events) < PAGE:
                self._note_up_to_date(number)
                # Where a look takes long, most of the time is left to the writers.
                pause = min(max(self._interval, 4 * (anyio.current_time() - before)), MAX_PAUSE)
            else:
                pause = 0.0

    def _give(self, arrived: Arrived) -> None:
        for follower in tuple(self.followers):
            follower.give(arrived)

    def _note_up_to_date(self, number: int) -> None:
        for follower, begun in tuple(self._joining.items()):
            if number > begun:
                follower.note_nothing_twice()
                del self._joining[follower]


def _asking(cursor: Cursor, types: Key) -> Callable[[EventReader], Awaitable[EventPage]]:
    return lambda reader: page_after(reader, cursor, types)


async def page_after(reader: EventReader, cursor: Cursor, types: Key) -> EventPage:
    """What arrived after `cursor`.

    Raises:
        RefusedError: 400: it is not one.
    """
    try:
        return await reader.follow(cursor, limit=PAGE, types=types)
    except ValueError as exc:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "cursor: it was not given by this server") from exc
