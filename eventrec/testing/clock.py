"""Hours in milliseconds: event loops whose clock jumps to the next timer as soon as nothing else is to be done."""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on virtual time, beginning at 0.

    It knows nothing of threads: while one is at work, time jumps on, unless `at_work` is above zero.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self.at_work = 0
        """How many jobs outside the loop are waited for: as long as there are any, time passes as it really does."""
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def jump(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self._now += seconds


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout and self._loop.at_work:
            started = time.monotonic()
            ready = super().select(timeout)
            self._loop.jump(time.monotonic() - started)
            return ready
        ready = super().select(0 if timeout is not None else None)
        if not ready and timeout:
            self._loop.jump(timeout)
        return ready


def virtual_backends() -> list[tuple[str, Mapping[str, Any]]]:
    """Parameters for a fixture `anyio_backend`: asyncio and, where it is installed, trio, both on virtual time."""
    backends: list[tuple[str, Mapping[str, Any]]] = [("asyncio", {"loop_factory": VirtualTimeLoop})]
    try:
        from trio.testing import MockClock  # noqa: PLC0415 - optional
    except ImportError:
        return backends
    return [*backends, ("trio", {"clock": MockClock(autojump_threshold=0)})]
