"""Whatever foreign code throws becomes an error of the one worker that called it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from eventrec.errors import EventrecError
from eventrec.runtime.backend import current_task, is_cancelled
from eventrec.runtime.logging import described

if TYPE_CHECKING:
    from types import TracebackType


class EndedFromWithinError(EventrecError):
    """Foreign code threw what ends a task or the process, and nothing had asked for that; the cause is attached."""


class contained:  # noqa: N801 - read as a statement: `with contained():`
    """Around foreign code: only `Exception` comes out, and what ends this task from outside.

    A cancellation is from outside where one was asked for; GeneratorExit is where another task than the one that
    entered throws it, since the loop is gone and the coroutine is being collected.
    """

    __slots__ = ("_task",)

    def __enter__(self) -> None:
        self._task = current_task()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is None or isinstance(exc, Exception) or self._is_from_outside(exc):
            return
        raise EndedFromWithinError(f"the handler ended its own task: {described(exc)}") from exc

    def _is_from_outside(self, exc: BaseException) -> bool:
        if current_task() is not self._task:
            return True
        return isinstance(exc, anyio.get_cancelled_exc_class()) and is_cancelled()
