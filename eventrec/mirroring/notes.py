"""What a mirror acknowledges, noted in the files that owners of logs read: the last of each log, as fast as they go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import anyio

from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from uuid import UUID

    from eventrec.runs.mirrors import Acknowledged, Mirrors


_RETRY_SECONDS: Final = 1.0

_logger = get_logger("eventrec.mirroring")


class Notes:
    """What the mirror `name` has, for `mirrors`. For the tasks of one loop."""

    def __init__(self, mirrors: Mirrors, name: str) -> None:
        self._mirrors = mirrors
        self._name = name
        self._waiting: dict[UUID, Acknowledged] = {}
        self._changed = anyio.Event()
        self._is_refused = False

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
        """Write until cancelled. What the disk refuses is tried again: a mirror goes on where its source is full.

        Raises:
            FileNotFoundError: The mirror is not known any more.
        """
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            waiting, self._waiting = self._waiting, {}
            try:
                await in_thread(self._write, list(waiting.values()))
            except FileNotFoundError:
                raise
            except OSError as exc:
                if not self._is_refused:
                    _logger.warning("what a mirror has is not noted", mirror=self._name, error=described(exc))
                self._is_refused = True
                self._waiting = waiting | self._waiting
                self._changed.set()
                await anyio.sleep(_RETRY_SECONDS)
            else:
                self._is_refused = False

    def _write(self, waiting: list[Acknowledged]) -> None:
        for each in waiting:
            self._mirrors.acknowledge(self._name, each)
