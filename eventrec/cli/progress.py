"""A progress bar on stderr where it is a terminal; else nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.progress import Progress

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
        self._bar = _bar(terminal) if terminal.is_live else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    async def keep_fresh(self) -> None:
        """Look again and again, until cancelled."""
        if self._bar is None:
            return
        task = self._bar.add_task("", total=None)
        while True:
            look = self._look()
            self._bar.update(task, completed=look.done, total=look.total, description=look.words)
            self._bar.refresh()
            await anyio.sleep(REFRESH_SECONDS)


def _bar(terminal: Terminal) -> Progress:
    from rich.progress import (  # noqa: PLC0415 - needed on a terminal alone
        BarColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    return Progress(
        SpinnerColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=terminal.err,
        auto_refresh=False,  # no thread of its own: what it shows belongs to the loop
        transient=True,
    )
