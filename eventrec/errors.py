"""Every error eventrec raises, and the five words a handler has for a failed delivery."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class EventrecError(Exception):
    """The root of all errors of eventrec."""


# -- what the application does wrong, or cannot have ------------------------------------------------------------------


class EncodeError(EventrecError):
    """An event cannot be turned into a record: its payload is not a JSON value, or a column value does not fit."""


class DecodeError(EventrecError):
    """A record cannot be given back as the class that was asked for: it is of another type, or does not fit it."""


class InvalidEventError(EventrecError):
    """An event's type, table, timestamp or columns are not what a record can hold."""


class SchemaMismatchError(InvalidEventError):
    """Events of one request declare different extra columns.

    `expected` and `actual` are the column lists, as `name type` texts.
    """

    def __init__(self, subject: str, expected: Sequence[str], actual: Sequence[str]) -> None:
        super().__init__(f"{subject}: expected columns {list(expected)}, got {list(actual)}")
        self.expected = tuple(expected)
        self.actual = tuple(actual)


class UnruledError(InvalidEventError):
    """An event has fields without a rule of privacy, where there has to be one. It names fields, never values."""


class RowWidthError(InvalidEventError):
    """A row has more or fewer values than its event declares extra columns."""

    def __init__(self, subject: str, expected: Sequence[str], actual: int) -> None:
        super().__init__(f"{subject}: expected {len(expected)} values for columns {list(expected)}, got {actual}")
        self.expected = tuple(expected)
        self.actual = actual


class CatalogueError(EventrecError):
    """A catalogue, or something declared in one, contradicts itself or cannot be loaded. It names what clashes."""


class ConsentError(EventrecError):
    """What a user has chosen for an application cannot be read for certain, or not be written."""


class OptionsError(EventrecError):
    """An option has an unknown name or a value that is not allowed."""


class LayoutError(EventrecError):
    """A layout cannot be: a name, a type or a width is wrong, or two layouts are declared for one table."""


class HandlerURLError(EventrecError):
    """A handler URL names an unknown scheme or option, or its driver is not installed."""


class SubscriptionError(EventrecError):
    """A subscription cannot be registered or addressed: its name is taken or unknown, or it is given no handler."""


class MigrationError(EventrecError):
    """A database cannot be migrated: a file, a statement or what the database holds does not allow it."""


class RollbackNotSupportedError(MigrationError):
    """A migration cannot be undone.

    Attributes:
        version: Its number.
    """

    def __init__(self, version: int, why: str) -> None:
        super().__init__(f"migration {version} cannot be rolled back: {why}")
        self.version = version


RollbackNotSupported = RollbackNotSupportedError
"""The name that the facts about the original give it."""


class BatchRefusedError(EventrecError):
    """Events were to be recorded all or none, and some were refused: none is recorded.

    Attributes:
        errors: Why, by the index of the event.
        never_fits: Whether they are more together than the intake ever holds: later they are refused again.
    """

    def __init__(self, message: str, *, errors: Mapping[int, EventrecError], never_fits: bool = False) -> None:
        super().__init__(message)
        self.errors = dict(errors)
        self.never_fits = never_fits


class RecorderStateError(EventrecError):
    """The recorder is new, open, closed or forked, and for what was asked it has to be in another state.

    Attributes:
        state: "new", "open", "closed", or "forked": in the child of a fork, not opened there.
    """

    def __init__(self, message: str, *, state: str) -> None:
        super().__init__(message)
        self.state = state


RecorderClosedError = RecorderStateError
"""The name under which programs catch it that were written when only a closed recorder raised it."""


# -- what the disk does, or holds -------------------------------------------------------------------------------------


class LogError(EventrecError):
    """The log cannot do what it was asked."""


class LogClosedError(LogError):
    """The log was closed, or given up in a forked child."""


class LogLockedError(LogError):
    """Another process holds the lock."""


class LogWriteError(LogError):
    """The disk refused. What was written before is unharmed; what was not stays taken and is tried again."""


class LogFullError(LogWriteError):
    """The disk, the quota, or the memory for commits that cannot be written is full."""


class TrimmedError(LogError):
    """Records that were to come next are deleted.

    Attributes:
        next_offset: The record that was to come next.
        first: The first one that is there.
    """

    def __init__(self, next_offset: int, first: int) -> None:
        super().__init__(f"records {next_offset} to {first - 1} are deleted: the log begins at {first}")
        self.next_offset = next_offset
        self.first = first


class DivergedError(LogError):
    """A mirror and its source hold different records, or the mirror holds more: they are not one log.

    Attributes:
        offset: The first record of the commit at which that was seen.
    """

    def __init__(self, message: str, *, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class UnreadableFileError(LogError):
    """A small file beside a log (a checkpoint, a request) is damaged, or the disk does not give its bytes."""


class ContentError(LogError):
    """A valid commit does not hold what this version can read: another version's, or another program's, content."""


class LeaseLostError(EventrecError):
    """Another process serves the subscription by now: nothing of what was asked for is done, or will be."""


class ShardsChangedError(EventrecError):
    """A bus has other shards by now than those that it gave: a relay that serves them asks for the shards again."""


class NotDurableError(LogError):
    """There is no log to be durable in: give the recorder one with `log=`."""


class MirrorError(EventrecError):
    """A log directory cannot be served or mirrored: the peer, its address, or what the two have do not fit."""


class DurableTimeoutError(LogError, TimeoutError):
    """An event is taken, and was not as durable as was asked for within the time. It may become so later."""


class Damage(StrEnum):
    """What is wrong with the bytes at a position."""

    HEADER = "segment header"
    SHORT = "incomplete"
    ZEROS = "zeros"
    TOO_LONG = "longer than what remains"
    NO_RECORDS = "no records"
    CHECKSUM = "checksum"
    FORKED = "forked"
    OUT_OF_ORDER = "out of order"
    OVERLAPS = "overlaps the next segment"
    HOLE = "records missing"
    INDEX = "offset index"
    FRAME = "compressed frame"
    NOT_A_FILE = "not a file"


class CorruptCommitError(LogError):
    """Bytes that are not a valid commit.

    Attributes:
        reason: What is wrong.
        segment: Name of the file, or "" where bytes were decoded that belong to none.
        position: The byte at which the bad bytes begin, in the uncompressed segment.
        offset: The record expected there, or None where that is not known.
    """

    def __init__(self, reason: Damage, *, segment: str = "", position: int = 0, offset: int | None = None) -> None:
        where = f"{segment or 'commit'} at byte {position}"
        super().__init__(f"{where}: {reason}" + ("" if offset is None else f" (record {offset} expected)"))
        self.reason = reason
        self.segment = segment
        self.position = position
        self.offset = offset


# -- what a handler raises, and what the worker makes of it (see `eventrec.handler`) ----------------------------------


class DeliveryError(EventrecError):
    """The root of what `EventHandler.handle` raises on purpose."""


class TransientError(DeliveryError):
    """The batch may succeed later. `retry_after` is the destination's own demand, in seconds: a minimum."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class FencedError(TransientError):
    """The destination's checkpoint is not where the batch starts: nothing was written, ask it where to go on."""


class PermanentError(DeliveryError):
    """The destination will never take this. Nothing of the batch was written.

    `records` names the records at fault, offset to reason, where the handler knows them; without it the worker
    finds them by bisecting.
    """

    def __init__(self, message: str, *, records: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.records = dict(records or {})


class PartialError(DeliveryError):
    """Some records were not delivered, all others were. Not for handlers that deliver in one transaction.

    `errors` maps the offset of each failed record to a `TransientError` or a `PermanentError`.
    """

    def __init__(self, errors: Mapping[int, DeliveryError]) -> None:
        failed = "1 record" if len(errors) == 1 else f"{len(errors):,} records"
        first = next(iter(errors.values()), None)
        super().__init__("it names no record that failed" if first is None else f"{failed} failed: {first}")
        self.errors = dict(errors)


class BatchTooLargeError(DeliveryError):
    """The destination refuses the batch for its size alone: a smaller one may pass."""


class PauseError(DeliveryError):
    """Nothing will pass until an operator acts: credentials, rights, a missing database."""
