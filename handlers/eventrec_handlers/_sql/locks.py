"""Waiting for a lock that another process holds for as long as it likes: a migration, for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_WAIT: Final = 0.05
"""Seconds between two tries; growing up to half a second."""

_LONGEST_WAIT: Final = 0.5


async def acquired(attempt: Callable[[], Awaitable[T | None]], on_wait: Callable[[], object]) -> T:
    """What `attempt` gives, once that is true. `on_wait` is called, once, where it has to be tried again."""
    pause = _WAIT
    if held := await attempt():
        return held
    on_wait()
    while True:
        await anyio.sleep(pause)
        if held := await attempt():
            return held
        pause = min(pause * 2, _LONGEST_WAIT)
