"""Tasks that own a connection each, and put questions to it, one after the other.

What reads a destination belongs to one task, and each request is another one. So a request leaves its question here,
and a worker puts it. A worker comes with the first question, is used again, and goes when it had none for a while:
nothing has to be started, and where a loop ends, so do its workers.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

import anyio
from anyio.lowlevel import RunVar

from eventrec.runtime.backend import current_backend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

IDLE_SECONDS: Final = 60.0
"""How long a worker without questions keeps its connection."""

GRACE_SECONDS: Final = 2.0
"""How long a question may take to end once it is cancelled; after that its request is answered all the same."""


class Readable(Protocol):
    """What a worker owns: a reader of events, or a store of rollups."""

    async def open(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Disconnect."""


S = TypeVar("S", bound=Readable)
T = TypeVar("T")


class BusyError(Exception):
    """No worker came to the question within its time."""


class SlowError(Exception):
    """The question took longer than it may; it is cancelled."""


class Workers(Generic[S]):
    """At most `limit` in one loop, each with what `make` gives. A question may take `seconds`, and wait as long.

    Several loops may use it, one after the other or each in its thread: each has workers of its own.
    """

    def __init__(self, make: Callable[[], S], *, limit: int, seconds: float) -> None:
        self._make = make
        self._limit = limit
        self._seconds = seconds
        self._crew: RunVar[_Crew[S]] = RunVar(f"eventrec workers {id(self)}")

    async def ask(self, question: Callable[[S], Awaitable[T]]) -> T:
        """What `question` gives. Cancelled, or out of time, it is cancelled where it is put.

        Raises:
            BusyError: All workers had other questions for too long.
            SlowError: It took too long.
            Exception: What `question` raises, or connecting.
        """
        asked: _Asked[S] = _Asked(question)
        crew = self._here()
        crew.waiting.append(asked)
        crew.note_arrival()
        self._hire_if_wanted(crew)
        try:
            with anyio.move_on_after(self._seconds):
                await asked.begun.wait()
            if not asked.begun.is_set():
                raise BusyError
            with anyio.move_on_after(self._seconds + GRACE_SECONDS):
                await asked.ended.wait()
        finally:
            asked.give_up()
            with suppress(ValueError):
                crew.waiting.remove(asked)
        return cast("T", asked.outcome())

    async def close(self) -> None:
        """Cancel what is asked, and disconnect; what this loop has. A later question starts again."""
        crew = self._here()
        for asked in crew.waiting:
            asked.fail(BusyError())
        crew.waiting.clear()
        lives = set(crew.workers)
        for life in lives:
            life.cancel()
        with anyio.CancelScope(shield=True):
            while lives & crew.workers:
                await crew.left.wait()
        self._hire_if_wanted(crew)

    def _here(self) -> _Crew[S]:
        crew = self._crew.get(None)
        if crew is None:
            crew = _Crew()
            self._crew.set(crew)
        return crew

    def _hire_if_wanted(self, crew: _Crew[S]) -> None:
        if crew.idle < len(crew.waiting) and len(crew.workers) < self._limit:
            self._hire(crew)

    def _hire(self, crew: _Crew[S]) -> None:
        life = anyio.CancelScope()
        crew.workers.add(life)
        crew.idle += 1  # Until it has its first question: another one needs no second worker for it.

        async def work() -> None:
            try:
                with life:
                    await self._work(crew)
            finally:
                crew.workers.discard(life)
                crew.note_leaving()
            self._hire_if_wanted(crew)  # A question may have come while this one disconnected.

        def leave() -> None:
            crew.workers.discard(life)
            crew.idle -= 1

        crew.backend.spawn(work, "eventrec reads", on_unbegun=leave)

    async def _work(self, crew: _Crew[S]) -> None:
        owned: list[S] = []
        try:
            while (asked := await crew.next()) is not None:
                try:
                    await self._put(asked, owned)
                finally:
                    crew.idle += 1
                    asked.fail(BusyError())  # Unless it has an end: then its worker was cancelled.
        finally:
            crew.idle -= 1
            await _let_go(owned)

    async def _put(self, asked: _Asked[S], owned: list[S]) -> None:
        """Give `asked` its end. `owned` holds what this worker is connected by, if it is."""
        until = anyio.current_time() + self._seconds
        if not owned:
            # Not in a scope of the question: what it enters may outlive that.
            try:
                store = self._make()
                owned.append(store)
                await store.open()
            except Exception as exc:  # noqa: BLE001 - it is the request's
                asked.fail(exc)
                await _let_go(owned)
                return
        with anyio.CancelScope(deadline=until) as asked.scope:
            if asked.is_given_up:
                return
            try:
                asked.succeed(await asked.question(owned[0]))
            except Exception as exc:  # noqa: BLE001 - likewise
                asked.fail(exc)
        asked.fail(SlowError())


class _Crew(Generic[S]):
    """The workers of one loop, and the questions that wait for them."""

    def __init__(self) -> None:
        self.backend = current_backend()
        self.waiting: deque[_Asked[S]] = deque()
        self.workers: set[anyio.CancelScope] = set()
        self.idle = 0
        self.left = anyio.Event()
        self._arrived = anyio.Event()

    async def next(self) -> _Asked[S] | None:
        """The next question; None: there was none for a while. The worker that gets one is not idle any longer."""
        while not self.waiting:
            arrived = self._arrived
            with anyio.move_on_after(IDLE_SECONDS):
                await arrived.wait()
            if not arrived.is_set() and not self.waiting:
                return None
        self.idle -= 1
        asked = self.waiting.popleft()
        asked.begun.set()
        return asked

    def note_arrival(self) -> None:
        self._arrived.set()
        self._arrived = anyio.Event()

    def note_leaving(self) -> None:
        self.left.set()
        self.left = anyio.Event()


class _Asked(Generic[S]):
    """A question, and its end."""

    def __init__(self, question: Callable[[S], Awaitable[Any]]) -> None:
        self.question = question
        self.begun = anyio.Event()
        self.ended = anyio.Event()
        self.scope: anyio.CancelScope | None = None
        self.is_given_up = False
        self._result: Any = None
        self._error: Exception | None = SlowError()

    def give_up(self) -> None:
        """Nothing waits for its end any more."""
        self.is_given_up = True
        if self.scope is not None:
            self.scope.cancel()

    def succeed(self, result: object) -> None:
        self._result, self._error = result, None
        self.ended.set()

    def fail(self, error: Exception) -> None:
        if not self.ended.is_set():
            self._error = error
            self.begun.set()
            self.ended.set()

    def outcome(self) -> Any:
        """What it gave, or raised; `SlowError` where it has not ended."""
        error, self._error = self._error, None
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error  # It refers to this frame, and this frame to it.


async def _let_go(owned: list[Any]) -> None:
    """Disconnect; in no scope of ours, since what `open` has entered is left."""
    while owned:
        with suppress(Exception):
            await owned.pop().close()
