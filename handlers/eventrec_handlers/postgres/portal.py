"""An asyncio loop in a thread of its own, for a driver that knows no other, in a program that runs trio."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


def is_trio() -> bool:
    """Whether the running task is one of trio's."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())


class Portal:
    """Runs coroutines on a loop in a daemon thread, from trio tasks."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="eventrec-postgres", daemon=True)
        self._thread.start()

    async def run(self, job: Callable[[], Coroutine[object, object, T]]) -> T:
        """What `job` gives. If the caller is cancelled, so is `job`, and it is waited for until it has cleaned up."""
        import trio  # noqa: PLC0415 - only where it runs already

        token = trio.lowlevel.current_trio_token()
        done = trio.Event()
        tasks: list[asyncio.Task[T]] = []

        def over(_: object) -> None:
            with suppress(trio.RunFinishedError):  # nobody waits any more
                token.run_sync_soon(done.set)

        def start() -> None:
            tasks.append(self._loop.create_task(job()))
            tasks[0].add_done_callback(over)

        def cancel() -> None:
            tasks[0].cancel()  # which `start` has put there, though perhaps only just now

        self._loop.call_soon_threadsafe(start)
        try:
            await done.wait()
        except BaseException:
            self._loop.call_soon_threadsafe(cancel)
            with anyio.CancelScope(shield=True):
                await done.wait()
            if not tasks[0].cancelled():
                tasks[0].exception()  # looked at, so that nobody complains
            raise
        return tasks[0].result()

    async def close(self) -> None:
        """End the loop and its thread, once what still runs on it has ended."""
        await self.run(_settled)
        self._loop.call_soon_threadsafe(self._loop.stop)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._thread.join)
        self._loop.close()


async def _settled() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=1)
    await asyncio.sleep(0)
