"""When the records in hand are a batch: pure decisions over counts and times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from eventrec.options import DeliverySettings

RAMP: Final = 16
"""After an outage a batch is at most this fraction of a full one, and doubles with each success."""


class Batching:
    """Decides when to send, and how much at most.

    While more waits, a batch may be as large as `settings.backlog_batches` full ones: see `is_full`.

    With `settings.ticks`, a batch goes when the record after a full one has arrived, and at every tick, the first at
    once; else when it is full, or its oldest record has waited for `flush_interval`. Where that is 0, what is there
    goes at once: as much as there is.
    """

    def __init__(self, settings: DeliverySettings, *, now: float) -> None:
        self._settings = settings
        self._next_tick = now
        self._rows = settings.batch_rows
        """Most records of the next batch where no more wait."""

    @property
    def max_rows(self) -> int:
        """Most records of the next batch, however many wait."""
        return self._rows * self._factor

    @property
    def max_bytes(self) -> int:
        """Most bytes of it, unless one record alone is larger."""
        return self._settings.batch_bytes * self._factor

    @property
    def _factor(self) -> int:
        """How much larger than a full batch one may be: after an outage not at all."""
        return self._settings.backlog_batches if self._rows == self._settings.batch_rows else 1

    def is_full(self, *, rows: int, size: int, scanned: int, more: bool) -> bool:
        """Whether no more records belong to a batch that has `rows` of `size` bytes, of `scanned` offsets.

        A transaction costs as much as the rows in it, so while `more` wait it grows; but not for records of which
        nearly all are for others.
        """
        factor = self._factor if more and scanned < self.max_rows else 1
        return rows >= self._rows * factor or size >= self._settings.batch_bytes * factor

    def is_due(self, *, rows: int, size: int, scanned: int, oldest: float | None, more: bool, now: float) -> bool:
        """Whether `rows` records of `size` bytes, of `scanned` offsets, are a batch.

        `oldest` is when the first of them was seen, `more` whether another one waits behind them; times are monotonic.
        """
        is_full = self.is_full(rows=rows, size=size, scanned=scanned, more=more)
        if not self._settings.ticks:
            is_at_once = not self._settings.flush_interval
            is_old = oldest is not None and now >= oldest + self._settings.flush_interval
            return is_full or (is_old and not (is_at_once and more))
        ticked = now >= self._next_tick
        if ticked:
            self._next_tick += self._settings.flush_interval
        return (is_full and more) or (ticked and rows > 0)

    def seconds_left(self, *, oldest: float | None, now: float) -> float | None:
        """How long to wait for more records at most; None where only a record can make it due."""
        if self._settings.ticks:
            return max(0.0, self._next_tick - now)
        return None if oldest is None else max(0.0, oldest + self._settings.flush_interval - now)

    def note_failure(self) -> None:
        """An outage: start small afterwards."""
        if not self._settings.ticks:
            self._rows = max(1, self._settings.batch_rows // RAMP)

    def note_success(self) -> None:
        """A batch went through: grow towards the full size."""
        self._rows = min(self._settings.batch_rows, self._rows * 2)
