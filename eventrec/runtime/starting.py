"""Tasks of a group that may be cancelled before they begin, without a warning of Python's."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from eventrec.runtime.backend import is_trio

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType


def when_begun(
    function: Callable[..., Coroutine[Any, Any, object]], *arguments: object
) -> Callable[[], Coroutine[Any, Any, object]]:
    """What `start_soon` of a task group takes, for `function(*arguments)`.

    Where all tasks of a loop are cancelled, as at the end of `asyncio.run`, a task may end before its first step. anyio
    has made the coroutine by then, and Python warns that it "was never awaited": in tests, an error. trio ends no task
    before its first step.
    """
    make = partial(function, *arguments)
    return make if is_trio() else partial(_Unbegun, make)


class _Unbegun(Coroutine[Any, Any, object]):
    """A coroutine that is made once it begins."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, object]]) -> None:
        self._make = make
        self._made: Coroutine[Any, Any, object] | None = None

    # What `inspect` asks of a coroutine, and anyio up to 4.15 through it: whether it is one, and whether it has begun.

    @property  # type: ignore[misc]
    def __class__(self) -> type[object]:  # type: ignore[override]
        return CoroutineType

    @property
    def cr_running(self) -> bool:
        return bool(getattr(self._made, "cr_running", False))

    @property
    def cr_suspended(self) -> bool:
        return bool(getattr(self._made, "cr_suspended", False))

    @property
    def cr_frame(self) -> FrameType | None:
        return getattr(self._made, "cr_frame", None)

    def _begin(self) -> Coroutine[Any, Any, object]:
        if self._made is None:
            self._made = self._make()
        return self._made

    def __await__(self) -> Generator[Any, Any, object]:
        return self._begin().__await__()

    def send(self, value: Any, /) -> Any:
        return self._begin().send(value)

    def throw(self, error: Any, value: Any = None, traceback: TracebackType | None = None, /) -> Any:
        if self._made is None:
            raise error
        return self._made.throw(error, value, traceback)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()
