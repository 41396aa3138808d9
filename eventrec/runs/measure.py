"""How many bytes a log directory holds: measured by one process at a time, once a second at most, and read by all.

The file `.eventrec-quota` holds the last measurement, as a small file does (see files.py), and is the lock of the
process that measures or makes room. It is written in place, since its lock is on this very file; so a reader that finds
half of it finds none.
"""

from __future__ import annotations

import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from eventrec.errors import LogLockedError, UnreadableFileError
from eventrec.log.storage import write_all
from eventrec.runs.files import encode, load
from eventrec.runs.survey import QUOTA, tree_size
from eventrec.runtime.decoding import decodable

if TYPE_CHECKING:
    from eventrec.log.storage import Lock
    from eventrec.runs.directory import LogDirectory
    from eventrec.runs.survey import KnownSize

LOOKS_EVERY: Final = 1.0
LOOKS_SELDOM: Final = 10.0
_LOOKS_FOR: Final = 10
"""At most a tenth of the time is spent looking."""


@decodable
class Measured(msgspec.Struct, frozen=True):
    """`used` bytes, seen at the time `at` in seconds since the epoch, which took `seconds`."""

    used: Annotated[int, msgspec.Meta(ge=0)]
    at: float
    seconds: float

    @property
    def lasts(self) -> float:
        """Seconds after which it is time to look again: later, where looking takes long."""
        return max(LOOKS_EVERY, min(LOOKS_SELDOM, self.seconds * _LOOKS_FOR))


class SharedMeasure:
    """The measurement of `directory`. Blocking."""

    def __init__(self, directory: LogDirectory) -> None:
        self._directory = directory
        self._known: dict[str, KnownSize] = {}

    def lock(self) -> Lock:
        """Be the one that measures, or makes room.

        Raises:
            LogLockedError: Another process is.
            OSError: The directory gives no lock.
        """
        return self._directory.opened().lock(QUOTA)

    def last(self, *, now: float | None = None) -> Measured | None:
        """The last measurement, by whichever process; None where it is time for another one."""
        now = time.time() if now is None else now
        with suppress(OSError, UnreadableFileError):
            found, is_checked = load(self._directory.opened(), QUOTA, Measured)
            # A clock that was set back makes it one of the future.
            if is_checked and 0 <= now - found.at < 0.9 * found.lasts:
                return found
        return None

    def measure(self) -> Measured:
        """Look, and leave what was seen for the others, where there are any. Then, call it under the lock."""
        started = time.monotonic()
        used = tree_size(self._directory, self._known)
        found = Measured(used, time.time(), time.monotonic() - started)
        content = encode(found)
        with suppress(OSError), closing(self._directory.opened().open(QUOTA, "write")) as file:
            write_all(file, content, 0)
            file.truncate(len(content))
        return found

    def is_alone(self) -> bool:
        """Whether there is one run at most, so that no other process reads what is measured. Then nothing is left."""
        # What is half made or half deleted is not a process that reads.
        if self._directory.has_several():
            return False
        with suppress(OSError, LogLockedError):
            self._directory.opened().lock(QUOTA, create=False).release(delete=True)
        return True
