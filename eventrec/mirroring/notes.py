"""What a mirror acknowledges, noted in the files that owners of logs read: the last of each log, as fast as they go."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import anyio

from eventrec.runtime.backend import in_thread

if TYPE_CHECKING:
    from uuid import UUID

    from eventrec.runs.mirrors import Acknowledged, Mirrors


class Notes:
    """What the mirror `name` has, for `mirrors`. For the tasks of one loop."""

    def __init__(self, mirrors: Mirrors, name: str) -> None:
        self._mirrors = mirrors
        self._name = name
        self._waiting: dict[UUID, Acknowledged] = {}
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        return f"<Notes of {self._name!r}: {len(self._waiting)} waiting>"

    def note(self, acknowledged: Acknowledged) -> None:
        """Have it written soon: what was noted of that log before, and is not written, is not needed any more."""
        self._waiting[acknowledged.log] = acknowledged
        self._changed.set()

    async def forget(self, id_: UUID) -> None:
        """The log is gone. Raises OSError where its file is not deleted."""
        self._waiting.pop(id_, None)
        await in_thread(self._mirrors.forget_log, self._name, id_)

    async def run(self) -> NoReturn:
        """Write until cancelled.

        Raises:
            OSError: The disk refused, or the mirror is not known any more.
        """
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            waiting, self._waiting = self._waiting, {}
            await in_thread(self._write, list(waiting.values()))

    def _write(self, waiting: list[Acknowledged]) -> None:
        for each in waiting:
            self._mirrors.acknowledge(self._name, each)
