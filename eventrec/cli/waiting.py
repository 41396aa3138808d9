"""Says once that a command waits for a destination that takes nothing, and what ends the wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.cli.terminal import Terminal

SILENT_SECONDS: Final = 3.0
"""So long a destination may take nothing before the operator is told."""

_LOOK_SECONDS: Final = 0.25
_TRYING: Final = ("retrying", "opening")


def end_of_wait(seconds: float | None) -> str:
    """What ends the wait of a command with this `--timeout`."""
    return "Ctrl-C; --timeout SECONDS limits it" if seconds is None else f"--timeout, {seconds:g} s, or Ctrl-C"


class WaitingNotice:
    """Looks at what `moved` (a count that grows with each delivery) and at the `state` of the subscription.

    A state that an operator has to end (paused, holding) is said by the commands themselves.
    """

    def __init__(
        self, terminal: Terminal, *, moved: Callable[[], int], state: Callable[[], str | None], ends: str = "Ctrl-C"
    ) -> None:
        self._terminal = terminal
        self._moved = moved
        self._state = state
        self._ends = ends

    async def watch(self) -> None:
        """Until cancelled; a wait that follows a delivery is said again."""
        moved, since, is_said = self._moved(), anyio.current_time(), False
        while True:
            await anyio.sleep(_LOOK_SECONDS)
            state, before, moved = self._state(), moved, self._moved()
            if moved != before or state is None or not state.startswith(_TRYING):
                since, is_said = anyio.current_time(), is_said and moved == before
            elif not is_said and anyio.current_time() - since >= SILENT_SECONDS:
                is_said = True
                said = f"waiting for the destination, which takes nothing: {state}"
                self._terminal.say(f"eventrec: {said}; it is tried again until {self._ends}", style="yellow")
