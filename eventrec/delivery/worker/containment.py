"""Whatever foreign code throws becomes an error of the one worker that called it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

from eventrec.errors import EventrecError
from eventrec.runtime.backend import current_task, is_cancelled
from eventrec.runtime.logging import described
from eventrec.runtime.signals import pass_on
from eventrec.runtime.starting import when_begun

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType


class EndedFromWithinError(EventrecError):
    """Foreign code threw what ends a task or the process, and nothing had asked for that; the cause is attached."""


async def in_own_task(run: Callable[[], Coroutine[object, object, object]], name: str) -> None:
    """Run `run`, which calls foreign code and raises no `Exception`, in a task called `name` that ends with it.

    Where a handler cancels the task that it is called in, only the task around it can tell that from a cancellation of
    all tasks: then this one goes on. So it does where a handler entered a cancel scope or a task group that it has not
    left: anyio then ends the task with an error.

    Raises:
        EndedFromWithinError: That task was cancelled, or failed, and this one was not.
    """
    is_done = False

    async def call() -> None:
        nonlocal is_done
        await run()
        is_done = True

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(when_begun(call), name=name)
    except ExceptionGroup as exc:
        raise EndedFromWithinError(f"the task of the handler ended: {described(exc.exceptions[0])}") from exc
    if not is_done:
        raise EndedFromWithinError("the handler cancelled its own task")


class contained:  # noqa: N801 - read as a statement: `with contained():`
    """Around foreign code: only `Exception` comes out, and what ends this task from outside.

    A cancellation is from outside where one was asked for, also inside a group; GeneratorExit is where another task
    than the one that entered throws it, since the loop is gone and the coroutine is being collected. What a signal
    handler of the application raised meanwhile is the application's: its loop raises it too.
    """

    __slots__ = ("_also_cancellations", "_task")

    def __init__(self, *, also_cancellations: bool = True) -> None:
        """`also_cancellations=False`: around our own code, which cancels only what was asked to end.

        There whether one was asked for is not looked at: where all tasks of a loop are cancelled, as `asyncio.run` does
        at its end, a task group may have taken that back with its own.
        """
        self._also_cancellations = also_cancellations

    def __enter__(self) -> None:
        self._task = current_task()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is None:
            return
        is_of_signal = pass_on(exc)
        if isinstance(exc, Exception):
            return
        if self._task is None or current_task() is not self._task:
            return
        cancelled = anyio.get_cancelled_exc_class()
        is_asked_for = is_cancelled() or not self._also_cancellations
        if isinstance(exc, cancelled) and is_asked_for:
            return
        if isinstance(exc, BaseExceptionGroup) and is_asked_for and exc.subgroup(cancelled) is not None:
            if cancelled is asyncio.CancelledError:
                # Nothing else would say again that this task is to end.
                raise asyncio.CancelledError from exc
            return
        what = "a signal interrupted the handler" if is_of_signal else "the handler ended its own task"
        raise EndedFromWithinError(f"{what}: {described(exc)}") from exc
