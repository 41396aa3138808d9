"""Records a destination refused for good: kept in a JSON Lines file, or, where none is set, named in a log line."""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import msgspec

from eventrec.log.descriptors import WITHOUT_WAITING, open_descriptor
from eventrec.records.column_types import ColumnType
from eventrec.records.context import merged_context
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

Key: TypeAlias = "tuple[UUID, int, str]"
"""Log id, offset, subscription: what a letter is about."""


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

    @property
    def key(self) -> Key:
        """What it is about: until it is replayed, there is no other one."""
        return self.log_id, self.offset, self.subscription


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
    """A JSON Lines file, one letter a line, appended and synced. Several processes may share it. `notices` say them.

    A line holds: log_id, offset, subscription, handler, reason, time (seconds since the epoch), type, table,
    timestamp (ns), payload (as JSON), and, where the record has them, context, columns, rows, id.
    """

    def __init__(self, path: Path, notices: Notices | None = None) -> None:
        self._path = path
        self._notices = notices
        self._written: set[Key] = set()
        """Keys of letters that stand in the file, and whose writer was not told so: it was cancelled meanwhile."""

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        await in_thread(self._write, letters)
        self._written.difference_update(letter.key for letter in letters)
        if self._notices is not None:
            self._notices.say(letters)

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        """None: the file is for people, and no process looks anything up in it."""
        del log_id, subscription
        return ()

    def _write(self, letters: Sequence[DeadLetter]) -> None:
        new = [letter for letter in letters if letter.key not in self._written]
        if new:
            self._append(b"".join(_line(letter) for letter in new))
            self._written.update(letter.key for letter in new)

    def _append(self, lines: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_descriptor(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | WITHOUT_WAITING)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):  # Nothing else can be synced, and a pipe may never be read.
                raise OSError(errno.EINVAL, "not a regular file", str(self._path))
            size = found.st_size
            written = os.write(descriptor, lines)
            try:
                self._sync(descriptor, written, len(lines))
            except OSError:
                # It is tried again, and half a line would spoil the next one. A writer that came after us stands behind
                # it: then it stays.
                if os.fstat(descriptor).st_size == size + written:
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)

    def _sync(self, descriptor: int, written: int, size: int) -> None:
        if written < size:
            raise OSError(f"{self._path}: wrote {written} of {size} bytes")
        os.fsync(descriptor)


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
    with suppress(msgspec.MsgspecError, RecursionError):  # It came from a disk: else shown as it is.
        context = merged_context(letter.static_context, context)
    if context is not None:
        document["context"] = msgspec.Raw(context)
    if extras is not None:
        document["columns"] = [str(column) for column in shape.columns]
        document["rows"] = [
            [_readable(value, column.type) for column, value in zip(shape.columns, row, strict=False)]
            for row in decode_rows(extras)
        ]
    if id_ is not None:
        document["id"] = id_.hex()
    return document


def _readable(value: object, kind: ColumnType) -> object:
    """Bytes of a JSON column read as what they are, if that can be; others as msgspec writes bytes, in base64."""
    if kind is ColumnType.JSON and isinstance(value, bytes):
        try:
            msgspec.json.decode(value)  # `format` alone takes bytes that are not UTF-8
            return msgspec.Raw(msgspec.json.format(value, indent=-1))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return value
    return value


class Notices:
    """Type, reason and size of dead letters in the logging, never the payload; at most a line per type and minute.

    At most 1,000 types are remembered, and of those that came longest ago nothing.
    """

    EVERY: Final = 60.0
    MAX_TYPES: Final = 1_000

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._said: OrderedDict[tuple[str, str], _Said] = OrderedDict()

    def __len__(self) -> int:
        """Types that are remembered."""
        return len(self._said)

    def say(self, letters: Sequence[DeadLetter]) -> None:
        """Log a line for each type of `letters`, unless one was logged within the last minute."""
        now = self._now()
        for letter in letters:
            key = letter.subscription, letter.entry[SHAPE].type
            said = self._said.get(key)
            if said is not None and now - said.at < self.EVERY:
                said.unsaid += 1
                continue
            self._said[key] = _Said(now)
            self._said.move_to_end(key)
            if len(self._said) > self.MAX_TYPES:
                self._said.popitem(last=False)
            _logger.error(
                "record refused for good",
                subscription=letter.subscription,
                type=key[1],
                reason=letter.reason,
                bytes=letter.entry[SIZE],
                unsaid=0 if said is None else said.unsaid,
            )


@dataclass(slots=True)
class _Said:
    """When a line was logged, and how many letters were not said since."""

    at: float
    unsaid: int = 0


class LoggedDeadLetters:
    """No file: they are only said."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._notices = Notices(now)

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        self._notices.say(letters)

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        """None: nothing is kept."""
        del log_id, subscription
        return ()
