"""The bytes of a file or of stdin: the loop never waits for them."""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue
from stat import S_ISREG
from typing import TYPE_CHECKING, Final

import anyio

from eventrec.runtime.backend import current_backend

if TYPE_CHECKING:
    from collections.abc import Callable

READ_BYTES: Final = 256 * 1024


class Input:
    """The bytes of a file, or of stdin, read in a thread of its own.

    `opened` gives its descriptor, in that thread; all but that of stdin, 0, are closed at the end. The thread is a
    daemon and reads only what is asked for: one that waits for a silent pipe does not delay the end.
    """

    def __init__(self, opened: Callable[[], int]) -> None:
        self.size: int | None = None
        """Of the whole file, known once something was read; None where it is not a plain file."""
        self._open = opened
        self._backend = current_backend()
        self._asked: SimpleQueue[anyio.Event] = SimpleQueue()
        self._answer: bytes | OSError = b""
        threading.Thread(target=self._run, name="eventrec input", daemon=True).start()

    async def read(self) -> bytes:
        """The next bytes, as many as there are, at most `READ_BYTES`; none at the end.

        Once it is cancelled, has raised, or has given none, ask no more.

        Raises:
            OSError: It cannot be opened or read.
        """
        event = anyio.Event()
        self._asked.put(event)
        await event.wait()
        if isinstance(self._answer, OSError):
            raise self._answer
        return self._answer

    def _run(self) -> None:
        descriptor = 0
        asked = self._asked.get()
        try:
            descriptor = self._open()
            status = os.fstat(descriptor)
            self.size = status.st_size if S_ISREG(status.st_mode) else None
            while True:
                self._answer = os.read(descriptor, READ_BYTES)
                if not self._answer:
                    break
                self._backend.wake(asked.set)
                asked = self._asked.get()
        except OSError as exc:
            self._answer = exc
        if descriptor:
            os.close(descriptor)
        self._backend.wake(asked.set)
