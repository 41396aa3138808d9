"""Ctrl-C and SIGTERM: both end a command in the same way, with exit codes of their own."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any, Self

import anyio

if TYPE_CHECKING:
    from types import TracebackType

    from eventrec.cli.terminal import Terminal


class Termination:
    """Inside, SIGTERM interrupts; `is_asked` says that it came. A command may receive it by itself meanwhile.

    In a thread, or where the parent has it ignored, nothing is changed.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            try:
                self._before = signal.signal(signal.SIGTERM, self._interrupt)
            except ValueError:  # Only the main thread may.
                self._before = None
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _interrupt(self, *_: object) -> None:
        self.is_asked = True
        if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL, None):
            raise KeyboardInterrupt
        # A loop has a handler of its own, which lets tasks end.
        signal.raise_signal(signal.SIGINT)


class Interruption:
    """What a command waits for beside its work, if it has an account to give when it is interrupted.

    Attributes:
        number: The signal that came.
    """

    def __init__(self, terminal: Terminal, left: str) -> None:
        """`left` says what becomes of the rest."""
        self.number: signal.Signals | None = None
        self._terminal = terminal
        self._left = left

    async def watch(self, scope: anyio.CancelScope) -> None:
        """Cancel `scope` at the first signal."""
        if sys.platform == "win32":
            return  # It has no such receiver: there Ctrl-C cancels everything at once.
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            async for number in received:
                self.number = number
                self._terminal.say(f"eventrec: interrupted, {self._left}", style="yellow")
                scope.cancel()
                return
