"""Handlers whose calls are seen, one by one: what breaks the bounds of a call is said in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import anyio

from eventrec.delivery.worker.containment import EndedFromWithinError, contained
from eventrec.runtime.signals import error_of_signal_handler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from eventrec import Batch

    Attempt: TypeAlias = Callable[[], Awaitable[Any]]
    Around: TypeAlias = Callable[[str, Attempt, tuple[Any, ...]], Awaitable[Any]]
    """Is given the name of a method, what calls it, and its arguments; awaits the call, and gives its answer."""

T = TypeVar("T")

METHODS: Final = frozenset(
    {"open", "prepare", "handle", "close", "destination_id", "resume", "retire", "latest", "range", "follow"}
)
"""What is awaited of a handler, of its checkpoints and of its reader."""


class FaultyCallError(AssertionError):
    """A call did what no call may, whatever a claim is about."""


@dataclass(frozen=True, slots=True)
class CutCall:
    """A call that was cancelled, at a moment of the loop, after so many seconds."""

    name: str
    seconds: float
    at: float


class Calls:
    """All calls of a claim's handlers. `cut` are those that were cancelled."""

    def __init__(self) -> None:
        self.cut: list[CutCall] = []

    async def call(self, name: str, attempt: Attempt, given: tuple[Any, ...] = ()) -> Any:
        """What `attempt` gives.

        Raises:
            FaultyCallError: It raised what ends a task or a program, or changed the batch that it was given.
        """
        batch = given[0] if name in {"handle", "prepare"} and given else None
        records = _records_of(batch)
        began = anyio.current_time()
        try:
            return await _exceptions_alone(name, attempt)
        except anyio.get_cancelled_exc_class():
            now = anyio.current_time()
            self.cut.append(CutCall(name, now - began, now))
            raise
        finally:
            if records != _records_of(batch):
                raise FaultyCallError(f"`{name}` changed the batch that it was given: the worker may send that again")


async def _exceptions_alone(name: str, attempt: Attempt) -> Any:
    """What `attempt` gives; of what is not an `Exception`, a cancellation that was asked for and Ctrl-C pass."""
    try:
        return await attempt()
    except BaseException as exc:
        if error_of_signal_handler(exc) is not None:
            raise
        try:
            with contained():
                raise
        except EndedFromWithinError:
            raise FaultyCallError(
                f"`{name}` raised {exc!r}, which is not an Exception: it ends the task that it comes to, or the "
                "program; raise a DeliveryError"
            ) from exc


def _records_of(batch: Batch | None) -> object:
    return None if batch is None else (tuple(batch.offsets), tuple(batch.entries))


def watched(own: T, around: Around) -> T:
    """A handler, checkpoints or a reader, with `around` around each of `METHODS`, also those of its checkpoints."""
    return cast("T", _Watched(own, around))


def unwatched(own: Any) -> Any:
    """What it was before it was watched."""
    return own.own_of_watched if isinstance(own, _Watched) else own


class _Watched:
    def __init__(self, own: Any, around: Around) -> None:
        self.own_of_watched = own
        self._around = around

    def __repr__(self) -> str:
        return repr(self.own_of_watched)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.own_of_watched, name)
        if name == "checkpoints" and found is not None:
            return _Watched(found, self._around)
        if name not in METHODS:
            return found

        async def called(*given: Any, **named: Any) -> Any:
            return await self._around(name, lambda: found(*given, **named), given)

        return called
