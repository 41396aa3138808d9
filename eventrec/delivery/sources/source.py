"""Where a worker reads: the log, or a bus. All number their records with integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from eventrec.records.entry import Entry


@dataclass(frozen=True, slots=True)
class Records:
    """The records of `[start, end)`, without holes. `start` lies past what was asked for where that is gone."""

    start: int
    end: int
    entries: Sequence[Entry]


class Source(Protocol):
    """Numbered records, read by several subscriptions at their own pace."""

    @property
    def id(self) -> UUID:
        """The id of the log."""

    @property
    def end(self) -> int:
        """The next offset to be written."""

    @property
    def static_context(self) -> bytes | None:
        """What is true of all records: a JSON object."""

    def subscribe(self, name: str, start: Literal["earliest", "latest"], on_forfeit: Callable[[Entry], None]) -> int:
        """Hold records for `name` from now on and return its first offset.

        `on_forfeit` is called for each record that `name` loses because it is too far behind.
        """

    async def read(self, start: int, *, max_records: int, max_bytes: int) -> Records:
        """Records from `start` on, at least one where there is one, without waiting for more."""

    async def wait_past(self, offset: int) -> None:
        """Return as soon as a record at `offset` or later can be read."""

    def position(self, name: str) -> int:
        """The first offset that `name` has neither fetched nor forfeited."""

    def fetched(self, name: str, next_offset: int) -> None:
        """`name` has the records below `next_offset` in hand: they cannot be forfeited any more."""

    async def oldest(self) -> int:
        """The first record that can still be read; `end` where there is none."""

    def rewind(self, name: str, offset: int) -> None:
        """`name` reads again from `offset` on, which is not below `oldest`."""

    def acknowledge(self, name: str, next_offset: int) -> None:
        """`name` is done with everything below `next_offset`."""
