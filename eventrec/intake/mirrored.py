"""How many mirrors have a record: looked at while a caller waits for that, by one for all who wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from eventrec.runs.mirrors import Mirrors
from eventrec.runtime.backend import in_thread

if TYPE_CHECKING:
    import os
    from uuid import UUID

_LOOKS_EVERY: Final = 0.01


class MirrorWatch:
    """The mirrors of `directory`, for callers that wait for one log. For one loop's thread.

    Attributes:
        ends: The record after the last one that each mirror has, by its name, as of the last look.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.ends: dict[str, int] = {}
        self._mirrors = Mirrors(directory)
        self._next = 0.0
        self._is_looking = False
        self._looked = anyio.Event()

    def __repr__(self) -> str:
        return f"<MirrorWatch {self.ends}>"

    def count_past(self, offset: int) -> int:
        """How many mirrors have record `offset`, as of the last look."""
        return sum(end > offset for end in self.ends.values())

    async def look(self, id_: UUID) -> None:
        """Look once, a moment after the last time; or wait till another caller has.

        Raises:
            OSError: It cannot be told how far they are.
        """
        if self._is_looking:
            await self._looked.wait()
            return
        self._is_looking = True
        try:
            await anyio.sleep(max(0.0, self._next - anyio.current_time()))
            self.ends = await in_thread(self._read, id_)
            self._next = anyio.current_time() + _LOOKS_EVERY
        finally:
            self._is_looking = False
            looked, self._looked = self._looked, anyio.Event()
            looked.set()

    def _read(self, id_: UUID) -> dict[str, int]:
        return {name: each.next_offset for name, each in self._mirrors.of_log(id_).items()}
