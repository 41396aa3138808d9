"""Where a worker reads: the log, or a bus. All number their records with integers, which may have holes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from eventrec.records.entry import Entry

Start: TypeAlias = Literal["earliest", "latest"]
"""Where a source that does not know a subscription begins for it: with what it keeps, or with what comes."""

OnLost: TypeAlias = "Callable[[str, int, Sequence[Entry]], None]"
"""Called with a reason, how many offsets a cursor can never read, and what stood there as far as that is known."""


@dataclass(frozen=True, slots=True)
class Records:
    """What one read found in `[start, end)`: records at `offsets`, in order. What has no record there is a hole.

    Attributes:
        offsets: As many as `entries`; a `range` where there is no hole.
        static_context: What is true of all of them: a JSON object.
        lost_as: Where it begins later than it was asked to: why what lies between is gone.
    """

    start: int
    end: int
    offsets: Sequence[int] = ()
    entries: Sequence[Entry] = ()
    static_context: bytes | None = None
    lost_as: str = "overflow"


class Cursor(Protocol):
    """One subscription's place in a source. Reading moves it, and nothing is read twice unless it seeks back."""

    @property
    def next(self) -> int:
        """The first offset that was neither read nor lost."""

    async def read(self, *, max_records: int, max_bytes: int) -> Records:
        """What comes next, without waiting for more: it begins at `next`, which moves to its end.

        At least one record, where there is one and it is not behind a hole. Where what comes next is lost, that is told
        to the cursor's `on_lost`, `next` moves past it, and the answer is empty and begins there.
        """

    async def wait(self) -> None:
        """Return as soon as the source has more than this cursor has read."""

    def seek(self, offset: int) -> None:
        """Read on at `offset`: not below what the source keeps, but perhaps past its end, if a destination is there."""

    def acknowledge(self, next_offset: int) -> None:
        """Everything below `next_offset` is settled."""


class Source(Protocol):
    """Numbered records, read by several subscriptions at their own pace."""

    @property
    def id(self) -> UUID:
        """The id of the log."""

    @property
    def end(self) -> int:
        """The next offset to be written."""

    @property
    def furthest(self) -> int:
        """Where a destination can be at most: at `end`, or beyond it where the source may have lost its tail."""

    async def oldest(self) -> int:
        """The first record that can still be read; `end` where there is none."""

    def subscribe(self, name: str, start: Start, on_lost: OnLost) -> Cursor:
        """A cursor for the subscription `name`, at its first offset; records are held for it from now on."""
