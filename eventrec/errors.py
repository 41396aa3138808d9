"""Every error eventrec raises, and the five words a handler has for a failed delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class EventrecError(Exception):
    """The root of all errors of eventrec."""


# -- what the application does wrong, or cannot have ------------------------------------------------------------------


class EncodeError(EventrecError):
    """An event cannot be turned into a record: its payload is no JSON value, or a column value does not fit."""


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


class RowWidthError(InvalidEventError):
    """A row has more or fewer values than its event declares extra columns."""

    def __init__(self, subject: str, expected: Sequence[str], actual: int) -> None:
        super().__init__(f"{subject}: expected {len(expected)} values for columns {list(expected)}, got {actual}")
        self.expected = tuple(expected)
        self.actual = actual


class OptionsError(EventrecError):
    """An option has an unknown name or a value that is not allowed."""


class HandlerURLError(EventrecError):
    """A handler URL names an unknown scheme or option, or its driver is not installed."""


class SubscriptionError(EventrecError):
    """A subscription cannot be registered or addressed: its name is taken, unknown, or the recorder is open."""


class RecorderClosedError(EventrecError):
    """The recorder has been closed and takes nothing any more."""


# -- what a handler raises, and what the worker makes of it (see `eventrec.handler`) ----------------------------------


class DeliveryError(EventrecError):
    """The root of what `EventHandler.handle` raises on purpose."""


class TransientError(DeliveryError):
    """The batch may succeed later. `retry_after` is the destination's own wish, in seconds: a minimum."""

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
        super().__init__(f"{len(errors)} records failed: {next(iter(errors.values()), None)}")
        self.errors = dict(errors)


class BatchTooLargeError(DeliveryError):
    """The destination refuses the batch for its size alone: a smaller one may pass."""


class PauseError(DeliveryError):
    """Nothing will pass until somebody acts: credentials, rights, a missing database."""
