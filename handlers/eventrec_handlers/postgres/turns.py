"""The turns that a loop is given while rows are encoded."""

from __future__ import annotations

from typing import Final

from anyio.lowlevel import checkpoint

SLICE: Final = 200
"""Rows encoded without giving the loop a turn: about 0.2 ms."""


class Turns:
    """Gives the loop a turn, whichever one runs, each time that `SLICE` rows were encoded."""

    def __init__(self) -> None:
        self._rows = 0

    async def after(self, rows: int) -> None:
        """So many more were."""
        self._rows += rows
        if self._rows >= SLICE:
            self._rows = 0
            await checkpoint()
