"""Which input line a dead letter belongs to: reads on in the dead-letter file that the recorder writes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class _Letter(msgspec.Struct):
    """What is needed of a line of the file; see `eventrec.delivery.dead_letters`."""

    log_id: UUID
    offset: int
    reason: str


_decode = msgspec.json.Decoder(_Letter).decode


class RefusedRecords:
    """Reads from `path` the letters of the log `log_id` that were added since this was made.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path, log_id: UUID) -> None:
        self._path = path
        self._log_id = log_id
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            self._position = file.tell()

    def fresh(self) -> Iterator[tuple[int, str]]:
        """Offset and reason of each letter that was added since the last call. Other processes' are passed over."""
        with self._path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._position += len(line)
                try:
                    letter = _decode(line)
                except msgspec.DecodeError:
                    continue
                if letter.log_id == self._log_id:
                    yield letter.offset, letter.reason
