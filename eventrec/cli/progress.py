"""A progress bar on stderr where it is a terminal; else nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import anyio
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from eventrec.cli.terminal import Terminal

REFRESH_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Look:
    """How far it is: `done` of `total` (None: unknown), and the same in words."""

    done: float
    total: float | None
    words: str


class LiveProgress:
    """Shows what `look` says, while `keep_fresh` runs inside of the `with` block; lines said then stand above it."""

    def __init__(self, terminal: Terminal, look: Callable[[], Look]) -> None:
        self._look = look
        # No thread of its own refreshes it: what it shows belongs to the loop.
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=terminal.err,
            auto_refresh=False,
            transient=True,
            disable=not terminal.is_live,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        if not self._bar.disable:
            self._bar.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._bar.disable:
            self._bar.stop()

    async def keep_fresh(self) -> None:
        """Look again and again, until cancelled."""
        while not self._bar.disable:
            look = self._look()
            self._bar.update(self._task, completed=look.done, total=look.total, description=look.words)
            self._bar.refresh()
            await anyio.sleep(REFRESH_SECONDS)
