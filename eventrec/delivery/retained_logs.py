"""Logs that are done and retained: taken up again where a destination lost what it had."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import anyio

from eventrec.runs.done import take_up_done
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.runs.directory import LogDirectory

FIRST_LOOK: Final = 2.0
"""Seconds until the newest is taken up: a process that lives but shortly would only leave it for others."""

_logger = get_logger("eventrec.delivery")


class RetainedLogs:
    """Those of `directory`. For the loop's thread.

    A destination that lost something of one log may have lost something of those that are done. Whether it was
    restored while no recorder ran, the newest of those can tell, where `are_kept`: its destinations are asked about it.
    """

    def __init__(self, directory: LogDirectory, *, are_kept: bool) -> None:
        self._directory = directory
        self._are_kept = are_kept
        self._rewound = anyio.Event()

    def note_rewind(self) -> None:
        """A destination says that it lost something."""
        self._rewound.set()

    async def run(self, on_taken_up: Callable[[], object]) -> NoReturn:
        """Take them up when that is due, until cancelled. `on_taken_up` is called when some are orphans again."""
        if self._are_kept:
            await anyio.sleep(FIRST_LOOK)
            await in_thread(partial(take_up_done, self._directory, newest=True))
        while True:
            await self._rewound.wait()
            self._rewound = anyio.Event()
            count = await in_thread(take_up_done, self._directory)
            if count:
                _logger.warning("retained logs taken up again", logs=count)
                on_taken_up()
