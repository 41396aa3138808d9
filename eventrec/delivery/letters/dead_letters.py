"""Records a destination refused for good: kept in a JSON Lines file, or, where none is set, named in a log line."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from eventrec.records.entry import SHAPE, SIZE
from eventrec.records.extra_rows import decode_rows
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path
    from uuid import UUID

    from eventrec.records.entry import Entry

_logger = get_logger("eventrec.dead_letters")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record set aside, and why. `seconds` is when, since the epoch; `static_context` that of its log."""

    log_id: UUID
    offset: int
    subscription: str
    handler: str
    reason: str
    seconds: float
    entry: Entry
    static_context: bytes | None = None


class DeadLetters(Protocol):
    """Where dead letters go."""

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        """Keep `letters`. On return they are synced.

        Raises:
            OSError: They could not be kept; nothing may be skipped because of them.
        """

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        """The offsets of which there are letters, as far as this can be told: what is there is never sent again."""


class DeadLetterFile:
    """A JSON Lines file, one letter a line, appended and synced. Several processes may share it.

    A line holds: log_id, offset, subscription, handler, reason, time (seconds since the epoch), type, table,
    timestamp (ns), payload (as JSON), and, where the record has them, context, columns, rows, id.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        await in_thread(self._write, b"".join(_line(letter) for letter in letters))

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        """None: the file is for people, and nobody looks anything up in it."""
        del log_id, subscription
        return ()

    def _write(self, lines: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            written = os.write(descriptor, lines)
            if written < len(lines):
                # Half a line would spoil the next one. A writer that came after us stands behind it: then it stays.
                if os.fstat(descriptor).st_size == size + written:
                    os.ftruncate(descriptor, size)
                raise OSError(f"{self._path}: wrote {written} of {len(lines)} bytes")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _line(letter: DeadLetter) -> bytes:
    return msgspec.json.encode(letter_document(letter)) + b"\n"


def letter_document(letter: DeadLetter) -> dict[str, Any]:
    """What a line of the file holds; its JSON parts are `msgspec.Raw`."""
    shape, timestamp, payload, context, extras, id_, _ = letter.entry
    document: dict[str, Any] = {
        "log_id": str(letter.log_id),
        "offset": letter.offset,
        "subscription": letter.subscription,
        "handler": letter.handler,
        "reason": letter.reason,
        "time": letter.seconds,
        "type": shape.type,
        "table": shape.table,
        "timestamp": timestamp,
        "payload": msgspec.Raw(payload),
    }
    if context is not None:
        document["context"] = msgspec.Raw(context)
    if extras is not None:
        document["columns"] = [str(column) for column in shape.columns]
        document["rows"] = [[_readable(value) for value in row] for row in decode_rows(extras)]
    if id_ is not None:
        document["id"] = id_.hex()
    return document


def _readable(value: object) -> object:
    """Bytes of a JSON column read as what they are; others as msgspec writes bytes, in base64."""
    if isinstance(value, bytes):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            return value
    return value


class LoggedDeadLetters:
    """No file: type, reason and size are logged, never the payload; at most one line per type and minute."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._last: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            kind = letter.entry[SHAPE].type
            now = self._now()
            if kind in self._last and now - self._last[kind] < 60:  # noqa: PLR2004 - a minute
                self._unsaid[kind] = self._unsaid.get(kind, 0) + 1
                continue
            self._last[kind] = now
            _logger.error(
                "record refused for good",
                subscription=letter.subscription,
                type=kind,
                reason=letter.reason,
                bytes=letter.entry[SIZE],
                unsaid=self._unsaid.pop(kind, 0),
            )

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        """None: nothing is kept."""
        del log_id, subscription
        return ()
