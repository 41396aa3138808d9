"""What a mirror acknowledges, noted in the files that owners of logs read: the last of each log, as fast as they go."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import anyio

from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec.mirroring.schedule import Key
    from eventrec.runs.mirrors import Acknowledged, Mirrors

_RETRY_SECONDS: Final = 1.0

_logger = get_logger("eventrec.mirroring")


class Notes:
    """What the mirror `name` has, for `mirrors`. For the tasks of one loop.

    Attributes:
        are_written: Whether all that was noted is in the files.
    """

    def __init__(self, mirrors: Mirrors, name: str) -> None:
        self.are_written = True
        self._mirrors = mirrors
        self._name = name
        self._waiting: dict[Key, Acknowledged] = {}
        self._changed = anyio.Event()
        self._is_refused = False

    def __repr__(self) -> str:
        return f"<Notes of {self._name!r}: {len(self._waiting)} waiting>"

    def note(self, acknowledged: Acknowledged, *, is_dead: bool = False) -> None:
        """Have it written soon: what was noted of that log before, and is not written, is not needed any more."""
        self._waiting[acknowledged.log, is_dead] = acknowledged
        self.are_written = False
        self._changed.set()

    async def forget(self, key: Key) -> None:
        """The log is gone. Raises OSError where its file is not deleted."""
        self._waiting.pop(key, None)
        await in_thread(partial(self._mirrors.forget_log, self._name, key[0], is_dead=key[1]))

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
                await in_thread(self._write, waiting)
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
                self.are_written = not self._waiting

    def _write(self, waiting: Mapping[Key, Acknowledged]) -> None:
        for (_, is_dead), each in waiting.items():
            self._mirrors.acknowledge(self._name, each, is_dead=is_dead)
